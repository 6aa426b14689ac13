"""Signs of promotion in a transactional mail: found by fixed phrases, weighed by configuration.

A hint and no verdict: it is written to the journal, and counts in law only where the stream says so
(`promotion = "enforce"`). Looks at the subject and the first 64 KiB of each displayed part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.message import encoded
from proxy.message.displayed import targets, text_of
from proxy.message.header import Header
from proxy.message.inspect import fold
from proxy.message.mime import OpaqueError, scan
from proxy.message.words import Words

#: Characters of each part that are looked at.
LOOKED_AT = 65_536

_CUT = (
    "off|discount|korting|afgeprijsd|rabatt|reduziert|r\u00e9duction|remise|descuento|rebaja|sconto"
)
_PHRASES = {
    "discount": rf"\d{{1,2}} ?%[^.!?]{{0,30}}\b(?:{_CUT})|\b(?:{_CUT})\b[^.!?]{{0,30}}\d{{1,2}} ?%",
    "voucher": (
        r"\b(?:kortingscode|actiecode|promo ?code|discount code|coupon|voucher|gutschein"
        r"|rabattcode|code promo|c\u00f3digo (?:de )?descuento|codice sconto)"
    ),
    "shopping": (
        r"\b(?:shop now|buy now|shop the|you (?:may|might) also like|customers also bought"
        r"|recommended for you|complete your look|shop nu|koop nu|bekijk ook|anderen bekeken ook"
        r"|misschien vind je dit ook|vaak samen gekocht|jetzt kaufen|jetzt shoppen"
        r"|das k\u00f6nnte (?:ihnen|dir) auch gefallen|vous aimerez aussi|acheter maintenant"
        r"|tambi\u00e9n te puede (?:gustar|interesar)|comprar ahora|potrebbe(?:ro)? piacerti"
        r"|acquista ora)"
    ),
    "urgency": (
        r"\b(?:only today|today only|last chance|while stocks last|limited time|ends tonight"
        r"|don't miss|alleen vandaag|laatste kans|op ?= ?op|zolang de voorraad strekt|mis het niet"
        r"|nur heute|letzte chance|solange der vorrat reicht|derni\u00e8re chance"
        r"|jusqu'\u00e0 \u00e9puisement|solo hoy|\u00faltima oportunidad|solo oggi"
        r"|ultima occasione)"
    ),
    "newsletter": (
        r"\b(?:(?:subscribe to|sign up for|join) (?:our|the) (?:newsletter|mailing list)"
        r"|schrijf (?:je|u) in voor (?:onze|de) nieuwsbrief|meld (?:je|u) aan voor (?:onze|de)"
        r" nieuwsbrief|newsletter abonnieren|zum newsletter anmelden"
        r"|abonnez-vous \u00e0 (?:notre|la) newsletter|suscr\u00edbe(?:te|ase) a (?:nuestra|la)"
        r" newsletter|iscriviti alla (?:nostra )?newsletter)"
    ),
}
_SIGNS = {name: re.compile(pattern) for name, pattern in _PHRASES.items()}
_OPT_OUT = Words()
_MARKUP = re.compile(r"<(style|script)\b[^<]*+(?:<(?!/\1)[^<]*+)*|<[^<>]{0,2000}+>", re.IGNORECASE)

#: All signs, by the names of their weights.
SIGNS = (*_SIGNS, "opt_out", "list_fields")


@dataclass(frozen=True, slots=True)
class Score:
    """The sum of weights, and the signs that were found."""

    total: int
    signs: tuple[str, ...]


def score(content: bytes, header: Header, weights: Mapping[str, int]) -> Score:
    """What speaks for promotion; a sign counts once. `weights` maps each of `SIGNS` to a number."""
    text = fold(_shown(content, header))
    found = [name for name, sign in _SIGNS.items() if sign.search(text)]
    if _OPT_OUT.found_in(text):
        found.append("opt_out")
    if any(field.name.startswith(b"list-") for field in header.fields):
        found.append("list_fields")
    found = [name for name in found if weights[name]]
    return Score(sum(weights[name] for name in found), tuple(found))


def _shown(content: bytes, header: Header) -> str:
    pieces = [encoded.decode(header.first(b"subject") or b"")]
    try:
        for target in targets(scan(content, header)):
            text = text_of(content, target.part)[:LOOKED_AT]
            pieces.append(_MARKUP.sub(" ", text) if "<" in text else text)
    except OpaqueError:
        pass  # what cannot be read shows no sign
    return "\n.\n".join(pieces)
