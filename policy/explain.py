"""A decision in words, in English and Dutch: the same text in command line, reply and DSN.

Only what a `Decision` carries is said: its verdict, rule, article, the facts asked of, their
evidence, what failed, and what would have to be true for the other answer. No address appears.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime

from policy.duties import RULE as DUTIES
from policy.model import Answer, Change, Decision, Reason, Step, Verdict
from policy.overlay import RULE as OVERLAY
from policy.phrases import CONDITIONS, DETAILS, REASONS, VALUES, VOCABULARY, Phrase

_DUTCH = "nl"
#: Where products, topics and functions stand, which are the operator's own words.
_FREE_DETAILS = ("products", "product ", "topics", "function", "evidence", "lists")


def sentence(decision: Decision, language: str = "en") -> str:
    """One short line of printable ASCII for an SMTP reply: `no-basis: <short words>; <cite>`."""
    words = _in(REASONS[decision.reason].words, language)
    text = f"{decision.reason}: {words}"
    if decision.cite:
        text += f"; {decision.cite}"
    if decision.until is not None:
        text += "; " + _lines(language)["from"].format(_time(decision.until))
    return _ascii(text)


def remedy(reason: Reason, language: str = "en") -> str:
    """What to do about a reason, in one or two sentences."""
    return _in(REASONS[reason].remedy, language)


def explain(decision: Decision, language: str = "en", *, at: datetime) -> str:
    """Several lines on one decision taken for the moment `at` (aware).

    Verdict, rule and article, facts with their evidence, failed conditions, what would have to be
    true for the other answer, and the remedy.
    """
    say = _lines(language)
    words = _in(REASONS[decision.reason].words, language)
    lines = [f"{say[decision.verdict]} ({decision.reason}): {words}."]
    lines.append(say["at"].format(_time(at)))
    if decision.until is not None:
        lines.append(say["From"].format(_time(decision.until)))
    if decision.pack:
        key = "rule" if decision.rule else "pack"
        lines.append(say[key].format(pack=decision.pack, rule=decision.rule))
    if decision.cite:
        lines.append(say["cite"].format(decision.cite))
    lines += _basis(decision, say)
    asked = [step for step in decision.trace if step.answer is Answer.YES]
    missed = [step for step in decision.trace if step.answer is not Answer.YES]
    if decision.basis is not None:
        asked = [step for step in asked if step.event == decision.basis.event]
        missed = [s for s in missed if s.condition == "exact-address" or s.rule == OVERLAY]
    if asked:
        lines.append(say["facts"])
        lines += [_line(step, language) for step in asked]
    if missed:
        lines.append(say["missed"])
        lines += [_line(step, language) for step in missed]
    if decision.obligations:
        lines.append(say["obligations"].format(", ".join(decision.obligations)))
    if decision.needs_review:
        lines.append(say["review"])
    if decision.counterfactual:
        lines.append(say["allow if" if decision.verdict is not Verdict.ALLOW else "block if"])
        lines += [_change(change, language) for change in decision.counterfactual]
    if not decision.allowed:
        lines.append(say["remedy"].format(remedy(decision.reason, language)))
    return "\n".join(lines)


def _basis(decision: Decision, say: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    basis = decision.basis
    if basis is not None and basis.at is not None:
        evidence = basis.evidence or say["elsewhere"]
        entry = f" ({basis.event})" if basis.event else ""
        lines.append(say["basis"].format(at=_time(basis.at), evidence=evidence, entry=entry))
    elif decision.event:
        lines.append(say["entry"].format(decision.event))
    if decision.expires_at is not None:
        lines.append(say["until"].format(_time(decision.expires_at)))
    return lines


def _lines(language: str) -> Mapping[str, str]:
    return _DUTCH_LINES if _dutch(language) else _ENGLISH_LINES


def _line(step: Step, language: str) -> str:
    say = _lines(language)
    name = CONDITIONS.get(step.condition)
    if name is None and step.condition in tuple(Reason):
        name = REASONS[Reason(step.condition)].words
    words = _in(name, language) if name is not None else step.condition
    where = "/".join(part for part in (step.pack, step.rule) if part)
    if step.rule == DUTIES:  # its words say what is wrong already
        return f"  - {words} [{where}]"
    detail = _detail(step.detail, language)
    text = f"  - {words}: {say[step.answer]}"
    if detail:
        text += f", {detail}"
    return text + (f" [{where}]" if where else "")


def _change(change: Change, language: str) -> str:
    say = _DUTCH_LINES if _dutch(language) else _ENGLISH_LINES
    # Fields and their values stay as they are written in an import or over the API.
    now, needed = (_value(value, language) for value in (change.now, change.needed))
    return "  - " + say["change"].format(fact=_fact(change.fact, language), now=now, needed=needed)


def _fact(fact: str, language: str) -> str:
    if not _dutch(language):
        return fact
    entry = re.fullmatch(r"(\S+) of (\d{4}-\d\d-\d\d)(.*)", fact)
    if entry is not None:
        return f"{_value(entry[1], language)} van {entry[2]}{entry[3]}"
    noun, colon, key = fact.partition(": ")
    return f"{_value(noun, language)}{colon}{key}"


def _detail(detail: str, language: str) -> str:
    if not _dutch(language):
        return detail
    for pattern, template in DETAILS:
        found = re.fullmatch(pattern, detail)
        if found:
            known = not pattern.startswith(_FREE_DETAILS)
            return template.format(*(_value(value, language, known) for value in found.groups()))
    return detail


def _value(value: str, language: str, known: bool = False) -> str:
    """`known`: it may be a word of the vocabulary, and is not somebody's own."""
    if not _dutch(language):
        return value
    translated = VALUES.get(value)
    if translated is None and known:
        return ", ".join(VOCABULARY.get(item, item) for item in value.split(", "))
    return value if translated is None else translated


