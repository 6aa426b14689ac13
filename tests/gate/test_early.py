"""A refusal at RCPT that is remembered for all strangers is the one that each would get."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.acme import relay_toml, stream_toml
from policy import model as m
from policy.address import parse
from policy.engine import refuse_early
from policy.explain import sentence
from proxy.config import Settings, load
from proxy.early import Early
from proxy.facts import assumed_message, facts_for, journal_json, recipient_facts, sender_facts
from proxy.packs import builtin_packs
from proxy.store.model import Known

NOW = datetime(2026, 11, 24, 22, 30, 0, 123456, tzinfo=UTC)
PACKS = builtin_packs()
SENDER = """\
[[senders]]
id = "{id}"
name = "Acme"
country = "{country}"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
{more}
"""
SENDERS = [
    ("nl", "NL", ""),
    ("be", "BE", 'candidate_countries = ["BE", "FR"]'),
    ("us", "US", 'candidate_countries = ["US"]'),
    ("sg", "SG", ""),
]
STREAMS = ["", 'purpose = "charitable"', "local_rules_met = true", 'max_per_person = "1/1d"']
STREAMS += ['quiet_hours = "21:00-08:00"\ntimezone = "Europe/Amsterdam"']
TOPS = ["nl", "be", "eu", "uk", "us", "de", "example", "xn--p1ai", "com"]
PEOPLE = [f"{name}@{host}.{top}" for name in ("anna", "b.x") for host in "ab" for top in TOPS]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    directory: Path = tmp_path_factory.mktemp("early")
    parts = [relay_toml(directory)]
    parts += [SENDER.format(id=i, country=c, more=more) for i, c, more in SENDERS]
    parts += [
        stream_toml(f"{sender}-{n}", f"s{n}.{sender}.example", more, sender=sender)
        for sender, *_ in SENDERS
        for n, more in enumerate(STREAMS)
    ]
    path = directory / "sluis.toml"
    path.write_text("".join(parts), "utf-8")
    return load(path, {})


def _event(detail: m.Detail, sender: str = "nl") -> m.Event:
    at = NOW - timedelta(days=3)
    return m.Event(at=at, recorded_at=at, sender=sender, detail=detail, uid="e", exact=True)


KNOWN = st.sampled_from(
    [
        *[Known()] * 4,
        Known(attributes={"country": "NL", "kind": "consumer"}),
        Known(attributes={"country": "US"}),
        Known(last_marketing_at=NOW - timedelta(days=1)),
        Known(events=(_event(m.OptIn(box=m.Box.UNTICKED)),)),
        Known(events=(_event(m.Objection(via=m.Via.PAGE)),)),
        Known(events=(_event(m.Bounce(), "other"),)),
    ]
)
TIMES = st.builds(
    lambda days, us: NOW + timedelta(days=days, microseconds=us),
    st.integers(-9000, 9000),
    st.sampled_from([0, -123456, 1, 876543]),
)


@given(data=st.data())
def test_remembered_equals_decided_anew(configured: Settings, data: Any) -> None:
    senders = {s.id: sender_facts(s) for s in configured.senders}
    early = Early(configured, PACKS, senders)
    case = st.tuples(st.sampled_from(configured.streams), st.sampled_from(PEOPLE), KNOWN, TIMES)
    for stream, address, known, at in data.draw(st.lists(case, min_size=2, max_size=30)):
        recipient = parse(address)
        facts = facts_for(
            at=at,
            sender=senders[stream.sender],
            recipient=recipient_facts(recipient, known, stream),
            message=assumed_message(stream),
            known=known,
        )
        expected = refuse_early(facts, PACKS)
        given_ = early.refuse(stream, recipient, known, at)
        if expected is None:
            assert given_ is None
            continue
        assert given_ is not None
        assert given_.decision == expected
        assert list(given_.decision.trace) == list(expected.trace)
        assert given_.said == sentence(expected)
        assert given_.facts == journal_json(facts)


def test_what_clients_choose_is_remembered_within_bounds(configured: Settings) -> None:
    senders = {s.id: sender_facts(s) for s in configured.senders}
    early = Early(configured, PACKS, senders)
    stream = configured.streams[0]
    for n in range(4500):
        top = "".join(chr(97 + n // 26**place % 26) for place in range(3))
        assert early.refuse(stream, parse(f"a@b.{top}x"), Known(), NOW) is not None
    assert len(early._strangers) <= 2000
