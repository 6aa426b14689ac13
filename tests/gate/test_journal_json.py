"""What is remembered of details changes nothing of what the journal holds."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from policy import model as m
from policy.events import fields_of, type_of
from proxy import facts as facts_module
from proxy.facts import HELD_ELSEWHERE, RECORD_VERSION, journal_json, journal_message

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
times = st.integers(-10**9, 10**9).map(lambda us: NOW + timedelta(microseconds=us))
words = st.text("ab\"é/\\\n", max_size=4)
maybe = st.none() | st.booleans()
details = st.one_of(
    st.builds(
        m.OptIn,
        box=st.sampled_from([None, *m.Box]),
        topics=st.lists(words, max_size=2).map(tuple),
        confirmed_at=st.none() | times,
        ip=st.none() | words,
        valid_until=st.sampled_from([None, NOW, NOW.date()]),
    ),
    st.builds(m.Relationship, stage=st.sampled_from([None, *m.Stage]), paid=maybe, informed=maybe),
    st.builds(m.Published, purpose=st.sampled_from([None, *m.PublishedPurpose])),
    st.builds(m.Objection, scope=st.sampled_from(m.Scope), via=st.sampled_from([None, *m.Via])),
    st.builds(m.Bounce, severity=st.sampled_from(m.Severity), status=st.none() | words),
    st.builds(m.Complaint),
    st.builds(m.Contact, via=st.sampled_from([None, *m.ContactVia])),
    st.builds(m.Registry, registry=words),
)
recipients = st.builds(
    m.Recipient,
    address=st.sampled_from(["x@a.nl", "x@a", ""]),
    country=st.sampled_from([None, "NL"]),
    kind=st.sampled_from(m.Kind),
    legal_person=maybe,
    function=st.none() | words,
    account_abandoned=maybe,
    language=st.none() | words,
    last_marketing_at=st.none() | times,
    local_rules_met=maybe,
)
messages = st.builds(
    m.Message,
    stream=words,
    category=st.sampled_from([None, *m.Category]),
    topics=st.none() | st.lists(words, max_size=2).map(tuple),
    visible_recipients=st.none() | st.integers(0, 3),
    can_inject=st.sampled_from([frozenset(), frozenset({"identity", "unsubscribe"})]),
)


@st.composite
def people(draw: st.DrawFn) -> list[m.Facts]:
    """Several with entries of few details: the same ones again, and equal ones that are others."""
    pool = draw(st.lists(details, min_size=1, max_size=4))
    pool += [type(d)(**{f.name: getattr(d, f.name) for f in fields(d)}) for d in pool]
    event = st.builds(
        m.Event,
        at=times,
        recorded_at=times,
        sender=st.sampled_from(["a", "b"]),
        detail=st.sampled_from(pool),
        evidence=words,
        uid=words,
        exact=st.booleans(),
    )
    one = st.builds(
        m.Facts,
        at=times,
        sender=st.just(m.Sender(id="a")),
        recipient=recipients,
        message=messages,
        events=st.lists(event, max_size=3).map(tuple),
        sent=st.lists(st.builds(m.Sent, words, times), max_size=1).map(tuple),
    )
    return draw(st.lists(one, min_size=1, max_size=4))


def written_out(facts: m.Facts) -> dict[str, Any]:
    """The record by its description, with nothing remembered."""

    def known(value: m.Recipient | m.Message) -> dict[str, Any]:
        held = {f.name: (getattr(value, f.name), f.default) for f in fields(value)}
        return {
            name: sorted(now) if isinstance(now, frozenset) else now
            for name, (now, default) in held.items()
            if name not in ("address", "overlay") and now != default
        }

    domain = facts.recipient.address.rpartition("@")[2]
    record: dict[str, Any] = {
        "v": RECORD_VERSION,
        "at": facts.at,
        "sender": facts.sender.id,
        "recipient": known(facts.recipient),
        "tld": domain.rpartition(".")[2] if "." in domain else "",
        "message": known(facts.message),
        "events": [
            {
                "uid": e.uid,
                "type": type_of(e.detail),
                "at": e.at,
                "recorded_at": e.recorded_at,
                "sender": e.sender,
                "exact": e.exact,
                "evidence": HELD_ELSEWHERE if e.evidence and e.sender != "a" else e.evidence,
                "fields": fields_of(e.detail),
            }
            for e in facts.events
        ],
    }
    if facts.sent:
        record["sent"] = [[mail.stream, mail.at] for mail in facts.sent]
    return record


@given(people())
def test_the_record_is_the_one_that_is_described(crowd: list[m.Facts]) -> None:
    for facts in crowd:
        expected = orjson.dumps(written_out(facts), option=orjson.OPT_SORT_KEYS).decode()
        assert journal_json(facts) == expected
        assert journal_json(facts, journal_message(facts.message)) == expected


def test_what_is_remembered_is_bounded() -> None:
    recipient, sender = m.Recipient(address="x@a.nl"), m.Sender(id="a")
    for n in range(3000):
        event = m.Event(at=NOW, recorded_at=NOW, sender="a", detail=m.OptIn(source=str(n)))
        facts = m.Facts(
            at=NOW, sender=sender, recipient=recipient, message=m.Message(), events=(event,)
        )
        assert f'"source":"{n}"' in journal_json(facts)
        assert len(facts_module._DETAILS) <= facts_module._MOST_DETAILS
