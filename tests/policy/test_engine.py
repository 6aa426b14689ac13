"""What a decision carries beside its reason: trace, near misses, expiry, counterfactual."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from policy import model as m
from policy.counterfactual import changes
from policy.engine import decide, living_basis, refuse_early
from policy.explain import explain
from policy.pack import Packs
from policy.periods import add_months, after_day, after_months, local_day
from policy.vectors import cases_from
from proxy.packs import builtin_packs

PACKS = builtin_packs()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, 12, tzinfo=UTC)
OPT_IN = m.OptIn(box=m.Box.UNTICKED)
PURCHASE = m.Relationship(
    stage=m.Stage.PURCHASE,
    paid=True,
    products=("shoes",),
    address_from_customer=True,
    informed=True,
    objection_offered=m.ObjectionOffered.BOX,
)
MAIL = m.Message(
    stream="news",
    category=m.Category.MARKETING,
    purpose=m.Purpose.COMMERCIAL,
    products=("shoes",),
    sender_identity=True,
    unsubscribe=m.Unsubscribe.LINK,
    fake_reply=False,
    visible_recipients=1,
)


def event(detail: m.Detail, at: datetime = MARCH, **more: object) -> m.Event:
    values: dict[str, object] = {
        "at": at, "recorded_at": at, "sender": "A", "evidence": "proof", "uid": "e1", **more,
    }
    return m.Event(detail=detail, **values)  # type: ignore[arg-type]


def facts(*events: m.Event, message: m.Message = MAIL, **recipient: object) -> m.Facts:
    about: dict[str, object] = {"country": "NL", "kind": m.Kind.CONSUMER, **recipient}
    return m.Facts(
        at=NOW,
        sender=m.Sender(id="A", country="NL"),
        recipient=m.Recipient(**about),  # type: ignore[arg-type]
        message=message,
        events=events,
    )


def test_an_allow_names_its_basis() -> None:
    decision = decide(facts(event(OPT_IN)), PACKS)
    assert decision.basis == m.Basis(rule="consent", event="e1", evidence="proof", at=MARCH)
    assert decision.pack == PACKS["nl"].label
    assert decision.jurisdiction == "nl"
    assert decision.event == ""
    assert all(step.answer is m.Answer.YES for step in decision.trace)


def test_a_block_names_its_entry_and_article() -> None:
    no = event(m.Objection(), MARCH + timedelta(days=1), uid="e2")
    decision = decide(facts(event(OPT_IN), no), PACKS)
    assert (decision.event, decision.rule) == ("e2", "suppression")
    assert decision.cite == "GDPR 21(3); Tw 11.7(5)"
    assert decision.basis is None


def test_without_a_candidate_the_first_rule_is_cited() -> None:
    decision = decide(facts(), PACKS)
    assert decision.reason is m.Reason.NO_BASIS
    assert decision.cite == PACKS["nl"].rules[0].cite
    assert {step.condition for step in decision.trace} == {"event", "kind"}


def test_a_newer_opt_in_for_another_spelling_is_told_and_permits_nothing() -> None:
    near = event(OPT_IN, MARCH + timedelta(days=30), uid="near", exact=False)
    decision = decide(facts(near), PACKS)
    assert decision.reason is m.Reason.NO_BASIS
    assert [step.event for step in decision.trace if step.condition == "exact-address"] == ["near"]
    assert "another spelling of this address" in explain(decision, at=NOW)
    assert "andere schrijfwijze van dit adres" in explain(decision, "nl", at=NOW)
    no = event(m.Objection(), uid="no")
    decision = decide(facts(no, near), PACKS)
    assert decision.reason is m.Reason.SUPPRESSED
    assert "newer opt-in exists for another spelling" in explain(decision, at=NOW)
    later = replace(no, at=near.at, recorded_at=near.at)
    assert "another spelling" not in explain(decide(facts(later, near), PACKS), at=NOW)


def test_another_senders_evidence_is_not_shown() -> None:
    shared = event(
        replace(OPT_IN, third_parties=("A",)), sender="B", uid="secret-uid", evidence="secret"
    )
    decision = decide(facts(shared), PACKS)
    assert decision.reason is m.Reason.CONSENT
    assert "secret" not in repr(decision)
    no = event(m.Objection(scope=m.Scope.EVERYTHING), sender="B", uid="secret-uid")
    decision = decide(facts(no), PACKS)
    assert decision.reason is m.Reason.SUPPRESSED
    assert "secret" not in repr(decision)
    assert "at another sender" in explain(decision, at=NOW)
    bounce = event(m.Bounce(), NOW - timedelta(days=1), sender="B", uid="secret-uid")
    decision = decide(facts(event(OPT_IN), bounce), PACKS)
    assert (decision.reason, decision.event) == (m.Reason.SUPPRESSED, "")


def test_of_several_that_stop_the_newest_of_this_sender_is_named() -> None:
    days = {name: NOW - timedelta(days=back) for back, name in enumerate("cba")}
    for detail in (m.Objection(scope=m.Scope.EVERYTHING), m.Bounce()):
        own = [event(detail, days[name], uid=name) for name in "ab"]
        other = event(detail, days["c"], sender="B", uid="secret")
        for order in ((*own, other), (other, *reversed(own))):
            assert decide(facts(*order), PACKS).event == "b"


def test_the_basis_is_the_event_that_lasts_longest_then_the_newest() -> None:
    ending = event(replace(OPT_IN, valid_until=date(2027, 1, 1)), NOW - timedelta(days=1), uid="b")
    lasting = event(OPT_IN, uid="a")
    for order in ((ending, lasting), (lasting, ending)):
        decision = decide(facts(*order), PACKS)
        assert decision.basis is not None
        assert decision.basis.event == "a"
        assert decision.expires_at is None
    newer = event(OPT_IN, NOW - timedelta(days=1), uid="c")
    decision = decide(facts(newer, lasting), PACKS)
    assert decision.basis is not None
    assert decision.basis.event == "c"


def test_expiry_is_the_midnight_after_the_last_day_in_the_packs_zone() -> None:
    decision = decide(facts(event(PURCHASE)), PACKS)
    amsterdam = ZoneInfo("Europe/Amsterdam")
    assert decision.expires_at == datetime(2029, 3, 2, tzinfo=amsterdam)
    limited = replace(OPT_IN, valid_until=date(2026, 12, 31))
    decision = decide(facts(event(limited)), PACKS)
    assert decision.expires_at == datetime(2027, 1, 1, tzinfo=amsterdam)
    both = decide(facts(event(PURCHASE), country="FI"), PACKS)
    assert both.expires_at == datetime(2027, 3, 2, tzinfo=ZoneInfo("Europe/Brussels"))
    assert (both.jurisdiction, both.reason) == ("eu", m.Reason.SOFT_OPT_IN)


def test_expiry_of_several_products_is_the_earliest() -> None:
    short = replace(OPT_IN, products=("bread",), valid_until=date(2026, 12, 31))
    message = replace(MAIL, products=("shoes", "bread"))
    decision = decide(facts(event(PURCHASE), event(short, uid="e2"), message=message), PACKS)
    assert decision.reason is m.Reason.SOFT_OPT_IN
    assert decision.expires_at == datetime(2027, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))


def test_obligations_are_named_once_over_all_packs() -> None:
    message = replace(
        MAIL,
        sender_identity=False,
        unsubscribe=m.Unsubscribe.NONE,
        can_inject=frozenset({"identity", "unsubscribe"}),
    )
    decision = decide(facts(event(OPT_IN), country="FI", message=message), PACKS)
    assert decision.obligations == ("identity", "unsubscribe")
    assert "identity, unsubscribe" in explain(decision, at=NOW)


def test_early_refusals() -> None:
    assert refuse_early(facts(event(OPT_IN)), PACKS) is None
    assert refuse_early(facts(event(PURCHASE)), PACKS) is None
    refused = refuse_early(facts(), PACKS)
    assert refused is not None
    assert refused.reason is m.Reason.NO_BASIS
    bare = m.Message(stream="news", category=m.Category.MARKETING, purpose=m.Purpose.COMMERCIAL)
    assert refuse_early(facts(event(replace(OPT_IN, topics=("x",))), message=bare), PACKS) is None
    topic = event(m.Objection(scope=m.Scope.TOPIC, topics=("x",)), NOW, uid="e2")
    assert refuse_early(facts(event(OPT_IN), topic, message=bare), PACKS) is None
    stream = event(m.Objection(scope=m.Scope.STREAM, stream="news"), NOW, uid="e2")
    refused = refuse_early(facts(event(OPT_IN), stream, message=bare), PACKS)
    assert refused is not None
    assert refused.reason is m.Reason.SUPPRESSED
    lifting = replace(OPT_IN, topics=("x",), products=("shoes",))
    no, yes = event(m.Objection(), uid="e2"), event(lifting, NOW - timedelta(days=1), uid="e3")
    assert refuse_early(facts(no, yes, message=bare), PACKS) is None
    assert refuse_early(facts(no, message=bare), PACKS) is not None
    transactional = replace(bare, category=m.Category.TRANSACTIONAL)
    everything = event(m.Objection(scope=m.Scope.EVERYTHING), NOW, uid="e2")
    assert refuse_early(facts(everything, message=transactional), PACKS) is None
    bounce = event(m.Bounce(), NOW, uid="e2")
    assert refuse_early(facts(bounce, message=transactional), PACKS) is not None
    unknown = m.Message()
    assert refuse_early(facts(message=unknown), PACKS) is None
    assert refuse_early(facts(bounce, message=unknown), PACKS) is not None


def test_an_early_refusal_waits_for_the_longest_lifetime() -> None:
    old = event(replace(PURCHASE, products=("shoes", "car")), NOW - timedelta(days=2000))
    base = facts(old)
    lived = replace(base, sender=replace(base.sender, lifetimes={"car": 120}))
    assert refuse_early(base, PACKS) is not None
    assert refuse_early(lived, PACKS) is None
    assert not decide(lived, PACKS).allowed
    car = replace(lived, message=replace(MAIL, products=("car",)))
    assert decide(car, PACKS).allowed


def test_a_living_basis_is_what_the_message_could_still_use() -> None:
    bare = m.Message(category=m.Category.MARKETING, purpose=m.Purpose.COMMERCIAL)
    limited = event(replace(OPT_IN, topics=("x",), valid_until=date(2026, 12, 31)))
    basis = living_basis(facts(limited, message=bare), PACKS)
    assert basis is not None
    assert basis.reason is m.Reason.CONSENT
    assert basis.expires_at == datetime(2027, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))
    assert living_basis(facts(message=bare), PACKS) is None
    no = event(m.Objection(), NOW, uid="e2")
    assert living_basis(facts(limited, no, message=bare), PACKS) is None


def test_without_packs_no_law_is_known() -> None:
    none = Packs({})
    for country in ("NL", None):
        decision = decide(facts(event(OPT_IN), country=country), none)
        assert decision.reason is m.Reason.UNKNOWN_JURISDICTION
        assert (decision.pack, decision.jurisdiction) == ("", "")


def test_a_suppression_says_whose_law_it_cites_only_where_that_is_known() -> None:
    no = event(m.Objection(), uid="e2")
    known = decide(facts(no, country="US"), PACKS)
    assert (known.cite, known.pack) == ("15 USC 7704(a)(4)", PACKS["us"].label)
    for packs, country in ((PACKS, "BR"), (Packs({}), "NL"), (Packs({}), None)):
        decision = decide(facts(no, country=country), packs)
        assert decision.reason is m.Reason.SUPPRESSED
        assert (decision.cite, decision.pack, decision.jurisdiction) == ("GDPR 21(3)", "", "")
    bounce = decide(facts(event(m.Bounce(), NOW)), PACKS)
    assert bounce.cite == "RFC 3463"


YES, NO, UNKNOWN = m.Answer.YES, m.Answer.NO, m.Answer.UNKNOWN


@pytest.mark.parametrize(
    ("country", "detail", "condition", "answer", "words"),
    [
        ("NL", m.OptIn(), "affirmative-act", YES, "box unknown"),
        ("NL", m.OptIn(), "evidence", UNKNOWN, "box unknown"),
        ("NL", OPT_IN, "named", YES, "given to this sender"),
        ("NL", OPT_IN, "evidence", YES, "evidence proof"),
        (
            "NL",
            replace(OPT_IN, topics=("a", "b")),
            "topics",
            UNKNOWN,
            "topics a, b; message on unknown",
        ),
        ("NL", OPT_IN, "topics", YES, "all topics"),
        ("NL", replace(OPT_IN, products=("x",)), "products", NO, "products x; message on shoes"),
        ("NL", OPT_IN, "products", YES, "all products"),
        ("DE", OPT_IN, "double-opt-in", NO, "not confirmed"),
        ("DE", replace(OPT_IN, confirmed_at=MARCH), "double-opt-in", YES, "confirmed 2026-03-01"),
        ("DK", OPT_IN, "withdrawal-info", UNKNOWN, "told of withdrawal unknown"),
        ("NL", m.Relationship(), "sale", UNKNOWN, "stage unknown"),
        ("NL", m.Relationship(stage=m.Stage.CART), "sale", NO, "stage cart"),
        ("NL", replace(PURCHASE, paid=None), "sale", UNKNOWN, "stage purchase, paid unknown"),
        (
            "NL",
            replace(PURCHASE, paid=False, indirect_remuneration=True),
            "sale",
            YES,
            "stage purchase, paid no, indirect remuneration yes",
        ),
        ("NL", PURCHASE, "evidence", YES, "evidence proof"),
        (
            "NL",
            replace(PURCHASE, products=()),
            "similar",
            UNKNOWN,
            "products unknown; message on shoes",
        ),
        ("NL", replace(PURCHASE, products=("x",)), "similar", NO, "products x; message on shoes"),
        ("NL", PURCHASE, "term", YES, "since 2026-03-01"),
        ("AT", PURCHASE, "not-listed", YES, "lists none"),
    ],
)
def test_the_trace_tells_the_facts(
    country: str, detail: m.Detail, condition: str, answer: m.Answer, words: str
) -> None:
    steps = decide(facts(event(detail), country=country), PACKS).trace
    (step,) = [step for step in steps if step.condition == condition and step.pack != "nl"] or [
        step for step in steps if step.condition == condition
    ]
    assert (step.answer, step.detail, step.event) == (answer, words, "e1")


def test_the_trace_of_another_senders_entry() -> None:
    (step,) = decide(facts(event(OPT_IN, sender="B")), PACKS).trace[:1]
    assert (step.condition, step.answer, step.event) == ("named", NO, "")
    assert step.detail == "given to another sender"


def test_the_trace_of_unknown_purposes_and_products() -> None:
    business = {"kind": m.Kind.COMPANY_GENERIC}
    for purpose, published, answer in (
        (None, m.PublishedPurpose.PRESS, UNKNOWN),
        (m.Purpose.COMMERCIAL, None, UNKNOWN),
        (m.Purpose.COMMERCIAL, m.PublishedPurpose.PRESS, NO),
    ):
        entry = event(m.Published(purpose=published))
        message = replace(MAIL, purpose=purpose)
        steps = decide(facts(entry, message=message, **business), PACKS).trace
        assert [s.answer for s in steps if s.condition == "designated"] == [answer]
    nothing = replace(MAIL, products=())
    limited = event(replace(OPT_IN, products=("x",)))
    steps = decide(facts(limited, message=nothing), PACKS).trace
    assert [s.answer for s in steps if s.condition == "products"] == [UNKNOWN]
    steps = decide(facts(event(PURCHASE), message=nothing), PACKS).trace
    assert [s.answer for s in steps if s.condition == "similar"] == [UNKNOWN]
    gift = replace(PURCHASE, stage=m.Stage.DONATION, paid=None)
    message = replace(MAIL, purpose=m.Purpose.IDEAL)
    steps = decide(facts(event(gift), message=message), PACKS).trace
    told = {step.condition: step.detail for step in steps}
    assert told["sale"] == "stage donation"
    assert told["similar"] == "stage donation; message ideal"


def test_a_gate_tells_no_from_unknown() -> None:
    def answers(**recipient: object) -> dict[str, tuple[m.Answer, str]]:
        trace = decide(facts(**recipient), PACKS).trace  # type: ignore[arg-type]
        return {step.condition: (step.answer, step.detail) for step in trace}

    assert answers()["kind"] == (m.Answer.NO, "kind consumer")
    assert answers(kind=m.Kind.UNKNOWN)["kind"] == (m.Answer.UNKNOWN, "kind unknown")
    assert answers(country="GB")["legal-person"] == (m.Answer.NO, "legal person no")
    unknown = answers(country="GB", kind=m.Kind.UNKNOWN)["legal-person"]
    assert unknown == (m.Answer.UNKNOWN, "legal person unknown")
    assert answers(country="CA")["purpose"] == (m.Answer.NO, "purpose commercial")
    nothing = decide(facts(message=replace(MAIL, purpose=None), country="CA"), PACKS).trace
    assert (nothing[0].answer, nothing[0].detail) == (m.Answer.UNKNOWN, "purpose unknown")
    gift = replace(MAIL, purpose=m.Purpose.CHARITABLE)
    for registered, answer in ((None, UNKNOWN), ("NL", NO)):
        message = replace(gift, charity_registered_in=registered)
        (step, *_) = decide(facts(message=message, country="CA"), PACKS).trace
        assert (step.condition, step.answer) == ("charity-registered-in", answer)
        assert step.detail == f"registered in {registered or 'unknown'}"


def test_the_earliest_of_several_ends_counts() -> None:
    paris = ZoneInfo("Europe/Paris")
    limited = replace(OPT_IN, valid_until=date(2026, 12, 31))
    decision = decide(facts(event(limited), country="FR"), PACKS)
    assert decision.expires_at == datetime(2027, 1, 1, tzinfo=paris)
    lasting = replace(OPT_IN, valid_until=date(2036, 12, 31))
    decision = decide(facts(event(lasting), country="FR"), PACKS)
    # NL, from where it is sent, knows no term for consent.
    assert decision.expires_at == datetime(2029, 3, 2, tzinfo=paris)


def test_times_without_a_zone_are_refused() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="aware"):
        event(OPT_IN, naive)
    with pytest.raises(ValueError, match="aware"):
        replace(facts(), at=naive)


def test_the_search_for_a_change_ends() -> None:
    dubious = m.OptIn(box=m.Box.PRETICKED)
    many = facts(*(event(dubious, uid=str(n)) for n in range(20)))
    blocked = decide(many, PACKS)
    tried: list[m.Facts] = []

    def never(other: m.Facts) -> m.Decision:
        tried.append(other)
        return blocked

    assert changes(many, blocked, never) == ()
    assert len(tried) == 400
    tried.clear()
    assert changes(facts(), decide(facts(), PACKS), never) == ()
    assert 0 < len(tried) < 400


@pytest.mark.parametrize(
    ("detail", "fact", "needed"),
    [
        (m.OptIn(box=m.Box.PRETICKED), "opt-in of 2026-03-01: box", "unticked"),
        (replace(OPT_IN, channels=("sms",)), "opt-in of 2026-03-01: channels", "sms, email"),
        (replace(PURCHASE, paid=False), "relationship of 2026-03-01: paid", "yes"),
        (replace(PURCHASE, products=("bread",)), "similar", "shoes, bread"),
        (
            replace(PURCHASE, objection_offered=m.ObjectionOffered.NONE),
            "relationship of 2026-03-01: objection_offered",
            "box",
        ),
        (
            replace(PURCHASE, address_from_customer=None),
            "relationship of 2026-03-01: address_from_customer",
            "yes",
        ),
    ],
)
def test_the_smallest_change_is_of_the_condition_that_failed(
    detail: m.Detail, fact: str, needed: str
) -> None:
    decision = decide(facts(event(detail)), PACKS, counterfactual=True)
    assert [(change.fact, change.needed) for change in decision.counterfactual] == [(fact, needed)]
    words = explain(decision, at=NOW)
    assert "It would be allowed if:" in words
    assert needed in words


def test_what_is_needed_after_an_objection_is_a_new_opt_in() -> None:
    no = event(m.Objection(), uid="e2")
    decision = decide(facts(event(OPT_IN), no), PACKS, counterfactual=True)
    assert [change.fact for change in decision.counterfactual] == ["opt-in"]
    bounce = event(m.Bounce(), NOW - timedelta(days=1), uid="e2")
    decision = decide(facts(event(OPT_IN), bounce), PACKS, counterfactual=True)
    assert [change.fact for change in decision.counterfactual] == ["contact"]


def test_every_vector_has_a_counterfactual() -> None:
    """Some single change flips nearly every vector; none is left without an answer in silence."""
    without: list[str] = []
    for file in sorted((Path(__file__).parent / "vectors").glob("*.toml")):
        for case in cases_from(file.read_text("utf-8"), name=file.name):
            decision = decide(case.facts, PACKS, counterfactual=True)
            if not decision.counterfactual:
                without.append(case.id)
    assert len(without) < 5, without


def test_months_are_clipped_and_leap_years_known() -> None:
    assert add_months(date(2023, 11, 30), 3) == date(2024, 2, 29)
    assert add_months(date(2024, 11, 30), 3) == date(2025, 2, 28)
    assert add_months(date(2024, 2, 29), 12) == date(2025, 2, 28)
    assert add_months(date(2024, 2, 29), 48) == date(2028, 2, 29)
    assert add_months(date(1899, 12, 31), 2) == date(1900, 2, 28)
    assert add_months(date(1999, 12, 31), 2) == date(2000, 2, 29)
    assert add_months(date(2026, 8, 31), 6) == date(2027, 2, 28)
    assert add_months(date(9999, 12, 1), 1) == date.max


def test_days_are_those_of_the_zone() -> None:
    zone = ZoneInfo("Australia/Sydney")
    late = datetime(2026, 5, 1, 23, tzinfo=UTC)
    assert local_day(late, zone) == date(2026, 5, 2)
    assert after_months(late, 1, zone) == datetime(2026, 6, 3, tzinfo=zone)
    amsterdam = ZoneInfo("Europe/Amsterdam")
    # The day on which clocks go back has 25 hours.
    assert after_day(date(2026, 10, 25), amsterdam) - after_day(
        date(2026, 10, 24), amsterdam
    ) == timedelta(hours=25)
    last = datetime.max.replace(tzinfo=UTC)
    assert after_day(date.max, amsterdam) == last
    assert local_day(datetime.min.replace(tzinfo=UTC), ZoneInfo("America/New_York")) == date.min
