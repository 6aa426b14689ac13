"""What is remembered of a message and a sort of recipient changes no decision and no trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_laws import NOW, PACKS, PERMITTED, facts_, recipients

from policy import model as m
from policy import settled
from policy.basis import CONDITIONS, Case
from policy.engine import _Run, decide, living_basis, refuse_early
from policy.ledger import Ledger
from policy.pack import Packs
from policy.vectors import cases_from

few = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
moments = st.sampled_from([-900, -31, -1, 0, 1, 29, 400, 1200]).flatmap(
    lambda days: st.sampled_from([-1, 0, 1]).map(
        lambda us: NOW + timedelta(days=days, microseconds=us)
    )
)
RECIPIENTS: dict[str, tuple[Any, ...]] = {
    "address": ("x@a.de", "x@a.nl", "x@a.uk", "x@a.eu"),
    "country": ("NL", "US", "BR", "FI", None),
    "kind": tuple(m.Kind),
    "legal_person": (True, False, None),
    "function": ("buyer", "baker", None),
    "address_mainly_business": (True, False),
    "local_rules_met": (True, False),
    "account_abandoned": (True,),
    "last_marketing_at": (NOW - timedelta(days=1), NOW - timedelta(days=2000)),
}
CASES = [
    case.facts
    for file in sorted((Path(__file__).parent / "vectors").glob("*.toml"))
    for case in cases_from(file.read_text("utf-8"), name=file.name)
]


@st.composite
def campaigns(draw: st.DrawFn) -> list[m.Facts]:
    """One or two messages and senders for people of a few sorts, whose entries share details."""
    drawn = draw(st.lists(facts_, min_size=1, max_size=3))
    pool = [event for facts in drawn for event in facts.events]
    # The sort of those who may have it, and others: what a sort has in common must not reach them.
    sorts = [facts.recipient for facts in drawn] + draw(st.lists(recipients, max_size=2))
    people = []
    for n in range(draw(st.integers(4, 12))):
        facts, other = draw(st.sampled_from(drawn)), draw(st.sampled_from(drawn))
        events = draw(st.lists(st.sampled_from(pool), max_size=4)) if pool else []
        recipient = draw(st.sampled_from(sorts))
        if draw(st.booleans()):
            recipient = replace(
                recipient,
                account_abandoned=draw(st.sampled_from([None, True])),
                last_marketing_at=draw(st.none() | moments),
                address=draw(st.sampled_from(["x@a.de", "x@a.nl", "y@b.example"])),
            )
        people.append(
            m.Facts(
                at=draw(moments),
                sender=other.sender,
                recipient=recipient,
                message=facts.message,
                events=tuple(
                    replace(
                        event,
                        uid=f"{n}.{place}",
                        sender=draw(st.sampled_from([event.sender, other.sender.id])),
                        evidence=draw(st.sampled_from([event.evidence, "other", " "])),
                        at=draw(st.sampled_from([event.at, NOW - timedelta(days=1)])),
                    )
                    for place, event in enumerate(events)
                ),
            )
        )
    return people


def unremembered() -> Packs:
    return Packs(PACKS.by_id)


@few
@given(campaigns())
def test_a_remembered_answer_is_the_one_that_each_would_get(people: list[m.Facts]) -> None:
    packs = unremembered()
    for facts in people:
        for ask in (decide, refuse_early, living_basis):
            alone = ask(facts, unremembered())
            assert ask(facts, packs) == alone  # with its trace


@few
@given(campaigns())
def test_who_reads_the_trace_reads_that_of_the_decision(people: list[m.Facts]) -> None:
    """Asked again, one by one, every question leads to the same end."""
    packs = unremembered()
    for facts in people:
        for early in (False, True):
            again = _Run(facts, packs, early=early, steps=[])
            found, short = again.decide(), _Run(facts, packs, early=early).decide()
            assert (found is None) is (short is None)
            if found is not None and short is not None:
                assert replace(found, trace=()) == replace(short, trace=())
                assert len(short.trace) == len(again.steps or ())


def one_change(facts: m.Facts) -> Iterator[m.Facts]:
    """The same message, sender and details, with one thing another."""
    recipient = facts.recipient
    for key, values in RECIPIENTS.items():
        changes: list[dict[str, Any]] = [{key: value} for value in values]
        yield from (replace(facts, recipient=replace(recipient, **change)) for change in changes)
    for place, event in enumerate(facts.events):
        rest = facts.events[:place], facts.events[place + 1 :]
        yield replace(facts, events=rest[0] + rest[1])
        other = [
            replace(event, sender="another"),
            replace(event, sender=facts.sender.id),
            replace(event, evidence=" "),
            replace(event, at=event.at - timedelta(days=1500)),
        ]
        yield from (replace(facts, events=(*rest[0], one, *rest[1])) for one in other)


@pytest.mark.parametrize("part", range(4))
def test_every_case_and_every_one_change_is_decided_as_if_alone(part: int) -> None:
    """In one memory, in both orders, also with duties unmet and countries to choose from."""
    local = [facts for facts in CASES if facts.recipient.local_rules_met]
    for n, case in enumerate([*CASES[part::16], *local[part::4]]):
        facts = case
        if n % 3 == 0:
            message = replace(case.message, advertisement_label=None, products=("shoes", "bread"))
            facts = replace(case, message=message)
        if n % 3 == 1:
            sender = replace(case.sender, candidate_countries=("NL", "US"))
            facts = replace(case, sender=sender, recipient=replace(case.recipient, country=None))
        packs = unremembered()
        around = [facts, *one_change(facts)]
        for one in around + around[::-1]:
            for ask in (decide, refuse_early):
                known, alone = ask(one, packs), ask(one, unremembered())
                assert (known is None) is (alone is None)
                if known is not None and alone is not None:
                    assert replace(known, trace=()) == replace(alone, trace=())


def test_products_and_reasons_have_answers_of_their_own() -> None:
    at = NOW - timedelta(days=30)
    opt_in = m.OptIn(box=m.Box.UNTICKED, products=("bread",))
    sold = m.Relationship(
        stage=m.Stage.PURCHASE,
        paid=True,
        products=("shoes",),
        address_from_customer=True,
        informed=True,
        objection_offered=m.ObjectionOffered.BOX,
    )
    entries = tuple(
        m.Event(at=at, recorded_at=at, sender="A", detail=detail, evidence="proof", uid=uid)
        for uid, detail in (("o", opt_in), ("s", sold))
    )
    base = m.Facts(
        at=NOW,
        sender=m.Sender(id="A"),
        recipient=m.Recipient(country="NL", kind=m.Kind.CONSUMER),
        message=m.Message(
            category=m.Category.MARKETING,
            purpose=m.Purpose.COMMERCIAL,
            products=("shoes", "bread"),
            sender_identity=True,
            postal_address=True,
            unsubscribe=m.Unsubscribe.LINK,
            unsubscribe_valid_days=0,
            fake_reply=False,
            visible_recipients=1,
        ),
        events=entries,
    )
    packs = unremembered()
    for _ in range(2):
        assert decide(base, packs).reason is m.Reason.SOFT_OPT_IN  # of shoes; bread by consent
        assert decide(replace(base, events=entries[:1]), packs).reason is m.Reason.SCOPE_MISMATCH
        assert decide(replace(base, events=entries[1:]), packs).reason is m.Reason.NOT_SIMILAR
        # Advertising without a label: not owed in the US where there is consent.
        general = replace(entries[0], detail=replace(opt_in, products=()))
        there = replace(base, recipient=replace(base.recipient, country="US"))
        assert decide(replace(there, events=(general,)), packs).reason is m.Reason.CONSENT
        unlabelled = decide(replace(there, events=()), packs).reason
        assert unlabelled is m.Reason.MISLEADING_SUBJECT


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data(), facts_, facts_, st.sampled_from(PERMITTED))
def test_what_does_not_move_is_in_the_entry_alone(
    data: st.DataObject, facts: m.Facts, other: m.Facts, permitted: m.Facts
) -> None:
    """The law behind `Condition.moves`: no time, no other entry, nothing of the recipient but what
    the key holds."""
    entries = (*facts.events, *other.events, *permitted.events)
    at, recorded_at = data.draw(moments), data.draw(moments)
    moved = replace(
        other,
        at=data.draw(moments),
        sender=facts.sender,
        message=facts.message,
        recipient=replace(other.recipient, function=facts.recipient.function),
    )
    product = data.draw(st.sampled_from([None, *facts.message.products]))
    for event in entries:
        later = replace(event, at=at, recorded_at=recorded_at, uid="other")
        if event.evidence.strip():
            later = replace(later, evidence="something else")
        for pack in PACKS:
            one = Case(facts, Ledger(facts), pack, product)
            two = Case(moved, Ledger(moved), pack, product)
            for rule in pack.rules:
                if rule.event is not type(event.detail):
                    continue
                for condition in rule.conditions:
                    if not condition.moves:
                        assert condition.ask(one, rule, event) is condition.ask(two, rule, later)


def test_what_reads_the_clock_or_other_entries_moves() -> None:
    moving = {name for name, condition in CONDITIONS.items() if condition.moves}
    assert moving == {"double-opt-in", "not-listed", "in-force", "valid-until", "term", "awake"}


def test_what_is_remembered_is_bounded() -> None:
    packs = unremembered()
    base = next(facts for facts in PERMITTED if facts.events)
    (first, *_) = base.events
    for n in range(600):
        message = replace(base.message, campaign=str(n))
        decide(replace(base, message=message), packs)
        assert len(packs.settled) <= settled._SORTS
    for n in range(9000):
        fresh = m.OptIn(box=m.Box.UNTICKED, source=str(n))
        decide(replace(base, events=(replace(first, detail=fresh),)), packs)
        assert len(packs.answers) <= settled._ANSWERS
