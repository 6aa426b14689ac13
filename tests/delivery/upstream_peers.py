"""What the tests of the upstream client talk to: the sink, and settings with short time-outs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from proxy.delivery.upstream import Connection, Copy, Given, Pool
from proxy.sink import EXTENSIONS, Sink
from proxy.store.model import Result

BODY = b"Subject: hello\r\n\r\nline one\r\n.line two\r\n..\r\n"
STEPWISE = tuple(e for e in EXTENSIONS if e != "PIPELINING")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`UpstreamLike`, plaintext to loopback unless said otherwise."""

    port: int
    host: str = "127.0.0.1"
    tls: str = "none"
    verify: bool = True
    ca_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    connections: int = 4
    messages_per_connection: int = 100
    idle_timeout: timedelta = timedelta(seconds=30)
    connect_timeout: timedelta = timedelta(seconds=5)
    greeting_timeout: timedelta = timedelta(seconds=5)
    command_timeout: timedelta = timedelta(seconds=5)
    rcpt_timeout: timedelta = timedelta(seconds=5)
    data_timeout: timedelta = timedelta(seconds=5)
    block_timeout: timedelta = timedelta(seconds=5)
    final_timeout: timedelta = timedelta(seconds=5)

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


def impatient(seconds: float = 0.15) -> dict[str, timedelta]:
    """Time-outs for tests of silence."""
    stages = ("greeting", "command", "rcpt", "data", "block", "final")
    names = tuple(f"{stage}_timeout" for stage in stages)
    return {name: timedelta(seconds=seconds) for name in names}


@dataclass
class Events:
    """Telemetry that remembers."""

    seen: list[tuple[str, bool]] = field(default_factory=list)

    def upstream(self, name: str, up: bool) -> None:
        self.seen.append((name, up))


def copy_of(
    *recipients: bytes,
    mail_from: bytes = b"bounce@acme.example",
    size: int = len(BODY),
    body_8bit: bool = False,
    smtputf8: bool = False,
    **notices: Any,
) -> Copy:
    return Copy(
        mail_from=mail_from,
        recipients=recipients or (b"anna@example.nl",),
        size=size,
        body_8bit=body_8bit,
        smtputf8=smtputf8,
        **notices,
    )


@contextlib.asynccontextmanager
async def sink(**options: Any) -> AsyncIterator[Sink]:
    """A running sink on free ports."""
    server = Sink(**options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def pool_to(*servers: Sink, **settings: Any) -> AsyncIterator[Pool]:
    """A pool with `servers` as its upstreams."""
    upstreams = [Settings(port=server.smtp_port, **settings) for server in servers]
    pool = Pool(upstreams, hostname="gate.example", telemetry=Events())
    try:
        yield pool
    finally:
        await pool.close()


async def send(pool: Pool, copy: Copy | None = None, *parts: bytes | memoryview) -> list[Given]:
    """One mail over a connection of the pool."""
    async with pool.connection() as connection:
        return await send_on(connection, copy, *parts)


async def send_on(
    connection: Connection, copy: Copy | None = None, *parts: bytes | memoryview
) -> list[Given]:
    connection.begin(copy or copy_of())
    return await connection.finish(parts or (BODY,))


def results(given: list[Given]) -> list[Result]:
    return [one.result for one in given]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for what other tasks bring about; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the state of a server
            await asyncio.sleep(0.001)


@dataclass
class Tap:
    """Reads and commands per connection, as the server saw them."""

    reads: dict[int, list[bytes]] = field(default_factory=dict)

    def __call__(self, connection: int, data: bytes) -> None:
        self.reads.setdefault(connection, []).append(data)

    def wire(self, connection: int = 1) -> bytes:
        return b"".join(self.reads.get(connection, []))
