"""Complaints that come as a mail: a feedback report (ARF, RFC 5965) about a mail of ours.

A pure parser with bounded work. The tokens that it finds are candidates: only `proxy.tokens.open_`
tells whether one is ours. Nothing else in a report proves anything, so nothing else is read.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.content import Content
from proxy.message.header import HeaderRefused, index
from proxy.message.mime import OpaqueError, Part, scan

#: Octets of a report that are looked at, and of the header of the mail that it returns.
READ = 262_144
_HEADER = 65_536
_MOST_PARTS = 10
_MOST_FIELDS = 1_000
_MOST_TOKENS = 10

#: What is no complaint of a person about a mail: RFC 6430, RFC 5965 (virus), RFC 6591, DMARC.
_NO_COMPLAINT = frozenset({"not-spam", "virus", "auth-failure", "dmarc"})
_RETURNED = frozenset({
    *("message/rfc822", "text/rfc822-headers", "message/rfc822-headers"),
    *("message/global", "message/global-headers"),
})  # fmt: skip

_TYPE = re.compile(rb"[A-Za-z0-9-]{1,64}")
_ID = re.compile(rb"k[0-9]{1,6}:[A-Za-z0-9_-]{1,600}")
_LINK = re.compile(rb"(?:/u/|unsubscribe%20)(k[0-9]{1,6}\.[A-Za-z0-9_-]{1,600})", re.I)
_SPACE = re.compile(rb"[ \t\r\n]+")


@dataclass(frozen=True, slots=True)
class Report:
    """A feedback report: its type in lower case, and the tokens of ours in the mail it is about."""

    type: str
    tokens: tuple[str, ...]

    @property
    def complaint(self) -> bool:
        """Whether a person complained; a type that nobody knows counts as `other` (RFC 5965)."""
        return self.type not in _NO_COMPLAINT


def read_report(mail: Content) -> Report | None:
    """The report in a mail, None for any other mail. Never raises.

    Tokens are looked for in `CFBL-Feedback-ID` and `List-Unsubscribe` of the returned header, at
    most ten.
    """
    content = mail[:READ]
    try:
        root = scan(content, index(content))
    except (HeaderRefused, OpaqueError):
        return None
    if root.type.word != "multipart/report":
        return None
    kind = ""
    tokens: dict[str, None] = {}
    for part in root.children[:_MOST_PARTS]:
        if part.type.word == "message/feedback-report" and not kind:
            kind = _kind(_decoded(content, part))
        elif part.type.word in _RETURNED and not tokens:
            tokens.update(dict.fromkeys(_tokens(_decoded(content, part))))
    return Report(kind, tuple(tokens)[:_MOST_TOKENS]) if kind else None


def _kind(raw: bytes) -> str:
    """The one Feedback-Type; "" where there is none that can be read, or several that differ."""
    found = {value.lower() for name, value in _fields(raw) if name == b"feedback-type"}
    value = found.pop() if len(found) == 1 else b""
    return value.decode("ascii") if _TYPE.fullmatch(value) else ""


def _tokens(raw: bytes) -> Iterator[str]:
    for name, value in _fields(raw):
        if name == b"cfbl-feedback-id" and _ID.fullmatch(squeezed := _SPACE.sub(b"", value)):
            yield squeezed.decode("ascii").replace(":", ".")
        elif name == b"list-unsubscribe":
            for match in _LINK.finditer(_SPACE.sub(b"", value)):
                yield match[1].decode("ascii")


def _fields(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of the fields up to the first empty line, whatever the line ends."""
    name = b""
    value: list[bytes] = []
    count = 0
    for line in (ended.rstrip(b"\r") for ended in raw[:_HEADER].split(b"\n")):
        if line[:1] in (b" ", b"\t"):
            value.append(line)
            continue
        if name:
            yield name, b"".join(value).strip(b" \t")
        if not line or count == _MOST_FIELDS:
            return
        name, _, rest = line.partition(b":")
        name = name.strip(b" \t").lower()
        value = [rest]
        count += 1
    if name:
        yield name, b"".join(value).strip(b" \t")


def _decoded(content: bytes, part: Part) -> bytes:
    """The beginning of a part as it was before its transfer encoding; reporters do encode it."""
    raw = content[part.start : min(part.end, part.start + 2 * _HEADER)]
    if part.encoding.word == "quoted-printable":
        return quopri.decodestring(raw)
    if part.encoding.word == "base64":
        packed = _SPACE.sub(b"", raw)
        try:
            return base64.b64decode(packed[: len(packed) // 4 * 4])
        except binascii.Error:
            return b""
    return raw
