"""Retries of owed mail by the upstream's own schedule."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from running_sluis import World, message, until

from proxy.store.model import OutboxRow, State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]


@pytest.mark.parametrize(
    ("reply", "least", "most"),
    [
        ("452 4.2.2 full", 0.6 * 7200, 7200),
        ("451 4.7.1 greylisted", 0.6 * 1800, 1800),
        ("451 4.3.2 later", 0.6 * 600, 600),  # not named: that of [delivery]
    ],
)
async def test_an_upstream_has_a_schedule_of_its_own_by_kind_of_failure(
    world: Make, reply: str, least: float, most: float
) -> None:
    w = await world(
        more='[delivery]\nmode = "queued"\nretry_first = "10m"\n',
        upstream_more='retry = { full = "2h/9h", policy = "30m/40m" }',
    )
    w.sink.once("RCPT", reply)
    await w.send("anna@example.nl", message("orders", message_id="r"), stream="orders")
    found: list[OutboxRow] = []

    async def tried() -> bool:
        found[:] = [r for r in await w.sluis.store.outbox() if r.attempts == 1]
        return [r.state for r in found] == [State.WAITING]

    await until(tried)
    [row] = found
    assert row.next_try is not None
    wait = (row.next_try - row.received_at) / timedelta(seconds=1)
    assert least <= wait <= most + 30  # what the try itself took
