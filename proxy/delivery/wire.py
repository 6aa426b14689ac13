"""The client's side of SMTP as bytes: replies, extensions, commands, dot-stuffing. No I/O.

Everything that a peer may send is bounded: a reply line has at most `LINE` octets, a reply at most
`LINES` lines (RFC 5321 4.5.3.1.5 asks for 512 octets; real servers write more).
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from proxy.content import Piece, Spooled
from proxy.replies import printable

LINE = 2048
LINES = 100

#: A reply as it is kept and passed on, in characters.
TEXT = 1000

_REPLY_LINE = re.compile(rb"([2-5][0-5][0-9])(?:([ -])([^\r\n]*))?\r\n")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_AMBIGUOUS = re.compile(rb"[ <>]")
_PLAIN = re.compile(rb"[!-;=?-~\x80-\xff]*")


class GarbageError(ValueError):
    """The peer sent something that is no SMTP reply; `str()` says what, without quoting it."""


class Answer(NamedTuple):
    """One reply of the peer. `lines` are the texts after the code, one per line, as received."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def text(self) -> str:
        """The texts in one line of printable ASCII, joined by ` / `, at most `TEXT` characters."""
        lines = self.lines
        octets = lines[0] if len(lines) == 1 else b" / ".join(lines)
        joined = octets.decode("utf-8", "replace").strip()
        return printable(joined, TEXT)

    @property
    def line(self) -> str:
        """Code and text in one line, as the journal keeps it."""
        return f"{self.code} {self.text}".rstrip()

    @property
    def kind(self) -> int:
        """First digit: 2 done, 3 go on, 4 not now, 5 no."""
        return self.code // 100


def enhanced(text: str) -> str:
    """The enhanced status code (RFC 3463) that `text` starts with, or ""."""
    match = _ENHANCED.match(text)
    return match[1] if match else ""


class Replies:
    """Incremental parser of the reply stream; finished replies are taken from `ready`."""

    __slots__ = ("_buffer", "_code", "_lines", "ready")

    def __init__(self) -> None:
        self._buffer = b""
        self._code = b""
        self._lines: list[bytes] = []
        self.ready: deque[Answer] = deque()

    @property
    def between(self) -> bool:
        """Whether nothing of a further reply has arrived."""
        return not (self._buffer or self._lines or self.ready)

    def feed(self, data: bytes) -> None:
        """Read `data`. Raises `GarbageError`; complete replies before it stay in `ready`."""
        buffer = self._buffer + data if self._buffer else data
        self._buffer = b""
        start, size = 0, len(buffer)
        while start < size:
            match = _REPLY_LINE.match(buffer, start)
            if match is None:
                break
            end = match.end()
            if end - start > LINE + 1:
                raise GarbageError("reply line too long")
            start = end
            code, separator, text = match.groups(b"")
            if separator == b"-" or self._lines:
                self._take(code, separator, text)
            else:
                self.ready.append(Answer(int(code), (text,)))
        if start < size:
            self._keep(buffer[start:])

    def _keep(self, rest: bytes) -> None:
        """What is no line of a reply, or not yet."""
        end = rest.find(b"\n")
        if end > LINE or (end < 0 and len(rest) > LINE):
            raise GarbageError("reply line too long")
        if end >= 0:
            raise GarbageError("no reply code, or a bare CR or LF")
        self._buffer = rest

    def _take(self, code: bytes, separator: bytes, text: bytes) -> None:
        """A line of a reply that has several."""
        if self._lines and code != self._code:
            raise GarbageError("reply code changes within a reply")
        self._code = code
        self._lines.append(text)
        if separator == b"-":
            if len(self._lines) >= LINES:
                raise GarbageError("reply of too many lines")
            return
        self.ready.append(Answer(int(code), tuple(self._lines)))
        self._lines = []


def extensions(answer: Answer) -> dict[str, str]:
    """What a reply to EHLO offers: upper-case keyword -> parameters (RFC 5321 4.1.1.1)."""
    offered: dict[str, str] = {}
    for raw in answer.lines[1:]:
        # "AUTH=PLAIN" is a form of before RFC 2554 that is still sent beside the right one.
        words = raw.decode("latin-1").strip().replace("AUTH=", "AUTH ", 1).split()
        if words:
            keyword = words[0].upper()
            offered[keyword] = " ".join([*offered.get(keyword, "").split(), *words[1:]])
    return offered


def max_size(offered: dict[str, str]) -> int:
    """The size limit (octets) announced by SIZE (RFC 1870); 0 is none."""
    size = offered.get("SIZE", "").split(" ")[0]
    return int(size) if size.isascii() and size.isdigit() and len(size) <= 18 else 0


def plain(address: bytes) -> bool:
    """Whether `refuse_controls` and `unambiguous` have nothing against `address`."""
    return _PLAIN.fullmatch(address) is not None


def unambiguous(address: bytes) -> bool:
    """Whether every reader finds the same end of `address` in `<address>`.

    A quoted local part may hold a space or an angle bracket; some servers end the path there.
    """
    return _AMBIGUOUS.search(address) is None


def refuse_controls(address: bytes) -> None:
    """Raise `ValueError` if `address` could end the command line. Our parser lets none by."""
    if _CONTROL.search(address):
        raise ValueError("address with a control character")


def path(address: bytes) -> bytes:
    """`<address>`, verbatim. Raises `ValueError` where it would end or alter the command."""
    if not plain(address):
        refuse_controls(address)
        raise ValueError("address with a space or angle bracket")
    return b"<%b>" % address


def parameter(keyword: str, value: str) -> bytes:
    """` KEYWORD=value`. Raises `ValueError` where it would end or alter the command."""
    octets = value.encode("utf-8")
    if re.search(rb"[\x00-\x20\x7f=]", octets):
        raise ValueError(f"{keyword} with a control character, a space or =")
    return b" %b=%b" % (keyword.encode("ascii"), octets)


class Stuffer:
    """Dot-stuffing (RFC 5321 4.5.2) of content cut into parts anywhere; nothing else changes."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the content begins at the start of a line

    def feed(
        self, part: Piece | bytearray, *, dots: bool = True
    ) -> bytes | bytearray | memoryview:
        """The next `part` as it goes on the wire.

        Without `dots` no line in it begins with a dot, unless what comes before `part` makes it so.
        """
        if not dots and not isinstance(part, Spooled) and len(part) > 2:
            first = bytes(part[:2])
            if first[0] != 0x2E and first != b"\n.":
                self._tail = bytes(part[-2:])
                return part
        raw = part if isinstance(part, bytes) else bytes(part)
        if not raw:
            return raw
        wire = raw.replace(b"\r\n.", b"\r\n..")
        if self._tail == b"\r\n":
            if raw[0] == 0x2E:
                wire = b"." + wire
        elif self._tail[-1:] == b"\r" and raw[:2] == b"\n.":
            wire = b"\n." + wire[1:]
        self._tail = raw[-2:] if len(raw) > 1 else self._tail[-1:] + raw
        return wire

    def end(self) -> bytes:
        """The final dot, with the CRLF before it only where the content has none."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
