"""A page for people on each pack: its rules in words, from the pack itself, so that none drifts.

Remarks are the comments of the pack's TOML: those at its top, and those before or within a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from policy.basis import Condition
from policy.model import OptIn, Published, Reason, Relationship, Stage
from policy.pack import Gates, Label, Pack, Packs, Rule, Term
from policy.phrases import CONDITIONS, REASONS

CAVEAT = (
    "This is no legal advice. It says what Sluis applies, as far as its authors understand the "
    "law; have it checked by a lawyer before you rest on it."
)

_EVENTS: Mapping[type[object] | None, str] = {
    OptIn: "an opt-in of the person",
    Relationship: "a relationship of the person with the sender",
    Published: "an address that its owner made public",
    None: "nothing has to be on record",
}

_WORDS: Mapping[str, str] = {
    "named": "It was given to this sender, or names it as a third party.",
    "own-entity": "It is with this very legal entity, not with one of the same group.",
    "affirmative-act": "The person acted: an empty box ticked, on paper, or aloud; no box that "
    "was ticked beforehand, and no silence.",
    "sale": "It came to {stages}{paid}.",
    "evidence": "There is evidence of it{box}.",
    "address-from-customer": "The person gave the address, in that dealing.",
    "topics": "It covers every topic of the message.",
    "products": "It covers the product; one without products covers all of the sender's.",
    "channel": "It is for e-mail.",
    "designated": "The owner made it public for this kind of message: {designated}.",
    "charitable": "A donation or support covers charitable and ideal mail only.",
    "sole-charitable": "The message serves the charitable purpose only.",
    "function": "The message concerns the recipient's function.",
    "no-spam-notice": "No notice against such mail stands with it.",
    "withdrawal-info": "The person was told how to withdraw.",
    "double-opt-in": "The person confirmed it by mail (double opt-in).",
    "objection-offered": "The person was told that mail would come, and could object then and "
    "there by a box or a plain sentence; terms alone are not enough.",
    "informed-at-collection": "The person was told when the address was collected.",
    "similar": "What the message is about is similar to what was bought, by the sender's own "
    "table of similar products.",
    "not-listed": "The address is not on the national list {registry}.",
    "in-force": "It is in force at the moment of sending{since}.",
    "valid-until": "It has not passed an end of its own.",
    "term": "The term has not passed: {term}.",
    "awake": "It is not dormant: an abandoned account without mail or contact for {dormant}.",
}


def page(pack: Pack, source: str, name: str) -> str:
    """The page of one pack in Markdown. `source` is its TOML, `name` the file it stands in."""
    top, remarks = _remarks(source)
    lines = [
        f"# {pack.title}",
        "",
        f"> {CAVEAT}",
        "",
        f"Made from `{name}` by `sluis policy docs`; do not edit it here.",
        "",
        "| | |",
        "|---|---|",
        f"| pack | `{pack.label}` |",
        f"| reviewed on | {pack.reviewed_on} |",
        f"| countries | {' '.join(pack.countries)} |",
        f"| days begin and end in | {pack.zone} |",
        "",
    ]
    if top:
        lines += [top, ""]
    lines += [f"- {line}" for line in _reach(pack)]
    lines += [
        "",
        "## On what basis",
        "",
        "The rules are tried in this order; the first whose conditions all hold decides. What is "
        "not known counts as not met. Behind each condition stands the reason for which mail is "
        "blocked when it fails.",
    ]
    for place, rule in enumerate(pack.rules, 1):
        lines += ["", *_rule(place, rule, remarks.get(place - 1, ""))]
    lines += ["", "## What every marketing message owes", "", "| duty | law |", "|---|---|"]
    lines += [f"| {duty} | {cite} |" for duty, cite in _duties(pack)]
    if any(rule.allows is Reason.EXEMPT for rule in pack.rules):
        lines += ["", "A message that is exempt owes the sender's identity only."]
    lines += [
        "",
        "## An objection",
        "",
        "stops all of the sender's marketing from the moment it is recorded "
        f"({pack.suppression_cite}). Only a new opt-in by the person, with evidence, lifts it.",
        "",
        "## Sources",
        "",
        *(f"- {cite}" for cite in _sources(pack)),
    ]
    return "\n".join(lines) + "\n"


def index(packs: Packs) -> str:
    """The page that leads to the others."""
    lines = [
        "# The law that is applied",
        "",
        f"> {CAVEAT}",
        "",
        "A page for each pack, made by `sluis policy docs` (`make docs`) from the packs "
        "themselves. The recipient's country decides which pack applies; where its own law says "
        "so, the sender's as well. How a decision is made of them: "
        "[decision.md](../decision.md).",
        "",
        "| pack | law of | bases, in order | reviewed on |",
        "|---|---|---|---|",
    ]
    for pack in packs:
        bases = ", ".join(rule.id for rule in pack.rules)
        row = f"| [{pack.id}]({pack.id}.md) | {pack.title} | {bases} | {pack.reviewed_on} |"
        lines.append(row)
    lines += [
        "",
        "Confidence: *high* where statute or the highest court is clear; *medium* where a "
        "reading is common but not settled, or the text was seen in secondary sources; *low* "
        "where it is our own.",
    ]
    return "\n".join(lines) + "\n"


def _reach(pack: Pack) -> Iterable[str]:
    if pack.fallback:
        yield "Stands in for every country above that has no pack of its own."
    if pack.applies_to_sent_from:
        yield "Also applies to mail sent from here to other countries."
    if pack.primary_purpose:
        yield "A transactional message stays one although it carries promotion."


def _rule(place: int, rule: Rule, remark: str) -> list[str]:
    allowed = REASONS[rule.allows].words.english
    lines = [
        f"### {place}. {rule.id}",
        "",
        f"**{rule.cite}** (confidence: {rule.confidence}; reviewed on {rule.reviewed_on}). "
        f"Allows as `{rule.allows}`: {allowed}.",
        "",
    ]
    if remark:
        lines += [remark, ""]
    gates = list(_gates(rule.gates))
    if gates:
        lines.append(f"- Only {'; '.join(gates)}.")
    if not rule.conditions:
        return [*lines, f"- {_EVENTS[rule.event].capitalize()}."]
    lines.append(f"- On record: {_EVENTS[rule.event]}.")
    return lines + [f"- {_condition(c, rule)} (`{c.reason}`)" for c in rule.conditions]


def _condition(condition: Condition, rule: Rule) -> str:
    words = _WORDS.get(condition.name)
    if words is None:
        return f"{CONDITIONS[condition.name].english}.".capitalize()
    since = f"; only for what happened since {rule.in_force_from}" if rule.in_force_from else ""
    return words.format(
        stages=_either(sorted(rule.stages)),
        paid=_paid(rule),
        box=", and the state of the box is known" if rule.event is OptIn else "",
        designated="; ".join(
            f"{purpose} mail by {_either(sorted(kinds))}"
            for purpose, kinds in sorted(rule.designated.items())
        ),
        registry=rule.registry or "",
        since=since,
        term=_term(rule.term) if rule.term else "",
        dormant=_months(rule.dormant_months or 0),
    )


def _paid(rule: Rule) -> str:
    sales = sorted(rule.stages & {Stage.PURCHASE, Stage.SUBSCRIPTION})
    if not sales:
        return ""
    words = f"; {_one(_either(sales))} counts when it was paid for"
    if rule.indirect_remuneration:
        words += ", or paid for indirectly (with data, by advertisements) and recorded as such"
    return words


def _term(term: Term) -> str:
    words = f"{_months(term.months)} of the calendar from the event"
    later = [
        *(["the person's last act"] if term.from_acts else []),
        *(["the last mail under it"] if term.from_mail else []),
    ]
    if later:
        words += f", or from {' or '.join(later)} where that is later"
    for stage, months in sorted(term.by_stage.items()):
        words += f"; {_months(months)} after {_one(stage)}"
    if term.lifetimes:
        words += "; a product's own lifetime instead, where the sender set one"
    if term.needs_review:
        words += "; a default of ours, so a person may look at it"
    return words


def _gates(gates: Gates) -> Iterable[str]:
    if gates.kinds is not None:
        yield f"to {_either(sorted(gates.kinds))}"
    if gates.legal_person is not None:
        yield "to legal persons" if gates.legal_person else "to people, not to legal persons"
    if gates.business_only:
        yield "to an address mainly used for business, about that business alone"
    if gates.outside_eea:
        yield "to countries outside the EEA"
    if gates.local_rules_met:
        yield "where the rules of the recipient's country are met"
    if gates.purposes is not None:
        yield f"for {_either(sorted(gates.purposes))} mail"
    if gates.charity_registered_in is not None:
        yield f"from a charity registered in {gates.charity_registered_in}"
    if gates.primary_purpose_fundraising:
        yield "to raise funds in the first place"


def _duties(pack: Pack) -> Iterable[tuple[str, str]]:
    duties = pack.duties
    yield "who sends it is shown", duties.identity
    if duties.postal_address:
        yield "the sender's postal address is shown", duties.postal_address
    days = f", that works for {duties.valid_days} days at least" if duties.valid_days else ""
    yield f"an easy way to opt out, by a link or a reply{days}", duties.unsubscribe
    label = {
        Label.NEVER: "",
        Label.ALWAYS: ", and that it is an advertisement is told",
        Label.UNLESS_CONSENT: ", and that it is an advertisement is told, unless under consent",
    }[duties.label]
    yield f"an honest subject{label}", duties.subject
    yield "one visible recipient", duties.recipients


def _sources(pack: Pack) -> list[str]:
    duties = pack.duties
    cites = [rule.cite for rule in pack.rules]
    cites += [duties.identity, duties.postal_address, duties.unsubscribe, duties.subject]
    cites += [duties.recipients, pack.suppression_cite]
    parts = (part.strip() for cite in cites for part in cite.split(";"))
    return list(dict.fromkeys(part for part in parts if part))


def _remarks(source: str) -> tuple[str, dict[int, str]]:
    """Comments of a pack: those before its first key, and for each rule those at or in it."""
    top: list[str] = []
    by_rule: dict[int, list[str]] = {}
    rule, began = -1, False
    waiting: list[str] = []
    for line in source.splitlines():
        text = line.strip()
        if text.startswith("#"):
            waiting.append(text.lstrip("#").strip())
            continue
        if text == "[[rules]]":
            rule += 1
        if text and waiting:
            # What stands before the first key is about the pack; a comment leads what follows it.
            (top if rule < 0 and not began else by_rule.setdefault(rule, [])).extend(waiting)
            waiting = []
        began = began or bool(text)
    return " ".join(top), {place: " ".join(words) for place, words in by_rule.items() if place >= 0}


def _months(number: int) -> str:
    return f"{number} months" if number != 1 else "1 month"


def _one(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _either(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"
