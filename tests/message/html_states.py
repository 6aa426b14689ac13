"""The tokens of the HTML standard (13.2.5), character by character: slow, plain, and an oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SPACE = " \t\n\r\f\v\x1c\x1d\x1e\x1f\x85\xa0"
RAW = frozenset(
    ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is text, comment, tag, raw (a start tag and what its element hides) or cut."""

    kind: str
    start: int
    end: int
    name: str = ""


def tokens(source: str) -> Iterator[Token]:
    """All of the document, in order; `name` of a tag has its slash."""
    at = 0
    while at < len(source):
        token = _token(source, at)
        if token.kind == "tag" and token.name in RAW:
            end = _raw_end(source, token.end, token.name)
            token = Token("raw", at, end, token.name)
        yield token
        at = token.end


def _token(source: str, at: int) -> Token:
    after = source[at + 1 : at + 2]
    if source[at] != "<" or not after:
        return Token("text", at, at + 1)
    if after == "!" and source.startswith("--", at + 2):
        return _comment(source, at)
    letter = source[at + 2 : at + 3] if after == "/" else after
    if letter.isascii() and letter.isalpha():
        return _tag(source, at)
    if after in "!?" or (after == "/" and letter):
        end = source.find(">", at)
        return Token("cut", at, len(source)) if end < 0 else Token("comment", at, end + 1)
    return Token("text", at, at + 1)


def _comment(source: str, at: int) -> Token:
    for short in ("<!-->", "<!--->"):
        if source.startswith(short, at):
            return Token("comment", at, at + len(short))
    ends = [source.find(end, at + 4) + len(end) for end in ("-->", "--!>")]
    found = [end for end, mark in zip(ends, ("-->", "--!>"), strict=True) if end >= len(mark)]
    return Token("comment", at, min(found)) if found else Token("cut", at, len(source))


def _tag(source: str, at: int) -> Token:
    here = at + 1 + (source[at + 1] == "/")
    while here < len(source) and source[here] not in "/>" and not source[here].isspace():
        here += 1
    name = source[at + 1 : here].lower()
    state = "before name"
    for index in range(here, len(source)):
        char = source[index]
        space = char.isspace()
        if state in ('"', "'"):
            state = "before name" if char == state else state
        elif char == ">":
            return Token("tag", at, index + 1, name)
        elif state == "unquoted":
            state = "before name" if space else state
        elif state == "before value":
            state = state if space else char if char in "\"'" else "unquoted"
        elif char == "/":
            state = "before name"
        elif space:
            state = "after name" if state == "name" else state
        elif char == "=" and state in ("name", "after name"):
            state = "before value"
        else:
            state = "name"
    return Token("cut", at, len(source))


def _raw_end(source: str, at: int, name: str) -> int:
    lower = source.lower() if source.isascii() else "".join(
        c.lower() if c.isascii() else c for c in source
    )
    while True:
        at = lower.find(f"</{name}", at)
        if at < 0:
            return len(source)
        follows = source[at + 2 + len(name) : at + 3 + len(name)]
        if follows and (follows in "/>" or follows.isspace()):
            return at
        at += 1


def footer_at(source: str) -> int | None:
    """Where `proxy.message.markup.footer_at` is to cut."""
    places: dict[str, int] = {}
    depth = 0
    whole = True
    for token in tokens(source):
        whole = token.kind != "cut" and (token.kind != "raw" or token.end < len(source))
        if token.name == "template" and token.kind == "tag":
            depth += 1
        elif token.name == "/template":
            depth = max(0, depth - 1)
        elif token.name in ("/body", "/html") and not depth:
            places[token.name] = token.start
    place = places.get("/body", places.get("/html"))
    if place is not None:
        return place
    return len(source) if whole and not depth else None
