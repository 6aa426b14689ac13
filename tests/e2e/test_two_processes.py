"""Two relays of one host on one store: one is stopped beyond its lease, the other takes over, and
the first goes on."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_sluis import CONFIG, message, until
from test_process import House, free_port

from proxy.sink import Sink, Step

pytest_plugins = ("running_sluis",)

ANNA = "anna@example.nl"

#: A lease of four and a half seconds.
QUICK = "\n".join(
    f'{stage}_timeout = "500ms"' for stage in ("connect", "command", "rcpt", "data", "block")
)
DELIVERY = """
[delivery]
mode = "{mode}"
attempt_hold = "1s"
lease_margin = "500ms"
retry_first = "50ms"
retry_longest = "50ms"
"""


@dataclass
class Pair:
    """Two configurations with directories of their own, and one store."""

    first: House
    second: House
    store: Path

    @property
    def sink(self) -> Sink:
        return self.first.sink

    def rows(self) -> list[tuple[str, int, int, str]]:
        """State, attempts, `maybe_sent` and notes of the outcomes of each row."""
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as db:
            return db.execute(
                "SELECT d.state, d.attempts, d.maybe_sent, coalesce((SELECT group_concat(o.result"
                " || ':' || o.note, ' ') FROM outcome o WHERE o.delivery = d.id), '')"
                " FROM delivery d ORDER BY d.id"
            ).fetchall()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    sink = Sink()
    await sink.start()
    store, keys = tmp_path / "shared.db", tmp_path / "first" / "keys"
    houses = []
    for name in ("first", "second"):
        smtp, admin = free_port(), free_port()
        text = CONFIG.format(
            data_dir=tmp_path / name, upstream=sink.smtp_port, more="", upstream_more=QUICK
        )
        text = text.replace('address = "127.0.0.1:0"', f'address = "127.0.0.1:{smtp}"')
        text = text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{admin}"')
        text = text.replace("block_timeout", 'final_timeout = "1500ms"\nblock_timeout')
        if name == "second":
            text = text.replace("[http]", f'[http]\nkeys_file = "{keys}"')
        path = tmp_path / f"{name}.toml"
        path.write_text(f'{text}\n[store]\nurl = "sqlite:///{store}"\n')
        houses.append(House(path, sink, smtp, admin, []))
    yield Pair(houses[0], houses[1], store)
    for house in houses:
        for process in house.running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    await sink.close()


def configure(pair: Pair, mode: str) -> None:
    for house in (pair.first, pair.second):
        house.path.write_text(house.path.read_text() + DELIVERY.format(mode=mode))


async def taken_over(pair: Pair) -> None:
    async def over() -> bool:
        return any("unknown:recovered" in notes for _, _, _, notes in pair.rows())

    await until(over, 40)


async def test_stopped_after_its_dot_beyond_its_lease_and_continued(pair: Pair) -> None:
    configure(pair, "inline")
    first = await pair.first.serve()
    await pair.second.serve()
    content = message("orders", message_id="stopped")
    pair.sink.once(".", Step.SILENT)
    sending = asyncio.create_task(pair.first.send(ANNA, content))

    async def written() -> bool:
        return pair.sink.deaf == 1

    await until(written)
    assert (await pair.second.send(ANNA, content)).startswith("451 4.4.5"), "live elsewhere"
    first.send_signal(signal.SIGSTOP)
    await taken_over(pair)
    again = await pair.second.send(ANNA, content)
    assert again.startswith("250 "), again
    assert [(row[0], row[2]) for row in pair.rows()] == [("unknown", 1), ("relayed", 1)]
    first.send_signal(signal.SIGCONT)
    late = await sending
    [(state, _, _, notes), _] = pair.rows()
    # Its time-out went by while it was stopped; what it knows now is added to its own attempt.
    assert late.startswith("451 4.4.5"), late
    assert (state, notes) == ("unknown", "unknown:recovered unknown:late")
    assert pair.sink.total == 1
    fresh = await pair.first.send(ANNA, message("orders", message_id="next"))
    assert fresh.startswith("250 "), "and it serves on"


async def test_stopped_before_its_dot_and_the_mail_is_sent_once(pair: Pair) -> None:
    configure(pair, "queued")
    first = await pair.first.serve()
    pair.sink.once("RCPT", Step.SILENT)
    reply = await pair.first.send(ANNA, message("orders", message_id="owed"))
    assert reply.startswith("250 2.0.0 queued"), reply

    async def open_() -> bool:
        return pair.sink.deaf == 1

    await until(open_)
    first.send_signal(signal.SIGSTOP)
    await pair.second.serve()

    async def relayed() -> bool:
        return [row[:3] for row in pair.rows()] == [("relayed", 2, 1)]

    await until(relayed, 40)
    first.send_signal(signal.SIGCONT)
    fresh = await pair.first.send(ANNA, message("orders", message_id="next"))
    assert fresh.startswith("250 "), fresh

    async def all_ended() -> bool:
        return [state for state, *_ in pair.rows()] == ["relayed", "relayed"]

    await until(all_ended, 40)
    assert pair.sink.total == 2, "one copy of each"
    assert await asyncio.to_thread(lambda: pair.rows()[0][1]) == 2
