"""`{{sluis.unsubscribe_url}}`: where a template wants the recipient's own opt-out link.

Matched in the decoded octets of displayed parts, so that a soft line break or base64 hides none. In
subject, header fields and attachments it is left alone.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: More in one part are refused: no mail needs them, and each costs work in every copy.
MOST = 20

#: What every placeholder has in it.
WORD = "sluis."
_HINT = WORD.encode("ascii")
_ANY = re.compile(
    rb"(?:\{\{|\[\[|%7[Bb]%7[Bb]|%5[Bb]%5[Bb])(?: |%20)?sluis\.([A-Za-z0-9_.-]{0,40})"
)
_URL = re.compile(
    rb"""\{\{[ ]?sluis\.unsubscribe_url[ ]?\}\}
       | \[\[[ ]?sluis\.unsubscribe_url[ ]?\]\]
       | %7[Bb]%7[Bb](?:[ ]|%20)?sluis\.unsubscribe_url(?:[ ]|%20)?%7[Dd]%7[Dd]
       | %5[Bb]%5[Bb](?:[ ]|%20)?sluis\.unsubscribe_url(?:[ ]|%20)?%5[Dd]%5[Dd]""",
    re.VERBOSE,
)
# Charsets in which `{` or `[` may be the second octet of a character; what readers take for gb2312
# is gbk.
_DOUBLE = {"shift_jis", "big5", "big5-hkscs", "gbk", "gb2312", "gb18030"}
_LOOK_BACK = 4096
_LONGEST = 128  # octets of one placeholder, and more
_WIDE = ("utf-16", "utf-32")
_SHOWN = re.compile(r"\{\{ ?sluis\.[\w.-]{0,40} ?\}\}|\[\[ ?sluis\.[\w.-]{0,40} ?\]\]")


@dataclass(frozen=True, slots=True)
class Found:
    """Spans of decoded octets, in order; and the first name that is no placeholder, "" for none.

    `fixed` counts those in a charset of wide units (UTF-16), in which nothing is replaced.
    """

    spans: tuple[tuple[int, int], ...] = ()
    unknown: str = ""
    fixed: int = 0


def find(octets: bytes, codec: str) -> Found:
    """All placeholders of a part; at most `MOST` and one, so that too many can be told."""
    if codec.startswith(_WIDE):
        # In either order of octets ASCII is itself among zeros.
        narrow = find(octets.replace(b"\0", b""), "ascii")
        return Found(unknown=narrow.unknown, fixed=len(narrow.spans))
    if _HINT not in octets:
        return Found()
    spans: list[tuple[int, int]] = []
    unknown = ""
    for match in _ANY.finditer(octets):
        if not _at_character(octets, match.start(), codec):
            continue
        whole = _URL.match(octets, match.start())
        if whole is None:
            unknown = unknown or f"sluis.{match[1].decode('ascii')}"
            continue
        spans.append(whole.span())
        if len(spans) > MOST:
            break
    return Found(tuple(spans), unknown)


def count(blocks: Iterable[bytes], codec: str) -> tuple[int, str]:
    """How many there are in a part that comes in blocks, at most `MOST` and one; and `unknown`."""
    number, unknown = 0, ""
    carry = b""
    if codec.startswith(_WIDE):
        blocks, codec = (block.replace(b"\0", b"") for block in blocks), "ascii"
    counted = 0  # octets of it that were looked at before
    for block in itertools.chain(blocks, (None,)):
        octets = carry + (block or b"")
        # What may be cut in two is looked at with the next block.
        upto = len(octets) - (0 if block is None else _LONGEST)
        for match in _ANY.finditer(octets) if _HINT in octets else ():
            if not counted <= match.start() < upto or not _at_character(
                octets, match.start(), codec
            ):
                continue
            if _URL.match(octets, match.start()) is None:
                unknown = unknown or f"sluis.{match[1].decode('ascii')}"
            else:
                number += 1
                if number > MOST:
                    return number, unknown
        kept = max(0, min(upto, len(octets)) - _LOOK_BACK)
        carry, counted = octets[kept:], max(upto, counted) - kept
    return number, unknown


def shown(text: str) -> bool:
    """Whether a reader of this text sees a placeholder as it is."""
    return WORD in text and _SHOWN.search(text) is not None


def put(octets: bytes, spans: tuple[tuple[int, int], ...], new: bytes) -> bytes:
    """`octets` with `new` in place of each span."""
    pieces = []
    at = 0
    for start, end in spans:
        pieces += [octets[at:start], new]
        at = end
    return b"".join([*pieces, octets[at:]])


def _at_character(octets: bytes, at: int, codec: str) -> bool:
    """Whether a character begins here."""
    if at == 0 or octets[at - 1] < 0x80 or codec not in _DOUBLE:
        return True
    # Octets below 0x30 are the second of no character, so one begins after them.
    begin = at - 1
    while begin > max(0, at - _LOOK_BACK) and octets[begin - 1] >= 0x30:
        begin -= 1
    name = "gbk" if codec == "gb2312" else codec
    decoder = codecs.getincrementaldecoder(name)("replace")
    decoder.decode(octets[begin:at])
    return not decoder.getstate()[0]
