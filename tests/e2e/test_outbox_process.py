"""The outbox of a process that is killed, and its commands beside a process that runs."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from contextlib import closing, suppress

import pytest
from running_sluis import fields, message, until
from test_process import House, house, scrape  # noqa: F401

from proxy.sink import Step

pytest_plugins = ("running_sluis",)

ANNA = "anna@example.nl"
SOON = 'retry_first = "50ms"\nretry_longest = "50ms"\n'


def configure(house: House, delivery: str) -> None:  # noqa: F811
    house.path.write_text(f"{house.path.read_text()}\n[delivery]\n{SOON}{delivery}\n")


def journal(house: House) -> dict[str, tuple[str, int]]:  # noqa: F811
    """State and `maybe_sent` of the newest row of each Message-ID, read from the file."""
    path = house.path.with_name("data") / "sluis.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT s.message_id, d.state, d.maybe_sent FROM delivery d"
            " JOIN submission s ON s.id = d.submission ORDER BY d.id"
        ).fetchall()
        left = db.execute("SELECT count(*) FROM body").fetchone()[0]
    if all(state not in ("waiting", "attempting", "held") for _, state, _ in rows):
        assert left == 0, "a body outlived its mail"
    return {message_id: (state, sent) for message_id, state, sent in rows}


async def ended(house: House) -> dict[str, tuple[str, int]]:  # noqa: F811
    """The journal once nothing is owed any more."""

    async def over() -> bool:
        states = {state for state, _ in journal(house).values()}
        return not states & {"waiting", "attempting", "held"}

    await until(over, 60)
    return journal(house)


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


@pytest.mark.parametrize(
    ("delivery", "step", "copies"),
    [
        ('mode = "queued"', Step.SILENT, 1),  # killed between dot and result, nothing kept
        ('mode = "queued"', Step.LOSE, 2),  # the same, and upstream has it: the one window
        ('inline_wait = "2s"', Step.SILENT, 1),  # killed after 250 queued
    ],
)
async def test_killed_while_an_attempt_is_open(
    house: House, delivery: str, step: Step, copies: int  # noqa: F811
) -> None:
    configure(house, delivery)
    house.sink.once(".", step)
    process = await house.serve()
    reply = await house.send(ANNA, message("orders", message_id="open"))
    assert reply.startswith("250 2.0.0 queued"), reply

    async def reached() -> bool:
        return house.sink.deaf == 1 or house.sink.total == 1

    await until(reached)
    await kill(process)
    await house.serve()
    assert await ended(house) == {"<open@orders.acme.example>": ("relayed", 1)}
    assert house.sink.total == copies


async def test_killed_while_upstream_is_away(house: House) -> None:  # noqa: F811
    configure(house, 'mode = "queued"')
    port = house.sink.smtp_port
    await house.sink.close()
    process = await house.serve()
    reply = await house.send(ANNA, message("orders", message_id="away"))
    assert reply.startswith("250 2.0.0 queued"), reply
    await kill(process)
    await house.sink.start(smtp_port=port)
    await house.serve()
    assert await ended(house) == {"<away@orders.acme.example>": ("relayed", 0)}
    assert house.sink.total == 1


@pytest.mark.parametrize("mode", ["queued", "inline"])
async def test_killed_at_random_under_load(house: House, mode: str) -> None:  # noqa: F811
    """Every mail that was answered 250 arrives; a second copy only of one marked as ambiguous."""
    configure(house, f'mode = "{mode}"')
    chance = random.Random(mode)
    acknowledged: set[str] = set()

    async def client(n: int) -> None:
        for i in range(12):
            name = f"{n}.{i}"
            with suppress(OSError, EOFError):  # the process died
                reply = await house.send(ANNA, message("orders", message_id=name))
                if reply.startswith("250 "):
                    acknowledged.add(f"<{name}@orders.acme.example>")

    for turn in range(4):
        process = await house.serve()
        clients = [asyncio.create_task(client(10 * turn + n)) for n in range(3)]
        enough = len(acknowledged) + chance.randrange(3, 20)

        async def some(enough: int = enough) -> bool:
            return len(acknowledged) >= enough

        await until(some, 40)
        await kill(process)
        await asyncio.gather(*clients, return_exceptions=True)
    await house.serve()
    rows = await ended(house)
    arrived = Counter(fields(m.content, "Message-ID")[0] for m in house.sink.messages)
    assert {m for m in acknowledged if rows[m][0] != "relayed"} == set()
    assert acknowledged - set(arrived) == set(), "acknowledged, and lost"
    assert {m for m, n in arrived.items() if n > 1 and not rows[m][1]} == set(), "unexplained"
    assert len(acknowledged) > 10


async def test_list_show_retry_and_drop(house: House) -> None:  # noqa: F811
    house.path.write_text(
        f'{house.path.read_text()}\n[delivery]\nmode = "queued"\nretry_first = "1h"\n'
    )
    house.sink.once("RCPT", "451 4.3.2 later", "451 4.3.2 later")
    await house.serve()
    code, out, err = await house.run("outbox", "list")
    assert (code, out, err) == (0, "", "the outbox is empty\n")
    refs = []
    for n in range(2):
        reply = await house.send(ANNA, message("orders", message_id=f"m{n}"))
        refs.append(reply.rpartition("(ref ")[2].rstrip(")"))

    async def tried() -> bool:
        _, listed, _ = await house.run("outbox", "list", "--json")
        return [row["attempts"] for row in json.loads(listed)] == [1, 1]

    await until(tried)
    code, out, _ = await house.run("outbox", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [f"{ref}.1" for ref in refs]
    assert "451 4.3.2 later" in out
    assert ANNA not in out
    code, out, _ = await house.run("outbox", "show", refs[0], "--json")
    [row] = json.loads(out)
    assert (row["state"], row["owed"], row["attempts"]) == ("waiting", True, 1)
    code, out, _ = await house.run("outbox", "retry", refs[0])
    assert (code, out) == (0, "1 due, 0 under way\n")
    await house.sink.received(1)

    async def gone() -> bool:
        return (await house.run("outbox", "show", refs[0]))[0] == 1

    await until(gone)
    code, out, err = await house.run("outbox", "drop", "--all", "--json")
    assert (code, json.loads(out)) == (0, {"dropped": 1, "under_way": 0})
    event = json.loads(err)
    assert (event["event"], event["ref"], event["why"]) == ("message.failed", refs[1], "dropped")
    _, explained, _ = await house.run("explain", refs[1])
    assert "given up by its operator; the last answer was: 451 4.3.2 later" in explained
    await house.sink.received(2)
    notice = house.sink.messages[-1]
    assert (notice.mail_from, notice.recipients) == (b"", (b"b@orders.acme.example",))
    assert (await ended(house))["<m1@orders.acme.example>"] == ("failed", 0)

    async def over() -> bool:
        return (await house.run("outbox", "list"))[2] == "the outbox is empty\n"

    await until(over)
    metrics = await asyncio.to_thread(scrape, house.admin)
    relayed = 'sluis_messages_total{outcome="relayed",stream="orders"} 1.0\n'
    assert relayed in metrics, "the notice is no mail of the stream"
    decided = [x for x in metrics.splitlines() if x.startswith("sluis_decisions_total{")]
    counted = sum(float(x.split()[-1]) for x in decided if '"not-marketing"' in x)
    assert counted == 2 + 1, "each first try, and one more of the first mail"
    code, _, err = await house.run("outbox", "drop", refs[0])
    assert (code, f"nothing is unfinished under {refs[0]}" in err) == (1, True)
    code, out, err = await house.run("outbox", "drop", "--all")
    assert (code, out) == (1, "0 dropped, 0 under way\n")
    assert err == "nothing waits or is held\n"
    code, _, _ = await house.run("outbox", "retry")
    assert code == 64


async def test_held_mail_is_released_or_dropped_by_hand(house: House) -> None:  # noqa: F811
    configure(house, 'mode = "queued"\nambiguous = "hold"')
    house.sink.once(".", Step.LOSE, Step.CLOSE)
    await house.serve()
    refs = []
    for n in range(2):
        reply = await house.send(ANNA, message("orders", message_id=f"m{n}"))
        refs.append(reply.rpartition("(ref ")[2].rstrip(")"))

        async def held(n: int = n) -> bool:
            found = journal(house).get(f"<m{n}@orders.acme.example>")
            return found == ("held", 1)

        await until(held)
    again = await house.send(ANNA, message("orders", message_id="m0"))
    assert again.startswith(f"250 2.0.0 queued (ref {refs[0]}"), "its retry sends nothing"
    metrics = await asyncio.to_thread(scrape, house.admin)
    code, out, err = await house.run("outbox", "list")
    assert (code, err) == (0, "2 held\n")
    assert [line.split()[1] for line in out.splitlines()] == ["held", "held"]
    assert house.sink.total == 1, "nothing was sent a second time"

    async def counted() -> bool:
        nonlocal metrics
        metrics = await asyncio.to_thread(scrape, house.admin)
        return 'sluis_outbox_messages{state="held"} 2.0' in metrics

    await until(counted)
    oldest = next(x for x in metrics.splitlines() if x.startswith("sluis_outbox_oldest_seconds "))
    assert float(oldest.split()[1]) > 0
    code, out, _ = await house.run("outbox", "retry", "--all")
    assert (code, out) == (1, "0 due, 0 under way, 2 held\n"), "only by name, or by release"
    code, out, err = await house.run("outbox", "release", refs[0], "NOSUCH")
    assert (code, out) == (1, "1 released, 0 under way\n")
    assert err == "nothing is unfinished under NOSUCH\n"
    await house.sink.received(2)
    code, out, _ = await house.run("outbox", "drop", refs[1], "--json")
    assert (code, json.loads(out)) == (0, {"dropped": 1, "under_way": 0})
    rows = await ended(house)
    assert rows["<m0@orders.acme.example>"] == ("relayed", 1)
    assert rows["<m1@orders.acme.example>"] == ("failed", 1)
    assert [m.recipients for m in house.sink.messages if not m.mail_from] == [
        (b"b@orders.acme.example",)
    ], "and its submitter was told"
