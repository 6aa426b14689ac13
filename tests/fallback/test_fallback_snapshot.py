"""The snapshot of the suppressions answers as the ledger does for mail that is no marketing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.engine import decide
from policy.model import (
    Bounce,
    Box,
    Category,
    Complaint,
    Contact,
    ContactVia,
    Detail,
    Facts,
    Message,
    Objection,
    OptIn,
    Recipient,
    Scope,
    Sender,
    Severity,
)
from policy.pack import Packs
from proxy.errors import StoreUnavailable
from proxy.fallback import snapshot
from proxy.fallback.overlay import Overlay
from proxy.fallback.shelter import Shelter
from proxy.packs import load_packs
from proxy.store.model import Known, NewEvent, Subject
from proxy.store.sqlite import SqliteStore, open_sqlite

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def key(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def person(n: int, tag: str = "", sender: str = "acme") -> Subject:
    return Subject(sender, key(f"p{n}{tag}"), key(f"p{n}"))


def event(uid: str, who: Subject, detail: Detail, days: float = 1) -> NewEvent:
    at = NOW - timedelta(days=days)
    return NewEvent(
        uid=uid, subject=who, detail=detail, at=at, recorded_at=at, evidence="form:1"
    )


DETAILS = st.one_of(
    st.builds(Objection, scope=st.sampled_from(Scope), stream=st.sampled_from([None, "orders"])),
    st.builds(Bounce, severity=st.sampled_from(Severity)),
    st.just(Complaint()),
    st.just(OptIn(box=Box.UNTICKED)),
    st.just(Contact(via=ContactVia.CLICK)),
)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["", "+tag"]),
        st.sampled_from(["acme", "other"]),
        DETAILS,
        st.floats(0.1, 120),
    ),
    max_size=24,
)


@pytest.fixture(scope="module")
def packs() -> Packs:
    return load_packs(None)


def facts(known: Known, category: Category) -> Facts:
    return Facts(
        at=NOW,
        sender=Sender(id="acme"),
        recipient=Recipient(address="x@example.nl"),
        message=Message(stream="orders", category=category, promotion=False),
        events=known.events,
    )


async def opened(directory: Path) -> SqliteStore:
    return await open_sqlite(
        directory / "store.db", instance="a", owner=True, create=True, clock=lambda: NOW
    )


def shelter(directory: Path, now: datetime = NOW) -> Shelter:
    return Shelter(directory, Overlay(), max_age=timedelta(hours=24), clock=lambda: now)


PEOPLE: Sequence[Subject] = [person(n, tag) for n in range(6) for tag in ("", "+tag")]


async def holds(store: SqliteStore, found: Shelter, packs: Packs) -> None:
    """Verdict and reason are the ledger's, for each person and class."""
    told, seen = (await store.lookup(PEOPLE)).known, (await found.lookup(PEOPLE)).known
    for who in PEOPLE:
        for category in (Category.TRANSACTIONAL, Category.PERSONAL):
            want = decide(facts(told[who], category), packs)
            have = decide(facts(seen[who], category), packs)
            assert (have.verdict, have.reason) == (want.verdict, want.reason), (who, category)


@settings(max_examples=15, deadline=None)
@given(first=EVENTS, second=EVENTS)
async def test_it_decides_as_the_ledger_does(
    tmp_path_factory: pytest.TempPathFactory, packs: Packs, first: list[Any], second: list[Any]
) -> None:
    """Read whole, then brought up to date, and read anew by another process."""
    directory = tmp_path_factory.mktemp("snapshot")
    store = await opened(directory)
    found = shelter(directory)
    for turn, some in enumerate((first, second)):
        await store.append(
            [
                event(f"{turn}.{i}", person(n, tag, sender), detail, days)
                for i, (n, tag, sender, detail, days) in enumerate(some)
            ]
        )
        await found.refresh(store.suppressed)
        assert not found.failed
        await holds(store, found, packs)
    await holds(store, shelter(directory), packs)
    await store.close()


async def test_who_is_not_suppressed_is_not_in_it(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.append(
        [
            event("a", person(1), OptIn(box=Box.UNTICKED)),
            event("b", person(2), Objection(scope=Scope.MARKETING)),
            event("c", person(3), Bounce(), days=100),
            event("d", person(4), Bounce()),
        ]
    )
    found = shelter(tmp_path)
    await found.refresh(store.suppressed)
    text = (tmp_path / "suppressions").read_text()
    assert person(4).wide in text
    assert not any(person(n).wide in text for n in (1, 2, 3))
    assert "form:1" not in text
    assert (tmp_path / "suppressions").stat().st_mode & 0o777 == 0o600
    await store.close()


async def test_one_that_is_old_damaged_or_missing_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await shelter(tmp_path).lookup(PEOPLE)
    store = await opened(tmp_path)
    await store.append([event("d", person(4), Bounce())])
    await shelter(tmp_path).refresh(store.suppressed)
    await store.close()
    for days, usable in ((0.9, True), (1.1, False), (-0.9, True), (-1.1, False)):
        assert shelter(tmp_path, NOW + timedelta(days=days)).usable is usable
    path = tmp_path / "suppressions"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert snapshot.read(tmp_path) is None, at
        path.write_bytes(whole[:at])
        assert snapshot.read(tmp_path) is None, at


async def test_it_stays_young_without_news_and_knows_what_was_just_taken(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    now = NOW
    found = Shelter(tmp_path, Overlay(), max_age=timedelta(hours=24), clock=lambda: now)
    await found.refresh(store.suppressed)
    written = (tmp_path / "suppressions").stat().st_mtime_ns
    for _ in range(30):
        now += timedelta(minutes=59)
        await found.refresh(store.suppressed)
        assert found.usable
    assert (tmp_path / "suppressions").stat().st_mtime_ns > written, "for the next start"
    everything = event("e", person(1), Objection(scope=Scope.EVERYTHING))
    await store.append([everything])
    found.took(everything)
    known = (await found.lookup([person(1)])).known[person(1)]
    assert [e.uid for e in known.events] == ["e"]
    await found.refresh(store.suppressed)
    known = (await found.lookup([person(1)])).known[person(1)]
    assert [e.uid for e in known.events] == ["e"]
    await store.close()


async def test_a_disk_that_takes_none_leaves_the_last_one(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.append([event("d", person(4), Bounce())])
    found = shelter(tmp_path)
    await found.refresh(store.suppressed)
    await store.append([event("e", person(5), Bounce())])

    async def nothing(above: int | None) -> None:
        raise StoreUnavailable("locked")

    await found.refresh(nothing)  # type: ignore[arg-type]
    assert found.failed
    assert found.usable
    await found.refresh(store.suppressed)
    assert not found.failed
    await store.close()
