"""The octets of a message: `bytes` while small, beyond that a file without a name.

`Spooled` answers what is asked of `bytes` (length, slices, `find`, `startswith`, `isascii`) with a
block in memory at a time, so that a mail of a hundred megabytes is read, searched, hashed and sent
as cheaply as one of one. The file is read, not mapped: a disk that fails is an `OSError`, never the
end of the process. It is on no path, and gone with the last object that reads it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

#: Octets of one message that are kept in memory; a longer one is a file.
SPOOL_AT = 256 * 1024

#: Octets of a file that are in memory at once, for each reader that looks about in it; and for each
#: that reads it from end to end: every read is a chance for another thread to take the interpreter.
BLOCK = 64 * 1024
STRETCH = 256 * 1024

# Linux tells whether a read would wait for the disk; elsewhere every read takes a thread.
_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)


class Budget:
    """Octets that all messages together may take of one thing: memory, or disk."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def room(self, octets: int = 0) -> Room | None:
        """Room for so many; None where there is none."""
        room = Room(self)
        return room if room.grow(octets) else None


class Room:
    """What one message takes of a budget, for as long as anybody holds it: nobody gives it back."""

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._taken = 0

    def grow(self, octets: int) -> bool:
        """Whether there is room for so many more."""
        budget = self._budget
        if budget.taken + octets > budget.limit:
            return False
        budget.taken += octets
        self._taken += octets
        return True

    def __del__(self) -> None:
        self._budget.taken -= self._taken


class _File:
    """Open for as long as anybody reads it; `room` is what it takes of the disk."""

    __slots__ = ("number", "room")

    def __init__(self, number: int, room: Room | None) -> None:
        self.number = number
        self.room = room

    def __del__(self) -> None:
        os.close(self.number)


class Spooled:
    """Octets of a file that does not change any more. A part of one is a `Spooled` as well.

    May be read by several threads. Every method raises `OSError` where the disk cannot be read.
    """

    __slots__ = ("_ascii", "_end", "_file", "_hashed", "_seen", "_start", "dots")

    def __init__(
        self,
        file: _File,
        start: int,
        end: int,
        *,
        ascii_only: bool | None,
        dots: bool = True,
        hashed: tuple[int, int, str] | None = None,
    ) -> None:
        self._file = file
        self._hashed = hashed  # start and end in the file of a stretch, and its SHA-256 (hex)
        #: Whether a line of it may begin with a dot, beside what it begins with itself.
        self.dots = dots
        self._start = start
        self._end = end
        self._ascii = ascii_only  # None: not known
        self._seen = (0, b"")  # where the last window begins in the file, and its octets

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, wanted: slice) -> bytes:
        start, end, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError("only whole stretches can be read")
        size = end - start
        if size <= 0:
            return b""
        at = self._start + start
        begin, window = self._window(at) if size <= BLOCK else (at, b"")
        skip = at - begin
        if skip + size <= len(window):
            return window[skip : skip + size]
        return self._read(at, size)

    def __bytes__(self) -> bytes:
        return self[:]

    def find(self, wanted: bytes, start: int = 0, end: int | None = None) -> int:
        """As `bytes.find`."""
        at, end, _ = slice(start, end).indices(len(self))
        at, end = self._start + at, self._start + end
        last, before = wanted[-1:], max(len(wanted) - 1, 0)
        while at + len(wanted) <= end:
            begin, window = self._window(at)
            if begin + len(window) < at + len(wanted):
                begin, window = self._look(at)
            # No run of octets is found as fast as one octet; most windows of an attachment have not
            # even that.
            found = window.find(last, at - begin + before, end - begin)
            if found >= 0 and before:
                found = window.find(wanted, found - before, end - begin)
            if found >= 0:
                return begin + found - self._start
            # What stands across the end of this window is found in the next.
            at = begin + len(window) - len(wanted) + 1
        return -1

    def startswith(self, prefix: bytes | tuple[bytes, ...], start: int = 0) -> bool:
        """As `bytes.startswith`."""
        longest = len(prefix) if isinstance(prefix, bytes) else max(map(len, prefix), default=0)
        return self[start : start + longest].startswith(prefix)

    def isascii(self) -> bool:
        """As `bytes.isascii`."""
        if self._ascii is None:
            self._ascii = all(block.isascii() for block in self.blocks())
        return self._ascii

    def part(self, start: int, end: int | None = None) -> Spooled:
        """`[start, end)`, nothing read."""
        start, end, _ = slice(start, end).indices(len(self))
        first = self._start + start
        last = max(first, self._start + end)
        ascii_only = True if self._ascii else None
        return Spooled(
            self._file, first, last, ascii_only=ascii_only, dots=self.dots, hashed=self._hashed
        )

    @property
    def sha256(self) -> str | None:
        """Its SHA-256 (hex), where it was made as the octets came in."""
        if self._hashed is None or self._hashed[:2] != (self._start, self._end):
            return None
        return self._hashed[2]

    def same(self, other: object) -> bool:
        """Whether it is the same part of the same file."""
        return (
            isinstance(other, Spooled)
            and self._file is other._file
            and (self._start, self._end) == (other._start, other._end)
        )

    def blocks(self) -> Iterator[bytes]:
        """All of it, in order, in pieces of `STRETCH` octets at most."""
        for at in range(self._start, self._end, STRETCH):
            yield self._read(at, min(STRETCH, self._end - at))

    async def read(self, start: int, size: int) -> Sequence[bytes | bytearray]:
        """`[start, start + size)`; off the event loop where the disk would have to be waited for.

        Raises `OSError`.
        """
        pieces = self.at_once(start, size)
        return pieces or [await asyncio.to_thread(self.__getitem__, slice(start, start + size))]

    def at_once(self, start: int, size: int) -> list[bytearray]:
        """The same in pieces of `BLOCK` octets at most, where the disk need not be waited for; else
        nothing.
        """
        size = min(size, len(self) - start)
        if not _NO_WAIT or size <= 0:
            return []
        pieces = [bytearray(min(BLOCK, size - at)) for at in range(0, size, BLOCK)]
        try:
            got = os.preadv(self._file.number, pieces, self._start + start, _NO_WAIT)
        except OSError:
            return []  # not in the page cache, or a file system that cannot tell
        return pieces if got == size else []

    def _window(self, at: int) -> tuple[int, bytes]:
        """The last window, where it has the octet at `at` of the file; else a new one."""
        begin, window = self._seen
        if begin <= at < begin + len(window):
            return begin, window
        return self._look(at)

    def _look(self, at: int) -> tuple[int, bytes]:
        self._seen = seen = (at, self._read(at, min(BLOCK, self._end - at)))
        return seen

    def _read(self, at: int, size: int) -> bytes:
        octets = os.pread(self._file.number, size, at)
        while len(octets) < size:  # a signal, or a file system that gives less
            more = os.pread(self._file.number, size - len(octets), at + len(octets))
            if not more:
                raise OSError("the spool file ends too early")
            octets += more
        return octets


