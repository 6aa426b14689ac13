"""The footer: what the law wants a mail to show and the mail does not, for text and for HTML.

Nothing marks it: a second pass finds sender, address and link and adds nothing. Its characters are
those that the part can carry as it is; charset and transfer encoding are never changed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from proxy.message import markup, spelling
from proxy.message.transfer import ImpossibleError

IDENTITY, POSTAL_ADDRESS, UNSUBSCRIBE = "identity", "postal_address", "unsubscribe"
#: The duties that a footer can meet, in its own order; names as in `Decision.obligations`.
DUTIES = (IDENTITY, POSTAL_ADDRESS, UNSUBSCRIBE)

#: Octets of a footer at most.
MAX_FOOTER = 4096
_MAX_LINE = 990

_WORDS = {
    "de": "Abmelden",
    "en": "Unsubscribe",
    "es": "Darse de baja",
    "fr": "Se d\u00e9sabonner",
    "it": "Annulla l'iscrizione",
    "nl": "Uitschrijven",
}
LANGUAGES = tuple(_WORDS)

# ASCII supersets: each octet below 128 that begins a character means itself.
_SUPERSET = re.compile(
    r"us-ascii|ascii|utf-?8|iso-8859-(?:[1-9]|1[013456])|latin-?1|(?:windows-|cp)125[0-8]|koi8-[ru]"
    r"|gb2312|gbk|gb18030|big5(?:-hkscs)?|euc-(?:jp|kr)|shift_jis|ks_c_5601(?:-1987)?|tis-620",
    re.IGNORECASE,
)
_STYLE = "margin:16px 0 0;padding:8px;font:12px/1.5 sans-serif;color:#555;background:#fff"


@dataclass(frozen=True, slots=True)
class Brand:
    """The sender as a footer names it."""

    name: str
    postal_address: str


@dataclass(frozen=True, slots=True)
class Paper:
    """What a part can carry: its codec, whether ASCII only, its line end, and whether flowed."""

    codec: str
    ascii_only: bool
    newline: bytes = b"\r\n"
    flowed: bool = False


def editable_charset(charset: str) -> bool:
    """Whether a footer can be put into text of this charset."""
    return _SUPERSET.fullmatch(charset.strip()) is not None


def word(language: str) -> str:
    """What the opt-out link is called; English where the language has no word here."""
    return _WORDS.get(language[:2].lower(), _WORDS["en"])


def of_text(
    brand: Brand, duties: AbstractSet[str], *, url: str, language: str, paper: Paper
) -> bytes:
    """The lines of a footer in plain text, the last without a line end.

    Raises `ImpossibleError` where a character can be written in no way.
    """
    lines = []
    for line in _lines(brand, duties, f"{word(language)}: {url}"):
        octets = spelled(" ".join(line.split()), paper)
        if paper.flowed and octets.startswith((b" ", b">", b"From ")):
            octets = b" " + octets  # space-stuffed (RFC 3676 section 4.4)
        if octets.startswith(b"--"):
            raise ImpossibleError("a line of the footer looks like a boundary")
        lines.append(octets)
    return _bounded(lines, paper.newline)


def of_html(
    brand: Brand, duties: AbstractSet[str], *, url: str, language: str, newline: bytes = b"\r\n"
) -> bytes:
    """One `<div>` in ASCII; a character beyond is a numeric reference."""
    link = f'<a href="{html.escape(url)}" style="color:#555">{html.escape(word(language))}</a>'
    shown = [html.escape(" ".join(line.split())) for line in _lines(brand, duties, "")]
    shown = [line or link for line in shown]
    lines = [f'<div style="{_STYLE}">', *(f"{line}<br>" for line in shown[:-1]), shown[-1]]
    return _bounded(
        [line.encode("ascii", "xmlcharrefreplace") for line in [*lines, "</div>"]], newline
    )


def spelled(text: str, paper: Paper) -> bytes:
    """`text` in the part's charset; what it cannot carry in ASCII letters (NFKD, ss, EUR ...).

    Raises `ImpossibleError` where there is no such spelling.
    """
    return b"".join(_character(char, paper) for char in text)


def needs_spelling(text: str, paper: Paper) -> bool:
    """Whether `spelled` writes anything otherwise than it is."""
    if text.isascii():
        return False
    return paper.ascii_only or any(_carried(char, paper.codec) is None for char in text)


def text_end(octets: bytes, newline: bytes) -> tuple[bytes, bytes]:
    """What goes before and after the lines at the end of a text: an empty line, and a line end
    where the text had one.
    """
    if not octets:
        return b"", newline
    closed = octets.endswith(b"\n")
    return (newline if closed else newline * 2), (newline if closed else b"")


def html_cut(octets: bytes) -> int:
    """Where a footer goes in HTML: before the last `</body`, else the last `</html`, else the end.

    Raises `ImpossibleError` where that end lies in a comment, a script or a tag.
    """
    at = markup.footer_at(octets.decode("latin-1"))
    if at is None:
        raise ImpossibleError("the HTML ends inside a comment, script or tag")
    return at


def _lines(brand: Brand, duties: AbstractSet[str], link: str) -> list[str]:
    shown = {IDENTITY: brand.name, POSTAL_ADDRESS: brand.postal_address, UNSUBSCRIBE: link}
    return [shown[duty] for duty in DUTIES if duty in duties]


def _character(char: str, paper: Paper) -> bytes:
    if char.isascii():
        return char.encode("ascii")
    if not paper.ascii_only:
        octets = _carried(char, paper.codec)
        if octets is not None:
            return octets
    plain = spelling.plain(char)
    if not plain or not plain.isascii() or not plain.isprintable():
        raise ImpossibleError("a character of the footer fits neither charset nor ASCII")
    return plain.encode("ascii")


def _carried(char: str, codec: str) -> bytes | None:
    try:
        octets = char.encode(codec)
        # Shift_JIS writes the yen sign as a backslash, and others such things.
        return octets if octets.decode(codec) == char else None
    except UnicodeError:
        return None


def _bounded(lines: list[bytes], newline: bytes) -> bytes:
    text = newline.join(lines)
    if len(text) > MAX_FOOTER or any(len(line) > _MAX_LINE for line in lines):
        raise ImpossibleError("the footer would be too long")
    return text
