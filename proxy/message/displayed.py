"""Which parts of a mail its reader sees, and their text.

Where that cannot be told for certain (signed, encrypted, forwarded, damaged), nothing is taken as
seen: `StopError`.
"""

from __future__ import annotations

import binascii
import re
from enum import StrEnum
from typing import NamedTuple

from proxy.content import Content
from proxy.message import encoded, placeholders
from proxy.message.mime import OpaqueError, Part

#: Decoded octets of each part that are looked at.
LOOKED_AT = 524_288
#: And of all parts together, each counted as far as it is looked at: more is no mail to read.
LOOKED_AT_IN_ALL = 2 * LOOKED_AT

_CLOSED_KINDS = frozenset({"signed", "encrypted", "report", "digest", "parallel"})
_IDENTITY = frozenset({"7bit", "8bit", "binary"})
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*+={0,2}")
# What an inspection needs at most: three octets for one in quoted-printable, 78 of which 57 in
# base64.
_QP_OCTETS = 3 * LOOKED_AT
_BASE64_OCTETS = LOOKED_AT * 3 // 2


class StopError(OpaqueError):
    """A structure in which no duty can be taken as met; `str()` says why in a few words."""


class Kind(StrEnum):
    """How a displayed part is written."""

    PLAIN = "text/plain"
    HTML = "text/html"
    AMP = "text/x-amp-html"


_KINDS = frozenset(Kind)


class Target(NamedTuple):
    """A part that a reader may be shown, and how."""

    part: Part
    kind: Kind


def targets(part: Part) -> list[Target]:
    """The displayed parts of a mail, in order; several are alternatives. Raises `StopError`."""
    found = _targets(part)
    sizes = (min(target.part.end - target.part.start, LOOKED_AT) for target in found)
    if sum(sizes) > LOOKED_AT_IN_ALL:
        raise StopError("too much text is displayed")
    return found


def _targets(part: Part) -> list[Target]:
    word = part.type.word
    if _attached(part):
        return []
    if part.multipart:
        return _of_multipart(part, word.removeprefix("multipart/"))
    if word.startswith("message/"):
        raise StopError("a forwarded message is shown")
    if word.startswith("application/") and word.endswith("pkcs7-mime"):
        raise StopError("encrypted or signed")
    if word not in _KINDS:
        return []
    if not part.type.sound or not part.encoding.sound or part.encoding.parameters:
        raise StopError("content type or encoding is not clear")
    return [Target(part, Kind(word))]


def charset_of(part: Part) -> str:
    """The charset that a part names, us-ascii where it names none (RFC 2045 section 5.2)."""
    return part.type.parameters.get("charset", b"us-ascii").decode("ascii", "replace")


def text_of(content: Content, part: Part, link: bytes = b"") -> str:
    """The decoded text of a displayed part, its first 512 KiB; placeholders as `link`, if given.

    Raises `StopError`.
    """
    codec = encoded.codec(charset_of(part))
    if codec is None:
        raise StopError("unknown charset")
    if codec in ("us-ascii", "ascii"):
        codec = "utf-8"  # what readers make of 8-bit octets that nobody announced
    octets = _octets(content, part)
    if link:
        octets = placeholders.put(octets, placeholders.find(octets, codec).spans, link)
    text = octets.decode(codec, "replace")
    if "-----BEGIN PGP " in text:
        raise StopError("encrypted or signed")
    return text


def _of_multipart(part: Part, subtype: str) -> list[Target]:
    if subtype in _CLOSED_KINDS:
        raise StopError(f"multipart/{subtype}")
    if not part.closed or not part.children:
        raise StopError("multipart is not closed")
    if subtype == "alternative":
        return [target for child in part.children for target in _targets(child)]
    if subtype == "related":
        return _targets(part.children[0])
    for child in part.children:
        found = _targets(child)
        if found:
            return found
    return []


def _attached(part: Part) -> bool:
    disposition = part.disposition
    if disposition is None or disposition.word == "inline":
        return False
    return disposition.word == "attachment" or "filename" in disposition.parameters


def _octets(content: Content, part: Part) -> bytes:
    encoding = part.encoding.word
    begin, end = part.start, max(part.start, part.end)
    if encoding in _IDENTITY:
        return content[begin : min(end, begin + LOOKED_AT)]
    if encoding == "quoted-printable":
        return binascii.a2b_qp(content[begin : min(end, begin + _QP_OCTETS)])[:LOOKED_AT]
    if encoding != "base64":
        raise StopError("unknown transfer encoding")
    raw = content[begin : min(end, begin + _BASE64_OCTETS)].translate(None, b"\r\n \t")
    if begin + _BASE64_OCTETS < end:
        raw = raw[: len(raw) // 4 * 4]
    if not _BASE64.fullmatch(raw) or len(raw) % 4:
        raise StopError("damaged base64")
    return binascii.a2b_base64(raw)[:LOOKED_AT]
