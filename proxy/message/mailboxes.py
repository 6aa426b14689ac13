"""Mailboxes in header fields (RFC 5322 section 3.4): one strict reading of From, one bounded count
of the rest.

Readers of such fields disagree (CVE-2023-27043), so nothing is guessed: `single` gives the one
mailbox of a value or says that it is ambiguous. Work is linear in the value and bounded by a number
of tokens.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from policy.address import Address, AddressError, parse
from proxy.message import encoded

#: Counting stops here; whoever shows more than a hundred recipients shows too many.
ENOUGH = 101

# Far more than any hundred mailboxes need; a field of comments ends here.
_MAX_TOKENS = 20_000
_MAX_DEPTH = 20
# Octets of a value that may be remembered with its reading.
_SHORT = 512

# Kinds of token: space, comment, quoted string, domain literal, text, and the specials one by one.
_TOKEN = re.compile(
    rb"""(?P<space>[ \t\r\n]++)
       | (?P<comment>\((?>(?:[^()\\]|\\.)*)\))
       | (?P<quoted>"(?>(?:[^"\\]|\\.)*)")
       | (?P<literal>\[[^\[\]\\]*+\])
       | (?P<text>[^ \t\r\n()"\\\[\]<>,;:@]++)
       | (?P<special>.)""",
    re.VERBOSE | re.DOTALL,
)
# Exactly one mailbox, without comments, routes or groups: what most fields show.
_ATOM = rb"[^ \t\r\n()\"\\\[\]<>,;:@]++"
_ONE = re.compile(
    rb"[ \t]*+(?:" + _ATOM + rb"@" + _ATOM + rb'|(?:"[^"\\]*+"[ \t]*+|[^\r\n()"\\\[\]<>,;:@]*+)'
    rb"<" + _ATOM + rb"@" + _ATOM + rb">)[ \t]*+"
)
_IN_COMMENT = re.compile(rb"(?>(?:[^()\\]|\\.)*)([()])", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SUSPECT_COMMENT = re.compile(rb'[@<>",;:]')
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)


class AmbiguousError(ValueError):
    """Two readers may see different mailboxes. `str()` is a short phrase without the value."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, decoded ("" for none), and the address."""

    name: str
    address: Address


def count(value: bytes, most: int = ENOUGH) -> int:
    """How many mailboxes an address list shows, at most `most`; those inside groups too.

    Counts what a reader can see, so a second `@` without a comma counts. Raises `AmbiguousError`
    for an unclosed quote, comment or angle bracket, since what follows would be missed.
    """
    if _ONE.fullmatch(value):
        return min(1, most)
    return _counted(value, most)


def _counted(value: bytes, most: int) -> int:
    total = 0
    item = _Item()
    for kind, text in _tokens(value):
        if kind in {"space", "comment"}:
            continue
        if kind != "special":
            item.seen = True
        elif item.in_angle:
            item.inside(text)
        elif text in b",;":
            total += item.mailboxes()
            item = _Item()
            if total >= most:
                return most
        elif text == b":":
            # A group's name is no mailbox, an address before a colon is one.
            total += item.mailboxes() if item.ats or item.angles else 0
            item = _Item()
        elif text == b"<":
            item.in_angle, item.first_inside, item.ats_inside = True, True, 0
            continue
        else:
            item.seen = True
            item.ats += text == b"@"
        item.first_inside = False
    if item.in_angle:
        raise AmbiguousError("unclosed angle bracket")
    return min(total + item.mailboxes(), most)


@dataclass(slots=True)
class _Item:
    """What stands between two commas."""

    seen: bool = False
    ats: int = 0
    angles: int = 0
    in_angle: bool = False
    first_inside: bool = False
    route: bool = False
    ats_inside: int = 0

    def inside(self, text: bytes) -> None:
        if text == b"@":
            self.route = self.route or self.first_inside
            self.ats_inside += 1
        elif text == b">":
            self.angles += 1 if self.route else max(1, self.ats_inside)
            self.in_angle = self.route = False

    def mailboxes(self) -> int:
        if self.angles:
            return self.angles
        return max(1, self.ats) if self.seen else 0


def as_written(values: Iterable[bytes]) -> dict[str, bytes]:
    """Each mailbox of some address lists as it stands there, folding included, by exact address.

    Members of groups too; of a repeated one the first. What cannot be read for certain is left out.
    """
    found: dict[str, bytes] = {}
    for value in values:
        try:
            for item in _items(value):
                with contextlib.suppress(AmbiguousError):
                    found.setdefault(single(item.replace(b"\r\n", b"")).address.exact, item)
        except AmbiguousError:
            continue
    return found


def _items(value: bytes) -> Iterator[bytes]:
    """What stands between commas, group names left out."""
    begin = at = 0
    angle = False
    for kind, text in _tokens(value):
        if kind == "special" and text in b"<>":
            angle = text == b"<"
        elif kind == "special" and not angle and text in b",;:":
            item = value[begin:at].strip(b" \t\r\n")
            if item and text != b":":
                yield item
            begin = at + len(text)
        at += len(text)
    if item := value[begin:at].strip(b" \t\r\n"):
        yield item


def single(value: bytes) -> Mailbox:
    """The one mailbox of a From value. Raises `AmbiguousError` for none, several, and every
    doubtful form.
    """
    # An application writes the same From in all its mails.
    return _remembered(value) if len(value) <= _SHORT else _single(value)


def _single(value: bytes) -> Mailbox:
    if not value.strip(b" \t"):
        raise AmbiguousError("missing")
    if _CONTROL.search(value):
        raise AmbiguousError("control character")
    name: list[bytes] = []
    spec = bytearray()
    state = "name"  # then "angle", then "done"
    gap = False  # white space or a comment since the last piece
    gap_in_spec = False
    for kind, text in _tokens(value):
        if kind == "comment" and _SUSPECT_COMMENT.search(text):
            raise AmbiguousError("comment that looks like an address")
        if kind in ("comment", "space"):
            if state == "angle":
                raise AmbiguousError("white space or comment inside the address")
            gap = True
            continue
        if state == "done":
            raise AmbiguousError("several mailboxes" if text in b",;" else "text after the address")
        if text == b"<" and kind == "special":
            if state == "angle" or b"@" in name:
                raise AmbiguousError("not one address")
            state = "angle"
        elif text == b">" and kind == "special":
            if state != "angle":
                raise AmbiguousError("not one address")
            state = "done"
        elif state == "angle":
            if text == b"@" and not spec:
                raise AmbiguousError("source route")
            spec += text
        else:
            if kind == "special" and text != b"@":
                raise AmbiguousError(
                    "several mailboxes" if text in b",;" else "group or malformed display name"
                )
            gap_in_spec = gap_in_spec or (gap and bool(name))
            name.append(text)
        gap = False
    if state == "angle":
        raise AmbiguousError("unclosed angle bracket")
    if state == "name":
        if gap_in_spec or b"@" not in name:
            raise AmbiguousError("without an address")
        spec, name = bytearray(b"".join(name)), []
    try:
        address = parse(bytes(spec), smtputf8=True)
    except AddressError as error:
        raise AmbiguousError(str(error)) from None
    return Mailbox(_display(name), address)


_remembered = lru_cache(maxsize=1024)(_single)


def _display(phrase: list[bytes]) -> str:
    words = [_QUOTED_PAIR.sub(rb"\1", word[1:-1]) if word[:1] == b'"' else word for word in phrase]
    return encoded.decode(b" ".join(words))


def _tokens(value: bytes) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes of each token; nested comments as one. Raises `AmbiguousError`."""
    at = 0
    for _ in range(_MAX_TOKENS):
        match = _TOKEN.match(value, at)
        if match is None:
            return
        kind, text = str(match.lastgroup), match[0]
        at = match.end()
        if kind == "special" and text in b'()"[]\\':
            if text != b"(":
                raise AmbiguousError("unclosed quote, comment or bracket")
            begin, at = match.start(), _comment_end(value, at)
            kind, text = "comment", value[begin:at]
        yield kind, text
    raise AmbiguousError("too many tokens")


def _comment_end(value: bytes, at: int) -> int:
    depth = 1
    while depth:
        match = _IN_COMMENT.match(value, at)
        if match is None or depth > _MAX_DEPTH:
            raise AmbiguousError("unclosed quote, comment or bracket")
        depth += 1 if match[1] == b"(" else -1
        at = match.end()
    return at
