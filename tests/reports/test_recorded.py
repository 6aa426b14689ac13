"""What the journal keeps of a decision is enough to take it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from enum import EnumMeta, StrEnum
from typing import Any, cast
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy import model
from policy.engine import decide
from policy.model import Category, Event, Facts, Kind, Message, OptIn, Purpose, Recipient, Sender
from proxy.facts import HELD_ELSEWHERE, RECORD_VERSION, journal_json, journal_message
from proxy.packs import builtin_packs
from proxy.recorded import RecordError, facts_from_record

ACME = Sender(id="acme", names=("Acme B.V.",), country="NL", candidate_countries=("NL",))
T0 = datetime(2026, 11, 24, 9, tzinfo=UTC)

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x17F, exclude_categories=["C"]))
slugs = st.sampled_from(["newsletter", "offers", "running-shoes", "shoes/running"])
FIRST, LAST = date(2019, 1, 1), date(2027, 6, 1)
times = st.datetimes(
    datetime.combine(FIRST, time.min), datetime.combine(LAST, time.min), timezones=st.just(UTC)
)
truth = st.none() | st.booleans()

BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    "str": words,
    "str | None": st.none() | words,
    "bool": st.booleans(),
    "bool | None": truth,
    "int | None": st.none() | st.integers(0, 400),
    "datetime | None": st.none() | times,
    "datetime | date | None": st.none() | times | st.dates(FIRST, LAST),
    "tuple[str, ...]": st.lists(slugs, max_size=3).map(tuple),
    "tuple[str, ...] | None": st.none() | st.lists(slugs, max_size=3).map(tuple),
    "frozenset[str]": st.frozensets(st.sampled_from(["identity", "unsubscribe"])),
}


def values_of(class_: type[Any], **own: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any value of a class of facts, each field by its declared type."""
    made: dict[str, st.SearchStrategy[Any]] = {}
    for item in dataclasses.fields(class_):
        name = str(item.type)
        bare = name.removesuffix(" | None")
        if item.name in own:
            made[item.name] = own[item.name]
        elif name in BY_TYPE:
            made[item.name] = BY_TYPE[name]
        elif isinstance(enum := getattr(model, bare, None), EnumMeta):
            chosen = st.sampled_from(list(cast(Iterable[StrEnum], enum)))
            made[item.name] = chosen | st.none() if bare != name else chosen
    return st.builds(class_, **made)


details = st.one_of(
    values_of(model.OptIn, valid_until=BY_TYPE["datetime | date | None"]),
    values_of(model.Relationship),
    values_of(model.Published),
    values_of(model.Objection),
    values_of(model.Contact),
    values_of(model.Bounce),
    values_of(model.Complaint),
    st.builds(model.Registry, registry=st.just("ECG")),
)
events = st.builds(
    Event,
    at=times,
    recorded_at=times,
    sender=st.sampled_from(["acme", "globex"]),
    detail=details,
    evidence=st.sampled_from(["", "form:1", "bestelling:€ 1"]),
    uid=st.uuids().map(str),
    exact=st.booleans(),
)
addresses = st.sampled_from(
    ["anna@example.nl", "anna@example.co.uk", "anna@nl", "", "a.b@[1.2.3.4]"]
)
cases = st.builds(
    Facts,
    at=times,
    sender=st.just(ACME),
    recipient=values_of(
        Recipient,
        address=addresses,
        country=st.sampled_from([None, "NL", "DE", "US", "JP"]),
    ),
    message=values_of(Message),
    events=st.lists(events, max_size=4).map(tuple),
)


def as_recorded(facts: Facts) -> Facts:
    """The same case as far as the journal keeps it."""
    domain = facts.recipient.address.rpartition("@")[2]
    tld = domain.rpartition(".")[2] if "." in domain else ""
    kept = tuple(
        e if e.sender == "acme" or not e.evidence else replace(e, evidence=HELD_ELSEWHERE)
        for e in facts.events
    )
    address = f"?@?.{tld}" if tld else ""
    return replace(facts, events=kept, recipient=replace(facts.recipient, address=address))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_what_is_written_is_read_back(facts: Facts) -> None:
    text = journal_json(facts)
    assert text == journal_json(facts, journal_message(facts.message))
    assert facts_from_record(text, lambda _: ACME) == as_recorded(facts)
    assert "anna" not in text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_the_decision_is_the_same_again(facts: Facts) -> None:
    packs = builtin_packs()
    was = decide(facts, packs)
    again = decide(facts_from_record(journal_json(facts), lambda _: ACME), packs)
    assert replace(again, basis=None, trace=()) == replace(was, basis=None, trace=())
    assert (again.basis is None) == (was.basis is None)


