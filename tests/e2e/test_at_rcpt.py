"""Refusals at RCPT rest on what is newest, and are on record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import pytest
from running_sluis import OPT_IN, World, message

from proxy.census import Census
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


async def test_who_is_accepted_at_rcpt_is_read_once_and_a_later_objection_still_stops_the_mail(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read at RCPT serves the decision at end of data; C1 finds what came in between."""

    async def nobody(_: Census, __: datetime) -> Counter[str]:
        return Counter()

    monkeypatch.setattr(Census, "count", nobody)  # it looks people up, too
    monkeypatch.setattr("proxy.gate._FRESH", 3600.0)
    w = await world(edit=lambda t: t.replace("may_set_stream = true", "may_set_stream = false"))
    await w.know(ANNA, "opt-in", **OPT_IN)
    real = w.sluis.store.lookup
    looked: list[Sequence[Subject]] = []

    async def noted(subjects: Sequence[Subject], **more: Any) -> Snapshot:
        looked.append(subjects)
        return await real(subjects, **more)

    monkeypatch.setattr(w.sluis.store, "lookup", noted)
    assert (await w.send(ANNA, message())).startswith("250 ")
    assert len(looked) == 1
    monkeypatch.setattr("proxy.gate._FRESH", -1.0)
    assert (await w.send(ANNA, message())).startswith("250 ")
    assert len(looked) == 3
    monkeypatch.setattr("proxy.gate._FRESH", 3600.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", w.sluis.smtp_ports[0])
    await reader.readline()
    assert (await asked(reader, writer, "HELO app.example")).startswith("250 ")
    sender = "MAIL FROM:<bounces@news.acme.example>"
    assert (await asked(reader, writer, sender)).startswith("250 ")
    assert (await asked(reader, writer, f"RCPT TO:<{ANNA}>")).startswith("250 ")
    await w.know(ANNA, "objection", scope="marketing", via="one-click", days=0)
    assert (await asked(reader, writer, "DATA")).startswith("354")
    reply = await asked(reader, writer, message().decode() + "\r\n.")
    assert reply.startswith("550 5.7.1 "), reply
    assert len(looked) == 5  # at RCPT, and again where C1 found it
    assert len(w.sink.messages) == 2
    writer.close()


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: str) -> str:
    writer.write(line.encode() + b"\r\n")
    return (await reader.readline()).decode()
