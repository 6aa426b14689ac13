"""What pipelining and pooling are worth on the way to the upstream: ratios within one run.

    python -m bench.upstream [--messages 4000] [--rounds 5] [--rtt 20]

Every variant sends the same 4 KB mail over 20 sessions into Postfix's smtp-sink (Debian package
postfix), else into our own sink in a process of its own. The variants take turns in every round,
because the machine's speed drifts; a ratio compares two variants of one round. CPU is that of this
process, per mail. With `--rtt` the bytes pass a relay in this process that holds them back for half
of it each way, as a network does: there round trips count, and CPU is not comparable.
Not measured: TLS, big mail, slow upstreams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import aiosmtplib
import uvloop

from proxy.config import Upstream
from proxy.delivery.upstream import Copy, Pool
from proxy.store.model import Result

SESSIONS = 20
BODY = b"Subject: bench\r\n\r\n" + b"A line of text, as long as lines of text are.\r\n" * 87
SENDER, RECIPIENT = "bounce@acme.example", "anna@example.nl"
SMTP_SINK = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Quiet:
    """Telemetry for nobody."""

    def upstream(self, name: str, up: bool) -> None:
        """Part of `UpstreamEvents`."""


@dataclass(frozen=True)
class Run:
    """One variant in one round."""

    rate: float  # mails per second
    cpu: float   # our CPU, microseconds per mail


Variant = Callable[[int, int, int], Awaitable[Run]]


async def ours(port: int, messages: int, per_connection: int) -> Run:
    """The pool of the product."""
    settings = Upstream(
        address=f"127.0.0.1:{port}",
        tls="none",
        connections=SESSIONS,
        messages_per_connection=per_connection,
        idle_timeout=timedelta(seconds=30),
    )
    pool = Pool([settings], hostname="gate.example", telemetry=Quiet())
    copy = Copy(
        mail_from=SENDER.encode(),
        recipients=(RECIPIENT.encode(),),
        size=len(BODY),
        body_8bit=False,
        smtputf8=False,
    )

    async def session(count: int) -> None:
        for _ in range(count):
            async with pool.connection() as connection:
                connection.begin(copy)
                (given,) = await connection.finish([BODY])
                if given.result is not Result.ACCEPTED:
                    raise SystemExit(f"upstream said {given.reply}")

    run = await timed(session, messages)
    await pool.close()
    return run


async def peer(port: int, messages: int, per_connection: int) -> Run:
    """aiosmtplib, which does not pipeline: a connection per session, or per mail."""

    async def session(count: int) -> None:
        for start in range(0, count, per_connection):
            client = aiosmtplib.SMTP(
                hostname="127.0.0.1", port=port, local_hostname="gate.example", start_tls=False
            )
            async with client:
                for _ in range(min(per_connection, count - start)):
                    await client.sendmail(SENDER, [RECIPIENT], BODY)

    return await timed(session, messages)


async def timed(session: Callable[[int], Awaitable[None]], messages: int) -> Run:
    """Run `messages` over the sessions."""
    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(SESSIONS):
            group.create_task(_run(session, messages // SESSIONS))
    count = messages // SESSIONS * SESSIONS
    return Run(
        count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1_000_000
    )


async def _run(session: Callable[[int], Awaitable[None]], count: int) -> None:
    await session(count)


@contextlib.asynccontextmanager
async def server(*, pipelining: bool) -> AsyncIterator[int]:
    """A sink in a process of its own; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    if SMTP_SINK is not None:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        plain = [] if pipelining else ["-p"]
        command = [SMTP_SINK, *user, *plain, f"127.0.0.1:{port}", "1024"]
    else:
        offers = "EXTENSIONS" if pipelining else "EXTENSIONS[1:]"
        code = (
            "import asyncio, uvloop\nfrom proxy.sink import *\nfrom proxy.sink import EXTENSIONS\n"
            f"async def run():\n    sink = Sink(keep=10, extensions={offers})\n"
            f"    await sink.start('127.0.0.1', {port})\n    await asyncio.Event().wait()\n"
            "uvloop.run(run())"
        )
        command = [sys.executable, "-c", code]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield port
    finally:
        process.kill()
        await process.wait()


