"""An attempt that another process took over meanwhile: late results, and the dot that is not
written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from running_sluis import FOOTER, OPT_IN, World, message, until

from proxy.sink import Step
from proxy.store.model import State
from proxy.store.sqlite import open_sqlite

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM = "anna@example.nl", "bram@example.nl"


async def take_over(w: World) -> int:
    """Another process on the same store finds every lease over."""
    path = w.settings.store.sqlite_path(w.settings.server.data_dir)
    other = await open_sqlite(
        path, instance="other", owner=True, clock=lambda: datetime.now(UTC) + timedelta(hours=9)
    )
    try:
        return await other.recover()
    finally:
        await other.close()


async def under_way(w: World, *, deaf: int = 1) -> None:
    async def reached() -> bool:
        return w.sink.deaf == deaf

    await until(reached)


async def test_a_late_acceptance_is_the_clients_answer(world: Make) -> None:
    w = await world()
    w.sink.once(".", Step.SILENT)
    content = message("orders", message_id="late")
    sending = asyncio.create_task(w.send(ANNA, content, stream="orders"))
    await under_way(w)
    assert await take_over(w) == 1
    w.sink.say(b"250 2.0.0 taken\r\n")
    reply = await sending
    assert reply.startswith("250 2.0.0 taken"), reply
    [row] = await w.journal(reply)
    assert (row.state, row.maybe_sent) == (State.RELAYED, True)
    assert await w.send(ANNA, content, stream="orders") == reply, "answered from the journal"


@pytest.mark.parametrize("said", ["451 4.3.2 later", "550 5.1.1 no such user"])
async def test_any_other_late_result_is_the_clients_to_try_again(
    world: Make, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    w = await world()
    w.sink.once(".", Step.SILENT)
    content = message("orders", message_id="late")
    sending = asyncio.create_task(w.send(ANNA, content, stream="orders"))
    await under_way(w)
    assert await take_over(w) == 1
    dispatch = w.sluis.gate._dispatch
    real = dispatch._monotonic
    monkeypatch.setattr(dispatch, "_monotonic", lambda: real() + 10**6)
    w.sink.say(f"{said}\r\n".encode())
    reply = await sending
    assert reply.startswith("451 4."), reply
    [row] = await w.journal(reply)
    assert (row.state, row.maybe_sent) == (State.UNKNOWN, True)
    monkeypatch.undo()
    w.sink.drop()
    again = await w.send(ANNA, content, stream="orders")
    assert again.startswith("250 "), again
    [retried] = await w.journal(again)
    assert (retried.state, retried.maybe_sent) == (State.RELAYED, True)


@pytest.mark.parametrize("said", ["451 4.3.2 later", "550 5.1.1 no such user"])
async def test_no_250_rests_on_an_attempt_that_is_not_ours_any_more(
    world: Make, said: str
) -> None:
    w = await world(upstream_more="connections = 2")
    for person in (ANNA, BRAM):
        await w.know(person, "opt-in", **OPT_IN)
    content = message(message_id="two")
    w.sink.once(".", None, Step.SILENT)
    sending = asyncio.create_task(w.send([ANNA, BRAM], content))
    await under_way(w)
    await w.sink.received(1)

    async def first_is_recorded() -> bool:
        exacts = [w.sluis.keys.pseudonym(a) for a in (ANNA, BRAM)]
        rows = [r for e in exacts for r in await w.sluis.store.journal(exact=e)]
        return sorted(r.state for r in rows) == [State.ATTEMPTING, State.RELAYED]

    await until(first_is_recorded)
    assert await take_over(w) == 1
    w.sink.say(f"{said}\r\n".encode())
    reply = await sending
    assert reply.startswith("451 4.4.5 relayed 1 of 2, 1 to try again"), reply
    assert sorted(r.state for r in await w.journal(reply)) == [State.RELAYED, State.UNKNOWN]
    w.sink.drop()
    again = await w.send([ANNA, BRAM], content)
    assert again.startswith("250 2.0.0 relayed 2 of 2"), again
    assert sorted(m.recipients[0].decode() for m in w.sink.messages) == [ANNA, BRAM]


@pytest.mark.parametrize("taken", [False, True])
async def test_no_dot_is_written_beyond_the_lease(
    world: Make, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Stopped with all but the last block sent: a process that was taken over sends no more."""
    w = await world(more='[delivery]\nattempt_hold = "15m"')
    dispatch = w.sluis.gate._dispatch
    real, late = dispatch._monotonic, 0.0
    monkeypatch.setattr(dispatch, "_monotonic", lambda: real() + late)
    begun = asyncio.Event()

    def tap(_: int, octets: bytes) -> None:
        if len(octets) > 1000 and not begun.is_set():
            w.sink.pause()
            begun.set()

    w.sink.tap = tap
    text = FOOTER + ("x" * 70 + "\r\n") * 200_000
    content = message("orders", message_id="long", text=text)
    sending = asyncio.create_task(w.send(ANNA, content, stream="orders"))
    await begun.wait()
    if taken:
        assert await take_over(w) == 1
    late = dispatch._before_dot + 1
    w.sink.resume()
    reply = await sending
    [row] = await w.journal(reply)
    if taken:
        assert reply.startswith("451 4.4.5"), reply
        assert (row.state, row.attempts) == (State.UNKNOWN, 1)
        assert w.sink.total == 0
    else:
        assert reply.startswith("250 "), reply
        assert (row.state, row.attempts) == (State.RELAYED, 2), "decided and leased again"


async def test_the_outbox_writes_no_dot_beyond_the_lease_either(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = await world(more='[delivery]\nmode = "queued"\nretry_first = "50ms"\nattempt_hold = "15m"')
    resender = w.sluis.gate._resender
    real, late = resender._monotonic, 0.0
    monkeypatch.setattr(resender, "_monotonic", lambda: real() + late)
    w.sink.once("RCPT", Step.SILENT)
    reply = await w.send(ANNA, message("orders", message_id="q"), stream="orders")
    await under_way(w)
    late = resender._before_dot + 1
    w.sink.say(b"250 2.1.5 ok\r\n354 go on\r\n")

    async def relayed() -> bool:
        [row] = await w.journal(reply)
        return row.state is State.RELAYED

    await until(relayed)
    [row] = await w.journal(reply)
    assert (row.attempts, row.maybe_sent) == (2, False), "the first certainly sent nothing"
    assert w.sink.total == 1