def test_every_field_of_the_facts_is_recorded_or_known_to_be_a_setting() -> None:
    """A new fact has to be recorded too; settings are those that a back-test tries."""
    settings_ = {"address", "overlay"}
    classes: tuple[Any, ...] = (Recipient, Message)
    for class_ in classes:
        for item in dataclasses.fields(class_):
            if item.name in settings_:
                continue
            value = {
                "kind": Kind.CONSUMER,
                "category": Category.MARKETING,
                "purpose": Purpose.IDEAL,
                "unsubscribe": model.Unsubscribe.REPLY,
                "last_marketing_at": T0,
                "can_inject": frozenset({"identity"}),
                "visible_recipients": 3,
                "unsubscribe_valid_days": 30,
                "products": ("a",),
                "topics": ("b",),
                "relevant_functions": ("buyer",),
            }.get(item.name, True if "bool" in str(item.type) else "x")
            part = class_(**{item.name: value})
            facts = Facts(
                at=T0,
                sender=ACME,
                recipient=part if class_ is Recipient else Recipient(),
                message=part if class_ is Message else Message(),
            )
            assert facts_from_record(journal_json(facts), lambda _: ACME) == facts, item.name


def test_the_mails_that_were_counted_and_the_zone_are_recorded() -> None:
    overlay = model.Overlay(
        cap=model.Cap(most=1, window=timedelta(days=7)),
        quiet_hours=model.QuietHours(start=time(21), end=time(8), zone=UTC),
    )
    facts = Facts(
        at=T0,
        sender=ACME,
        recipient=Recipient(country="NL", timezone="Asia/Kathmandu"),
        message=Message(stream="newsletter"),
        sent=(model.Sent("newsletter", T0 - timedelta(days=1)), model.Sent("offers", T0)),
        zone=ZoneInfo("Asia/Kathmandu"),
    )
    assert facts_from_record(journal_json(facts), lambda _: ACME) == facts
    capped = replace(facts, message=replace(facts.message, overlay=overlay))
    assert journal_json(capped) == journal_json(facts)


VERSION_1 = orjson.dumps(
    {
        "v": 1,
        "at": "2026-11-24T09:00:00+00:00",
        "sender": "acme",
        "recipient": {"kind": "unknown", "country": "NL", "tld": "nl"},
        "message": {
            "stream": "newsletter", "category": "marketing", "purpose": "commercial",
            "topics": ["newsletter"], "visible_recipients": 1, "visible_recipients_allowed": False,
            "can_inject": [], "unsubscribe": "link",
        },
        "events": [
            {
                "uid": "u1", "type": "opt-in", "at": "2026-03-01T12:00:00+00:00",
                "recorded_at": "2026-03-01T12:00:00+00:00", "sender": sender, "exact": True,
                "evidence": evidence, "fields": {"box": "unticked"},
            }
            for sender, evidence in (("acme", "form:1"), ("globex", ""))
        ],
    }
).decode()  # fmt: skip


def test_records_of_the_first_version_stay_readable() -> None:
    facts = facts_from_record(VERSION_1, lambda _: ACME)
    assert facts.recipient == Recipient(country="NL", kind=Kind.UNKNOWN, address="?@?.nl")
    assert facts.message.topics == ("newsletter",)
    assert facts.message.unsubscribe is model.Unsubscribe.LINK
    own, other = facts.events
    assert isinstance(own.detail, OptIn)
    assert (own.evidence, other.evidence) == ("form:1", HELD_ELSEWHERE)
    assert facts.at - own.at > timedelta(days=200)


@pytest.mark.parametrize(
    "change",
    [
        {"v": RECORD_VERSION + 1},
        {"v": None},
        {"recipient": {"kind": "robot"}},
        {"recipient": {"shoe_size": 42}},
        {"recipient": {"country": 31}},
        {"message": {"topics": "newsletter"}},
        {"message": []},
        {"at": "yesterday"},
        {"at": "2026-11-24T09:00:00"},
        {"events": [{}]},
        {"sender": "nobody"},
    ],
)
def test_a_damaged_record_is_an_error_and_nothing_else(change: dict[str, object]) -> None:
    facts = Facts(at=T0, sender=ACME, recipient=Recipient(country="NL"), message=Message())
    record = orjson.loads(journal_json(facts)) | change
    with pytest.raises(RecordError):
        facts_from_record(orjson.dumps(record).decode(), {"acme": ACME}.__getitem__)
    for text in ("", "[]", "null", "{"):
        with pytest.raises(RecordError):
            facts_from_record(text, {"acme": ACME}.__getitem__)
