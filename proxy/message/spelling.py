"""Names and addresses in ASCII letters, as people write them where a charset has no others."""

from __future__ import annotations

import re
import unicodedata

# What has no decomposition in Unicode, or another spelling than its decomposition.
_SPELLED = {
    "\u00df": "ss",
    "\u1e9e": "SS",
    "\u20ac": "EUR",
    "\u00a3": "GBP",
    "\u00e6": "ae",
    "\u00c6": "AE",
    "\u0153": "oe",
    "\u0152": "OE",
    "\u00f8": "o",
    "\u00d8": "O",
    "\u0142": "l",
    "\u0141": "L",
    "\u0111": "d",
    "\u0110": "D",
    "\u00f0": "d",
    "\u00d0": "D",
    "\u00fe": "th",
    "\u00de": "Th",
    "\u0131": "i",
    "\u2013": "-",
    "\u2014": "-",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2022": "-",
    "\u00b7": "-",
}
# Canonical ordering of combining marks is quadratic in their number: normalised piece by piece.
_PIECE = 256
_TABLE = str.maketrans(_SPELLED)
_MARKS = re.compile("[\u0300-\u036f]+")


def plain(text: str) -> str:
    """`text` without accents and typographic marks; characters without such a spelling stay."""
    if text.isascii():
        return text
    text = text.translate(_TABLE)
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return "".join(_MARKS.sub("", unicodedata.normalize("NFKD", piece)) for piece in pieces)
