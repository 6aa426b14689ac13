"""What waits for an upstream that is busy: bounded, and not sent behind the client's back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from running_sluis import World, message, until

from proxy.sink import Step

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, HANS = "anna@example.nl", "hans@example.nl"


async def test_what_found_no_connection_is_given_up_with_its_451(world: Make) -> None:
    more = '[delivery]\ninline_wait = "1s"\nretry_first = "50ms"'
    w = await world(more=more, upstream_more="connections = 1")
    w.sink.once(".", Step.SILENT)
    first = asyncio.create_task(w.send(HANS, message("orders"), stream="orders"))

    async def busy() -> bool:
        return w.sink.deaf == 1

    await until(busy)
    for _ in range(2):
        # Without a Message-ID nothing is a duplicate: a copy sent later would be one too many.
        reply = await w.send(ANNA, message("orders"), stream="orders")
        assert reply.startswith("451 4.4."), reply
    assert (await first).startswith("250 2.0.0 queued")  # its attempt was durable: ours
    w.sink.drop()
    await w.sink.received(1)
    assert (await w.send(ANNA, message("orders"), stream="orders")).startswith("250 ")
    assert [m.recipients for m in w.sink.messages] == [(HANS.encode(),), (ANNA.encode(),)]


async def test_retries_of_what_is_owed_do_not_pile_up(world: Make) -> None:
    w = await world(more='[delivery]\ninline_wait = "1s"', upstream_more="connections = 2")
    content = message("orders", message_id="joined")
    w.sink.once(".", Step.SILENT)
    for _ in range(3):
        reply = await w.send(ANNA, content, stream="orders")
        assert reply.startswith("250 2.0.0 queued"), reply

    async def alone() -> bool:
        return len(w.sluis.gate._answers._tasks) == 1

    await until(alone)
    w.sink.say(b"250 2.0.0 taken\r\n")
    await w.sluis.gate.drain()
    assert (await w.send(ANNA, content, stream="orders")).startswith("250 2.0.0 taken")
    assert w.sink.total == 0  # the one copy was the silent one
