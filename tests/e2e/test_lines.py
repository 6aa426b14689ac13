"""The copies of one mail: over several connections, one after the other, in turn with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from running_sluis import World, message

from proxy.sink import Step
from proxy.store.model import State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]


async def know(w: World, count: int) -> list[str]:
    people = [f"reader{n}@people.example" for n in range(count)]
    for address in people:
        await w.know(address, "opt-in", box="unticked", topics=["newsletter"])
    return people


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the state of a server
            await asyncio.sleep(0.001)


def told(w: World) -> list[str]:
    return [mail.recipients[0].decode() for mail in w.sink.messages]


async def test_copies_follow_each_other_with_the_dot(world: Make) -> None:
    w = await world(upstream_more="connections = 1")
    people = await know(w, 12)
    reads: list[bytes] = []
    w.sink.tap = lambda _, octets: reads.append(octets)
    reply = await w.send(people, message("newsletter"))
    assert reply.startswith("250 2.0.0 relayed 12 of 12"), reply
    assert told(w) == people
    assert sum(b"\r\n.\r\nMAIL FROM" in read for read in reads) >= 9  # not where another waits
    assert {row.state for row in await w.journal(reply)} == {State.RELAYED}
    links = {mail.content.partition(b"/u/")[2][:60] for mail in w.sink.messages}
    assert len(links) == 12  # each copy has a link of its own


async def test_a_copy_that_hangs_holds_up_no_other(world: Make) -> None:
    w = await world(upstream_more="connections = 3", more='[delivery]\ninline_wait = "4s"')
    people = await know(w, 12)
    w.sink.once(".", Step.SILENT)
    sending = asyncio.create_task(w.send(people, message("newsletter")))
    await w.sink.received(11)
    assert len(set(told(w))) == 11
    reply = await sending
    assert reply.startswith("250 2.0.0 relayed 11 of 12, 1 queued"), reply
    w.sink.say(b"250 2.0.0 taken\r\n")
    await w.sluis.gate.drain()


async def test_other_mail_has_its_turn_between_the_copies(world: Make) -> None:
    w = await world(upstream_more="connections = 1")
    people = await know(w, 40)
    other = "other@people.example"
    await w.know(other, "opt-in", box="unticked", topics=["newsletter"])
    many = asyncio.create_task(w.send(people, message("newsletter")))
    await w.sink.received(1)
    w.sink.pause()
    one = asyncio.create_task(w.send(other, message("newsletter", message_id="other")))
    await until(lambda: w.sluis.gate._pool.wanted)
    w.sink.resume()
    assert (await many).startswith("250 2.0.0 relayed 40 of 40")
    assert (await one).startswith("250 2.0.0")
    assert told(w).index(other) < 30
    assert sorted(told(w)) == sorted([*people, other])


async def test_each_copy_has_its_own_end_whatever_the_upstream_says(world: Make) -> None:
    w = await world(upstream_more="connections = 2")
    people = await know(w, 16)
    w.sink.once(
        ".", None, "451 4.3.0 later", None, "421 4.3.2 closing", Step.CLOSE, None, Step.LOSE
    )
    w.sink.once("RCPT", None, None, None, "550 5.1.1 nobody", None, "450 4.2.0 later")
    reply = await w.send(people, message("newsletter"))
    await w.sluis.gate.drain()
    assert len(told(w)) == len(set(told(w)))
    rows = await w.journal(reply)
    assert [row.n for row in rows] == list(range(1, 17))
    by_code = dict.fromkeys("245", 0)
    for row in rows:
        by_code[row.reply[:1]] += 1
        assert row.state is not State.RELAYED or row.reply.startswith("250")
    assert by_code["5"] == 1
    assert sum(row.state is State.RELAYED for row in rows) >= 10
