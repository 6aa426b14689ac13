"""CPU per mail of the three layers that move a mail and judge nothing: session, store, delivery.

    python -m bench.io_path [--mails 3000] [--rounds 5] [--stage session] [--directory DIR]

Each layer runs alone in this process on uvloop, twenty mails at a time, one recipient, 4 KB, and
beside it, in turns, the least that Python could do for the same:

    session   the whole front door with a gate that says yes, beside a protocol that answers the
              same dialogue without reading it
    store     lookup, claim, record: two awaited commits, beside the same bytes inserted into one
              table, twenty mails to a commit, by one thread in one loop
    delivery  the pool, beside a protocol that writes the same bytes and counts lines

The client of `session` and the sink of `delivery` are Postfix's smtp-source and smtp-sink (Debian
package postfix) in processes of their own. CPU is that of this process with all its threads, in
microseconds per mail; it depends less on who else uses the machine than a rate does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import uvloop

from bench.store import NOW, fill, mail, person
from bench.upstream import BODY, RECIPIENT, SENDER, SESSIONS, Quiet, server
from policy.address import Address
from proxy.config import Http, Listener, PolicyConfig, Server, Settings, Upstream
from proxy.content import Content
from proxy.delivery.upstream import Copy, Pool
from proxy.envelope import Envelope
from proxy.replies import Reply
from proxy.smtp.server import serve_listener
from proxy.store.model import Outcome, Result
from proxy.store.sqlite import open_sqlite

SMTP_SOURCE = shutil.which("smtp-source", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PEOPLE = 5000


@dataclass(frozen=True)
class Cost:
    """One run."""

    rate: float  # mails per second
    cpu: float   # microseconds per mail, of this process


class Meter:
    """CPU and time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def per(self, mails: int) -> Cost:
        """For each of so many."""
        wall = time.perf_counter() - self._wall
        return Cost(mails / wall, (time.process_time() - self._cpu) / mails * 1e6)


Stage = Callable[[int], Awaitable[Cost]]


async def at_once(mails: int, one: Callable[[int], Awaitable[None]]) -> Cost:
    """`one` for each number, twenty at a time."""

    async def session(first: int) -> None:
        for number in range(first, mails, SESSIONS):
            await one(number)

    meter = Meter()
    async with asyncio.TaskGroup() as group:
        for first in range(SESSIONS):
            group.create_task(session(first))
    return meter.per(mails)


# -- session ---------------------------------------------------------------------------------------


class YesGate:
    """Says yes, at once."""

    async def mail(self, envelope: Envelope) -> Reply | None:
        """Part of `proxy.smtp.Gate`."""
        return None

    def relays_notices(self) -> bool:
        """Part of `proxy.smtp.Gate`."""
        return False

    def accepts_from_strangers(self, recipient: Address) -> bool:
        """Part of `proxy.smtp.Gate`."""
        return False

    async def admit(self, envelope: Envelope, recipient: Address) -> Reply | None:
        """Part of `proxy.smtp.Gate`."""
        return None

    async def submit(self, envelope: Envelope, content: Content) -> Reply:
        """Part of `proxy.smtp.Gate`."""
        return Reply(250, "2.0.0", f"relayed (ref {envelope.ref})")


class NoCounters:
    """Telemetry for nobody."""

    def connection_opened(self, listener: str) -> None:
        """Part of `proxy.smtp.wire.Counters`."""

    def connection_closed(self, listener: str) -> None:
        """Part of `proxy.smtp.wire.Counters`."""

    def reply(self, command: str, code: int) -> None:
        """Part of `proxy.smtp.wire.Counters`."""


class _Puppet(asyncio.Protocol):
    """Answers what smtp-source says, by the first letters of a line."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._content = False
        self._transport.write(b"220 puppet\r\n")

    def data_received(self, data: bytes) -> None:
        if self._content:
            if data.endswith(b"\r\n.\r\n"):
                self._content = False
                self._transport.write(b"250 2.0.0 relayed\r\n")
        elif data.startswith(b"DATA"):
            self._content = True
            self._transport.write(b"354 go ahead\r\n")
        else:
            self._transport.write(b"250 2.0.0 ok\r\n")


async def _source(port: int, mails: int) -> Cost:
    if SMTP_SOURCE is None:
        raise SystemExit("smtp-source is missing: install the Debian package postfix")
    meter = Meter()
    process = await asyncio.create_subprocess_exec(
        SMTP_SOURCE, "-d", "-s", str(SESSIONS), "-m", str(mails), "-l", "4096",
        "-f", SENDER, "-t", RECIPIENT, f"127.0.0.1:{port}",
    )  # fmt: skip
    if await process.wait():
        raise SystemExit("smtp-source failed")
    return meter.per(mails)


async def front_door(directory: Path) -> Stage:
    """The product's listener."""
    listener = Listener(address="127.0.0.1:0", trusted_networks=("127.0.0.0/8",))
    settings = Settings(
        server=Server(hostname="gate.acme.example", data_dir=directory),
        listeners=(listener,),
        upstreams=(),
        http=Http(public_url="https://mail.acme.example"),
        senders=(),
        streams=(),
        credentials=(),
        policy=PolicyConfig(),
    )
    running = await serve_listener(
        listener, settings, YesGate(), NoCounters(), clock=lambda: datetime.now(UTC)
    )
    return lambda mails: _source(running.port, mails)


async def puppet(_: Path) -> Stage:
    """The least."""
    opened = await asyncio.get_running_loop().create_server(_Puppet, "127.0.0.1", 0)
    port = opened.sockets[0].getsockname()[1]
    return lambda mails: _source(port, mails)


