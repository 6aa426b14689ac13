"""The MIME structure of a mail, as offsets into its bytes (RFC 2046), with bounded work.

Delimiters are found with `find("\\r\\n--")` and an exact look-up of the line among the open
boundaries; nothing is decoded. What cannot be followed with certainty is *opaque*: relayed as it
is, and no duty is taken as met by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from proxy.content import Content
from proxy.message.header import Field, Header, scan_fields

MAX_PARTS = 500
MAX_DEPTH = 20
_MAX_DASH_LINES = 20_000
_MAX_PART_HEADER = 65_536
_MAX_PART_FIELDS = 1_000
_MAX_BOUNDARY = 200
# Octets of a value that may be remembered with its reading.
_SHORT = 512

_TOKEN = rb"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]++"
_TYPE = re.compile(rb"[ \t]*+(" + _TOKEN + rb")[ \t]*+(?:/[ \t]*+(" + _TOKEN + rb"))?[ \t]*+")
_PARAMETER = re.compile(
    rb";[ \t]*+(?:(" + _TOKEN + rb')[ \t]*+=[ \t]*+("(?>(?:[^"\\]|\\.)*)"|[^;" \t]*+)[ \t]*+)?',
    re.DOTALL,
)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_MAX_PARAMETERS = 100


class OpaqueError(ValueError):
    """The structure cannot be followed with certainty; `str()` says why in a few words."""


@dataclass(frozen=True, slots=True)
class Value:
    """A structured field: its main word in lower case and its parameters.

    `sound` is False where the field is there twice, cannot be read, or repeats a parameter.
    """

    word: str
    parameters: Mapping[str, bytes]
    sound: bool = True


# What a part is that does not say (RFC 2046 sections 5.1 and 5.1.5).
_PLAIN = Value("text/plain", {})
_FORWARDED = Value("message/rfc822", {})
_SEVEN_BIT = Value("7bit", {})


@dataclass(slots=True, kw_only=True)
class Part:
    """One part. Its body is `[start, end)` of the content; offsets are final once `scan` returns.

    `closed` tells that a multipart's closing delimiter was found.
    """

    type: Value
    encoding: Value
    disposition: Value | None
    start: int
    end: int = 0
    closed: bool = False
    children: list[Part] = field(default_factory=list)

    @property
    def multipart(self) -> bool:
        """Whether it is made of parts."""
        return self.type.word.startswith("multipart/")


def scan(content: Content, header: Header, start: int | None = None) -> Part:
    """The root part of a mail. Raises `OpaqueError` over a bound or for an unclear boundary.

    `content` is the mail; or its blank line and body, which begins at `start`, and all offsets are
    in that.
    """
    start = header.end if start is None else start
    root = _part(header.raw, header.fields, start, _PLAIN)
    opened: list[tuple[Part, bytes]] = []
    depth_of: dict[bytes, int] = {}
    if root.multipart:
        _open(root, opened, depth_of)
    leaf = root
    parts = lines = 0
    # The blank line's CRLF may belong to the first delimiter.
    at = max(start - 2, 0)
    while opened and (at := _dashes(content, at)) >= 0:
        lines += 1
        if lines > _MAX_DASH_LINES:
            raise OpaqueError("too many lines that look like boundaries")
        line_end = content.find(b"\r\n", at + 2)
        line_end = len(content) if line_end < 0 else line_end
        depth, closing = _look_up(content[at + 4 : line_end], depth_of)
        if depth is None:
            at = line_end
            continue
        leaf.end = at
        # A boundary of an outer multipart ends all inner ones.
        while len(opened) > depth + 1:
            ended, boundary = opened.pop()
            ended.end = at
            del depth_of[boundary]
        parent = opened[-1][0]
        if closing:
            parent.closed = True
            parent.end = line_end
            del depth_of[opened.pop()[1]]
            leaf, at = parent, line_end
            continue
        parts += 1
        if parts > MAX_PARTS:
            raise OpaqueError("too many parts")
        begin = min(line_end + 2, len(content))
        leaf, at = _begin(content, begin, depth_of, parent)
        parent.children.append(leaf)
        if leaf.multipart:
            _open(leaf, opened, depth_of)
    for part, _ in opened:
        part.end = len(content)
    if not leaf.closed:
        leaf.end = len(content)
    return root


def _dashes(content: Content, at: int) -> int:
    """Where the next line that begins with `--` follows, from `at` on; -1 for none."""
    if isinstance(content, bytes):
        # One octet is found much faster than four, and base64 has none of this one.
        dash = content.find(b"-", at + 2)
        if dash < 0:
            return -1
        at = dash - 2
    return content.find(b"\r\n--", at)


def _look_up(line: bytes, depth_of: Mapping[bytes, int]) -> tuple[int | None, bool]:
    line = line.rstrip(b" \t")
    depth = depth_of.get(line)
    if depth is None and line.endswith(b"--"):
        return depth_of.get(line[:-2]), True
    return depth, False


def _open(part: Part, opened: list[tuple[Part, bytes]], depth_of: dict[bytes, int]) -> None:
    boundary = part.type.parameters.get("boundary", b"").rstrip(b" \t")
    if not boundary or not part.type.sound:
        raise OpaqueError("multipart without a clear boundary")
    if len(boundary) > _MAX_BOUNDARY:
        raise OpaqueError("boundary too long")
    if boundary in depth_of:
        raise OpaqueError("boundary used again inside itself")
    if len(opened) == MAX_DEPTH:
        raise OpaqueError("parts nested too deep")
    depth_of[boundary] = len(opened)
    opened.append((part, boundary))


def _begin(
    content: Content, begin: int, depth_of: Mapping[bytes, int], parent: Part
) -> tuple[Part, int]:
    """The part that begins at `begin`, and from where to look for the next delimiter."""
    fields, stop, over = scan_fields(
        content, begin, max_bytes=_MAX_PART_HEADER, max_fields=_MAX_PART_FIELDS
    )
    if over:
        raise OpaqueError("part header too large")
    # A delimiter ends a part's header too ("--x:" even looks like a field).
    probe = begin - 2
    while (probe := content.find(b"\r\n--", probe, stop)) >= 0:
        line_end = content.find(b"\r\n", probe + 2)
        line_end = len(content) if line_end < 0 else line_end
        if _look_up(content[probe + 4 : line_end], depth_of)[0] is not None:
            stop = probe + 2
            fields = [f for f in fields if f.end <= stop]
            break
        probe += 2
    body = stop + 2 if content.startswith(b"\r\n", stop) else stop
    default = _FORWARDED if parent.type.word == "multipart/digest" else _PLAIN
    return _part(content, fields, body, default), stop - 2


def _part(content: Content, fields: Sequence[Field], start: int, default: Value) -> Part:
    return Part(
        type=_value(content, fields, b"content-type") or default,
        encoding=_value(content, fields, b"content-transfer-encoding") or _SEVEN_BIT,
        disposition=_value(content, fields, b"content-disposition"),
        start=start,
    )


def _value(content: Content, fields: Sequence[Field], name: bytes) -> Value | None:
    found = [f for f in fields if f.name == name]
    if not found:
        return None
    raw = content[found[0].value_start : found[0].end].replace(b"\r\n", b"")
    typed = name == b"content-type"
    value = _remembered(raw, typed) if len(raw) <= _SHORT else _read(raw, typed)
    return value if len(found) == 1 else replace(value, sound=False)


def _read(raw: bytes, typed: bool) -> Value:
    match = _TYPE.match(raw)
    if match is None or typed != (match[2] is not None):
        # RFC 2045 5.2: a type that cannot be read counts as plain text; it is no target.
        return Value("text/plain" if typed else "", {}, sound=False)
    word = match[1] if match[2] is None else match[1] + b"/" + match[2]
    parameters: dict[str, bytes] = {}
    sound = True
    at = match.end()
    for _ in range(_MAX_PARAMETERS):
        if at == len(raw):
            break
        match = _PARAMETER.match(raw, at)
        if match is None:
            break
        at = match.end()
        if match[1] is None:
            continue
        key = match[1].decode("ascii").lower()
        sound = sound and key not in parameters
        parameters.setdefault(key, _unquoted(match[2]))
    return Value(word.decode("ascii").lower(), parameters, sound and at == len(raw))


_remembered = lru_cache(maxsize=1024)(_read)


def _unquoted(value: bytes) -> bytes:
    return _QUOTED_PAIR.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value
