"""Opt-outs that come as a mail: `mailto:u@feedback.domain?subject=unsubscribe%20TOKEN` (RFC 2369).

A pure parser. What it finds are candidates: only `proxy.tokens.open_` tells whether one is ours.
"""

from __future__ import annotations

import re

from proxy.content import Content
from proxy.message import encoded

_HEADER_BYTES = 65536  # what is read of a mail: its header block, at most this much
_SUBJECT_LENGTH = 4000  # octets, as they are written
_MOST_TOKENS = 10
_TOKEN_LENGTH = 1000  # with the white space that broke it
# Between the words: what a client makes of the "%20" in our link when it does not decode it, too.
_ASKED = re.compile(r"unsubscribe(?:\s|:|\+|_|%20)+(?=k[0-9])", re.I)
_TOKEN = re.compile(r"k[0-9]{1,6}\.[A-Za-z0-9_-]+")
_CHARSET = re.compile(rb"=\?([!-)+->@-~]{1,60})(?=\?[bq]\?)", re.I)


def tokens_in(content: Content) -> list[str]:
    """The tokens after "unsubscribe" in the Subject of the mail `content`, at most 10.

    Reads folded and encoded (RFC 2047) subjects, prefixes such as "Re:", and a token that a client
    broke with white space when it folded the line. Never raises.
    """
    found: dict[str, None] = {}
    for subject in _subjects(content[:_HEADER_BYTES]):
        text = encoded.decode(_CHARSET.sub(_known, subject[:_SUBJECT_LENGTH]))
        for asked in _ASKED.finditer(text):
            tail = text[asked.end() : asked.end() + _TOKEN_LENGTH]
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


def _known(word: re.Match[bytes]) -> bytes:
    """The beginning of an encoded word in a charset that can be read: what we look for is ASCII."""
    return word[0] if encoded.codec(word[1].decode("ascii")) else b"=?latin-1"