def _in(phrase: Phrase, language: str) -> str:
    return phrase.dutch if _dutch(language) else phrase.english


def _dutch(language: str) -> bool:
    return language.lower().replace("_", "-").split("-")[0] == _DUTCH


def _time(at: datetime | date) -> str:
    if isinstance(at, datetime):
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return at.isoformat()


def _ascii(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "".join(char for char in folded if char.isprintable())


_ENGLISH_LINES: Mapping[str, str] = {
    Verdict.ALLOW: "Allowed",
    Verdict.BLOCK: "Blocked",
    Verdict.DEFER: "Deferred",
    Answer.YES: "yes",
    Answer.NO: "no",
    Answer.UNKNOWN: "cannot be told",
    "at": "Decided for sending at {}.",
    "rule": "Pack {pack}, rule {rule}.",
    "pack": "Pack {pack}; no rule applied.",
    "cite": "Article: {}.",
    "basis": "Rests on the entry of {at}{entry}, evidence {evidence}.",
    "elsewhere": "held by another sender",
    "entry": "Decided by the entry {}.",
    "until": "Holds until {}.",
    "from": "not before {}",
    "From": "It may leave from {} on.",
    "facts": "What holds:",
    "missed": "What does not:",
    "obligations": "Must be added before sending: {}.",
    "review": "Worth a look by a person: a corrected fact would change the answer.",
    "allow if": "It would be allowed if:",
    "block if": "It would be blocked if:",
    "change": "{fact}: {needed} (now: {now})",
    "remedy": "Remedy: {}",
}
_DUTCH_LINES: Mapping[str, str] = {
    Verdict.ALLOW: "Toegestaan",
    Verdict.BLOCK: "Tegengehouden",
    Verdict.DEFER: "Uitgesteld",
    Answer.YES: "ja",
    Answer.NO: "nee",
    Answer.UNKNOWN: "niet vast te stellen",
    "at": "Beoordeeld voor verzending op {}.",
    "rule": "Pakket {pack}, regel {rule}.",
    "pack": "Pakket {pack}; geen regel was van toepassing.",
    "cite": "Artikel: {}.",
    "basis": "Berust op de vastlegging van {at}{entry}, bewijs {evidence}.",
    "elsewhere": "bij een andere afzender",
    "entry": "Beslist door de vastlegging {}.",
    "until": "Geldt tot {}.",
    "from": "niet vóór {}",
    "From": "Het mag weg vanaf {}.",
    "facts": "Wat klopt:",
    "missed": "Wat niet klopt:",
    "obligations": "Moet vóór verzending worden toegevoegd: {}.",
    "review": "Laat iemand meekijken: een verbeterd feit zou het antwoord veranderen.",
    "allow if": "Het zou zijn toegestaan als:",
    "block if": "Het zou zijn tegengehouden als:",
    "change": "{fact}: {needed} (nu: {now})",
    "remedy": "Oplossing: {}",
}
