"""What an HTML part says and links to, in one linear pass.

The tokens are those of the HTML standard (section 13.2.5), which every input has; no tree is built.
A tree is what makes hostile HTML expensive: half a megabyte of nested `<div>` or of attributes in
one tag takes the usual parsers more than ten seconds. Text and the tags that mean nothing here are
taken in runs of many tokens, each by one step of a regular expression; only the rest is looked at
one by one. What most pages are made of takes a shorter way: cut at each "<", and tags that were met
before are known by all of their characters. `tests/message/test_markup.py` compares both ways, text
and links with a parser that builds a tree, and all with a reader that goes character by character.
"""

from __future__ import annotations

import html
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

# A repeated group costs some hundred octets of memory each time: none is without a bound.
_RUN = 2_000
_ATTRIBUTES = 50
#: Tokens that are looked at one by one; what follows the last of them is not read.
MOST_TOKENS = 10_000

# One attribute, and the white space and slashes before it.
_ATTRIBUTE = r"""[\s/]*+(?>[^\s/>=]+|=[^\s/>=]*)
    (?>(?:\s*=\s*(?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^\s>"'][^\s>]*)?)?)"""
# The rest of a tag from its name on. Without a quote it ends at the next ">".
_REST = rf"""(?>[^>"']*+>|[^\s/>]*+(?:{_ATTRIBUTE}){{0,{_ATTRIBUTES}}}[\s/]*+>)"""
_COMMENT = r"!(?:--(?:-?>|.*?--!?>)|(?!--)[^>]*+>)"
_BOGUS = r"\?[^>]*+>|/(?:[^A-Za-z>][^>]*+>|>)"
# Elements whose content is text and not shown as such; their own end tag ends it.
_RAW = "script|style|title|textarea|xmp|iframe|noembed|noframes"


def _run(starts: str, ends: str) -> re.Pattern[str]:
    """Text, comments, and tags but the start tags and end tags of these names.

    What comes most often, and is told by one character, stands first.
    """
    start, *starting = (name + _REST for name in _names_but(starts))
    end, *ending = (f"/{name}{_REST}" for name in _names_but(ends))
    after = "|".join(
        (start, end, "[^A-Za-z!?/]", *starting, _COMMENT, *ending, _BOGUS, r"/?\Z")
    )
    return re.compile(
        rf"(?>[^<]++(?!<)|(?:[^<]*+<++(?>{after})){{1,{_RUN}}}[^<]*+|[^<]++|<+(?=<))",
        re.VERBOSE | re.DOTALL,
    )


def _names_but(names: str) -> list[str]:
    """Patterns of the beginning of every other name than these: by letters that begin none of them,
    and by each one that does.
    """
    rests: dict[str, list[str]] = {}
    for name in names.split("|"):
        rests.setdefault(name[0], []).append("".join(f"[{c}{c.upper()}]" for c in name[1:]))
    free = "".join(sorted(set(string.ascii_lowercase) - set(rests)))
    return [
        f"[{free}{free.upper()}]",
        *(rf"[{c}{c.upper()}](?!(?:{'|'.join(rests[c])})[\s/>])" for c in sorted(rests)),
    ]


_KEPT = "a|area|img|template"
_SHOWN = _run(f"{_KEPT}|{_RAW}", _KEPT)
_SKIPPED = _run(f"template|{_RAW}", "template|body|html")

_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*+)")
_TO_END = re.compile(r"""[^>"']*+>""")
_SOME = re.compile(rf"(?>(?:{_ATTRIBUTE}){{0,{_RUN}}})[\s/]*+", re.VERBOSE)
_RAW_END = {name: re.compile(rf"</(?i:{name})[\s/>]") for name in _RAW.split("|")}
_MARKUP = re.compile(
    rf"<(?>(/?[A-Za-z][^\s/>]*+){_REST}|{_COMMENT}|{_BOGUS})", re.VERBOSE | re.DOTALL
)
_VALUE = re.compile(
    r"""([^\s/>=]++|=[^\s/>=]*+)(?>(?:\s*=\s*("[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^\s>"'][^\s>]*)?)?)"""
)
_LINKS = ("a", "/a")
_LOOKED_AT = frozenset(("a", "/a", "area", "/area", "img", "/img"))
# Tags that were met, by what stands between "<" and ">", so many and so long at most.
_known: dict[str, _Tag | str] = {}
_MOST = 4_096
_LONGEST = 400
# Stands for the target of a link.
_ANY = "\0"
# Characters of a token on average, at least: cutting takes memory for each one.
_LEAST = 12
# Elements that do not part the words around them.
_INLINE = frozenset(
    (
        *("abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "dfn", "em", "font", "i"),
        *("ins", "kbd", "mark", "nobr", "q", "s", "samp", "small", "span", "strike", "strong"),
        *("sub", "sup", "tt", "u", "var", "wbr"),
    )
)
#: Stands for what parts no words and is not shown, until references are decoded: `&am<b>p;` is
#: none. No text has it, as in the standard.
_NOTHING = "\0"
# More digits than any character has; `html.unescape` would make a number of them.
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9A-Fa-f]{8,});?")


