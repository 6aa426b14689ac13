"""What a mail really shows its reader: sender, postal address, opt-out, an honest subject.

The facts of `decision.md` section 6, from the decoded text of the displayed parts;
`List-Unsubscribe` alone never counts. A duty is met when the richest part meets it: the last
text/html, else the last text/plain. What cannot be read is unknown, and unknown never helps.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from policy.model import Unsubscribe
from proxy.content import Content
from proxy.message import encoded, markup, placeholders, spelling
from proxy.message.displayed import LOOKED_AT, Kind, Target, targets, text_of
from proxy.message.header import Header, from_mailbox
from proxy.message.mime import OpaqueError, scan
from proxy.message.words import REPLY_PREFIXES, Words

_REPLY = re.compile(
    rf"(?:{'|'.join(REPLY_PREFIXES)})\s*(?:\[\d{{1,3}}\]|\(\d{{1,3}}\)|\d{{1,2}})?\s*\.?\s*:"
)
_INVISIBLE = re.compile(r"[\u00ad\u034f\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+")
_URL = re.compile(r"(?:https?:|mailto:)[^\s<>\"']+", re.IGNORECASE)
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_ASCII_OTHERS = bytes(n for n in range(128) if not chr(n).isalnum())
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
# What an opt-out may lead to, and what keeps the words of two links apart.
_WORKING = ("https:", "mailto:")
_SCHEME = len("mailto:")
_ENDS_SCHEME = tuple("sSpPoO\u017f")
_APART = "\n|||||\n"
#: Stands for the token of a placeholder: for whomever the copy is. No mail can hold it.
ANYONE = f"~{secrets.token_hex(16)}"
# Canonical ordering of combining marks is quadratic in their number: normalised piece by piece.
_PIECE = 256
# As they are compared: ASCII in small letters, all white space a space.
_ASCII = bytes(range(128))
_FOLD = bytes(32 if chr(n).isspace() else ord(chr(n).lower()) for n in range(128)) + bytes(
    range(128, 256)
)
# Characters that join no other one, but for the combining marks among them; and how many different
# ones of a text are replaced one after another.
_APART_FROM = ((0x80, 0x300), (0x370, 0x530), (0x1E00, 0x2C00), (0x1F000, 0x1FB00))
_FEW = 64
# All that `str.split` parts words at, but for the space itself; none is above U+3000.
_SPACES = tuple(c for c in map(chr, range(0x3001)) if c.isspace() and c != " ")
_FOLDED = 3 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to look for: of the sender, and `own_url`, what stands before a token in our own links.

    `languages` chooses the lists of opt-out words, none for all that there are.
    """

    names: tuple[str, ...]
    postal_address: str
    own_url: str
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The facts of one mail; None is unknown.

    `opaque` says why the displayed text could not be read, "" where it was. `own_tokens` are those
    of our own links in the text: such a link is an opt-out for its own recipient only
    (`for_holder`); `ANYONE` among them is a placeholder, which will be one for each recipient.
    `seen` is part by part what was found, `named` that From names the sender.
    """

    sender_identity: bool | None
    postal_address: bool | None
    unsubscribe: Unsubscribe | None
    unsubscribe_valid_days: int | None = None
    fake_reply: bool
    opaque: str = ""
    own_tokens: frozenset[str] = frozenset()
    seen: tuple[Seen, ...] = field(default=(), compare=False)
    named: bool = False
    marks: tuple[str, ...] = ()

    def for_holder(self) -> Shown:
        """The facts of the copy for the person that one of `own_tokens` was sealed for.

        Tokens of ours never expire, so the opt-out is valid without limit (0 days).
        """
        return replace(self, unsubscribe=Unsubscribe.LINK, unsubscribe_valid_days=0)


class Seen(NamedTuple):
    """What one displayed part shows; `left` tells of a placeholder that its reader would see as it
    is, because its octets are not those that are replaced: `&#123;{sluis.unsubscribe_url}}`;
    `clear` that for sure it has none, for text whose charset has ASCII in its octets.
    """

    target: Target
    identity: bool
    address: bool
    opt_out: bool
    own_tokens: frozenset[str]
    left: bool = False
    clear: bool = False

    @property
    def kind(self) -> Kind:
        """How the part is written."""
        return self.target.kind


def richest_of(seen: Sequence[Seen]) -> Seen:
    """The part that decides: the last text/html, else the last one; AMP is never among `seen`."""
    return next((s for s in reversed(seen) if s.kind is Kind.HTML), seen[-1])


def inspect(
    content: Content,
    header: Header,
    wanted: Wanted,
    *,
    every_alternative: bool = False,
    start: int | None = None,
) -> Shown:
    """Look at one mail; work is bounded, but above a megabyte it belongs in a thread.

    With `every_alternative` a duty is met only where each displayed alternative meets it. `content`
    and `start` are as `scan` has them.
    """
    author = from_mailbox(header)
    named = author is not None and _names(fold(author.name), wanted)
    fake = fake_reply(header)
    try:
        found = targets(scan(content, header, start))
        seen = [_see(content, target, wanted) for target in found]
        rich = [s for s in seen if s.kind is not Kind.AMP]
        if not rich:
            raise OpaqueError("no part is displayed")
    except OpaqueError as error:
        return Shown(
            sender_identity=True if named else None,
            postal_address=None,
            unsubscribe=None,
            fake_reply=fake,
            opaque=str(error),
            named=named,
        )
    richest = richest_of(rich)
    deciding = rich if every_alternative else [richest]
    # An AMP part replaces the others where it is shown, and is never edited.
    amp = [s for s in seen if s.kind is Kind.AMP]
    opt_out = all(s.opt_out for s in (*deciding, *amp))
    tokens = frozenset[str]().union(*(s.own_tokens for s in deciding))
    for part in (*deciding, *amp):
        tokens = tokens if part.opt_out else tokens & part.own_tokens
    poorer = any(
        (richest.identity and not other.identity)
        or (richest.address and not other.address)
        or ((richest.opt_out or richest.own_tokens) and not (other.opt_out or other.own_tokens))
        for other in rich
    )
    return Shown(
        sender_identity=named or all(s.identity for s in deciding),
        postal_address=all(s.address for s in deciding) if wanted.postal_address else None,
        unsubscribe=Unsubscribe.LINK if opt_out else Unsubscribe.NONE,
        fake_reply=fake,
        own_tokens=tokens,
        seen=tuple(seen),
        named=named,
        marks=("partial_alternative",) if poorer else (),
    )


def fake_reply(header: Header) -> bool:
    """A subject that plays a reply or a forward in a mail that answers none."""
    raw = header.first(b"subject") or b""
    if b":" not in raw and b"=?" not in raw and raw.isascii():
        return False  # every prefix ends in a colon
    if any(header.first(name) for name in (b"in-reply-to", b"references")):
        return False
    subject = fold(_INVISIBLE.sub("", encoded.decode(raw)))
    return _REPLY.match(subject.lstrip()) is not None


def fold(text: str) -> str:
    """NFKC and casefold, white space collapsed: how names and words are compared."""
    return _squeezed(_loosely_folded(text))


def _loosely_folded(text: str) -> str:
    """As `fold`, but white space may still be several spaces."""
    if text.isascii():
        return text.encode("ascii").translate(_FOLD).decode("ascii")
    folded = _folded_by_character(text)
    return _folded_by_piece(text) if folded is None else folded


def _squeezed(text: str) -> str:
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip(" ")


def _folded_by_character(text: str) -> str | None:
    """As `_folded_by_piece`, for a text with few characters beyond ASCII, of which none joins
    another; else None.
    """
    octets = text.encode("utf-8", "surrogatepass")
    beyond = set(octets.translate(None, _ASCII).decode("utf-8", "surrogatepass"))
    if len(beyond) > _FEW:
        return None
    becomes = [(char, _by_itself(char)) for char in beyond]
    longest = max(len(folded) for _, folded in becomes)
    if len(text) * longest > _FOLDED or not all(folded for _, folded in becomes):
        return None
    text = octets.translate(_FOLD).decode("utf-8")
    for char, folded in becomes:
        if folded != char:
            text = text.replace(char, folded)
    return text


@lru_cache(maxsize=1024)
def _by_itself(char: str) -> str:
    """What becomes of a character, whatever stands beside it, and stays so; "" where that is not
    sure.
    """
    normal = unicodedata.normalize("NFKC", char)
    for one in normal:
        safe = one.isascii() or any(first <= ord(one) < end for first, end in _APART_FROM)
        if not safe or unicodedata.combining(one):
            return ""
    folded = " " if normal.isspace() else normal.casefold()
    stays = all(unicodedata.normalize("NFKC", one).casefold() == one for one in folded)
    return folded if stays and len(folded) >= len(normal) else ""


def _folded_by_piece(text: str) -> str:
    pieces: list[str] = []
    room = _FOLDED
    for at in range(0, len(text), _PIECE):
        # One character may become eighteen; what is beyond the bound is not looked at.
        if room <= 0:
            break
        pieces.append(unicodedata.normalize("NFKC", text[at : at + _PIECE]))
        room -= len(pieces[-1])
    return _single_spaced("".join(pieces)[:_FOLDED].casefold())


def _single_spaced(text: str) -> str:
    """`" ".join(text.split())`, without an object for each word."""
    for space in _SPACES:
        if space in text:
            text = text.replace(space, " ")
    return _squeezed(text)


def _see(content: Content, target: Target, wanted: Wanted) -> Seen:
    # A part that is never edited keeps its placeholders, and they lead nowhere.
    link = b"" if target.kind is Kind.AMP else f"{wanted.own_url}{ANYONE}".encode()
    came = text = text_of(content, target.part, link)
    places: Iterable[tuple[Sequence[str], str]]
    if target.kind is Kind.PLAIN:
        places = _text_places(text)
    else:
        page = markup.read(text)
        text = page.text
        places = [((link.href.strip(),), link.text) for link in page.links]
    own: set[str] = set()
    there: list[str] = []
    said: list[str] = []
    for urls, words in places:
        there += urls
        before = len(said)
        for url in urls:
            if url.startswith(wanted.own_url):
                token = _TOKEN.match(url, len(wanted.own_url))
                if token is not None:
                    own.add(token[0])
            elif url[:_SCHEME].lower().startswith(_WORKING):
                said.append(unquote(url))
        if len(said) > before:
            said.append(words)
    folded = _loosely_folded(text)
    # A name that is there with single spaces is there in any case.
    identity = any(name in folded for name in map(_folded, wanted.names) if name)
    shown = "\n".join([text, *there])
    whole = target.part.end - target.part.start <= LOOKED_AT
    clear = whole and placeholders.WORD not in came and ANYONE not in came
    return Seen(
        target=target,
        identity=identity or _names(_squeezed(folded), wanted),
        address=_address(folded, wanted),
        # One search over all that is said of all links: they may be tens of thousands.
        opt_out=_words(wanted.languages).found_in(fold(_APART.join(said))),
        own_tokens=frozenset(own),
        left=bool(link) and placeholders.shown(shown),
        clear=clear,
    )


def _text_places(text: str) -> Iterator[tuple[list[str], str]]:
    """The URLs of each line, and the words beside them: the line and the last one before it."""
    if ":" not in text:
        return
    lines = text.splitlines()
    for n, line in enumerate(lines):
        colon = line.find(":")
        while colon >= 0 and not line.startswith(_ENDS_SCHEME, colon - 1):
            colon = line.find(":", colon + 1)
        if colon < 0:
            continue
        urls = _URL.findall(line, max(0, colon - _SCHEME))
        if urls:
            before = n - 1
            while before >= 0 and not lines[before].strip():
                before -= 1
            rest = _URL.sub(" ", line) if len(urls[0]) < len(line) else " "
            yield urls, f"{lines[before] if before >= 0 else ''}{_APART}{rest}"


def _names(folded: str, wanted: Wanted) -> bool:
    return any(_said(name, folded) for name in map(_folded, wanted.names) if name)


def _address(folded: str, wanted: Wanted) -> bool:
    address = _bared(wanted.postal_address)
    return bool(address) and _said(address, _bare(folded))


def _bare(folded: str) -> str:
    """Letters and digits alone."""
    if folded.isascii():
        return folded.encode("ascii").translate(None, _ASCII_OTHERS).decode("ascii")
    octets = folded.encode("utf-8", "surrogatepass").translate(None, _ASCII_OTHERS)
    beyond = set(octets.translate(None, _ASCII).decode("utf-8", "surrogatepass"))
    others = [char for char in beyond if not char.isalnum()]
    bare = octets.decode("utf-8", "surrogatepass")
    if len(others) > _FEW:
        return _NO_LETTER_OR_DIGIT.sub("", bare)
    for char in others:
        bare = bare.replace(char, "")
    return bare


def _said(words: str, text: str) -> bool:
    """Whether folded `text` has `words`, or their ASCII spelling, which a footer may have used."""
    if words in text:
        return True
    return not words.isascii() and _plain(words) in _plain(text)


def _plain(folded: str) -> str:
    return folded if folded.isascii() else fold(spelling.plain(folded[:_FOLDED]))


# What senders are called, and where they live.
_folded = lru_cache(maxsize=256)(fold)


@lru_cache(maxsize=256)
def _bared(text: str) -> str:
    return _bare(fold(text))


@lru_cache(maxsize=64)
def _words(languages: tuple[str, ...]) -> Words:
    return Words(languages)
