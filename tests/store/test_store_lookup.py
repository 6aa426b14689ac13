"""What is read of one person alone is what is read of that person among others."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import contract_path  # noqa: F401
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from store_values import after, event, intake, only, opt_in, outcome, person, row

from policy.events import FieldError, recipient_from
from policy.model import Complaint, Contact, Detail, Objection, Scope, Sender, Via
from proxy.facts import person_facts
from proxy.store import ledger
from proxy.store.model import Known, NewAttributes
from proxy.store.sqlite import open_sqlite

PEOPLE = [
    person(name, sender=sender, tag=tag)
    for name in ("anna", "bram", "cleo")
    for sender in ("acme", "other")
    for tag in ("", "x")
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lookup") / "store.db"

    async def write() -> None:
        store = await open_sqlite(path, instance="a", owner=True, create=True)
        details: list[Detail] = [
            Objection(via=Via.PAGE),
            Contact(),
            Complaint(),
            Objection(scope=Scope.TOPIC, topics=("news",)),
        ]
        for n, who in enumerate(PEOPLE[:9]):
            await store.append([opt_in(f"in{n}", who), event(f"e{n}", who, details[n % 4])])
        columns = [
            NewAttributes(subject=who, at=after(1), values={"country": "NL"}) for who in PEOPLE[::3]
        ]
        await store.append([], columns)
        fate = only(await store.claim(intake("r", row("k", PEOPLE[10]), high=99)))
        await store.record([outcome(fate)])
        await store.close()

    asyncio.run(write())
    with sqlite3.connect(path) as db:
        # Suppressions outlive the erasure of their event.
        db.execute("DROP TRIGGER event_no_delete")
        assert db.execute("DELETE FROM event WHERE uid IN ('e0', 'e6')").rowcount == 2
    db.close()
    return path


def test_one_alone_as_among_others(written: Path) -> None:
    db = sqlite3.connect(written)
    everybody = ledger.read(db, PEOPLE)
    assert sum(bool(known.events) for known in everybody.known.values()) >= 9
    assert any(known.attributes for known in everybody.known.values())
    assert any(known.last_marketing_at for known in everybody.known.values())
    for who in [*PEOPLE, person("nobody")]:
        alone = ledger.read(db, [who])
        among = ledger.read(db, [who, person("somebody")])
        assert alone.known[who] == among.known[who] == everybody.known.get(who, Known())
        assert alone.high == among.high == everybody.high
    db.close()


VALUES = st.one_of(
    st.booleans(),
    st.sampled_from([0, 1, 1.0, 0.0, "true", "nl", "NL", "consumer", "Europe/Amsterdam"]),
    st.lists(st.just("NL"), max_size=1),
    st.sampled_from(["2026-01-01T00:00:00Z", "", None]),
)
NAMES = st.sampled_from(["country", "kind", "legal_person", "language", "timezone", "function"])


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=4))
@example([{"legal_person": True}, {"legal_person": 1}, {"legal_person": 1.0}])
@example([{"legal_person": 1}, {"legal_person": True}])
def test_columns_are_read_as_if_for_the_first_time(people: list[dict[str, Any]]) -> None:
    sender = Sender(id="acme", names=("Acme",), country="NL")
    for attributes in [*people, *people]:
        try:
            expected = recipient_from(attributes)
        except FieldError:
            with pytest.raises(FieldError):
                person_facts(sender, "a@b.example", Known(attributes=attributes), after(0))
            continue
        facts = person_facts(sender, "a@b.example", Known(attributes=attributes), after(0))
        for name, value in expected.items():
            held = getattr(facts.recipient, name)
            assert held == value
            assert type(held) is type(value)
