"""Laws that hold for all facts: totality, suppression, monotony; the unknown never helps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from policy import model as m
from policy.engine import decide, refuse_early
from policy.explain import explain, sentence
from policy.jurisdiction import first, jurisdiction
from policy.pack import Packs
from policy.vectors import cases_from
from proxy.packs import builtin_packs

PACKS = builtin_packs()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
COUNTRIES = sorted({pack.countries[0] for pack in PACKS} | {"NL", "FI", "BR"})

many = settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)

maybe = st.none() | st.booleans()
mostly = st.sampled_from([True, True, True, False, None])
senders = st.sampled_from(["A", "A", "A", "B"])
topics = st.lists(st.sampled_from(["news", "offers"]), max_size=2, unique=True).map(tuple)
products = st.lists(st.sampled_from(["shoes", "shoes/run", "bread"]), max_size=2).map(tuple)
minutes = st.integers(min_value=-4 * 365 * 24 * 60, max_value=4).map(
    lambda n: NOW + timedelta(minutes=n)
)
functions = st.sampled_from([None, "buyer", "director"])

opt_ins = st.builds(
    m.OptIn,
    box=st.sampled_from([m.Box.UNTICKED, m.Box.UNTICKED, *m.Box, None]),
    topics=topics,
    products=products,
    confirmed_at=st.none() | minutes,
    source=st.sampled_from([None, None, "import"]),
    valid_until=st.sampled_from([None, None, None, date(2026, 11, 24), NOW]),
    third_parties=st.sampled_from([(), (), ("A",), ("B", "a b.v."), ("partners",)]),
    channels=st.sampled_from([("email",), ("email",), ("sms",)]),
    withdrawal_info_given=mostly,
)
relationships = st.builds(
    m.Relationship,
    stage=st.sampled_from([m.Stage.PURCHASE, m.Stage.PURCHASE, *m.Stage, None]),
    paid=mostly,
    indirect_remuneration=maybe,
    products=products,
    address_from_customer=mostly,
    informed=mostly,
    objection_offered=st.sampled_from([m.ObjectionOffered.BOX, *m.ObjectionOffered, None]),
    ended_at=st.none() | minutes,
)
published = st.builds(
    m.Published,
    purpose=st.none() | st.sampled_from(m.PublishedPurpose),
    no_spam_notice=maybe,
    informed_at_collection=maybe,
)
objections = st.builds(
    m.Objection,
    scope=st.sampled_from(m.Scope),
    topics=topics,
    stream=st.sampled_from([None, "s", "t"]),
    via=st.none() | st.sampled_from(m.Via),
)
others = st.one_of(
    st.builds(m.Contact, via=st.none() | st.sampled_from(m.ContactVia)),
    st.builds(m.Bounce, severity=st.sampled_from(m.Severity)),
    st.builds(m.Complaint),
    st.builds(m.Registry, registry=st.sampled_from(["ECG", "OTHER"])),
)


@st.composite
def event(draw: st.DrawFn, details: st.SearchStrategy[Any]) -> m.Event:
    at = draw(minutes)
    return m.Event(
        at=at,
        recorded_at=max(at, draw(minutes)) if draw(st.booleans()) else at,
        sender=draw(senders),
        detail=draw(details),
        evidence=draw(st.sampled_from(["proof", "proof", "proof", ""])),
        uid=str(draw(st.integers(min_value=1, max_value=10**9))),
        exact=draw(st.sampled_from([True, True, True, True, False])),
    )


permitting = event(opt_ins | opt_ins | relationships | published)
ledgers = st.lists(permitting, max_size=3).flatmap(
    lambda good: st.lists(event(objections | others), max_size=2).map(
        lambda bad: tuple(good + bad)
    )
)
senders_of_mail = st.builds(
    m.Sender,
    id=st.just("A"),
    names=st.just(("A B.V.",)),
    country=st.sampled_from([None, "NL", "US"]),
    similar=st.sampled_from([(), (m.SimilarGroup(products=("shoes", "bread")),)]),
    lifetimes=st.sampled_from([{}, {"shoes": 2}]),
    candidate_countries=st.sampled_from([(), (), ("NL",), ("FI", "BR")]),
)
recipients = st.builds(
    m.Recipient,
    address=st.just("x@mail.example"),
    country=st.sampled_from([*COUNTRIES, None]),
    kind=st.sampled_from(m.Kind),
    legal_person=maybe,
    function=functions,
    address_mainly_business=maybe,
    account_abandoned=maybe,
    last_marketing_at=st.none() | minutes,
    local_rules_met=maybe,
)
messages = st.builds(
    m.Message,
    stream=st.sampled_from(["s", "t", ""]),
    category=st.sampled_from([m.Category.MARKETING, m.Category.MARKETING, *m.Category, None]),
    purpose=st.none() | st.sampled_from(m.Purpose),
    products=products,
    topics=st.none() | topics,
    template=st.sampled_from([None, None, "invoice", "permission-request"]),
    promotion=maybe,
    sender_identity=mostly,
    postal_address=mostly,
    unsubscribe=st.sampled_from([m.Unsubscribe.LINK] * 3 + [*m.Unsubscribe, None]),
    unsubscribe_valid_days=st.sampled_from([0, 0, 30, 10, None]),
    advertisement_label=mostly,
    fake_reply=st.sampled_from([False, False, False, True, None]),
    visible_recipients=st.sampled_from([1, 1, 1, 2, None]),
    can_inject=st.sampled_from(
        [frozenset(), frozenset({"identity", "postal_address", "unsubscribe"})]
    ),
    sole_charitable_purpose=maybe,
    charity_registered_in=st.sampled_from([None, "CA", "AU", "NL"]),
    primary_purpose_fundraising=maybe,
    business_only=maybe,
    relevant_functions=st.sampled_from([None, (), ("buyer",)]),
)
wild = st.builds(
    m.Facts,
    at=st.just(NOW),
    sender=senders_of_mail,
    recipient=recipients,
    message=messages,
    events=ledgers,
)


EVENT_UNKNOWNS: dict[type[Any], dict[str, tuple[Any, ...]]] = {
    m.OptIn: {"box": tuple(m.Box), "withdrawal_info_given": (True, False)},
    m.Relationship: {
        "stage": tuple(m.Stage),
        "paid": (True, False),
        "indirect_remuneration": (True, False),
        "address_from_customer": (True, False),
        "informed": (True, False),
        "objection_offered": tuple(m.ObjectionOffered),
        "products": (("shoes",), ("bread",)),
    },
    m.Published: {
        "purpose": tuple(m.PublishedPurpose),
        "no_spam_notice": (True, False),
        "informed_at_collection": (True, False),
    },
    m.Objection: {"stream": ("s", "t"), "topics": (("news",), ("offers",))},
}
MESSAGE_UNKNOWNS: dict[str, tuple[Any, ...]] = {
    "stream": ("s", "t"),
    "category": tuple(m.Category),
    "purpose": tuple(m.Purpose),
    "products": (("shoes",), ("bread",), ("shoes", "bread")),
    "topics": (("news",), ("offers",), ("news", "offers")),
    "promotion": (True, False),
    "sender_identity": (True, False),
    "postal_address": (True, False),
    "unsubscribe": tuple(m.Unsubscribe),
    "unsubscribe_valid_days": (0, 10, 30, 60),
    "advertisement_label": (True, False),
    "fake_reply": (True, False),
    "visible_recipients": (0, 1, 2),
    "sole_charitable_purpose": (True, False),
    "charity_registered_in": ("CA", "AU"),
    "primary_purpose_fundraising": (True, False),
    "business_only": (True, False),
    "relevant_functions": ((), ("buyer",)),
}
RECIPIENT_UNKNOWNS: dict[str, tuple[Any, ...]] = {
    "country": tuple(COUNTRIES),
    "kind": tuple(m.Kind),
    "function": ("buyer", "clerk"),
    "address_mainly_business": (True, False),
    "local_rules_met": (True, False),
}
UNKNOWN: dict[str, Any] = {
    "kind": m.Kind.UNKNOWN,
    "stream": "",
    "products": (),
}

VECTORS = (Path(__file__).parent / "vectors").glob("*.toml")
PERMITTED = [
    case.facts
    for file in sorted(VECTORS)
    for case in cases_from(file.read_text("utf-8"), name=file.name)
    if case.expect.verdict is m.Verdict.ALLOW
]


@st.composite
def near(draw: st.DrawFn) -> m.Facts:
    """Facts that were allowed, with a little of something else in them."""
    facts, other = draw(st.sampled_from(PERMITTED)), draw(wild)
    for key in draw(st.lists(st.sampled_from(sorted(MESSAGE_UNKNOWNS)), max_size=2)):
        changed: dict[str, Any] = {key: getattr(other.message, key)}
        facts = replace(facts, message=replace(facts.message, **changed))
    for key in draw(st.lists(st.sampled_from(sorted(RECIPIENT_UNKNOWNS)), max_size=1)):
        changed = {key: getattr(other.recipient, key)}
        facts = replace(facts, recipient=replace(facts.recipient, **changed))
    return replace(facts, events=facts.events + draw(st.sampled_from([(), (), other.events])))


facts_ = st.one_of(near(), near(), wild)


@many
@given(facts_)
def test_total_deterministic_and_explained(facts: m.Facts) -> None:
    decision = decide(facts, PACKS)
    assert decide(facts, PACKS) == decision
    deferred = decision.reason in (m.Reason.FREQUENCY_CAP, m.Reason.QUIET_HOURS)
    assert (decision.verdict is m.Verdict.DEFER) is deferred
    line = sentence(decision)
    assert line.isascii()
    assert line.isprintable()
    assert line.startswith(decision.reason)
    for language in ("en", "nl"):
        assert "@" not in explain(decision, language, at=facts.at).replace("nl@", "").replace(
            f"{decision.pack.partition('@')[0]}@", ""
        )
    if decision.allowed and decision.reason is not m.Reason.NOT_MARKETING:
        assert decision.basis is not None
        assert decision.cite


@many
@given(facts_, st.randoms(use_true_random=False))
def test_the_order_of_events_is_irrelevant(facts: m.Facts, rng: random.Random) -> None:
    assume(len({e.at for e in facts.events}) == len(facts.events))
    events = list(facts.events)
    rng.shuffle(events)
    other = decide(replace(facts, events=tuple(events)), PACKS)
    decision = decide(facts, PACKS)
    assert replace(other, trace=()) == replace(decision, trace=())


@many
@given(facts_, st.sampled_from([m.Scope.MARKETING, m.Scope.EVERYTHING]), senders)
def test_an_objection_in_scope_blocks_marketing(
    facts: m.Facts, scope: m.Scope, sender: str
) -> None:
    assume(sender == "A" or scope is m.Scope.EVERYTHING)
    facts = replace(facts, message=replace(facts.message, category=m.Category.MARKETING))
    no = m.Event(
        at=facts.at,
        recorded_at=facts.at,
        sender=facts.sender.id if sender == "A" else "another",
        detail=m.Objection(scope=scope),
        exact=False,
    )
    decision = decide(replace(facts, events=(*facts.events, no)), PACKS)
    assert decision.verdict is m.Verdict.BLOCK
    assert decision.reason is m.Reason.SUPPRESSED


@many
@given(facts_, event(objections | st.builds(m.Complaint) | st.builds(m.Bounce)))
def test_a_blocking_event_never_loosens(facts: m.Facts, no: m.Event) -> None:
    if decide(replace(facts, events=(*facts.events, no)), PACKS).allowed:
        assert decide(facts, PACKS).allowed


@many
@given(facts_, st.lists(st.sampled_from(COUNTRIES), min_size=1, max_size=4), st.data())
def test_one_more_country_never_loosens(
    facts: m.Facts, candidates: list[str], data: st.DataObject
) -> None:
    def among(countries: list[str]) -> m.Decision:
        sender = replace(facts.sender, candidate_countries=tuple(countries))
        recipient = replace(facts.recipient, country=None)
        return decide(replace(facts, sender=sender, recipient=recipient), PACKS)

    fewer = among(candidates)
    if among([*candidates, data.draw(st.sampled_from(COUNTRIES))]).allowed:
        assert fewer.allowed
    # The order names the reason, never the verdict.
    assert among(data.draw(st.permutations(candidates))).verdict is fewer.verdict


@many
@given(facts_, st.sampled_from([pack.countries[0] for pack in PACKS]))
def test_the_law_of_the_sender_never_loosens(facts: m.Facts, country: str) -> None:
    def sent_from(home: str | None) -> m.Decision:
        sender = replace(facts.sender, country=home)
        recipient = replace(facts.recipient, country=country)
        return decide(replace(facts, sender=sender, recipient=recipient), PACKS)

    if sent_from("NL").allowed:
        assert sent_from(None).allowed


@many
@given(facts_, st.randoms(use_true_random=False))
def test_the_order_of_packs_is_irrelevant(facts: m.Facts, rng: random.Random) -> None:
    shuffled = list(PACKS.by_id.items())
    rng.shuffle(shuffled)
    assert decide(facts, Packs(dict(shuffled))) == decide(facts, PACKS)


@many
@given(facts_, st.sampled_from([None, ("NL", "DE"), ("ZZ",), ("BR", "NL")]))
def test_the_first_law_is_the_first_of_all(
    facts: m.Facts, candidates: tuple[str, ...] | None
) -> None:
    if candidates is not None:
        facts = replace(facts, sender=replace(facts.sender, candidate_countries=candidates))
    for packs in (PACKS, Packs({})):
        where = jurisdiction(facts, packs)
        known = where.applies and not where.elsewhere
        assert first(facts, packs) == (where.applies[0].pack.id if known else "")


@given(facts_, st.sampled_from(sorted(PACKS.by_id)), st.data())
def test_a_pack_with_one_rule_less_never_loosens(
    facts: m.Facts, id_: str, data: st.DataObject
) -> None:
    pack = PACKS[id_]
    at = data.draw(st.integers(0, len(pack.rules) - 1))
    fewer = replace(pack, rules=pack.rules[:at] + pack.rules[at + 1 :])
    if fewer.rules and decide(facts, Packs({**PACKS.by_id, id_: fewer})).allowed:
        assert decide(facts, PACKS).allowed


@many
@given(facts_, event(opt_ins | relationships | published))
def test_what_matches_only_a_wider_key_permits_nothing(facts: m.Facts, e: m.Event) -> None:
    wide = replace(e, exact=False)
    before, after = (
        decide(f, PACKS) for f in (facts, replace(facts, events=(*facts.events, wide)))
    )
    assert replace(before, trace=()) == replace(after, trace=())


@many
@given(facts_, event(opt_ins | relationships | published | objections | others))
def test_what_is_recorded_later_is_not_known(facts: m.Facts, e: m.Event) -> None:
    later = replace(e, recorded_at=facts.at + timedelta(seconds=1))
    assert decide(replace(facts, events=(*facts.events, later)), PACKS) == decide(facts, PACKS)


def known_and_unknown(facts: m.Facts) -> Iterator[tuple[str, m.Facts, list[m.Facts]]]:
    """For each fact that may be unknown: the facts without it, and with each value it may have."""
    for key, values in MESSAGE_UNKNOWNS.items():
        nothing: dict[str, Any] = {key: UNKNOWN.get(key)}
        unknown = replace(facts.message, **nothing)
        yield (
            key,
            replace(facts, message=unknown),
            [replace(facts, message=replace(unknown, **{key: value})) for value in values],
        )
    for key, values in RECIPIENT_UNKNOWNS.items():
        # The kind decides an unknown legal person: a defined default, not an unknown.
        if key == "kind" and facts.recipient.legal_person is None:
            continue
        # Candidate countries are the operator's own word for where unknown people are.
        if key == "country" and facts.sender.candidate_countries:
            continue
        nothing = {key: UNKNOWN.get(key)}
        nobody = replace(facts.recipient, **nothing)
        yield (
            key,
            replace(facts, recipient=nobody),
            [replace(facts, recipient=replace(nobody, **{key: value})) for value in values],
        )
    for place, entry in enumerate(facts.events):
        for key, values in EVENT_UNKNOWNS.get(type(entry.detail), {}).items():

            def put(value: Any, place: int = place, entry: m.Event = entry, key: str = key) -> Any:
                events = list(facts.events)
                fields: dict[str, Any] = {key: value}
                events[place] = replace(entry, detail=replace(entry.detail, **fields))
                return replace(facts, events=tuple(events))

            empty = () if key in ("products", "topics") else None
            yield key, put(empty), [put(value) for value in values]


@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
@given(facts_)
def test_the_unknown_never_helps(facts: m.Facts) -> None:
    for key, unknown, known in known_and_unknown(facts):
        if decide(unknown, PACKS).allowed:
            for other in known:
                assert decide(other, PACKS).allowed, key


@many
@given(facts_, messages)
def test_an_early_refusal_is_certain(facts: m.Facts, content: m.Message) -> None:
    refused = refuse_early(facts, PACKS)
    if refused is None:
        return
    assert refused.verdict is m.Verdict.BLOCK
    given_ = facts.message
    later = replace(
        content, stream=given_.stream, category=given_.category, purpose=given_.purpose
    )
    if given_.category is None:
        later = replace(later, category=content.category)
    assert not decide(replace(facts, message=later), PACKS).allowed


@many
@given(facts_)
def test_an_early_refusal_comes_where_nothing_is_recorded(facts: m.Facts) -> None:
    message = replace(facts.message, category=m.Category.MARKETING)
    recipient = m.Recipient(country="NL", kind=m.Kind.CONSUMER)
    refused = refuse_early(replace(facts, message=message, recipient=recipient, events=()), PACKS)
    assert refused is not None
    assert refused.reason in (m.Reason.NO_BASIS, m.Reason.PERMISSION_REQUEST)


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(facts_)
def test_the_counterfactual_is_asked_for_and_changes_nothing_else(facts: m.Facts) -> None:
    plain = decide(facts, PACKS)
    asked = decide(facts, PACKS, counterfactual=True)
    assert replace(asked, counterfactual=()) == plain
    assert plain.counterfactual == ()


def test_two_entries_of_one_uid_are_told_apart() -> None:
    def entry(detail: m.Detail) -> m.Event:
        at = NOW - timedelta(days=30)
        return m.Event(
            at=at, recorded_at=at, sender="A", detail=detail, evidence="proof", uid="1", exact=True
        )

    facts = m.Facts(
        at=NOW,
        sender=m.Sender(id="A", names=("A B.V.",)),
        recipient=m.Recipient(address="x@mail.example", country="DE", kind=m.Kind.CONSUMER),
        message=m.Message(stream="s", category=m.Category.MARKETING),
        events=(entry(m.Relationship()), entry(m.OptIn(box=m.Box.UNTICKED))),
    )
    asked = decide(facts, PACKS, counterfactual=True)
    assert replace(asked, counterfactual=()) == decide(facts, PACKS)


@many
@given(
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=st.just(UTC)),
    opt_ins | relationships | objections | others,
    st.sampled_from([*COUNTRIES, None]),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.none() | st.dates(),
)
def test_total_to_the_ends_of_the_calendar(
    at: datetime,
    then: datetime,
    detail: Any,
    country: str | None,
    last: datetime | None,
    until: date | None,
) -> None:
    if isinstance(detail, m.OptIn):
        detail = replace(detail, valid_until=until)
    facts = m.Facts(
        at=at,
        sender=m.Sender(id="A"),
        recipient=m.Recipient(country=country, last_marketing_at=last, account_abandoned=True),
        message=m.Message(products=("shoes",)),
        events=(
            m.Event(at=then, recorded_at=datetime.min.replace(tzinfo=UTC), sender="A",
                    detail=detail, evidence="x"),
        ),
    )
    assert decide(facts, PACKS).verdict is m.Verdict.BLOCK or country is not None
