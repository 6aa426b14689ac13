"""What waits meets the law of the day on which it leaves; and how a process ends and begins."""

from __future__ import annotations

import asyncio
import signal
import smtplib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from running_sluis import CLIENTS, message, until
from test_process import House, house  # noqa: F401

from proxy.sink import Step

pytest_plugins = ("running_sluis",)

ANNA = "anna@example.nl"
PACKS = Path(__file__).parents[2] / "policy" / "packs"


def rows(house: House) -> list[tuple[str, str]]:  # noqa: F811
    """State and pack of the newest decision of each mail that is no notice."""
    path = house.path.with_name("data") / "sluis.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(
            "SELECT d.state, (SELECT pack FROM decision x WHERE x.delivery = d.id ORDER BY x.id"
            " DESC LIMIT 1) FROM delivery d JOIN submission s ON s.id = d.submission"
            " WHERE s.mail_from <> '' ORDER BY d.id"
        ).fetchall()


def stricter(directory: Path) -> None:
    """A later version of the Dutch pack, in which an opt-in allows nothing."""
    text = (PACKS / "nl.toml").read_text("utf-8")
    begin = text.index('[[rules]]\nid = "consent"')
    rest = text[text.index("[[rules]]", begin + 1) :]
    directory.mkdir()
    text = text[:begin].replace('version = "2026.11"', 'version = "2026.12"') + rest
    (directory / "nl.toml").write_text(text, "utf-8")


async def test_a_changed_pack_stops_mail_that_waits_and_its_submitter_is_told(
    house: House,  # noqa: F811
) -> None:
    house.path.write_text(
        f'{house.path.read_text()}\n[delivery]\nmode = "queued"\nretry_first = "1h"\n'
    )
    code, _, err = await house.run("import", str(house.path.with_name("consents.csv")))
    assert code == 0, err
    house.sink.once("RCPT", "451 4.3.2 later")
    process = await house.serve()
    reply = await house.send(ANNA, message(message_id="m"), "newsletter")
    assert reply.startswith("250 2.0.0 queued"), reply

    await until(lambda: _attempted(house))
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0
    [(state, pack)] = rows(house)
    assert (state, pack[:10]) == ("waiting", "nl@2026.11")
    stricter(house.path.with_name("packs"))
    packs = house.path.with_name("packs")
    house.path.write_text(f'{house.path.read_text()}\n[policy]\npacks_dir = "{packs}"\n')
    await house.serve()
    code, out, _ = await house.run("outbox", "retry", "--all")
    assert (code, out) == (0, "1 due, 0 under way\n")
    await house.sink.received(1)
    [(state, pack)] = rows(house)
    assert (state, pack[:10]) == ("blocked", "nl@2026.12")
    [notice] = house.sink.messages
    assert (notice.mail_from, notice.recipients) == (b"", (b"b@news.acme.example",))
    assert b"Action: failed" in notice.content
    assert b"no-basis" in notice.content


async def _attempted(house: House) -> bool:  # noqa: F811
    path = house.path.with_name("data") / "sluis.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return bool(db.execute("SELECT 1 FROM outcome").fetchall())


async def test_a_second_signal_ends_at_once_and_the_next_start_finishes(
    house: House,  # noqa: F811
) -> None:
    more = '\n[delivery]\nmode = "queued"\nretry_first = "50ms"\n'
    house.path.write_text(house.path.read_text() + more)
    process = await house.serve()
    house.sink.once(".", Step.SILENT)
    reply = await house.send(ANNA, message("orders", message_id="t"))
    assert reply.startswith("250 2.0.0 queued"), reply

    async def open_() -> bool:
        return house.sink.deaf == 1

    await until(open_)
    process.send_signal(signal.SIGTERM)
    await until(house.closed)
    assert process.returncode is None, "it waits for the attempt in progress"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 1
    await house.serve()

    async def relayed() -> bool:
        return [state for state, _ in rows(house)] == ["relayed"]

    await until(relayed)
    assert house.sink.total == 1


async def test_drain_says_421_to_the_idle_and_takes_nobody(house: House) -> None:  # noqa: F811
    process = await house.serve()
    loop = asyncio.get_running_loop()
    client = await loop.run_in_executor(CLIENTS, smtplib.SMTP, "127.0.0.1", house.smtp)
    await loop.run_in_executor(CLIENTS, client.ehlo, "app.acme.example")
    process.send_signal(signal.SIGTERM)
    code, _ = await loop.run_in_executor(CLIENTS, client.getreply)
    assert code == 421
    client.close()
    assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.parametrize("zones", [("Pacific/Kiritimati", "Pacific/Pago_Pago")])
async def test_the_zone_of_the_machine_decides_nothing(
    house: House, zones: tuple[str, str], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    """A retry is the same copy, and what waits is due, on clocks that read 25 hours apart."""
    house.path.write_text(f'{house.path.read_text()}\n[delivery]\nretry_first = "50ms"\n')
    content = message("orders", message_id="zone")
    replies = []
    for zone in zones:
        monkeypatch.setenv("TZ", zone)
        process = await house.serve()
        replies.append(await house.send(ANNA, content))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert replies[0].startswith("250 "), replies
    assert replies[0] == replies[1], "answered from the journal"
    assert house.sink.total == 1
