"""The worker alone: bounded, fair, and patient while no upstream is there. And what refuses mail
while the outbox may not grow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy import log
from proxy.config import Delivery
from proxy.delivery.outbox import Outbox, OutboxState, Tried, take_turns
from proxy.errors import StoreDown, StoreUnavailable
from proxy.store.model import Due, State, Store, Unfinished

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def due(row: int, stream: str = "news") -> Due:
    return Due(
        row=row, attempts=0, ref=f"r{row}", n=1, stream=stream, received_at=NOW, next_try=NOW
    )


class Rows:
    """A store of which only the outbox is asked."""

    def __init__(self, rows: list[Due]) -> None:
        self.rows = rows
        self.trouble: list[Exception] = []

    async def due(self, at: datetime, limit: int) -> list[Due]:
        if self.trouble:
            raise self.trouble.pop(0)
        return self.rows[:limit]

    async def recover(self) -> int:
        return 0

    async def unfinished(self) -> Unfinished:
        return Unfinished(counts={"waiting": len(self.rows)}, oldest=NOW - timedelta(seconds=9))


class Told:
    """What telemetry was told."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.oldest = 0.0

    def outbox(self, counts: dict[str, int], oldest_seconds: float) -> None:
        self.counts, self.oldest = counts, oldest_seconds


class Work:
    """Attempts that end when they are let go."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.began: list[int] = []
        self.open = 0
        self.most = 0
        self.gate = asyncio.Event()

    async def __call__(self, one: Due) -> Tried:
        self.began.append(one.row)
        self.open += 1
        self.most = max(self.most, self.open)
        await self.gate.wait()
        self.open -= 1
        self.rows.rows.remove(one)
        return Tried.DONE


def outbox(rows: Rows, attempt: Any, tmp_path: Path, told: Told | None = None) -> Outbox:
    state = OutboxState(Delivery(), tmp_path)
    return Outbox(
        cast("Store", rows), attempt, state, told or Told(), at_once=3, clock=lambda: NOW, poll=0.01
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_bounded_number_at_once_and_each_once(tmp_path: Path) -> None:
    rows = Rows([due(i) for i in range(20)])
    work, told = Work(rows), Told()
    worker = outbox(rows, work, tmp_path, told)
    task = asyncio.create_task(worker.run())
    await until(lambda: work.open == 3)
    assert (told.counts, told.oldest) == ({"waiting": 20}, 9.0)
    work.gate.set()
    await until(lambda: not rows.rows)
    await worker.stop()
    await task
    assert sorted(work.began) == list(range(20))
    assert work.most == 3


async def test_what_is_held_is_named_at_the_start_and_when_an_owner_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held(Rows):
        """One row waits, one is held."""

        recovered = 0

        async def recover(self) -> int:
            return self.recovered

        async def unfinished(self) -> Unfinished:
            return Unfinished(counts={"waiting": 1, "held": 1}, oldest=NOW)

        async def outbox(self, *, ref: str = "", limit: int = 1000) -> list[Any]:
            assert ref == ""
            states = (State.WAITING, State.HELD)
            return [SimpleNamespace(ref=f"r{s}", n=2, state=s) for s in states][:limit]

    named: list[tuple[str, int]] = []
    monkeypatch.setattr(log, "message_held", lambda *, ref, n: named.append((ref, n)))
    rows = Held([])
    worker = outbox(rows, Work(rows), tmp_path)
    await worker._recover()
    assert named == [("rheld", 2)]
    await worker._recover()
    assert len(named) == 1, "nothing became held since"
    rows.recovered = 1
    await worker._recover()
    assert len(named) == 2


async def test_stopping_waits_for_what_is_tried_and_begins_nothing(tmp_path: Path) -> None:
    rows = Rows([due(i) for i in range(20)])
    work = Work(rows)
    worker = outbox(rows, work, tmp_path)
    task = asyncio.create_task(worker.run())
    await until(lambda: work.open == 3)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    work.gate.set()
    await stopping
    await task
    assert len(work.began) == 3


async def test_streams_take_turns(tmp_path: Path) -> None:
    rows = [*(due(i, "campaign") for i in range(5)), due(9, "receipts"), due(10, "receipts")]
    assert [one.row for one in take_turns(rows)] == [0, 9, 1, 10, 2, 3, 4]


async def test_without_upstream_one_is_tried_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.delivery.outbox._PAUSE", 0.01)
    monkeypatch.setattr("proxy.delivery.outbox._LONGEST_PAUSE", 0.02)
    rows = Rows([due(i) for i in range(9)])
    up = False
    open_ = most = tried = 0

    async def attempt(one: Due) -> Tried:
        nonlocal open_, most, tried
        open_ += 1
        tried += 1
        if tried > 3:
            most = max(most, open_)
        await asyncio.sleep(0)
        open_ -= 1
        if not up:
            return Tried.NO_UPSTREAM
        rows.rows.remove(one)
        return Tried.DONE

    worker = outbox(rows, attempt, tmp_path)
    task = asyncio.create_task(worker.run())
    await until(lambda: tried > 8)
    assert most == 1
    up = True
    await until(lambda: not rows.rows)
    await worker.stop()
    await task


async def test_trouble_of_the_store_passes_and_a_lost_store_ends_it(tmp_path: Path) -> None:
    rows = Rows([due(1)])
    rows.trouble = [StoreUnavailable("locked"), RuntimeError("a bug")]
    work = Work(rows)
    work.gate.set()
    worker = outbox(rows, work, tmp_path)
    task = asyncio.create_task(worker.run())
    await until(lambda: not rows.rows)
    rows.trouble = [StoreDown("EIO")]
    await asyncio.wait_for(task, 20)


@pytest.mark.parametrize(
    ("limits", "count", "age", "reply"),
    [
        ({}, 99_999, 10**7, None),
        ({}, 100_000, 0, "452 4.3.1 the outbox is full"),
        ({"outbox_messages": 5}, 5, 0, "452 4.3.1 the outbox is full"),
        ({"outbox_age": "1h"}, 1, 3599, None),
        ({"outbox_age": "1h"}, 1, 3600, "452 4.3.1 mail taken before waits too long"),
        ({"outbox_free": 10**18}, 0, 0, "452 4.3.1 too little room on disk"),
    ],
)
async def test_what_refuses_mail_for_now(
    tmp_path: Path, limits: dict[str, Any], count: int, age: float, reply: str | None
) -> None:
    state = OutboxState(Delivery(**limits), tmp_path)
    assert state.refusal() is None, "nothing was measured yet"
    oldest = NOW - timedelta(seconds=age)
    seen = Unfinished(counts={"waiting": count}, oldest=oldest, oldest_open=oldest)
    assert state.measure(seen, NOW) == age
    refusal = state.refusal()
    assert str(refusal or "").startswith(reply or "")
    assert (refusal is None) is (reply is None)


async def test_mail_that_a_person_holds_back_is_no_reason_to_refuse_more(tmp_path: Path) -> None:
    state = OutboxState(Delivery(outbox_age=timedelta(hours=1)), tmp_path)
    held = Unfinished(counts={"held": 1}, oldest=NOW - timedelta(days=1))
    assert state.measure(held, NOW) == 86400.0, "but its age is told"
    assert state.refusal() is None
