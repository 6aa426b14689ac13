"""Words by which a link says that it is the opt-out, and by which a subject plays a reply.

A blank in a phrase stands for up to three characters that are no letters or digits, or none ("opt
out" is also "opt-out" and "optout"); a letter with an accent also matches without it. A phrase
matches at the beginning of a word; from eight letters on anywhere ("listunsubscribe"). Its end is
open, so that stems cover their inflections.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

OPT_OUT: dict[str, tuple[str, ...]] = {
    "da": ("afmeld", "frameld", "ophør abonnement", "stop nyhedsbrev"),
    "de": (
        *("abmelde", "abmeldung", "abbestell", "austragen", "melden sie sich ab", "melde dich ab"),
        *("newsletter kündigen", "keine e mails mehr", "keinen newsletter mehr"),
        *("nicht mehr erhalten", "nicht länger erhalten"),
    ),
    "en": (
        *("unsubscri", "opt out", "opting out", "stop receiving", "no longer receive"),
        *("no longer wish", "no longer want", "remove me", "leave this list", "leave the list"),
        *("cancel subscription", "cancel your subscription", "cancel my subscription"),
        "stop these email",
    ),
    "es": (
        *("darse de baja", "darme de baja", "darte de baja", "dar de baja", "date de baja"),
        *("dese de baja", "desuscri", "desinscri", "dejar de recibir", "no recibir más"),
        *("cancelar suscripción", "cancelar la suscripción", "cancelar mi suscripción"),
        *("cancelar tu suscripción", "cancelar su suscripción"),
        *("anular suscripción", "anular la suscripción", "anular mi suscripción"),
    ),
    "fr": (
        *("désabonn", "désinscri", "ne plus recevoir", "ne souhaitez plus recevoir"),
        *("annuler mon abonnement", "annuler votre abonnement"),
    ),
    "it": (
        *("disiscri", "annulla iscrizione", "annulla l iscrizione", "annullare l iscrizione"),
        *("cancella iscrizione", "cancella l iscrizione", "cancellare l iscrizione"),
        *("cancella la tua iscrizione", "cancellazione dalla"),
        *("cancellati da", "cancellati qui", "cancellarsi da"),
        *("cancellarti", "non ricevere più", "non desideri più ricevere"),
        *("non vuoi più ricevere", "non desidera più ricevere"),
    ),
    "nl": (
        *("afmeld", "afgemeld", "meld je af", "meld u af", "meld mij af", "uitschrijf"),
        *("uitschrijven", "uitgeschreven", "schrijf je uit", "schrijf u uit", "schrijf mij uit"),
        *("nieuwsbrief opzeggen", "niet meer ontvangen", "niet langer ontvangen"),
        *("geen e mails meer", "geen mail meer", "geen mails meer", "geen nieuwsbrief meer"),
    ),
    "pl": ("wypisz", "wypisać", "wypisanie", "zrezygnuj", "rezygnacja", "rezygnuj"),
    "sv": ("avregistrer", "avprenumerer", "avsluta prenumeration", "avanmäl"),
}

#: Prefixes of replies and forwards, with languages of programs that write them.
REPLY_PREFIXES = (
    *("re", "fw", "fwd"),  # English, and RFC 5322 section 3.6.5
    *("antw", "antwoord", "betr", "doorst", "doorsturen"),  # nl
    *("aw", "antwort", "wg", "weitergeleitet"),  # de
    *("tr", "rép", "réf"),  # fr
    *("rv", "respuesta", "reenviado"),  # es
    *("rif", "inoltro"),  # it
    *("sv", "vs", "vb"),  # da, sv
    "odp",  # pl
)

_LONG = 8
_SIGN = re.compile(r"[^\w ]")


class Words:
    """The opt-out words of some languages, compiled once."""

    def __init__(self, languages: Sequence[str] = ()) -> None:
        """`languages` are codes of `OPT_OUT`, none for all; one without a list adds nothing."""
        chosen = languages or tuple(OPT_OUT)
        phrases = {p for language in chosen for p in OPT_OUT.get(language[:2].lower(), ())}
        self._groups = tuple(
            (anchor, tuple(re.compile(_pattern(phrase)) for phrase in of_it))
            for anchor, of_it in anchored(sorted(phrases), _spellings)
        )

    @property
    def anchors(self) -> tuple[str, ...]:
        """Texts of which folded text that has one of the words has one."""
        return tuple(anchor for anchor, _ in self._groups)

    def found_in(self, text: str) -> bool:
        """Whether folded `text` (NFKC, casefold) says that something is an opt-out."""
        groups = self._groups
        for n, group in enumerate(groups):
            anchor, patterns = group
            if anchor in text:
                for pattern in patterns:
                    if pattern.search(text) is not None:
                        if n:  # what one mail says the next one says, too
                            self._groups = (group, *groups[:n], *groups[n + 1 :])
                        return True
        return False


def anchored(
    phrases: Iterable[str], spellings: Callable[[str], Iterable[str]] = lambda word: (word,)
) -> list[tuple[str, tuple[str, ...]]]:
    """Phrases by a text that all of them need: most mails have none of these texts, and to look for
    one costs a fraction of what a pattern does.

    A phrase stands in one group for each of the `spellings` of the word that it is looked for by.
    """
    groups: dict[str, list[str]] = {}
    for phrase in phrases:
        # A sign costs a tenth of a word.
        words = _SIGN.findall(phrase) or phrase.split(" ")
        known = next((anchor for anchor in groups if anchor in phrase), None)
        for anchor in spellings(known or max(words, key=len)):
            groups.setdefault(anchor, []).append(phrase)
    return [(anchor, tuple(found)) for anchor, found in groups.items()]


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _spellings(word: str) -> list[str]:
    """The word with each of its accents there or not."""
    letters = (dict.fromkeys((c, _plain(c))) for c in word)
    return ["".join(spelled) for spelled in itertools.product(*letters)]


def _pattern(phrase: str) -> str:
    letters = "".join(
        r"[\W_]{0,3}" if c == " " else c if c == _plain(c) else f"[{c}{_plain(c)}]" for c in phrase
    )
    return letters if len(phrase) >= _LONG else rf"(?<![^\W_]){letters}"
