"""Attempts that others wait for, and attempts that are decided again: each has one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from running_sluis import FOOTER, OPT_IN, World, message, until

from proxy.errors import StoreUnavailable
from proxy.sink import Step
from proxy.store.model import IntakeResult, Settlement, State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM = "anna@example.nl", "bram@example.nl"


async def test_a_retry_of_one_copy_while_others_go_on_finds_it_relayed_or_waits(
    world: Make,
) -> None:
    w = await world(upstream_more="connections = 3", more='[delivery]\nretry_first = "50ms"')
    for address in (ANNA, BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    content = message(message_id="one-of-two")
    w.sink.once(".", None, Step.SILENT)
    both = asyncio.create_task(w.send([ANNA, BRAM], content))
    relayed: list[str] = []

    async def one_relayed() -> bool:
        for address in (ANNA, BRAM):
            exact = w.sluis.keys.pseudonym(address)
            rows = await w.sluis.store.journal(exact=exact)
            if rows and rows[0].state is State.RELAYED:
                relayed[:] = [address]
        return bool(relayed) and w.sink.deaf == 1

    await until(one_relayed)
    assert (await w.send(relayed[0], content)).startswith("250 2.0.0 ")
    other = ANNA if relayed == [BRAM] else BRAM
    again = asyncio.create_task(w.send(other, content))
    w.sink.say(b"451 4.3.2 later\r\n")
    assert (await both).startswith("250 2.0.0 relayed 1 of 2, 1 queued")
    # It joined the attempt, or came after it: in no case a second copy beside the one that is owed.
    assert (await again)[:8] in ("250 2.0.", "451 4.4.")
    w.sink.drop()
    await w.sink.received(2)
    assert len(w.sink.messages) == 2


async def test_an_attempt_ends_when_it_cannot_be_decided_again(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = await world(more='[delivery]\nattempt_hold = "1s"')
    content = message("orders", message_id="held")

    async def locked(*_: Any, **__: Any) -> IntakeResult:
        raise StoreUnavailable("locked")

    with monkeypatch.context() as patch:
        patch.setattr(w.sluis.store, "reclaim", locked)
        clock = iter(range(0, 1000, 10))
        patch.setattr(w.sluis.gate._dispatch, "_monotonic", lambda: float(next(clock)))
        reply = await w.send(ANNA, content, stream="orders")
    assert reply.startswith("451 4.3.0"), reply
    assert (await w.ended(reply)).state is State.RETURNED
    assert (await w.send(ANNA, content, stream="orders")).startswith("250 ")
    assert len(w.sink.messages) == 1


@pytest.mark.parametrize("objects", [False, True])
async def test_a_body_that_takes_long_is_decided_again_before_its_dot(
    world: Make, monkeypatch: pytest.MonkeyPatch, objects: bool
) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    body = FOOTER + ("x" * 70 + "\r\n") * 200_000
    content = message(message_id="long", text=body)
    real = w.sluis.gate._dispatch._monotonic
    late = 0.0
    monkeypatch.setattr(w.sluis.gate._dispatch, "_monotonic", lambda: real() + late)
    begun = asyncio.Event()

    def tap(_: int, octets: bytes) -> None:
        if len(octets) > 1000 and not begun.is_set():
            w.sink.pause()
            begun.set()

    w.sink.tap = tap
    sending = asyncio.create_task(w.send(ANNA, content))
    await begun.wait()
    if objects:
        await w.know(ANNA, "objection", scope="marketing", via="one-click", days=0)
    late = 60.0
    w.sink.resume()
    reply = await sending
    [row] = await w.journal(reply)
    if objects:
        assert reply.startswith("550 5.7.1 suppressed"), reply
        assert (row.state, row.attempts) == (State.BLOCKED, 1)
    else:
        assert reply.startswith("250 "), reply
        assert (row.state, row.attempts) == (State.RELAYED, 2)
    assert len(w.sink.messages) == (not objects)


async def test_what_could_not_be_made_durable_is_not_promised(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = '[delivery]\ninline_wait = "2s"\nretry_first = "50ms"'
    w = await world(more=more)
    content = message("orders", message_id="slow")
    w.sink.once(".", Step.SILENT)
    real = w.sluis.store.settle
    asked = 0

    async def in_trouble(settlement: Settlement) -> list[int]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreUnavailable("full")
        return await real(settlement)

    monkeypatch.setattr(w.sluis.store, "settle", in_trouble)
    reply = await w.send(ANNA, content, stream="orders")
    assert reply.startswith("451 4.4.7"), reply
    assert (await w.send(ANNA, content, stream="orders")).startswith("451 4.4.5")  # it joined
    w.sink.drop()
    # The attempt ended as unknown, and what had been promised to nobody is finished all the same.
    await w.sink.received(1)
    assert (await w.send(ANNA, content, stream="orders")).startswith("250 ")
    assert len(w.sink.messages) == 1


async def test_a_row_that_was_decided_again_just_then_is_not_promised(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = '[delivery]\ninline_wait = "2s"\nretry_first = "50ms"'
    w = await world(more=more)
    w.sink.once(".", Step.SILENT)
    real = w.sluis.store.settle
    asked = 0

    async def missed(settlement: Settlement) -> list[int]:
        nonlocal asked
        asked += 1
        if asked == 1:  # another attempt of the row is under way than the one that was meant
            other = tuple((row, attempt + 1) for row, attempt in settlement.owe)
            return await real(replace(settlement, owe=other))
        return await real(settlement)

    monkeypatch.setattr(w.sluis.store, "settle", missed)
    monkeypatch.setattr("proxy.gate._GRACE", 0.05)
    reply = await w.send(ANNA, message("orders", message_id="slow"), stream="orders")
    assert reply.startswith("451 4.4.7"), reply
    w.sink.drop()
    await w.sink.received(1)
