"""Overlays: caps, quiet hours, own terms, blocked products. They tighten, whatever the facts."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy import model as m
from policy.engine import decide, living_basis, refuse_early
from policy.explain import explain, sentence
from policy.vectors import VectorError, cases_from, run
from proxy.packs import builtin_packs

PACKS = builtin_packs()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
NIGHT = m.QuietHours(start=time(21), end=time(8), zone=AMSTERDAM)
TWO_A_WEEK = m.Cap(most=2, window=timedelta(days=7))

OPT_IN = m.OptIn(box=m.Box.UNTICKED)


def event(detail: m.Detail, days: float = 30, at: datetime = NOW) -> m.Event:
    then = at - timedelta(days=days)
    return m.Event(
        at=then, recorded_at=then, sender="acme", detail=detail, evidence="form:1", uid=f"e{days}"
    )


def facts(
    *,
    at: datetime = NOW,
    stream: m.Overlay = m.NO_OVERLAY,
    sender: m.Overlay = m.NO_OVERLAY,
    sent: tuple[m.Sent, ...] = (),
    zone: str | None = None,
    country: str | None = "NL",
    category: m.Category = m.Category.MARKETING,
    products: tuple[str, ...] = (),
    template: str | None = None,
    promotion: bool | None = None,
    events: tuple[m.Event, ...] | None = None,
) -> m.Facts:
    return m.Facts(
        at=at,
        sender=m.Sender(id="acme", country="NL", overlay=sender),
        recipient=m.Recipient(country=country, kind=m.Kind.CONSUMER, timezone=zone),
        message=m.Message(
            stream="news",
            category=category,
            purpose=m.Purpose.COMMERCIAL,
            products=products,
            topics=("news",),
            template=template,
            promotion=promotion,
            sender_identity=True,
            postal_address=True,
            unsubscribe=m.Unsubscribe.LINK,
            unsubscribe_valid_days=0,
            advertisement_label=True,
            fake_reply=False,
            visible_recipients=1,
            overlay=stream,
        ),
        events=(event(OPT_IN, at=at),) if events is None else events,
        sent=sent,
        zone=ZoneInfo(zone) if zone else None,
    )


def ago(hours: float, stream: str = "news") -> m.Sent:
    return m.Sent(stream, NOW - timedelta(hours=hours))


# -- frequency caps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "until"),
    [
        ((), None),
        ((ago(1),), None),
        ((ago(1), ago(2)), NOW + timedelta(hours=7 * 24 - 2)),
        ((ago(2), ago(1)), NOW + timedelta(hours=7 * 24 - 2)),  # in whatever order
        ((ago(1), ago(2), ago(3)), NOW + timedelta(hours=7 * 24 - 2)),  # over it: two must leave
        ((ago(1), ago(7 * 24 - 0.001)), NOW + timedelta(seconds=4)),  # 3.6 s, a whole second
        ((ago(1), ago(7 * 24)), None),  # exactly a window ago counts no more
        ((ago(-1), ago(1)), NOW + timedelta(hours=7 * 24 - 1)),  # a clock ahead of ours counts
        ((ago(1, "other"), ago(2, "other"), ago(3)), None),  # another stream's do not
    ],
)
def test_a_stream_counts_its_own_mails(sent: tuple[m.Sent, ...], until: datetime | None) -> None:
    decision = decide(facts(stream=m.Overlay(cap=TWO_A_WEEK), sent=sent), PACKS)
    assert decision.until == until
    if until is None:
        assert (decision.verdict, decision.reason) == (m.Verdict.ALLOW, m.Reason.CONSENT)
    else:
        assert (decision.verdict, decision.reason) == (m.Verdict.DEFER, m.Reason.FREQUENCY_CAP)
        assert decision.cite == ""
        assert decision.basis is not None  # what it will leave on


def test_at_the_named_moment_there_is_room_and_not_before() -> None:
    case = facts(stream=m.Overlay(cap=TWO_A_WEEK), sent=(ago(3), ago(2)))
    until = decide(case, PACKS).until
    assert until is not None
    assert decide(replace(case, at=until), PACKS).allowed
    assert not decide(replace(case, at=until - timedelta(microseconds=1)), PACKS).allowed


def test_a_sender_counts_all_its_streams() -> None:
    cap = m.Overlay(cap=TWO_A_WEEK)
    sent = (ago(1, "other"), ago(2))
    assert decide(facts(sender=cap, sent=sent), PACKS).reason is m.Reason.FREQUENCY_CAP
    assert decide(facts(stream=cap, sent=sent), PACKS).allowed


def test_both_caps_must_have_room() -> None:
    case = facts(
        stream=m.Overlay(cap=m.Cap(most=1, window=timedelta(days=1))),
        sender=m.Overlay(cap=TWO_A_WEEK),
        sent=(ago(1), ago(2)),
    )
    assert decide(case, PACKS).until == NOW + timedelta(hours=7 * 24 - 2)


@pytest.mark.parametrize("category", [m.Category.TRANSACTIONAL, m.Category.PERSONAL])
def test_what_is_not_marketing_is_never_held(category: m.Category) -> None:
    night = m.Overlay(cap=m.Cap(most=1, window=timedelta(days=1)), quiet_hours=NIGHT)
    late = datetime(2026, 11, 24, 23, tzinfo=UTC)
    case = facts(
        at=late, stream=night, sender=night, sent=(m.Sent("news", late),) * 3,
        category=category, promotion=False,
    )  # fmt: skip
    assert decide(case, PACKS).reason is m.Reason.NOT_MARKETING


def test_promotion_in_a_service_mail_waits_like_marketing() -> None:
    case = facts(
        stream=m.Overlay(cap=TWO_A_WEEK, blocked_products=("wine",)), sent=(ago(1), ago(2)),
        category=m.Category.TRANSACTIONAL, promotion=True, products=("shoes",),
    )  # fmt: skip
    assert decide(case, PACKS).reason is m.Reason.FREQUENCY_CAP
    wine = replace(case, message=replace(case.message, products=("wine/red",)))
    assert decide(wine, PACKS).reason is m.Reason.MIXED_PURPOSE


def test_the_law_comes_first() -> None:
    case = facts(stream=m.Overlay(cap=TWO_A_WEEK), sent=(ago(1), ago(2)), events=())
    assert decide(case, PACKS).reason is m.Reason.NO_BASIS
    case = facts(stream=m.Overlay(cap=TWO_A_WEEK), sent=(ago(1), ago(2)))
    unshown = replace(case.message, sender_identity=False)
    assert decide(replace(case, message=unshown), PACKS).reason is m.Reason.NO_IDENTITY


# -- quiet hours -----------------------------------------------------------------------------------


def hours(start: str, end: str, zone: str = "Europe/Amsterdam") -> m.Overlay:
    return m.Overlay(
        quiet_hours=m.QuietHours(
            start=time.fromisoformat(start), end=time.fromisoformat(end), zone=ZoneInfo(zone)
        )
    )


# (hours, zone, moment, until) in UTC; the zone is the recipient's own.
TABLE = [
    # Amsterdam in winter (UTC+1), 21:00 to 08:00
    ("21:00", "08:00", "Europe/Amsterdam", "2026-11-24T19:59:59", None),
    ("21:00", "08:00", "Europe/Amsterdam", "2026-11-24T20:00:00", "2026-11-25T07:00:00"),
    ("21:00", "08:00", "Europe/Amsterdam", "2026-11-24T23:30:00", "2026-11-25T07:00:00"),
    ("21:00", "08:00", "Europe/Amsterdam", "2026-11-25T06:59:59", "2026-11-25T07:00:00"),
    ("21:00", "08:00", "Europe/Amsterdam", "2026-11-25T06:59:59.5", "2026-11-25T07:00:00"),
    ("21:00", "08:00", "Europe/Amsterdam", "2026-11-25T07:00:00", None),
    # within one day
    ("12:00", "13:30", "Europe/Amsterdam", "2026-07-01T10:00:00", "2026-07-01T11:30:00"),
    ("12:00", "13:30", "Europe/Amsterdam", "2026-07-01T11:30:00", None),
    # UTC+5:45, and a zone beyond the date line
    ("21:00", "08:00", "Asia/Kathmandu", "2026-11-24T15:14:59", None),
    ("21:00", "08:00", "Asia/Kathmandu", "2026-11-24T15:15:00", "2026-11-25T02:15:00"),
    ("21:00", "08:00", "Pacific/Kiritimati", "2026-11-24T07:00:00", "2026-11-24T18:00:00"),
    # back at 01:00 UTC on 25 October 2026: 02:30 on the wall comes twice, and is quiet twice
    ("02:15", "02:45", "Europe/Amsterdam", "2026-10-25T00:30:00", "2026-10-25T00:45:00"),
    ("02:15", "02:45", "Europe/Amsterdam", "2026-10-25T00:50:00", None),
    ("02:15", "02:45", "Europe/Amsterdam", "2026-10-25T01:30:00", "2026-10-25T01:45:00"),
    # the night is an hour longer, on the wall as before
    ("21:00", "08:00", "Europe/Amsterdam", "2026-10-24T20:00:00", "2026-10-25T07:00:00"),
    ("21:00", "02:30", "Europe/Amsterdam", "2026-10-24T20:00:00", "2026-10-25T00:30:00"),
    ("21:00", "03:30", "Europe/Amsterdam", "2026-10-24T20:00:00", "2026-10-25T02:30:00"),
    # forward at 01:00 UTC on 28 March 2027: 02:30 is not, and hours until then end with the leap
    ("21:00", "02:30", "Europe/Amsterdam", "2027-03-27T23:00:00", "2027-03-28T01:00:00"),
    ("21:00", "02:30", "Europe/Amsterdam", "2027-03-28T01:00:00", None),
    ("02:15", "02:45", "Europe/Amsterdam", "2027-03-28T01:00:00", None),
    ("21:00", "08:00", "Europe/Amsterdam", "2027-03-27T22:00:00", "2027-03-28T06:00:00"),
    # half an hour of summer time
    ("21:00", "08:00", "Australia/Lord_Howe", "2026-10-03T12:00:00", "2026-10-03T21:00:00"),
]


@pytest.mark.parametrize(("start", "end", "zone", "at", "until"), TABLE)
def test_quiet_hours_by_the_clock_on_the_wall(
    start: str, end: str, zone: str, at: str, until: str | None
) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    case = facts(at=moment, stream=hours(start, end), zone=zone)
    decision = decide(case, PACKS)
    if until is None:
        assert decision.allowed
    else:
        assert (decision.verdict, decision.reason) == (m.Verdict.DEFER, m.Reason.QUIET_HOURS)
        assert decision.until == datetime.fromisoformat(until).replace(tzinfo=UTC)
        assert decide(replace(case, at=decision.until), PACKS).allowed


def test_the_zone_is_the_recipients_then_the_countrys_then_the_streams() -> None:
    stream = hours("21:00", "08:00", "Asia/Kathmandu")
    noon = datetime(2026, 11, 24, 2, tzinfo=UTC)  # 03:00 Amsterdam, 07:45 Kathmandu, 11:00 Tokyo
    six = datetime(2026, 11, 24, 3, tzinfo=UTC)  # 04:00 Amsterdam, 08:45 Kathmandu
    assert decide(facts(at=noon, stream=stream, zone="Asia/Tokyo"), PACKS).allowed
    assert not decide(facts(at=six, stream=stream), PACKS).allowed
    # Finland has no pack of its own: Brussels' time is not its own either.
    assert decide(facts(at=six, stream=stream, country="FI"), PACKS).allowed
    words = [s.detail for s in decide(facts(at=noon, stream=stream, country="FI"), PACKS).trace]
    assert "21:00 to 08:00 in Asia/Kathmandu, now 07:45" in words


@settings(max_examples=300, deadline=None)
@given(
    st.datetimes(
        min_value=datetime(2026, 1, 1),  # noqa: DTZ001
        max_value=datetime(2028, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    st.times(),
    st.times(),
    st.sampled_from(
        ["Europe/Amsterdam", "Asia/Kathmandu", "Australia/Lord_Howe", "America/New_York", "UTC"]
    ),
)
def test_the_named_moment_is_the_first_that_is_not_quiet(
    at: datetime, start: time, end: time, zone: str
) -> None:
    start, end = (t.replace(second=0, microsecond=0) for t in (start, end))
    if start == end:
        return
    overlay = m.Overlay(quiet_hours=m.QuietHours(start=start, end=end, zone=ZoneInfo(zone)))
    case = facts(at=at.replace(microsecond=0), stream=overlay, zone=zone)
    until = decide(case, PACKS).until
    moment = case.at
    while until is not None and moment < until:  # every minute before it is quiet
        assert decide(replace(case, at=moment), PACKS).until == until
        moment += max(timedelta(minutes=30), (until - moment) / 4)
    if until is not None:
        assert decide(replace(case, at=until), PACKS).allowed
        assert not decide(replace(case, at=until - timedelta(seconds=1)), PACKS).allowed


def test_room_in_the_cap_within_quiet_hours_waits_for_their_end() -> None:
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    sent = m.Sent("news", datetime(2026, 11, 23, 22, tzinfo=UTC))
    overlay = m.Overlay(cap=m.Cap(most=1, window=timedelta(days=1)), quiet_hours=NIGHT)
    decision = decide(facts(at=at, stream=overlay, sent=(sent,)), PACKS)
    assert decision.reason is m.Reason.FREQUENCY_CAP
    assert decision.until == datetime(2026, 11, 25, 7, tzinfo=UTC)


def test_hours_that_never_end_name_no_moment() -> None:
    always = m.Overlay(quiet_hours=m.QuietHours(start=time(8), end=time(8), zone=AMSTERDAM))
    decision = decide(facts(stream=always), PACKS)
    assert (decision.verdict, decision.until) == (m.Verdict.DEFER, None)
    never = m.Overlay(cap=m.Cap(most=0, window=timedelta(days=1)))
    assert decide(facts(stream=never), PACKS).until is None


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"])
def test_total_to_the_ends_of_the_calendar(end: str) -> None:
    at = datetime.fromisoformat(end)
    overlay = m.Overlay(cap=TWO_A_WEEK, quiet_hours=NIGHT)
    now = m.Event(at=at, recorded_at=at, sender="acme", detail=OPT_IN, evidence="x", uid="e")
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        case = facts(
            at=at, stream=overlay, zone=zone, sent=(m.Sent("news", at),) * 2, events=(now,)
        )
        assert decide(case, PACKS).verdict is m.Verdict.DEFER
        decide(replace(case, sent=()), PACKS)


# -- own terms -------------------------------------------------------------------------------------


def months(**by_rule: int) -> m.Overlay:
    return m.Overlay(valid_months={key.replace("_", "-"): n for key, n in by_rule.items()})


def test_an_own_term_runs_from_the_last_act_in_calendar_months() -> None:
    given_ = datetime(2026, 1, 31, 12, tzinfo=UTC)
    consent = m.Event(
        at=given_, recorded_at=given_, sender="acme", detail=OPT_IN, evidence="f", uid="e"
    )
    overlay = months(consent=1)
    last = datetime(2026, 2, 28, 22, 59, 59, tzinfo=UTC)  # 28 February in Amsterdam
    allowed = decide(facts(at=last, stream=overlay, events=(consent,)), PACKS)
    assert allowed.allowed
    assert allowed.expires_at == last + timedelta(seconds=1)
    after = facts(at=last + timedelta(seconds=1), stream=overlay, events=(consent,))
    expired = decide(after, PACKS)
    assert (expired.verdict, expired.reason) == (m.Verdict.BLOCK, m.Reason.EXPIRED)
    assert not expired.needs_review
    click = event(m.Contact(via=m.ContactVia.CLICK), days=5, at=last)
    assert decide(replace(after, events=(consent, click)), PACKS).allowed


def test_an_own_term_is_the_shorter_of_stream_and_sender_and_never_longer_than_the_pack() -> None:
    old = (event(OPT_IN, days=100),)
    assert not decide(facts(stream=months(consent=2), events=old), PACKS).allowed
    assert not decide(facts(sender=months(consent=2), events=old), PACKS).allowed
    both = facts(stream=months(consent=12), sender=months(consent=2), events=old)
    assert not decide(both, PACKS).allowed
    sale = m.Relationship(
        stage=m.Stage.PURCHASE, paid=True, products=("shoes",), address_from_customer=True,
        informed=True, objection_offered=m.ObjectionOffered.BOX,
    )  # fmt: skip
    sold = facts(products=("shoes",), events=(event(sale, days=37 * 31),))
    assert decide(sold, PACKS).reason is m.Reason.EXPIRED
    longer = replace(sold, message=replace(sold.message, overlay=months(soft_opt_in=600)))
    assert decide(longer, PACKS).reason is m.Reason.EXPIRED
    other = replace(sold, events=(event(sale, days=300),))
    assert decide(other, PACKS).allowed
    shorter = replace(other, message=replace(other.message, overlay=months(soft_opt_in=6)))
    assert decide(shorter, PACKS).reason is m.Reason.EXPIRED
    unasked = replace(other, message=replace(other.message, overlay=months(consent=6)))
    assert decide(unasked, PACKS).allowed


def test_a_running_subscription_stands_still_and_another_rule_may_still_allow() -> None:
    running = m.Relationship(
        stage=m.Stage.SUBSCRIPTION, paid=True, products=("shoes",), address_from_customer=True,
        informed=True, objection_offered=m.ObjectionOffered.BOX,
    )  # fmt: skip
    overlay = months(soft_opt_in=1, consent=1)
    case = facts(stream=overlay, products=("shoes",), events=(event(running, days=400),))
    assert decide(case, PACKS).reason is m.Reason.SOFT_OPT_IN
    ended = replace(running, ended_at=NOW - timedelta(days=40))
    assert decide(replace(case, events=(event(ended, days=400),)), PACKS).reason is m.Reason.EXPIRED
    still = event(running, days=400), event(OPT_IN, days=500)
    assert decide(replace(case, events=still), PACKS).reason is m.Reason.SOFT_OPT_IN


def test_an_own_term_is_known_early_and_to_the_census() -> None:
    case = facts(sender=months(consent=1), events=(event(OPT_IN, days=100),))
    refused = refuse_early(case, PACKS)
    assert refused is not None
    assert refused.reason is m.Reason.EXPIRED
    assert living_basis(case, PACKS) is None


# -- blocked products ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("products", "allowed"),
    [
        (("shoes",), True),
        (("wine",), False),
        (("wine/red",), False),
        (("winery",), True),
        (("shoes", "wine"), False),
        ((), False),  # unknown: it may be wine
    ],
)
def test_blocked_products(products: tuple[str, ...], allowed: bool) -> None:
    for where in ("stream", "sender"):
        overlay = m.Overlay(blocked_products=("wine",))
        case = facts(products=products, **{where: overlay})  # type: ignore[arg-type]
        decision = decide(case, PACKS)
        assert decision.allowed is allowed
        if not allowed:
            assert decision.reason is m.Reason.NOT_AUTHORISED
            assert decision.verdict is m.Verdict.BLOCK
            assert decision.basis is None
        assert refuse_early(case, PACKS) is None


# -- words -----------------------------------------------------------------------------------------


def test_a_deferral_reads_like_this() -> None:
    at = datetime(2026, 11, 24, 21, 14, tzinfo=UTC)
    case = facts(at=at, stream=m.Overlay(quiet_hours=NIGHT))
    decision = decide(case, PACKS, counterfactual=True)
    assert sentence(decision) == (
        "quiet-hours: it is the recipient's quiet hours; not before 2026-11-25 07:00:00 UTC"
    )
    lines = explain(decision, at=at).splitlines()
    assert lines[0] == "Deferred (quiet-hours): it is the recipient's quiet hours."
    assert "It may leave from 2026-11-25 07:00:00 UTC on." in lines
    assert (
        "  - outside quiet hours: no, 21:00 to 08:00 in Europe/Amsterdam, now 22:14 [overlay]"
        in lines
    )
    assert "It would be allowed if:" in lines
    assert (
        "  - moment of sending: 2026-11-25 07:00:00 UTC (now: 2026-11-24 21:14:00 UTC)" in lines
    )
    dutch = explain(decision, "nl", at=at).splitlines()
    assert dutch[0] == "Uitgesteld (quiet-hours): het zijn de stille uren van de ontvanger."
    assert "Het mag weg vanaf 2026-11-25 07:00:00 UTC." in dutch
    assert (
        "  - buiten de stille uren: nee, 21:00 tot 08:00 in Europe/Amsterdam, nu 22:14 [overlay]"
        in dutch
    )
    assert (
        "  - moment van verzenden: 2026-11-25 07:00:00 UTC (nu: 2026-11-24 21:14:00 UTC)" in dutch
    )


def test_a_full_cap_and_an_own_term_are_explained_in_both_languages() -> None:
    full = facts(stream=m.Overlay(cap=TWO_A_WEEK), sent=(ago(1), ago(2)))
    decision = decide(full, PACKS, counterfactual=True)
    assert [c.fact for c in decision.counterfactual] == ["moment of sending"]
    assert "  - fewer mails than the cap: no, 2 of at most 2 within 7d [overlay]" in explain(
        decision, at=NOW
    )
    assert "  - minder mails dan het maximum: nee, 2 van ten hoogste 2 binnen 7d" in explain(
        decision, "nl", at=NOW
    )
    old = facts(stream=months(consent=2), events=(event(OPT_IN, days=100),))
    decision = decide(old, PACKS, counterfactual=True)
    assert [c.needed for c in decision.counterfactual] == ["the person acted lately"]
    assert "within the operator's own term: no, last act 2026-08-16" in explain(decision, at=NOW)
    assert "binnen de eigen termijn: nee, laatste handeling 2026-08-16" in explain(
        decision, "nl", at=NOW
    )
    wine = facts(
        stream=m.Overlay(blocked_products=("wine",)), products=("wine/red", "shoes")
    )
    decision = decide(wine, PACKS, counterfactual=True)
    assert [(c.fact, c.needed) for c in decision.counterfactual] == [("message: products", "shoes")]
    assert "no blocked product: no, product wine/red [overlay]" in explain(decision, at=NOW)
    assert "geen uitgesloten product: nee, product wine/red" in explain(decision, "nl", at=NOW)


@pytest.mark.parametrize(
    ("reviewer", "day", "english", "dutch"),
    [
        ("J. Vos", date(2026, 3, 1), " by J. Vos on 2026-03-01", " door J. Vos op 2026-03-01"),
        ("J. Vos", None, " by J. Vos", " door J. Vos"),
        (None, None, " by the operator", " door de beheerder"),
    ],
)
def test_who_declared_products_similar_is_said(
    reviewer: str | None, day: date | None, english: str, dutch: str
) -> None:
    sale = m.Relationship(
        stage=m.Stage.PURCHASE, paid=True, products=("shoes",), address_from_customer=True,
        informed=True, objection_offered=m.ObjectionOffered.BOX,
    )  # fmt: skip
    case = facts(products=("socks/wool",), events=(event(sale),))
    assert decide(case, PACKS).reason is m.Reason.NOT_SIMILAR
    group = m.SimilarGroup(products=("shoes", "socks"), reviewer=reviewer, reviewed_on=day)
    decision = decide(replace(case, sender=replace(case.sender, similar=(group,))), PACKS)
    assert decision.reason is m.Reason.SOFT_OPT_IN
    said = "products shoes; message on socks/wool, declared similar" + english + " [nl/soft-opt-in]"
    assert said in explain(decision, at=NOW)
    said = "producten shoes; bericht over socks/wool, gelijksoortig verklaard" + dutch + " ["
    assert said in explain(decision, "nl", at=NOW)
    own = replace(case, message=replace(case.message, products=("shoes/run",)))
    assert "declared" not in explain(decide(own, PACKS), at=NOW)


# -- in vector files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('overlay = { max_per_person = "2" }', 'max_per_person: expected mails in a time'),
        ('overlay = { quiet_hours = "9-17" }', "quiet_hours: expected two times"),
        ("overlay = { valid_months = { legal-person = 2 } }", "valid_months: expected months by"),
        ("sender_overlay = { caps = 2 }", "caps: unknown field"),
        ("overlay = 2", "overlay: expected a table"),
        ("sent = 2", "sent: expected a list of tables"),
        ("sent = [{ stream = 's' }]", "sent.at: missing"),
    ],
)
def test_a_vector_says_what_is_wrong_with_its_overlay(line: str, problem: str) -> None:
    text = (
        '[[case]]\nid = "x"\nat = 2026-11-24T12:00:00Z\nsender = "A"\nmessage = {}\n'
        f'recipient = {{}}\nexpect = {{ verdict = "block", reason = ["no-basis"] }}\n{line}\n'
    )
    with pytest.raises(VectorError, match=re.escape(problem)):
        cases_from(text, name="f.toml")


def test_a_vector_that_expects_another_moment_fails() -> None:
    text = (Path(__file__).parent / "vectors" / "overlay.toml").read_text("utf-8")
    cases = cases_from(text.replace("until = 2026-11-30T12", "until = 2026-11-30T13"), name="f")
    [wrong] = [outcome.words for case in cases if not (outcome := run(case, PACKS)).ok]
    assert wrong == (
        "expected until 2026-11-30 13:00:00+00:00, got 2026-11-30 12:00:00+00:00"
    )


# -- laws ------------------------------------------------------------------------------------------

PERMITTED = [
    case.facts
    for file in sorted((Path(__file__).parent / "vectors").glob("*.toml"))
    for case in cases_from(file.read_text("utf-8"), name=file.name)
]
overlays = st.builds(
    m.Overlay,
    cap=st.none()
    | st.builds(
        m.Cap,
        most=st.integers(0, 3),
        window=st.sampled_from([timedelta(days=1), timedelta(days=9)]),
    ),
    quiet_hours=st.none()
    | st.builds(
        m.QuietHours, start=st.times(), end=st.times(), zone=st.sampled_from([AMSTERDAM, UTC])
    ),
    valid_months=st.dictionaries(
        st.sampled_from(["consent", "soft-opt-in", "implied-consent", "published-address"]),
        st.integers(1, 40),
    ),
    blocked_products=st.sampled_from([(), (), ("shoes",), ("bread", "shoes/run")]),
)


@st.composite
def overlaid(draw: st.DrawFn) -> tuple[m.Facts, m.Facts]:
    """Facts of a vector, with some overlay and then with another in its place or beside it."""
    base = draw(st.sampled_from(PERMITTED))
    sent = tuple(
        m.Sent(draw(st.sampled_from(["", "s"])), base.at - timedelta(hours=n))
        for n in draw(st.lists(st.integers(-1, 300), max_size=4))
    )
    with_sent = replace(base, sent=sent, zone=draw(st.sampled_from([None, ZoneInfo("Asia/Tokyo")])))
    one = draw(st.just(m.NO_OVERLAY) | overlays)
    plain = replace(with_sent, message=replace(base.message, overlay=one))
    return plain, replace(plain, sender=replace(base.sender, overlay=draw(overlays)))


@settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
@given(overlaid())
def test_an_overlay_never_loosens(pair: tuple[m.Facts, m.Facts]) -> None:
    plain, tightened = pair
    bare = replace(plain, message=replace(plain.message, overlay=m.NO_OVERLAY))
    chain = [decide(f, PACKS) for f in (bare, plain, tightened)]
    strength = [
        (m.Verdict.ALLOW, m.Verdict.DEFER, m.Verdict.BLOCK).index(d.verdict) for d in chain
    ]
    assert strength == sorted(strength)
    for before, after in pairwise(chain):
        if not after.allowed:
            continue
        assert set(before.obligations) <= set(after.obligations) or before.basis != after.basis
        if before.basis == after.basis and isinstance(after.expires_at, datetime):
            assert not isinstance(before.expires_at, datetime) or (
                after.expires_at <= before.expires_at
            )
        if before.expires_at is not None:
            assert after.expires_at is not None or before.basis != after.basis


@settings(max_examples=200, suppress_health_check=list(HealthCheck), deadline=None)
@given(overlaid(), st.integers(0, 300))
def test_one_more_mail_never_loosens(pair: tuple[m.Facts, m.Facts], hours_ago: int) -> None:
    _, facts_ = pair
    more = m.Sent(facts_.message.stream, facts_.at - timedelta(hours=hours_ago))
    if decide(replace(facts_, sent=(*facts_.sent, more)), PACKS).allowed:
        assert decide(facts_, PACKS).allowed


@settings(max_examples=200, suppress_health_check=list(HealthCheck), deadline=None)
@given(overlaid())
def test_an_early_refusal_is_certain_under_overlays(pair: tuple[m.Facts, m.Facts]) -> None:
    _, facts_ = pair
    if refuse_early(facts_, PACKS) is not None:
        assert decide(facts_, PACKS).verdict is m.Verdict.BLOCK


@settings(max_examples=200, suppress_health_check=list(HealthCheck), deadline=None)
@given(overlaid())
def test_a_deferral_ends_when_it_says(pair: tuple[m.Facts, m.Facts]) -> None:
    _, facts_ = pair
    decision = decide(facts_, PACKS)
    assert decision == decide(facts_, PACKS)
    assert (decision.until is None) or decision.verdict is m.Verdict.DEFER
    if decision.until is not None:
        later = decide(replace(facts_, at=decision.until), PACKS)
        assert later.verdict is not m.Verdict.DEFER  # a basis may have run out meanwhile
        assert decision.until > facts_.at
    assert sentence(decision).isprintable()
    assert explain(decision, "nl", at=facts_.at)


# -- permission requests ---------------------------------------------------------------------------


@pytest.mark.parametrize("category", list(m.Category))
@pytest.mark.parametrize("promotion", [True, False, None])
def test_a_permission_request_is_marketing_whatever_it_is_called(
    category: m.Category, promotion: bool | None
) -> None:
    case = facts(
        category=category, promotion=promotion, template="permission-request", events=()
    )
    assert decide(case, PACKS).reason is m.Reason.PERMISSION_REQUEST
    alive = replace(case, events=(event(OPT_IN),))
    assert decide(alive, PACKS).reason is m.Reason.CONSENT
    expired = replace(alive, message=replace(alive.message, overlay=months(consent=1)))
    old = replace(expired, events=(event(OPT_IN, days=90),))
    assert decide(old, PACKS).reason is m.Reason.PERMISSION_REQUEST
