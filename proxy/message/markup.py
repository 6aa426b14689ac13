"""What an HTML part says and links to, in one linear pass.

The tokens are those of the HTML standard (section 13.2.5), which every input has; no tree is built.
A tree is what makes hostile HTML expensive: half a megabyte of nested `<div>` or of attributes in
one tag takes the usual parsers more than ten seconds. `tests/message/test_markup.py` compares text
and links with such a parser.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

_MARKUP = re.compile(
    r"""
      <!--(?:-?>|.*?(?:--!?>|\Z))
    | <(?P<end>/?)(?P<name>[A-Za-z][^\s/>]*+)
      (?P<attributes>(?:
          [\s/]++
        | (?:=[^\s/>=]*+|[^\s/>=]++)
          (?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>"'][^\s>]*+)?+)?+
      )*+)
      (?P<close>>|\Z)
    | <(?:[!?]|/(?!\Z))[^>]*+(?:>|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_ATTRIBUTE = re.compile(
    r"""(=[^\s/>=]*+|[^\s/>=]++)(?:\s*+=\s*+("[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>"'][^\s>]*+)?+)?+"""
)
# Elements whose content is text and not shown as such; it ends at their own end tag only.
_RAW_END = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in (
        *("script", "style", "title", "textarea"),
        *("xmp", "iframe", "noembed", "noframes"),
    )
}
# Elements that do not part the words around them.
_INLINE = frozenset(
    (
        *(
            "a",
            "abbr",
            "acronym",
            "b",
            "bdi",
            "bdo",
            "big",
            "cite",
            "code",
            "dfn",
            "em",
            "font",
            "i",
        ),
        *(
            "ins",
            "kbd",
            "mark",
            "nobr",
            "q",
            "s",
            "samp",
            "small",
            "span",
            "strike",
            "strong",
            "sub",
        ),
        *("sup", "tt", "u", "var", "wbr"),
    )
)
# More digits than any character has; `html.unescape` would make a number of them.
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9A-Fa-f]{8,});?")


@dataclass(frozen=True, slots=True)
class Link:
    """A target and the text that leads to it, alternative texts of images included."""

    href: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """The text of a part without comments, scripts, styles, title and templates, and its links."""

    text: str
    links: tuple[Link, ...]


def read(source: str) -> Page:
    """Text and links of an HTML document or fragment, character references decoded."""
    pieces: list[str] = []
    links: list[Link] = []
    href: str | None = None
    label: list[str] = []
    templates = 0
    at = 0

    def shown(text: str) -> None:
        if not templates and text:
            pieces.append(text)
            if href is not None:
                label.append(text)

    def end_link() -> None:
        nonlocal href
        if href is not None:
            links.append(Link(href, "".join(label)))
            href = None
            label.clear()

    while (match := _MARKUP.search(source, at)) is not None:
        shown(_decoded(source[at : match.start()]))
        at = match.end()
        name = (match["name"] or "").lower()
        if not name or not match["close"]:
            continue  # a comment, or a tag that the end of the document cuts
        ending = bool(match["end"])
        if name not in _INLINE:
            shown("\n")
        if name == "template":
            templates = max(0, templates + (-1 if ending else 1))
        elif name in _RAW_END and not ending:
            raw_end = _RAW_END[name].search(source, at)
            at = len(source) if raw_end is None else raw_end.start()
        elif templates:
            continue
        elif name == "a":
            end_link()
            href = None if ending else _attributes(match["attributes"]).get("href")
        elif name == "area" and not ending:
            found = _attributes(match["attributes"])
            if "href" in found:
                links.append(Link(found["href"], found.get("alt", "")))
        elif name == "img" and href is not None and not ending:
            label.append(f" {_attributes(match['attributes']).get('alt', '')} ")
    shown(_decoded(source[at:]))
    end_link()
    return Page("".join(pieces), tuple(links))


def _attributes(text: str) -> dict[str, str]:
    """Names in lower case; of a repeated one the first counts."""
    found: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(text):
        name, value = match[1].lower(), match[2] or ""
        if value[:1] in ('"', "'"):
            value = value[1:].removesuffix(value[0])
        found.setdefault(name, _decoded(value))
    return found


def _decoded(text: str) -> str:
    return html.unescape(_LONG_REFERENCE.sub("", text)) if "&" in text else text