class Link(NamedTuple):
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
    source = source.replace(_NOTHING, "\ufffd")
    page = _read_tags(source)
    return _read_tokens(source) if page is None else page


def _read_tokens(source: str) -> Page:
    pieces: list[str] = []
    links: list[Link] = []
    href: str | None = None
    label: list[str] = []
    templates = 0
    for token in _tokens(source, _SHOWN):
        name = token.name
        if token.kind is _Kind.CUT:
            break
        if token.kind is _Kind.RAW:
            pieces.append("\n")
        elif name == "template":
            templates = max(0, templates + (-1 if token.ending else 1))
            pieces.append("\n")
        elif templates:
            continue
        elif token.kind is _Kind.RUN or name not in ("a", "area", "img"):
            # Of a tag that is no part of a run only its name matters.
            run = token.kind is _Kind.RUN
            text = _text(source[token.start : token.end]) if run else _gap(name).strip(_NOTHING)
            pieces.append(text)
            if href is not None:
                label.append(text)
        elif name == "img":
            if href is not None and not token.ending:
                label.append(f" {_attribute(source, token, 'alt') or ''} ")
        elif name == "area":
            target = None if token.ending else _attribute(source, token, "href")
            if target is not None:
                links.append(Link(target, _attribute(source, token, "alt") or ""))
        else:
            if href is not None:
                links.append(Link(href, "".join(label)))
            label.clear()
            href = None if token.ending else _attribute(source, token, "href")
    if href is not None:
        links.append(Link(href, "".join(label)))
    return Page("".join(pieces), tuple(links))


class _Tag(NamedTuple):
    """A tag that is looked at, by its name; `target` and `shown` are what it leads to and what it
    shows in a link. A raw element, from its start tag to its end tag, has no name.
    """

    name: str
    target: str | None = None
    shown: str = ""


def _read_tags(source: str) -> Page | None:
    """As `_read_tokens`; None for pages that take it: with templates, with what is cut, and of many
    short tokens.
    """
    if source.count("<") > len(source) // _LEAST:
        return None
    chunks = source.split("<")
    pieces = [chunks[0]]
    append = pieces.append
    links: list[Link] = []
    href: str | None = None
    label: list[str] = []
    begun = 0  # the piece that the label goes on with
    left = MOST_TOKENS
    known = _known.get
    # Where the "<" before the chunk stands, and where the token before ends.
    at = upto = len(chunks[0])
    for chunk in chunks[1:]:
        begin = at
        at += len(chunk) + 1
        if begin < upto:  # the token has it in it
            if at > upto:
                pieces.append(chunk[upto - begin - 1 :])
            continue
        head, closed, text = chunk.partition(">")
        tag = (known(head) or _simple(head)) if closed else None
        if tag is None:
            tag, upto = _intricate(source, begin)
            if tag is None:
                return None
            text = chunk[upto - begin - 1 :] if at > upto else ""
        if isinstance(tag, str):
            append(tag)
            if text:
                append(text)
            continue
        left -= 1
        if left < 0:
            return None
        name, target, shown = tag
        if name == "area":
            if target is not None:
                links.append(Link(target, shown))
        else:
            if href is not None:
                label += (_decoded("".join(pieces[begun:])), shown)
            if name in _LINKS:
                if href is not None:
                    links.append(Link(href, "".join(label)))
                    label.clear()
                href = target
            begun = len(pieces) + 1
        append(_NOTHING if name else "\n")
        append(text)
    if href is not None:
        label.append(_decoded("".join(pieces[begun:])))
        links.append(Link(href, "".join(label)))
    return Page(_decoded("".join(pieces)), tuple(links))


def _simple(head: str) -> _Tag | str | None:
    """What stands between "<" and the next ">", where that ends it: a tag that is looked at, else
    what it shows. It is remembered, a link without what it leads to: that is another one in each
    mail.
    """
    before, opened, rest = head.partition(' href="')
    target, closed, after = rest.partition('"')
    if closed and len(before) + len(after) <= _LONGEST - 16:
        # Where any other value would be the target, so is this one.
        shape = f"{before}{opened}{_ANY}{closed}{after}"
        tag = _known.get(shape) or _remembered(shape)
        if isinstance(tag, _Tag) and tag.target == _ANY and tag.name == "a":
            return _Tag("a", _value(target))
    return _remembered(head)


def _remembered(head: str) -> _Tag | str | None:
    source = f"<{head}>"
    match = _MARKUP.match(source)
    if match is None or match.end() < len(source):
        return None
    tag = _known_as(source, match)
    if tag is not None and len(head) <= _LONGEST:
        if len(_known) >= _MOST:
            _known.clear()
        _known[head] = tag
    return tag


