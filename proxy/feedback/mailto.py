"""Opt-outs that come as a mail: `mailto:u@feedback.domain?subject=unsubscribe%20TOKEN` (RFC 2369).

A pure parser. What it finds are candidates: only `proxy.tokens.open_` tells whether one is ours.
"""

from __future__ import annotations

import binascii
import re
from email.errors import HeaderParseError
from email.header import decode_header

from proxy.content import Content

_HEADER_BYTES = 65536  # what is read of a mail: its header block, at most this much
_SUBJECT_LENGTH = 4000
_MOST_TOKENS = 10
# Between the words: what a client makes of the "%20" in our link when it does not decode it, too.
_ASKED = re.compile(r"unsubscribe(?:\s|:|\+|_|%20)+(?=k[0-9])", re.I)
_TOKEN = re.compile(r"k[0-9]{1,6}\.[A-Za-z0-9_-]+")


def tokens_in(content: Content) -> list[str]:
    """The tokens after "unsubscribe" in the Subject of the mail `content`, at most 10.

    Reads folded and encoded (RFC 2047) subjects, prefixes such as "Re:", and a token that a client
    broke with white space when it folded the line. Never raises.
    """
    found: dict[str, None] = {}
    for subject in _subjects(content[:_HEADER_BYTES]):
        text = _decoded(subject)[:_SUBJECT_LENGTH]
        for asked in _ASKED.finditer(text):
            tail = text[asked.end() :]
            # As it stands, then with white space taken out: the end of a broken token follows it.
            for candidate in (tail, "".join(tail.split())):
                if token := _TOKEN.match(candidate):
                    found.setdefault(token[0])
    return list(found)[:_MOST_TOKENS]


def _subjects(head: bytes) -> list[bytes]:
    """Unfolded values of the Subject fields before the first empty line."""
    subjects: list[bytes] = []
    inside = False
    for line in head.splitlines():
        if not line:
            break
        if line[:1] in b" \t":
            if inside:
                subjects[-1] += line
            continue
        name, colon, value = line.partition(b":")
        inside = bool(colon) and name.strip().lower() == b"subject"
        if inside:
            subjects.append(value)
    return subjects


def _decoded(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    try:
        parts = decode_header(text)
    except (HeaderParseError, ValueError, binascii.Error):
        return text
    return "".join(
        part if isinstance(part, str) else part.decode(_charset(charset), "replace")
        for part, charset in parts
    )


def _charset(name: str | None) -> str:
    try:
        # Some codecs are no character sets ("zip"): they do not decode bytes to text.
        b"unsubscribe".decode(name or "ascii", "replace")
    except (LookupError, ValueError, UnicodeError):
        return "latin-1"
    return name or "ascii"
