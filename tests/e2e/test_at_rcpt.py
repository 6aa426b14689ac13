"""Refusals at RCPT rest on what is newest, and are on record."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from running_sluis import OPT_IN, World, message

from proxy.store.model import Snapshot, State, Subject

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, HANS = "anna@example.nl", "hans@example.nl"


async def test_an_opt_in_that_overtakes_the_refusal_is_seen(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = await world(edit=lambda t: t.replace("may_set_stream = true", "may_set_stream = false"))
    real = w.sluis.store.lookup
    looked: list[str] = []

    async def overtaken(subjects: Sequence[Subject], **more: Any) -> Snapshot:
        snapshot = await real(subjects, **more)
        if subjects and not looked:
            looked.append("once")
            await w.know(HANS, "opt-in", **OPT_IN)
        return snapshot

    monkeypatch.setattr(w.sluis.store, "lookup", overtaken)
    assert (await w.send(HANS, message())).startswith("250 ")


@pytest.mark.parametrize("partial", ["accept-and-dsn", "all-or-nothing"])
async def test_all_or_nothing_refuses_nobody_at_rcpt_and_everybody_at_data(
    world: Make, partial: str
) -> None:
    w = await world(
        more=f'[delivery]\npartial = "{partial}"',
        edit=lambda t: t.replace("may_set_stream = true", "may_set_stream = false"),
    )
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send([ANNA, HANS], message())
    if partial == "all-or-nothing":
        assert reply.startswith("550 5.7.1 "), reply
        assert [r.state for r in await w.journal(reply)] == [State.RETURNED, State.BLOCKED]
        assert w.sink.messages == []
    else:
        assert reply.startswith("250 "), reply
        assert [m.recipients for m in w.sink.messages] == [(ANNA.encode(),)]