# -- store -----------------------------------------------------------------------------------------


async def journal(directory: Path) -> Stage:
    """The product's store, with people in it, each of whom has given consent."""
    store = await open_sqlite(directory / "store.db", instance="bench", owner=True, create=True)
    await fill(store)
    made = 0

    async def one(number: int) -> None:
        who = person(number % PEOPLE)
        snapshot = await store.lookup([who])
        claimed = await store.claim(mail(f"{made}-{number}", who, snapshot.high))
        fate = claimed.fates[0]
        outcome = Outcome(
            row=fate.row, attempt=fate.attempt, result=Result.ACCEPTED, reply="250 2.0.0 ok", at=NOW
        )
        await store.record([outcome])

    async def run(mails: int) -> Cost:
        nonlocal made
        made += 1
        return await at_once(mails, one)

    return run


async def one_table(directory: Path) -> Stage:
    """The least: a row by its key, a row with the same texts, an update of it."""
    db = sqlite3.connect(directory / "one.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, key TEXT UNIQUE, a TEXT, b TEXT)")
    made = 0
    texts = mail("x", person(1), 0).rows[0].facts

    async def run(mails: int) -> Cost:
        nonlocal made
        meter = Meter()
        for first in range(0, mails, SESSIONS):
            keys = [f"{made + first + n:064x}" for n in range(SESSIONS)]
            for key in keys:
                db.execute("SELECT a FROM row WHERE key = ?", (key,)).fetchone()
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO row (key, a) VALUES (?, ?)", [(k, texts) for k in keys])
            db.execute("COMMIT")
            db.execute("BEGIN IMMEDIATE")
            db.executemany("UPDATE row SET b = ? WHERE key = ?", [("250 ok", k) for k in keys])
            db.execute("COMMIT")
        made += mails
        return meter.per(mails)

    return run


# -- delivery --------------------------------------------------------------------------------------

COPY = Copy(
    mail_from=SENDER.encode(),
    recipients=(RECIPIENT.encode(),),
    size=len(BODY),
    body_8bit=False,
    smtputf8=False,
)


def pooled(port: int) -> Stage:
    """The product's pool."""
    upstream = Upstream(
        address=f"127.0.0.1:{port}",
        tls="none",
        connections=SESSIONS,
        messages_per_connection=1_000_000,
        idle_timeout=timedelta(seconds=30),
    )
    pool = Pool([upstream], hostname="gate.example", telemetry=Quiet())

    async def one(_: int) -> None:
        async with pool.connection() as connection:
            connection.begin(COPY)
            (given,) = await connection.finish([BODY])
            if given.result is not Result.ACCEPTED:
                raise SystemExit(f"upstream said {given.reply}")

    return lambda mails: at_once(mails, one)


class _Writer(asyncio.Protocol):
    """Four replies to a mail: three to the envelope, one to the dot."""

    def __init__(self, mails: int) -> None:
        self._left, self._lines = mails, -2  # the greeting, and the answer to HELO
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"HELO x\r\n")

    def data_received(self, data: bytes) -> None:
        before = self._lines
        self._lines += data.count(b"\n")
        if before < 3 <= self._lines < 4:
            self._transport.writelines((BODY, b".\r\n"))
        elif self._lines in (0, 4):
            self._left -= self._lines == 4
            self._lines = 0
            if self._left:
                envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n"
                self._transport.write(envelope.encode())
            else:
                self._transport.close()
                self.done.set_result(None)


def written(port: int) -> Stage:
    """The least."""

    async def run(mails: int) -> Cost:
        loop = asyncio.get_running_loop()
        meter = Meter()
        for connected in [
            await loop.create_connection(lambda: _Writer(mails // SESSIONS), "127.0.0.1", port)
            for _ in range(SESSIONS)
        ]:
            await connected[1].done
        return meter.per(mails)

    return run


# -- all -------------------------------------------------------------------------------------------


async def compare(name: str, ours: Stage, least: Stage, mails: int, rounds: int) -> None:
    """In turns; medians, and the range of the ratio."""
    await ours(SESSIONS * 10)
    await least(SESSIONS * 10)
    runs = [(await ours(mails), await least(mails)) for _ in range(rounds)]
    ratios = sorted(a.cpu / b.cpu for a, b in runs)
    print(
        f"{name:9} {statistics.median(a.cpu for a, _ in runs):7.0f} us/mail"
        f" {statistics.median(a.rate for a, _ in runs):7.0f}/s;"
        f" the least {statistics.median(b.cpu for _, b in runs):5.0f} us;"
        f" ratio {statistics.median(ratios):5.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        flush=True,
    )


async def main() -> None:
    """One stage after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--mails", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage", choices=("session", "store", "delivery"), action="append")
    parser.add_argument("--directory", type=Path, help="where the databases go (a real disk)")
    args = parser.parse_args()
    stages = args.stage or ["session", "store", "delivery"]
    mails = args.mails // SESSIONS * SESSIONS
    with tempfile.TemporaryDirectory(dir=args.directory) as temporary:
        directory = Path(temporary)
        if "session" in stages:
            ours, least = await front_door(directory), await puppet(directory)
            await compare("session", ours, least, mails, args.rounds)
        if "store" in stages:
            ours, least = await journal(directory), await one_table(directory)
            await compare("store", ours, least, mails, args.rounds)
        if "delivery" in stages:
            async with server(pipelining=True) as port:
                await compare("delivery", pooled(port), written(port), mails, args.rounds)


if __name__ == "__main__":
    uvloop.run(main())
    sys.stdout.flush()
