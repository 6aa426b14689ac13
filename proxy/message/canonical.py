"""Canonical forms (RFC 6376 section 3.4), and a body hash that copies share.

Copies of a mail have most of their body in common: what stands in several of them is canonicalised
once, and what they begin with is hashed once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.content import Piece, Spooled, blocks

_CRLF = b"\r\n"
# Line ends in a row are hashed so many at a time.
_RUN = 8192


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """One field as it is hashed, without final CRLF: `name` in lower case, `value` as on the
    wire.
    """
    return name + b":" + _single_spaced(value.replace(_CRLF, b"")).strip(b" ")


def unfolded(block: bytes) -> bytes:
    """A header block with a line for each field, white space as it is hashed but for what stands
    around colon and line end.
    """
    if b"\t" in block:
        block = block.replace(b"\t", b" ")
    return _single_spaced(block.replace(b"\r\n ", b" "))


def _single_spaced(text: bytes) -> bytes:
    # Only where there is something to do: one regex over all white space costs 14 times as much.
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


@dataclass(frozen=True, slots=True)
class _Lines:
    """Whole lines in canonical form: without the CRLFs at their end, of which there are `ends`."""

    text: bytes
    ends: int


def _canonical(lines: bytes) -> _Lines:
    """`lines` end with CRLF, or are nothing."""
    text = _single_spaced(lines)
    if b" \r\n" in text:
        text = text.replace(b" \r\n", _CRLF)
    bare = text.rstrip(_CRLF)
    ends = (len(text) - len(bare)) // 2
    if text[len(bare) :] != _CRLF * ends:  # a CR or LF by itself is text
        ends = 0
        while text.endswith(_CRLF, 0, len(text) - 2 * ends):
            ends += 1
        bare = text[: len(text) - 2 * ends]
    return _Lines(bare, ends)


class Sink(Protocol):
    """What is fed with a canonical form."""

    def update(self, octets: bytes, /) -> None: ...


class _Sha(Sink, Protocol):
    def copy(self) -> _Sha: ...
    def digest(self) -> bytes: ...


def relaxed(body: Piece, sink: Sink) -> None:
    """Feed `sink` with a whole body in relaxed form (section 3.4.4)."""
    form = _Relaxed(sink)
    for block in blocks(body):
        form.feed(block, None)
    form.end()


def simple(body: Piece, sink: Sink) -> None:
    """Feed `sink` with a whole body without the empty lines at its end (section 3.4.3)."""
    ends = 0
    cut = b""  # a CR whose LF may be in the next block
    for block in blocks(body):
        octets = cut + bytes(block)
        cut = b"\r" if octets.endswith(b"\r") else b""
        end = len(octets) - len(cut)
        begin = end
        while octets.endswith(_CRLF, 0, begin):
            begin -= 2
        if begin:
            _line_ends(sink, ends)
            sink.update(octets[:begin])
            ends = 0
        ends += (end - begin) // 2
    if cut:
        _line_ends(sink, ends)
        sink.update(cut)
    sink.update(_CRLF)


def _line_ends(sink: Sink, count: int) -> None:
    while count > 0:
        sink.update(_CRLF * min(count, _RUN))
        count -= _RUN


@dataclass(frozen=True, slots=True)
class _Cut:
    """A piece cut at its first and last line end. `first` is b"" where it has none."""

    first: bytes
    between: _Lines
    rest: bytes


def _cut(piece: bytes) -> _Cut:
    first = piece.find(_CRLF) + 2
    if first == 1:
        return _Cut(b"", _Lines(b"", 0), piece)
    last = piece.rfind(_CRLF) + 2
    return _Cut(piece[:first], _canonical(piece[first:last]), piece[last:])


class _Relaxed:
    """The relaxed form of a body that comes in pieces, cut anywhere."""

    __slots__ = ("_begun", "_ends", "_sink", "_unfinished")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._begun = False
        self._ends = 0  # line ends not hashed: those at the end of the body do not count
        self._unfinished = b""

    def copy(self, sink: Sink) -> _Relaxed:
        """The same, so far, for a copy of the sink."""
        other = _Relaxed(sink)
        other._begun, other._ends = self._begun, self._ends
        other._unfinished = self._unfinished
        return other

    def feed(self, piece: bytes | memoryview, cut: _Cut | None) -> None:
        """`cut` is that of the piece, where it is known."""
        if self._unfinished.endswith(b"\r") and bytes(piece[:1]) == b"\n":
            # A line end that was cut in two.
            self._add(_canonical(self._unfinished + b"\n"))
            self._unfinished = b""
            piece, cut = piece[1:], None
        cut = cut or _cut(bytes(piece))
        if not cut.first:
            self._unfinished += cut.rest
            return
        self._add(_canonical(self._unfinished + cut.first))
        self._add(cut.between)
        self._unfinished = cut.rest

    def _add(self, lines: _Lines) -> None:
        if lines.text:
            _line_ends(self._sink, self._ends)
            self._sink.update(lines.text)
            self._begun, self._ends = True, lines.ends
        else:
            self._ends += lines.ends

    def end(self) -> None:
        if self._unfinished:
            self._add(_canonical(self._unfinished + _CRLF))
            self._unfinished = b""
        if self._begun:
            self._sink.update(_CRLF)
            self._begun = False


class BodyHash:
    """Body hashes of the copies of one mail.

    A copy's body is a sequence of pieces, cut anywhere. A view of the client's own bytes that was
    in the copy before counts as shared: it is canonicalised once, and as long as all pieces from
    the beginning are shared, hashed once. A stretch of a file is canonicalised anew, so that no
    copy of it stays in memory. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: tuple[Sequence[bytes | memoryview], bytes] | None = None  # and its hash
        self._pieces: list[Piece] = []
        self._hashes: list[tuple[_Relaxed, _Sha]] = []  # after each of them
        self._cuts: dict[tuple[int, int], tuple[bytes | memoryview, _Cut]] = {}

    def digest(self, pieces: Sequence[Piece]) -> bytes:
        """SHA-256 of the body in relaxed form (RFC 6376 section 3.4.4); an empty body is b""."""
        with self._lock:
            # Most mails have one body for all: it is hashed whole, and nothing is kept to share.
            if self._first is None:
                whole = [piece for piece in pieces if not isinstance(piece, Spooled)]
                if len(whole) == len(pieces):
                    self._first = whole, _at_once(whole)
                    return self._first[1]
            elif _alike(self._first[0], pieces):
                return self._first[1]
            seen = self._pieces or (self._first[0] if self._first else [])
            known = {_name(piece): piece for piece in seen if isinstance(piece, memoryview)}
            same = 0
            for old, new in zip(self._pieces, pieces, strict=False):
                if not _equal(old, new):
                    break
                same += 1
            hashes = self._hashes[:same]
            form, sha = _copied(*hashes[-1]) if hashes else _fresh()
            for piece in pieces[same:]:
                if isinstance(piece, Spooled):
                    for block in piece.blocks():
                        form.feed(block, None)
                else:
                    before = known.get(_name(piece))
                    shared = before is not None and _equal(before, piece)
                    form.feed(piece, self._cut_once(piece) if shared else None)
                hashes.append(_copied(form, sha))
            self._pieces, self._hashes = list(pieces), hashes
            form.end()
            return sha.digest()

    def _cut_once(self, piece: bytes | memoryview) -> _Cut:
        # The piece is kept with its cut, so that no other object can come to have its name.
        found = self._cuts.get(_name(piece))
        if found is None or not _equal(found[0], piece):
            found = self._cuts[_name(piece)] = piece, _cut(bytes(piece))
        return found[1]


def _at_once(pieces: Sequence[bytes | memoryview]) -> bytes:
    body = b"".join(pieces)
    # A line that is not ended counts as one that is.
    lines = _canonical(body if body.endswith(_CRLF) else body + _CRLF)
    return hashlib.sha256(lines.text + _CRLF if lines.text else b"").digest()


def _alike(one: Sequence[Piece], other: Sequence[Piece]) -> bool:
    return len(one) == len(other) and all(map(_equal, one, other))


def _fresh() -> tuple[_Relaxed, _Sha]:
    sha = hashlib.sha256()
    return _Relaxed(sha), sha


def _copied(form: _Relaxed, sha: _Sha) -> tuple[_Relaxed, _Sha]:
    copied = sha.copy()
    return form.copy(copied), copied


def _name(piece: Piece) -> tuple[int, int]:
    """Equal for views of the same octets; a view does not tell where it begins."""
    return id(piece.obj if isinstance(piece, memoryview) else piece), len(piece)


def _equal(one: Piece, other: Piece) -> bool:
    if isinstance(one, Spooled):
        return one.same(other)
    # Copying and comparing costs a fraction of canonicalising; comparing views does not.
    return one is other or (_name(one) == _name(other) and bytes(one) == bytes(other))
