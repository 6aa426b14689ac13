"""Load and count: Postfix's smtp-source and smtp-sink, and a client of our own for latencies.

Rates are counted at the sink, from the start of the source to the last message's arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from bench.race.process import PATH, BenchError, cpu, listens, stop, until

SOURCE = shutil.which("smtp-source", path=PATH)
SINK = shutil.which("smtp-sink", path=PATH)
SENDER = "bounce@news.shop.example"
#: smtp-source puts a number before it: 1person@..., 2person@...
PERSON = "person@people.example"
_COUNT = re.compile(rb"mesg=(\d+)")
_LONGEST = 300.0


class Counter:
    """A running smtp-sink, and how many messages it took."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._seen = b""

    @property
    def messages(self) -> int:
        """How many it took so far."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.process.stdout.fileno(), 1 << 16):
                self._seen = (self._seen + piece)[-200:]
        found = _COUNT.findall(self._seen)
        return int(found[-1]) if found else 0


@contextlib.contextmanager
def sink(port: int, *, counting: bool = True) -> Iterator[Counter]:
    """An smtp-sink on `port` until the block ends; one that counts stops when nobody reads it."""
    if SINK is None:
        raise BenchError("smtp-sink is missing: install Debian's postfix")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [SINK, *user, *(["-c"] * counting), f"127.0.0.1:{port}", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        until(lambda: listens(port), "smtp-sink listens")
        yield Counter(process)
    finally:
        stop(process)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run sends. `recipients` per message; every recipient has an address of its own.

    `person` is that of the addresses after their number; `sender` "" is `SENDER`.
    """

    mail: Path
    messages: int
    sessions: int = 20
    recipients: int = 1
    person: str = PERSON
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """Messages (copies, where there are several recipients) per second; CPU seconds per 1,000.

    The CPU of the relay with all its processes, which is milliseconds a message too.
    """

    per_second: float
    cpu: float


def drive(
    load: Load,
    port: int,
    counter: Counter,
    roots: int | Sequence[int] | None,
    expected: int,
) -> Rate:
    """Send `load` to `port`, until `expected` messages came to the sink; `roots` is the relay."""
    if SOURCE is None:
        raise BenchError("smtp-source is missing: install Debian's postfix")
    before = counter.messages
    spent = cpu(roots) if roots else 0.0
    began = time.perf_counter()
    many = ["-r", str(load.recipients)] if load.recipients > 1 else []
    sender = load.sender or SENDER
    source = subprocess.Popen(
        [
            *(SOURCE, "-d", "-N", "-s", str(load.sessions), "-m", str(load.messages), *many),
            *("-F", str(load.mail), "-f", sender, "-t", load.person, f"127.0.0.1:{port}"),
        ],
        stderr=subprocess.PIPE,
    )
    ended = False
    while counter.messages - before < expected:
        if not ended and source.poll() is not None:
            ended = True
            if source.returncode != 0:
                assert source.stderr is not None
                raise BenchError(source.stderr.read().decode())
        if time.perf_counter() - began > _LONGEST:
            source.kill()
            raise BenchError(f"{counter.messages - before} of {expected} messages arrived")
        time.sleep(0.001)
    seconds = time.perf_counter() - began
    source.wait()
    per_thousand = ((cpu(roots) - spent) if roots else 0.0) * 1000 / expected
    return Rate(expected / seconds, per_thousand)


# -- a client of our own: one connection per session, closed loop --------------------------------


class _Session(asyncio.Protocol):
    """Writes a step, waits for as many replies as it has, notes how long all steps took."""

    def __init__(self, steps: list[tuple[bytes, int]], count: int, numbers: Iterator[int]) -> None:
        self._steps = steps
        self._count = count
        self._numbers = numbers
        self._step = -1
        self._due = 1
        self._rest = b""
        self._began = 0.0
        self.times: list[float] = []
        self.codes: set[bytes] = set()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\r\n")
        self._rest = lines.pop()
        for line in lines:
            if line[3:4] != b"-":
                self._due -= 1
                self.codes.add(line[:3])
        if self._due > 0:
            return
        if self._step == -1:
            self._step = 0
            self._say(b"EHLO bench.example\r\n", 1)
            return
        if self._step == len(self._steps):
            self.times.append(time.perf_counter() - self._began)
            self._step = 0
            if len(self.times) == self._count:
                self._transport.write(b"QUIT\r\n")
                self._transport.close()
                if not self.done.done():
                    self.done.set_result(None)
                return
        if self._step == 0:
            self._began = time.perf_counter()
            self._number = next(self._numbers)
        text, replies = self._steps[self._step]
        self._step += 1
        self._say(text.replace(b"%d", b"%d" % self._number), replies)

    def _say(self, text: bytes, replies: int) -> None:
        self._due = replies
        self._transport.write(text)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            words = f"the relay closed the connection after {self.codes} {self._rest!r}, {exc}"
            self.done.set_exception(BenchError(words))


def transactions(
    port: int, steps: list[tuple[bytes, int]], *, sessions: int, count: int
) -> tuple[list[float], float, set[bytes]]:
    """`count` transactions over `sessions` connections: seconds of each, rate, reply codes.

    A step is what to write and how many replies it brings; `%d` becomes the number of a person.
    """

    async def play() -> tuple[list[float], float, set[bytes]]:
        loop = asyncio.get_running_loop()
        numbers = iter(range(1, count + sessions + 1))
        each = count // sessions
        began = time.perf_counter()
        players = []
        for _ in range(sessions):
            _, player = await loop.create_connection(
                lambda: _Session(steps, each, numbers), "127.0.0.1", port
            )
            players.append(player)
        await asyncio.gather(*(player.done for player in players))
        seconds = time.perf_counter() - began
        times = [one for player in players for one in player.times]
        codes = set().union(*(player.codes for player in players))
        return times, len(times) / seconds, codes

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(play(), _LONGEST))
