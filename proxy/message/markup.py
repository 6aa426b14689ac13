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

# A repeated group costs some hundred octets of memory each time: none is without a bound.
#: White space and attributes of one tag; one that has more is read as cut by the end.
_MOST = 2_000
# After a tag's name: white space and slashes, and attributes with or without a value.
_ATTRIBUTES = rf"""(?>(?:
      [\s/]+
    | (?>[^\s/>=]+|=[^\s/>=]*)
      (?>(?:\s*=\s*(?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^\s>"'][^\s>]*)?)?)
    ){{0,{_MOST}}})"""
_MARKUP = re.compile(
    rf"""
      (?P<text>(?>(?:[^<]+|<(?![A-Za-z!?]|/(?!\Z))){{1,{_MOST}}}))
    | <(?P<end>/?)(?P<tag>(?i:a|area|img|template))(?=[\s/>])
      (?P<attributes>{_ATTRIBUTES})(?P<kept>>)
    # Elements whose content is text and not shown as such; their own end tag ends it.
    | <(?P<raw>(?i:script|style|title|textarea|xmp|iframe|noembed|noframes))(?=[\s/>]){_ATTRIBUTES}>
      .*?(?=</(?i:(?P=raw))[\s/>]|\Z)
    | </(?P<page>(?i:body|html))(?=[\s/>]){_ATTRIBUTES}>
    | </?(?P<other>[A-Za-z][^\s/>]*+){_ATTRIBUTES}>
    | <!--(?:-?>|.*?(?:--!?>|\Z))
    | <(?:[!?]|/(?![A-Za-z]))[^>]*+(?:>|\Z)
    # A tag that the end of the document cuts.
    | (?P<cut><.*+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ATTRIBUTE = re.compile(
    r"""([^\s/>=]++|=[^\s/>=]*+)(?>(?:\s*=\s*("[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^\s>"'][^\s>]*)?)?)"""
)
# Elements that do not part the words around them.
_INLINE = frozenset(
    (
        *("abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "dfn", "em", "font", "i"),
        *("ins", "kbd", "mark", "nobr", "q", "s", "samp", "small", "span", "strike", "strong"),
        *("sub", "sup", "tt", "u", "var", "wbr"),
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
    for match in _MARKUP.finditer(source):
        group = match.lastgroup
        if group == "text":
            if not templates:
                text = _decoded(match[0])
                pieces.append(text)
                if href is not None:
                    label.append(text)
        elif group == "other":
            if match["other"].lower() not in _INLINE:
                pieces.append("\n")
                if href is not None:
                    label.append("\n")
        elif group == "raw":
            pieces.append("\n")
        elif group == "page":
            pieces.append("\n")
            if href is not None:
                label.append("\n")
        elif group == "kept":
            tag, ending = match["tag"].lower(), bool(match["end"])
            if tag == "template":
                templates = max(0, templates + (-1 if ending else 1))
                pieces.append("\n")
            elif templates:
                continue
            elif tag == "img":
                if href is not None and not ending:
                    label.append(f" {_attribute(match['attributes'], 'alt') or ''} ")
            elif tag == "area":
                target = None if ending else _attribute(match["attributes"], "href")
                if target is not None:
                    links.append(Link(target, _attribute(match["attributes"], "alt") or ""))
            else:
                if href is not None:
                    links.append(Link(href, "".join(label)))
                label.clear()
                href = None if ending else _attribute(match["attributes"], "href")
    if href is not None:
        links.append(Link(href, "".join(label)))
    return Page("".join(pieces), tuple(links))


def footer_at(source: str) -> int | None:
    """Where something can be added at the end of the page: before the last `</body`, else before
    the last `</html`, else at the end.

    None where the end lies inside a comment, a tag, or an element whose content is not shown.
    """
    ends: dict[str, int] = {}
    last = None
    depth = 0
    for match in _MARKUP.finditer(source):
        last = match
        group = match.lastgroup
        if group == "kept" and match["tag"].lower() == "template":
            depth = max(0, depth + (-1 if match["end"] else 1))
        elif group == "page" and not depth:
            ends[match["page"].lower()] = match.start()
    for name in ("body", "html"):
        if name in ends:
            return ends[name]
    if depth or (last is not None and not _complete(last)):
        return None
    return len(source)


def _complete(token: re.Match[str]) -> bool:
    """Whether what follows the page's last token stands outside it."""
    if token.lastgroup in ("raw", "cut"):
        return False  # the end tag of the one, a token of its own, would have come after it
    text = token[0]
    if token.lastgroup == "text":
        return True
    if text.startswith("<!--"):
        return text in ("<!-->", "<!--->") or (len(text) > 6 and text.endswith(("-->", "--!>")))
    return text.endswith(">")


def _attribute(text: str, wanted: str) -> str | None:
    """The value of one attribute; of a repeated one the first counts."""
    for match in _ATTRIBUTE.finditer(text):
        if match[1].lower() == wanted:
            value = match[2] or ""
            if value[:1] in ('"', "'"):
                value = value[1:].removesuffix(value[0])
            return _decoded(value)
    return None


def _decoded(text: str) -> str:
    return html.unescape(_LONG_REFERENCE.sub("", text)) if "&" in text else text