class _Late(asyncio.Protocol):
    """One side of a relayed connection: what it reads, the other writes `delay` seconds later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.transport: asyncio.Transport | None = None
        self.other: _Late | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        for data in self.waiting:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._pass, data)

    def _pass(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            if not self.other.transport.is_closing():
                self.other.transport.write(data)
        elif self.other is not None:
            self.other.waiting.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            asyncio.get_running_loop().call_later(self.delay, self.other.transport.close)


@contextlib.asynccontextmanager
async def far(port: int, rtt: float) -> AsyncIterator[int]:
    """A port on which `port` is `rtt` seconds away."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[object]] = set()

    def accept() -> _Late:
        near, beyond = _Late(rtt / 2), _Late(rtt / 2)
        near.other, beyond.other = beyond, near
        task: asyncio.Task[object] = loop.create_task(
            _connect(loop, beyond, port)
        )
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return near

    relay = await loop.create_server(accept, "127.0.0.1", 0)
    try:
        yield int(relay.sockets[0].getsockname()[1])
    finally:
        relay.close()


async def _connect(loop: asyncio.AbstractEventLoop, side: _Late, port: int) -> object:
    return await loop.create_connection(lambda: side, "127.0.0.1", port)


async def compare(title: str, rounds: int, messages: int, rtt: float) -> None:
    """All variants in turn, and what they are worth."""
    results: dict[str, list[Run]] = {}
    async with contextlib.AsyncExitStack() as stack:
        piped = await stack.enter_async_context(server(pipelining=True))
        plain = await stack.enter_async_context(server(pipelining=False))
        if rtt:
            piped = await stack.enter_async_context(far(piped, rtt))
            plain = await stack.enter_async_context(far(plain, rtt))
        variants: dict[str, tuple[Variant, int, int]] = {
            "pooled, pipelined": (ours, piped, 1_000_000),
            "pooled, step by step": (ours, plain, 1_000_000),
            "new connection, pipelined": (ours, piped, 1),
            "new connection, step by step": (ours, plain, 1),
            "aiosmtplib, kept connections": (peer, plain, 1_000_000),
            "aiosmtplib, new connection": (peer, plain, 1),
        }
        await ours(piped, SESSIONS * 5, 100)  # warm up
        for _ in range(rounds):
            for name, (variant, port, share) in variants.items():
                results.setdefault(name, []).append(await variant(port, messages, share))
    base = results["pooled, pipelined"]
    size = f"{messages} mails of {len(BODY)} octets"
    print(f"\n{title}: {rounds} rounds of {size}, {SESSIONS} sessions")
    print(f"{'':31} {'mails/s':>8} {'rate, best = 1':>22} {'CPU us/mail':>12}")
    for name, runs in results.items():
        ratios = [run.rate / first.rate for run, first in zip(runs, base, strict=True)]
        print(
            f"{name:31} {statistics.median(r.rate for r in runs):8.0f} "
            f"{statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"{statistics.median(r.cpu for r in runs):10.0f}"
        )


async def main() -> None:
    """Both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rtt", type=float, default=20, help="milliseconds; 0 leaves it out")
    args = parser.parse_args()
    print(f"upstream: {'smtp-sink' if SMTP_SINK else 'sluis sink'}, uvloop, loopback")
    await compare("no distance", args.rounds, args.messages, 0)
    if args.rtt:
        few = max(SESSIONS * 10, args.messages // 10)
        await compare(f"round trip {args.rtt:g} ms", args.rounds, few, args.rtt / 1000)


if __name__ == "__main__":
    uvloop.run(main())