def _intricate(source: str, at: int) -> tuple[_Tag | str | None, int]:
    """The token that begins with the "<" at `at`, and its end; None where it is cut or takes to be
    looked at in another way.
    """
    after = source[at + 1 : at + 2]
    if not after or not (after in "!?/" or (after.isascii() and after.isalpha())):
        return "<", at + 1
    if after == "/" and at + 2 == len(source):
        return "</", at + 2
    match = _MARKUP.match(source, at)
    if match is None:
        return None, at
    raw = _RAW_END.get(match[1].lower()) if match[1] else None
    if raw is None:
        return _known_as(source, match), match.end()
    close = raw.search(source, match.end())
    return _Tag(""), close.start() if close is not None else len(source)


def _known_as(source: str, match: re.Match[str]) -> _Tag | str | None:
    """A token of `_MARKUP`; None for a raw element and a template."""
    if match[1] is None:
        return _NOTHING
    name = match[1].lower()
    if name in _RAW_END or name in ("template", "/template"):
        return None
    if name not in _LOOKED_AT:
        return _gap(name)
    token = _Token(_Kind.TAG, match.start(), match.end(), attributes=match.end(1))
    if name == "a":
        return _Tag(name, _attribute(source, token, "href"))
    if name == "img":
        return _Tag(name, None, f" {_attribute(source, token, 'alt') or ''} ")
    if name == "area":
        target = _attribute(source, token, "href")
        return _Tag(name, target, _attribute(source, token, "alt") or "")
    return _Tag(name)


def footer_at(source: str) -> int | None:
    """Where something can be added at the end of the page: before the last `</body`, else before
    the last `</html`, else at the end.

    None where the end lies inside a comment, a tag, or an element whose content is not shown, and
    where there are too many of these to tell.
    """
    ends: dict[str, int] = {}
    depth = 0
    whole = True
    for token in _tokens(source, _SKIPPED):
        if token.kind is _Kind.CUT:
            whole = False
        elif token.kind is _Kind.RAW:
            whole = token.end < len(source)  # its end tag, a token of its own, comes after it
        elif token.name == "template":
            depth = max(0, depth + (-1 if token.ending else 1))
        elif token.ending and token.name in ("body", "html") and not depth:
            ends[token.name] = token.start
    for name in ("body", "html"):
        if name in ends:
            return ends[name]
    return len(source) if whole and not depth else None


class _Kind(Enum):
    RUN = auto()  # text, and tags that mean nothing to the caller
    TAG = auto()
    RAW = auto()  # a start tag and the text of its element
    CUT = auto()  # the rest, from a tag or comment that never ends, or of too many tokens


@dataclass(slots=True)
class _Token:
    """`name` is in lower case; the attributes of a tag lie between `attributes` and `end`."""

    kind: _Kind
    start: int
    end: int
    name: str = ""
    ending: bool = False
    attributes: int = 0


def _tokens(source: str, run: re.Pattern[str]) -> Iterator[_Token]:
    at, size = 0, len(source)
    left = MOST_TOKENS
    while at < size:
        match = run.match(source, at)
        if match is not None:
            yield _Token(_Kind.RUN, at, match.end())
            at = match.end()
            continue
        tag = _TAG.match(source, at)
        left -= 1
        end = _end(source, tag.end()) if tag is not None and left >= 0 else None
        if tag is None or end is None:
            yield _Token(_Kind.CUT, at, size)
            return
        name, ending = tag[2].lower(), bool(tag[1])
        kind = _Kind.TAG
        raw = None if ending else _RAW_END.get(name)
        if raw is not None:
            kind = _Kind.RAW
            close = raw.search(source, end)
            end = close.start() if close is not None else size
        yield _Token(kind, at, end, name, ending, tag.end())
        at = end


def _end(source: str, at: int) -> int | None:
    """Where a tag ends of which `at` is in or before the attributes; None if never."""
    match = _TO_END.match(source, at)
    if match is not None:
        return match.end()
    if source.find(">", at) < 0:
        return None
    while (match := _SOME.match(source, at)) is not None:
        at = match.end()
        if at == len(source):
            return None
        if source[at] == ">":
            return at + 1
    return None


def _text(run: str) -> str:
    """What a run shows: an element that is no inline one parts the words around it."""
    if "<" in run:
        parts = _MARKUP.split(run)
        gaps = {tag: _gap(tag) for tag in set(parts[1::2])}
        parts[1::2] = [gaps[tag] for tag in parts[1::2]]
        run = "".join(parts)
    return _decoded(run)


def _decoded(text: str) -> str:
    return _value(text).replace(_NOTHING, "")


def _gap(tag: str | None) -> str:
    return _NOTHING if tag is None or tag.removeprefix("/").lower() in _INLINE else "\n"


def _attribute(source: str, token: _Token, wanted: str) -> str | None:
    """The value of one attribute; of a repeated one the first counts."""
    for match in _VALUE.finditer(source, token.attributes, token.end - 1):
        if match[1].lower() == wanted:
            value = match[2] or ""
            if value[:1] in ('"', "'"):
                value = value[1:].removesuffix(value[0])
            return _value(value)
    return None


def _value(text: str) -> str:
    """`text` with its character references decoded."""
    if "&" not in text:
        return text
    if text.count("&") == text.count("&amp;"):
        return text.replace("&amp;", "&")
    return html.unescape(_LONG_REFERENCE.sub("", text))
