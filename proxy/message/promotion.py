"""Signs of promotion in a transactional mail: found by fixed phrases, weighed by configuration.

A hint and no verdict: it is written to the journal, and counts in law only where the stream says so
(`promotion = "enforce"`). Looks at the subject and the first 64 KiB of each displayed part.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from proxy.content import Content
from proxy.message import encoded
from proxy.message.displayed import targets, text_of
from proxy.message.header import Header
from proxy.message.inspect import fold
from proxy.message.mime import OpaqueError, scan
from proxy.message.words import Words, anchored

#: Characters of each part that are looked at.
LOOKED_AT = 65_536

_CUTS = (
    *("off", "discount", "korting", "afgeprijsd", "rabatt", "reduziert", "r\u00e9duction"),
    *("remise", "descuento", "rebaja", "sconto"),
)
_CUT = "|".join(_CUTS)
_DISCOUNT = re.compile(
    rf"\d{{1,2}} ?%[^.!?]{{0,30}}\b(?:{_CUT})|\b(?:{_CUT})\b[^.!?]{{0,30}}\d{{1,2}} ?%"
)
# As far from a per cent sign as either form of a discount reaches, and a few more.
_NEAR = 64
_FEW = 16

#: What tells a sign, where it stands at the beginning of a word; its end is open. "(a|b)" are
#: alternatives, a character before "?" may be missing.
PHRASES = {
    "voucher": (
        *("kortingscode", "actiecode", "promo ?code", "discount code", "coupon", "voucher"),
        *("gutschein", "rabattcode", "code promo", "c\u00f3digo (de )?descuento"),
        "codice sconto",
    ),
    "shopping": (
        *("shop now", "buy now", "shop the", "you (may|might) also like", "customers also bought"),
        *("recommended for you", "complete your look", "shop nu", "koop nu", "bekijk ook"),
        *("anderen bekeken ook", "misschien vind je dit ook", "vaak samen gekocht"),
        *("jetzt kaufen", "jetzt shoppen", "das k\u00f6nnte (ihnen|dir) auch gefallen"),
        *("vous aimerez aussi", "acheter maintenant", "tambi\u00e9n te puede (gustar|interesar)"),
        *("comprar ahora", "potrebbe(ro)? piacerti", "acquista ora"),
    ),
    "urgency": (
        *("only today", "today only", "last chance", "while stocks last", "limited time"),
        *("ends tonight", "don't miss", "alleen vandaag", "laatste kans", "op ?= ?op"),
        *("zolang de voorraad strekt", "mis het niet", "nur heute", "letzte chance"),
        *("solange der vorrat reicht", "derni\u00e8re chance", "jusqu'\u00e0 \u00e9puisement"),
        *("solo hoy", "\u00faltima oportunidad", "solo oggi", "ultima occasione"),
    ),
    "newsletter": (
        "(subscribe to|sign up for|join) (our|the) (newsletter|mailing list)",
        "schrijf (je|u) in voor (onze|de) nieuwsbrief",
        "meld (je|u) aan voor (onze|de) nieuwsbrief",
        *("newsletter abonnieren", "zum newsletter anmelden"),
        "abonnez-vous \u00e0 (notre|la) newsletter",
        "suscr\u00edbe(te|ase) a (nuestra|la) newsletter",
        "iscriviti alla (nostra )?newsletter",
    ),
}
_CHOICE = re.compile(r"\(([^()]*)\)(\??)|(.)\?")


def _spelled(phrase: str) -> list[str]:
    """All texts that a phrase stands for."""
    choice = _CHOICE.search(phrase)
    if choice is None:
        return [phrase]
    texts = [choice[3]] if choice[1] is None else choice[1].split("|")
    texts += [""] if choice[1] is None or choice[2] else []
    rest = _spelled(phrase[choice.end() :])
    return [phrase[: choice.start()] + text + end for text in texts for end in rest]


_LOOKED_FOR = {
    sign: anchored(text for phrase in phrases for text in _spelled(phrase))
    for sign, phrases in PHRASES.items()
}
_OPT_OUT = Words()


def _needed(phrases: Iterable[str]) -> tuple[str, ...]:
    """Words of which a text with one of the phrases has one, whatever white space it has."""
    found: list[str] = []
    for phrase in phrases:
        words = phrase.split(" ")
        if not any(word in phrase for word in found if word != _ALONE):
            found.append(_ALONE if _ALONE in words[1:-1] else max(words, key=len))
    return tuple(found)


# A sign that is a word of its own. Markup has it all over, but not with space around it.
_ALONE = "="
_STANDS_ALONE = re.compile(r"(?<![^\s>])=(?![^\s<])")
# What a sign of the text needs one of; a discount also needs a per cent sign.
_NEEDED = {
    "discount": _CUTS,
    "opt_out": _OPT_OUT.anchors,
    **{s: _needed(t for p in phrases for t in _spelled(p)) for s, phrases in PHRASES.items()},
}
# Those that are looked for at once, and by a character those that few texts have.
_WORDS = {sign: [word for word in words if word.isalpha()] for sign, words in _NEEDED.items()}
_RARE = {
    sign: [
        (next(c for c in word if not c.isalpha()), word)
        for word in words
        if word not in _WORDS[sign]
    ]
    for sign, words in _NEEDED.items()
}
# Octets of a string beside its characters.
_OBJECT = 64
# Characters of a line; where most have more, sentences and tags are lines.
_USUAL = 100
_MARKUP = re.compile(r"<(style|script)\b[^<]*+(?:<(?!/\1)[^<]*+)*|<[^<>]{0,2000}+>", re.IGNORECASE)

#: All signs, by the names of their weights.
SIGNS = ("discount", *PHRASES, "opt_out", "list_fields")

# The cheapest to look for come first: where the others cannot make up a threshold, most are not
# looked for at all.
_BY_COST = ("list_fields", "discount", "newsletter", "voucher", "urgency", "shopping", "opt_out")


@dataclass(frozen=True, slots=True)
class Score:
    """The sum of weights, and the signs that were found."""

    total: int
    signs: tuple[str, ...]


_NONE = Score(0, ())

#: What a sender says itself (`Solicitation` field, SOLICIT=, RFC 3865): no sign that is weighed.
DECLARED = "solicitation"


def score(
    content: Content,
    header: Header,
    weights: Mapping[str, int],
    *,
    threshold: int = 0,
    lines: Lines | None = None,
) -> Score:
    """What speaks for promotion; a sign counts once. `weights` maps each of `SIGNS` to a number.

    With a `threshold`, what lies below it is told as nothing at all. `lines` are those of earlier
    mails: they change the time that it takes, and nothing else.
    """
    possible = sum(weights[name] for name in SIGNS)
    shown: list[str] | None = None
    text: _Text | None = None
    absent: AbstractSet[str] = frozenset()
    found = set()
    for name in _BY_COST:
        if possible < threshold:
            return _NONE
        if not weights[name]:
            continue
        if name == "list_fields":
            there = b"\nlist-" in header.names
        else:
            if shown is None:
                shown = _shown(content, header)
                if lines is not None:
                    absent = lines.lack(_looked_for(weights, possible, threshold), shown)
            if name in absent:
                there = False
            else:
                text = text or _Text(_joined(shown))
                there = _there(name, text)
        if there:
            found.add(name)
        else:
            possible -= weights[name]
    if possible < threshold:
        return _NONE
    return Score(possible, tuple(name for name in SIGNS if name in found))


def _looked_for(weights: Mapping[str, int], possible: int, threshold: int) -> list[str]:
    """The signs of a text that are looked for in a mail with none of them."""
    names: list[str] = []
    for name in _BY_COST[1:]:
        if possible < threshold:
            break
        names.append(name)
        possible -= weights[name]
    return names


class _Text:
    """What a mail shows. `words` has every word as it is when folded; white space may still be as
    it came, since most mails are told by their words alone.
    """

    __slots__ = ("_folded", "words")

    def __init__(self, shown: str) -> None:
        self._folded = None if shown.isascii() else fold(shown)
        self.words = shown.lower() if self._folded is None else self._folded

    @property
    def folded(self) -> str:
        if self._folded is None:
            self._folded = fold(self.words)
        return self._folded


class Lines:
    """Lines of the mails seen last, and the signs that cannot stand in them.

    Most lines of a receipt were in the one before. A sign needs one of some words, and no word goes
    over the end of a line or a tag: where no line has one, the mail does not show the sign. For one
    thread.
    """

    #: Octets of lines without a sign that are kept, about; with more, none are.
    ROOM = 1 << 19

    def __init__(self) -> None:
        self._without: dict[tuple[str, ...], set[str]] = {}
        self._octets = 0

    def lack(self, signs: Iterable[str], shown: Iterable[str]) -> AbstractSet[str]:
        """Those of some signs of the text that are not there for sure; `shown` are its pieces."""
        text = "\n".join(shown)
        absent: set[str] = {"discount"} if text.isascii() and "%" not in text else set()
        wanted = tuple(sign for sign in signs if sign not in absent)
        absent.update(wanted)
        known = self._without.setdefault(wanted, set())
        fresh = _cut(text) - known
        if fresh:
            folded = _folded(fresh)
            if folded is None:
                return absent - set(wanted)
            met = [(sign, word) for sign in wanted for word in _met(folded, sign)]
            if met:
                # The others need not be looked through again.
                words = {word for _, word in met}
                fresh = {line for line in fresh if not _any(words, line)}
            self._octets += len(folded) + _OBJECT * len(fresh)
            if self._octets > self.ROOM:
                self._octets = 0
                for lines in self._without.values():
                    lines.clear()
            known |= fresh
            absent -= {sign for sign, _ in met}
        return absent


def _folded(lines: Iterable[str]) -> str | None:
    """Lines as a text to look for words in, None where they may be other words beside others."""
    text = "\n".join(lines)
    if text.isascii():
        return text.lower()
    # A part of what is normalised is so, too.
    return text.casefold() if unicodedata.is_normalized("NFKC", text) else None


def _any(words: Iterable[str], line: str) -> bool:
    folded = _folded((line,))
    return folded is None or any(word in folded for word in words)


def _met(text: str, sign: str) -> list[str]:
    """The words that are there, of those of which a sign needs one."""
    words = [word for word in _WORDS[sign] if word in text]
    for char, word in _RARE[sign]:
        alone = word == _ALONE
        if char in text and word in text and not (alone and not _STANDS_ALONE.search(text)):
            words.append(word)
    return words


def _cut(text: str) -> set[str]:
    """Lines, and where these are long the sentences and tags of them."""
    if not text.isascii():
        text = text.replace("\xa0", " ").replace("\u202f", " ")  # what NFKC makes of them
    lines = set(text.split("\n"))
    if len(text) > _USUAL * len(lines):
        lines = set(text.replace(". ", ".\n").replace(">", ">\n").split("\n"))
    return lines


def _there(sign: str, text: _Text) -> bool:
    if sign == "discount":
        return "%" in text.words and _discounted(text.folded)
    if sign == "opt_out":
        return _OPT_OUT.found_in(text.folded)
    words = text.words
    for anchor, phrases in _LOOKED_FOR[sign]:
        if anchor in words and any(_begins(text.folded, phrase) for phrase in phrases):
            return True
    return False


def _begins(text: str, phrase: str) -> bool:
    """Whether a word of the text begins with `phrase`."""
    at = text.find(phrase)
    while at > 0 and (text[at - 1].isalnum() or text[at - 1] == "_"):
        at = text.find(phrase, at + 1)
    return at >= 0


def _discounted(text: str) -> bool:
    """Whether a number of per cents stands beside a word for a lower price."""
    if "%" not in text or not any(cut in text for cut in _CUTS):
        return False
    at = text.find("%")
    for _ in range(_FEW):
        if _DISCOUNT.search(text, max(0, at - _NEAR), at + _NEAR) is not None:
            return True
        at = text.find("%", at + 1)
        if at < 0:
            return False
    return _DISCOUNT.search(text) is not None


def _shown(content: Content, header: Header) -> list[str]:
    """The subject and the displayed parts, with their markup."""
    pieces = [encoded.decode(header.first(b"subject") or b"")]
    try:
        for target in targets(scan(content, header)):
            pieces.append(text_of(content, target.part)[:LOOKED_AT])
    except OpaqueError:
        pass  # what cannot be read shows no sign
    return pieces


def _joined(shown: list[str]) -> str:
    """Without the markup."""
    subject, *parts = shown
    plain = (_MARKUP.sub(" ", text) if "<" in text else text for text in parts)
    return "\n.\n".join((subject, *plain))
