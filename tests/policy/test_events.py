"""The codec of events: strict in, the same out."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import events, model
from policy.events import FieldError, detail_from, fields_of, recipient_from, type_of

words = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
tuples = st.lists(words, max_size=3).map(tuple)
times = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 (Hypothesis wants naive bounds)
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
maybe = st.none() | st.booleans()

details = st.one_of(
    st.builds(
        model.OptIn,
        box=st.none() | st.sampled_from(model.Box),
        topics=tuples,
        products=tuples,
        confirmed_at=st.none() | times,
        text_version=st.none() | words,
        source=st.none() | words,
        ip=st.none() | words,
        valid_until=st.none() | times | st.dates(),
        third_parties=tuples,
        channels=tuples,
        withdrawal_info_given=maybe,
    ),
    st.builds(
        model.Relationship,
        stage=st.none() | st.sampled_from(model.Stage),
        paid=maybe,
        indirect_remuneration=maybe,
        products=tuples,
        address_from_customer=maybe,
        informed=maybe,
        objection_offered=st.none() | st.sampled_from(model.ObjectionOffered),
        ended_at=st.none() | times,
    ),
    st.builds(
        model.Published,
        purpose=st.none() | st.sampled_from(model.PublishedPurpose),
        no_spam_notice=maybe,
        informed_at_collection=maybe,
    ),
    st.builds(
        model.Objection,
        scope=st.sampled_from(model.Scope),
        topics=tuples,
        stream=st.none() | words,
        via=st.none() | st.sampled_from(model.Via),
    ),
    st.builds(model.Contact, via=st.none() | st.sampled_from(model.ContactVia)),
    st.builds(
        model.Bounce, severity=st.sampled_from(model.Severity), status=st.none() | words
    ),
    st.builds(model.Complaint, via=st.none() | st.sampled_from(model.ComplaintVia)),
    st.builds(model.Registry, registry=words),
)


@given(details)
def test_round_trip_through_json(detail: model.Detail) -> None:
    fields = json.loads(json.dumps(fields_of(detail)))
    assert detail_from(type_of(detail), fields) == detail


def test_every_field_of_every_type_is_known() -> None:
    samples = {"registry": {"registry": "ECG"}}
    for name, fields in events.EVENT_FIELDS.items():
        detail = detail_from(name, samples.get(name, {}))
        assert type_of(detail) == name
        assert tuple(f.name for f in dataclasses.fields(detail)) == fields


@pytest.mark.parametrize(
    ("type_", "fields", "key"),
    [
        ("optin", {}, "type"),
        ("opt-in", {"colour": "red"}, "colour"),
        ("opt-in", {"box": "ticked"}, "box"),
        ("opt-in", {"box": True}, "box"),
        ("opt-in", {"topics": "newsletter"}, "topics"),
        ("opt-in", {"topics": [""]}, "topics"),
        ("opt-in", {"topics": [1]}, "topics"),
        ("opt-in", {"confirmed_at": "yesterday"}, "confirmed_at"),
        ("opt-in", {"confirmed_at": "2026-01-01T00:00:00"}, "confirmed_at"),
        ("opt-in", {"confirmed_at": datetime(2026, 1, 1)}, "confirmed_at"),  # noqa: DTZ001
        ("opt-in", {"confirmed_at": 5}, "confirmed_at"),
        ("opt-in", {"confirmed_at": "0001-01-01T00:00:00+14:00"}, "confirmed_at"),
        ("opt-in", {"valid_until": "2026-02-30"}, "valid_until"),
        ("opt-in", {"ip": "1\r\n2"}, "ip"),
        ("opt-in", {"ip": "x" * 2001}, "ip"),
        ("opt-in", {"withdrawal_info_given": "yes"}, "withdrawal_info_given"),
        ("relationship", {"paid": 1}, "paid"),
        ("bounce", {"severity": None}, "severity"),
        ("registry", {}, "registry"),
        ("registry", {"registry": ""}, "registry"),
    ],
)
def test_refused_by_key(type_: str, fields: dict[str, object], key: str) -> None:
    with pytest.raises(FieldError) as caught:
        detail_from(type_, fields)
    assert caught.value.key == key


def test_a_date_stays_a_date_and_a_time_becomes_utc() -> None:
    fields = {"valid_until": "2027-01-31", "confirmed_at": "2026-03-01T13:00:00+01:00"}
    detail = detail_from("opt-in", fields)
    assert isinstance(detail, model.OptIn)
    assert detail.valid_until == date(2027, 1, 31)
    assert detail.confirmed_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert fields_of(detail)["confirmed_at"] == "2026-03-01T12:00:00Z"


def test_recipient_fields() -> None:
    got = recipient_from({"country": "nl", "kind": "consumer", "legal_person": False})
    assert got == {"country": "NL", "kind": model.Kind.CONSUMER, "legal_person": False}
    assert set(events.RECIPIENT_FIELDS) <= {f.name for f in dataclasses.fields(model.Recipient)}
    for fields in ({"country": "UK"}, {"country": "NLD"}, {"kind": "firm"}, {"address": "x"}):
        with pytest.raises(FieldError) as caught:
            recipient_from(fields)
        assert caught.value.key == next(iter(fields))


def test_whole_numbers() -> None:
    assert events.whole(30) == 30
    for value in (-1, True, "30", 1.0):
        with pytest.raises(FieldError):
            events.whole(value)


def test_the_future_is_refused_beyond_five_minutes() -> None:
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    events.check_at(now + timedelta(minutes=5), now)
    with pytest.raises(FieldError):
        events.check_at(now + timedelta(minutes=5, seconds=1), now)
