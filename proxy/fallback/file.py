"""`data_dir/fallback`: appended to and synced before anything is answered, removed when merged.

What waits while a sync runs shares the next one. A failed sync is never tried again: until restart
nothing more is taken. A full disk is no such thing: what was half written is cut off, and the next
append is tried.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import StoreDown, StoreError, StoreUnavailable
from proxy.fallback.codec import FRAME, Damaged, decode, encode
from proxy.store.group import Batcher
from proxy.store.instance import sync_directory

NAME = "fallback"

#: The file's octets at most (promise 8), and what of them only opt-outs and results may take.
MOST = 64 * 1024 * 1024
RESERVED = 16 * 1024 * 1024

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class _Append:
    payload: bytes
    spare: int  # octets that must stay free after it


@dataclass(frozen=True, slots=True)
class _Remove:
    expected: int


class FallbackFile:
    """One process appends; made by `open_file`."""

    def __init__(self, path: Path, descriptor: int, size: int, count: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = size
        self._count = count
        self._most = MOST
        self._work: Batcher[_Append | _Remove, bool] = Batcher(self._run, limit=1024)
        self._last: StoreError | None = None

    @property
    def count(self) -> int:
        """How many records it holds."""
        return self._count

    @property
    def trouble(self) -> StoreError | None:
        """Why the last append failed; None where it did not."""
        return self._work.fatal or self._last

    async def append(self, payload: bytes, *, reserved: bool) -> None:
        """Write one record; synced when this returns. `reserved`: it may use the last room.

        Raises `StoreUnavailable` (full, too large) or `StoreDown` (a sync failed, now or earlier).
        """
        await self._work.hand_in(_Append(payload, 0 if reserved else RESERVED))

    async def remove(self, expected: int) -> bool:
        """Take the file away, durably, if it holds `expected` records. Raises as `append`."""
        return await self._work.hand_in(_Remove(expected))

    async def close(self) -> None:
        """Finish what was handed in."""
        await self._work.idle()
        self._work.stop(StoreUnavailable("the fallback file is closed"))
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _run(self, items: list[_Append | _Remove]) -> Sequence[bool | StoreError]:
        results = await asyncio.to_thread(self._in_thread, items)
        errors = [r for r in results if isinstance(r, StoreError)]
        self._last = errors[-1] if errors else None
        for error in errors:
            if isinstance(error, StoreDown):
                self._work.stop(error)
        return results

    def _in_thread(self, items: list[_Append | _Remove]) -> list[bool | StoreError]:
        results: list[bool | StoreError] = []
        size, count = self._size, self._count
        chunks: list[bytes] = []
        for item in items:
            if isinstance(item, _Remove):
                results.append(False)
                continue
            more = len(item.payload) + FRAME
            if size + more + item.spare > self._most:
                results.append(StoreUnavailable("the fallback file is full"))
                continue
            chunks.append(encode(item.payload, count))
            size, count = size + more, count + 1
            results.append(True)
        if chunks:
            failed = self._write(b"".join(chunks))
            if failed is not None:
                return [failed] * len(items)
            self._size, self._count = size, count
        for i, item in enumerate(items):
            if isinstance(item, _Remove):
                results[i] = self._removed(item.expected)
        return results

    def _write(self, data: bytes) -> StoreError | None:
        if self._descriptor < 0 and (failed := self._made()) is not None:
            return failed
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            return self._cut_back(error)
        return self._synced(self._descriptor)

    def _made(self) -> StoreError | None:
        """Open the file, with a name that lasts: without it no record does, however well synced."""
        try:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return self._cut_back(error)
        try:
            self._descriptor = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            return self._cut_back(error)
        else:
            return self._synced(directory)
        finally:
            os.close(directory)

    def _synced(self, descriptor: int) -> StoreError | None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            return StoreDown(f"{self._path}: sync failed: {error.strerror}")
        return None

    def _cut_back(self, error: OSError) -> StoreError:
        """What was not synced may go; what was, must not be followed by half a record."""
        if self._descriptor >= 0:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as fault:
                return StoreDown(f"{self._path}: {error.strerror}, then {fault.strerror}")
        return StoreUnavailable(f"{self._path}: {error.strerror}")

    def _removed(self, expected: int) -> bool | StoreError:
        if self._count != expected:
            return False
        if self._descriptor < 0:
            return True
        # By another name first: whatever a crash leaves is the whole file, or none.
        merged = self._path.with_name(f"{self._path.name}.merged")
        try:
            self._path.rename(merged)
            sync_directory(self._path.parent)
        except OSError as error:
            return StoreDown(f"{self._path}: cannot be removed: {error.strerror}")
        os.close(self._descriptor)
        self._descriptor, self._size, self._count = -1, 0, 0
        with suppress(OSError):
            merged.unlink()
        return True


def open_file(directory: Path) -> tuple[FallbackFile, tuple[bytes, ...]]:
    """The file with what an earlier process left in it; a torn record at its end is cut off.

    Raises `StoreDown` where it is damaged, `StoreUnavailable` where it cannot be read or written.
    """
    path = directory / NAME
    try:
        descriptor = os.open(path, _FLAGS & ~os.O_CREAT)
    except FileNotFoundError:
        return FallbackFile(path, -1, 0, 0), ()
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StoreDown(f"{path} is no regular file")
        read = decode(_whole(descriptor, found.st_size))
        if read.torn:
            os.ftruncate(descriptor, read.good)
        # What an earlier process wrote and did not live to sync is acted upon from here on.
        os.fsync(descriptor)
        sync_directory(directory)
    except Damaged as error:
        os.close(descriptor)
        raise StoreDown(
            f"{path} is {error}: it may hold opt-outs that were answered; see docs/operations.md"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StoreUnavailable(f"{path}: {error.strerror}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return FallbackFile(path, descriptor, read.good, len(read.payloads)), read.payloads


def _whole(descriptor: int, size: int) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while at < size and (piece := os.pread(descriptor, min(size - at, 1 << 20), at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)