#: A message as it came.
Content = bytes | Spooled

#: A stretch of a message, or octets that are put into it.
Piece = bytes | memoryview | Spooled


def stretch(content: Content, start: int, end: int | None = None) -> memoryview | Spooled:
    """`content[start:end]`, not copied."""
    if isinstance(content, bytes):
        return memoryview(content)[start:end]
    return content.part(start, end)


def blocks(piece: Piece) -> Iterator[bytes | memoryview]:
    """The octets in order: as they are, or as blocks of a file."""
    if isinstance(piece, Spooled):
        return piece.blocks()
    return iter((piece,))


def large(piece: Piece, limit: int) -> bool:
    """Whether work on it is for a thread: a file may keep its reader waiting, however small."""
    return isinstance(piece, Spooled) or len(piece) > limit


class Spool:
    """Octets on their way in, to be handed over once. The file lies in `directory`, and takes its
    room from `disk`; None is a disk without bounds.

    `hash_from` tells of the first octets of a large message from where on to its end a SHA-256 will
    be asked for: it is made while the octets are at hand.
    """

    __slots__ = (
        *("_ascii", "_directory", "_disk", "_dots", "_file", "_hash_from", "_hashed", "_octets"),
        "_size",
    )

    def __init__(
        self,
        directory: Path,
        disk: Budget | None = None,
        *,
        hash_from: Callable[[memoryview], int] | None = None,
    ) -> None:
        self._directory = directory
        self._disk = disk
        self._hash_from = hash_from
        self._hashed: tuple[int, hashlib._Hash] | None = None
        self._octets = bytearray()
        self._file: _File | None = None
        self._ascii = True
        self._dots = False
        self._size = 0  # of the file

    @property
    def on_disk(self) -> bool:
        """Whether it has grown into a file."""
        return self._file is not None

    def write(self, octets: bytes | memoryview, *, ascii_only: bool, dots: bool) -> None:
        """Append; `dots` where a line of it may begin with one. Raises `OSError` when the disk has
        no room.
        """
        self._ascii = self._ascii and ascii_only
        self._dots = self._dots or dots
        if self._file is None:
            self._octets += octets
            if len(self._octets) <= SPOOL_AT:
                return
            self._file = _File(_nameless(self._directory), Room(self._disk) if self._disk else None)
            octets, self._octets = memoryview(self._octets), bytearray()
            if self._hash_from is not None and (at := self._hash_from(octets)) <= len(octets):
                self._hashed = at, hashlib.sha256(octets[at:])
        elif self._hashed is not None:
            self._hashed[1].update(octets)
        file = self._file
        if file.room is not None and not file.room.grow(len(octets)):
            raise OSError(errno.ENOSPC, "the messages on their way take all that they may")
        written = os.write(file.number, octets)
        while written < len(octets):  # a signal, or a file system that takes less
            written += os.write(file.number, memoryview(octets)[written:])
        self._size += written

    def take(self) -> Content:
        """All of it, once."""
        if self._file is None:
            taken: Content = bytes(self._octets)
        else:
            known = None
            if self._hashed is not None:
                at, sha = self._hashed
                known = at, self._size, sha.hexdigest()
            taken = Spooled(
                self._file, 0, self._size, ascii_only=self._ascii, dots=self._dots, hashed=known
            )
        self.close()
        return taken

    def close(self) -> None:
        """Keep nothing."""
        self._octets = bytearray()
        self._hashed = None
        self._file = None
        self._size = 0
        self._ascii = True
        self._dots = False


def _nameless(directory: Path) -> int:
    """The number of a new file in `directory` that is on no path. Raises `OSError`."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        return os.dup(file.fileno())
