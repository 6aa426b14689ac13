"""Edits of a part's decoded octets, written back in its own transfer encoding (RFC 2045 section 6).

Whatever is not edited keeps its bytes: in 7bit, 8bit and quoted-printable all around the cut, in
base64 the whole lines before the first one. Charset and encoding are never changed. What cannot be
cut with certainty is `ImpossibleError`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.content import Content, blocks, stretch
from proxy.message.mime import Part

IDENTITY = frozenset({"7bit", "8bit", "binary"})
#: Parts that together are over this are relayed and not edited, in octets as they are sent.
MAX_EDITED = 3 << 20

_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+={0,2}")
_BASE64_BEGUN = re.compile(rb"[A-Za-z0-9+/]*+")
_WHITE = b" \t\r\n"
_ESCAPE = re.compile(rb"=(?:[0-9A-Fa-f]{2}|\r\n)")
_UNSAFE = re.compile(rb"[^!-<>-~ \t]|[ \t](?=\Z)")
# RFC 2045 6.7 allows 76; one octet is kept for the "=" of a line that goes on.
_QP_LINE = 75
_BASE64_LINE = 76


class ImpossibleError(ValueError):
    """This part cannot be edited; `str()` says why in a few words."""


@dataclass(frozen=True, slots=True)
class Place:
    """A span of decoded octets, and the octets of the content (offsets) that stand for it."""

    start: int
    end: int
    raw_start: int
    raw_end: int


@dataclass(frozen=True, slots=True)
class Replacement:
    """Octets of the content `[start, end)` that become `new`."""

    start: int
    end: int
    new: bytes


@dataclass(frozen=True, slots=True)
class Transfer:
    """One part, decoded. `newline` is how its text ends a line."""

    content: Content
    part: Part
    octets: bytes
    newline: bytes

    def places(self, spans: Sequence[tuple[int, int]]) -> list[Place]:
        """Where spans of decoded octets, in order and apart, lie in the content.

        Raises `ImpossibleError` where the two decodings do not agree.
        """
        begin = self.part.start
        encoding = self.part.encoding.word
        if encoding in IDENTITY:
            return [Place(start, end, begin + start, begin + end) for start, end in spans]
        if encoding == "base64":
            return [Place(start, end, 0, 0) for start, end in spans]
        return self._places_in_quoted(spans)

    def replace(self, edits: Sequence[tuple[Place, bytes]]) -> list[Replacement]:
        """The edits, in order of their places, as replacements in the content."""
        encoding = self.part.encoding.word
        if not edits:
            return []
        if encoding == "base64":
            return [self._replace_in_base64(edits)]
        if encoding in IDENTITY:
            return [Replacement(place.raw_start, place.raw_end, new) for place, new in edits]
        return [self._replace_in_quoted(place, new) for place, new in edits]

    def _places_in_quoted(self, spans: Sequence[tuple[int, int]]) -> list[Place]:
        begin, end = self.part.start, max(self.part.start, self.part.end)
        raw = self.content[begin:end]
        # Where the first octet begins, and where the last one does.
        wanted = [at for start, stop in spans for at in (start, stop - 1 if stop > start else stop)]
        found = _quoted_offsets(raw, wanted)
        places = []
        raw_at = at = 0
        for n, (start, stop) in enumerate(spans):
            first, last = found[2 * n], found[2 * n + 1]
            if stop > start:
                last += 3 if raw[last : last + 1] == b"=" else 1
            if (
                binascii.a2b_qp(raw[raw_at:first]) != self.octets[at:start]
                or binascii.a2b_qp(raw[first:last]) != self.octets[start:stop]
            ):
                raise ImpossibleError("damaged quoted-printable")
            places.append(Place(start, stop, begin + first, begin + last))
            raw_at, at = last, stop
        if binascii.a2b_qp(raw[raw_at:]) != self.octets[at:]:
            raise ImpossibleError("damaged quoted-printable")
        return places

    def _replace_in_quoted(self, place: Place, new: bytes) -> Replacement:
        begin, end = self.part.start, max(self.part.start, self.part.end)
        text = quoted(new)
        before = self.content[max(begin, place.raw_start - 2) : place.raw_start]
        open_line = place.raw_start > begin and before != b"\r\n"
        if open_line and (not text.startswith(b"\r\n") or before[-1:] in b" \t"):
            text = b"=\r\n" + text
        after = self.content[place.raw_end : min(end, place.raw_end + 3)]
        if after and not after.startswith((b"\r\n", b"=\r\n")) and not text.endswith(b"\r\n"):
            text += b"=\r\n"
        return Replacement(place.raw_start, place.raw_end, text)

    def _replace_in_base64(self, edits: Sequence[tuple[Place, bytes]]) -> Replacement:
        begin, end = self.part.start, max(self.part.start, self.part.end)
        raw = self.content[begin:end]
        kept, kept_octets, width = _whole_lines(raw, edits[0][0].start)
        data_end = len(raw.rstrip(_WHITE))
        pieces = []
        at = kept_octets
        for place, new in edits:
            pieces += [self.octets[at : place.start], new]
            at = place.end
        pieces.append(self.octets[at:])
        text = binascii.b2a_base64(b"".join(pieces), newline=False)
        lines = b"\r\n".join(text[i : i + width] for i in range(0, len(text), width))
        if kept >= data_end:  # all lines stay: the new ones end as the last of them did
            return Replacement(begin + kept, begin + kept, lines + (b"\r\n" if kept else b""))
        return Replacement(begin + kept, begin + data_end, lines)


def read(content: Content, part: Part) -> Transfer:
    """Decode a whole part. Raises `ImpossibleError` for an encoding that cannot be read."""
    encoding = part.encoding.word
    raw = content[part.start : max(part.start, part.end)]
    if encoding in IDENTITY:
        return Transfer(content, part, raw, b"\r\n")
    if encoding == "quoted-printable":
        return Transfer(content, part, binascii.a2b_qp(raw), b"\r\n")
    if encoding != "base64":
        raise ImpossibleError("unknown transfer encoding")
    text = raw.translate(None, _WHITE)
    if not _BASE64.fullmatch(text) or len(text) % 4:
        raise ImpossibleError("damaged base64")
    octets = binascii.a2b_base64(text)
    bare = b"\n" in octets and b"\r\n" not in octets
    return Transfer(content, part, octets, b"\n" if bare else b"\r\n")


def decoded(content: Content, part: Part) -> Iterator[bytes]:
    """What `read` decodes, in blocks and in order, for a part that is only looked at.

    Raises `ImpossibleError`, at the latest at its end.
    """
    encoding = part.encoding.word
    raw = blocks(stretch(content, part.start, max(part.start, part.end)))
    if encoding in IDENTITY:
        yield from map(bytes, raw)
    elif encoding == "quoted-printable":
        carry = b""
        for block in map(bytes, raw):
            whole, end, rest = (carry + block).rpartition(b"\r\n")
            yield binascii.a2b_qp(whole + end)
            carry = rest
        yield binascii.a2b_qp(carry)
    elif encoding == "base64":
        text = b""
        for block in map(bytes, raw):
            text += block.translate(None, _WHITE)
            # The last four octets may be those with the padding.
            cut = max(0, len(text) - 4) // 4 * 4
            if not _BASE64_BEGUN.fullmatch(text, 0, cut):
                raise ImpossibleError("damaged base64")
            yield binascii.a2b_base64(text[:cut])
            text = text[cut:]
        if not _BASE64.fullmatch(text) or len(text) % 4:
            raise ImpossibleError("damaged base64")
        yield binascii.a2b_base64(text)
    else:
        raise ImpossibleError("unknown transfer encoding")


def quoted(octets: bytes) -> bytes:
    """Text with CRLF line ends in quoted-printable, no line over 75 octets."""
    lines = []
    for line in octets.split(b"\r\n"):
        text = _UNSAFE.sub(lambda match: b"=%02X" % match[0][0], line)
        while len(text) > _QP_LINE:
            cut = _QP_LINE - 1
            cut -= next((back for back in (1, 2) if text[cut - back : cut - back + 1] == b"="), 0)
            lines.append(text[:cut] + b"=")
            text = text[cut:]
        lines.append(text)
    return b"\r\n".join(lines)


def _quoted_offsets(raw: bytes, wanted: Sequence[int]) -> list[int]:
    """Where each of the wanted decoded octets (ascending) begins, after soft line breaks."""
    found: list[int] = []
    shift = 0
    for match in _ESCAPE.finditer(raw):
        if len(found) == len(wanted):
            return found
        at = match.start() - shift
        soft = match[0] == b"=\r\n"
        while len(found) < len(wanted) and wanted[len(found)] < at + (not soft):
            found.append(wanted[len(found)] + shift)
        shift += 3 if soft else 2
    return [*found, *(at + shift for at in wanted[len(found) :])]


def _whole_lines(raw: bytes, upto: int) -> tuple[int, int, int]:
    """Of base64: the octets in whole lines that end at or before decoded octet `upto`, the decoded
    octets in them, and the width of a line.
    """
    at = chars = kept = kept_octets = 0
    widths: list[int] = []
    for line in raw.split(b"\r\n"):
        if chars % 4 == 0:
            if chars // 4 * 3 > upto:
                break
            kept, kept_octets = at, chars // 4 * 3
        length = len(line.translate(None, b" \t"))
        if length:
            widths.append(length)
        chars += length
        at += len(line) + 2
    width = widths[0] if len(widths) > 1 else _BASE64_LINE
    return kept, kept_octets, width if width % 4 == 0 and width <= _BASE64_LINE else _BASE64_LINE
