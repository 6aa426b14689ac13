"""What many, slow and endless clients cost a running `sluis serve`: memory, and others' patience.

    python -m bench.front_door [--idle 2000] [--slow 500] [--seconds 15] [--megabytes 100]

A relay of its own in a process of its own, on loopback, with our sink as its upstream in this
process. Memory is the relay's resident set (VmRSS; VmHWM for peaks), in megabytes of 10^6 octets.
The good client sends one transactional mail after the other, each on a connection of its own, and
waits for the reply to the final dot; it shares the machine with the slow ones and their driver.
Exits 1 where a figure is beyond the aim that stands beside it. Not measured: TLS, real networks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

from bench.acme import ACME, ORDERS, relay_toml
from bench.race.process import installed
from proxy.sink import Sink

LIMITS = """\
[limits]
connections = 10000
message_size = "{megabytes}MiB"
memory = "1024MiB"
"""
AIM_IDLE, AIM_P99, AIM_LINE = 120.0, 1.0, 4.0
MEGABYTE = 1_000_000
_BLOCK = (b"y" * 76 + b"\r\n") * 3360  # 256 KiB of ordinary lines


def config_text(folder: Path, *, port: int, upstream: int, megabytes: int) -> str:
    """The relay that is measured; no mail is larger than `megabytes`."""
    text = relay_toml(
        folder / "data",
        listener=f"127.0.0.1:{port}",
        upstream=f"127.0.0.1:{upstream}",
        serves=True,
    )
    return text + ACME + ORDERS + LIMITS.format(megabytes=megabytes)


class Hole(asyncio.Protocol):
    """An upstream that takes everything, however large, and keeps nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._in, self._data = b"", False
        self._transport.write(b"220 hole.example\r\n")

    def data_received(self, octets: bytes) -> None:
        """Commands of one client that pipelines, and its mail."""
        self._in += octets
        while self._in:
            if self._data:
                end = self._in.find(b"\r\n.\r\n")
                if end < 0:
                    self._in = self._in[-4:]
                    return
                self._in, self._data = self._in[end + 5 :], False
                self._transport.write(b"250 2.0.0 taken\r\n")
                continue
            line, found, rest = self._in.partition(b"\r\n")
            if not found:
                return
            self._in = rest
            verb = line[:4].upper()
            self._data = verb == b"DATA"
            greeting = b"250-hole.example\r\n250 PIPELINING\r\n"
            answers = {b"DATA": b"354 go on\r\n", b"EHLO": greeting}
            self._transport.write(answers.get(verb, b"250 2.0.0 ok\r\n"))


class Relay:
    """A `sluis serve`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    def memory(self, key: str = "VmRSS", file: str = "status") -> float:
        """Megabytes."""
        status = Path(f"/proc/{self._process.pid}/{file}").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024 / MEGABYTE

    def forget_peak(self) -> None:
        """VmHWM starts anew from what is resident now."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")


@contextlib.asynccontextmanager
async def relay(
    folder: Path, upstream: int, megabytes: int, more: str = ""
) -> AsyncIterator[Relay]:
    """Runs until the block ends. `more` is configuration."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    config = folder / "sluis.toml"
    text = config_text(folder, port=port, upstream=upstream, megabytes=megabytes)
    config.write_text(text + more)
    words = (sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(config))
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *words, stdout=log, stderr=log, env=installed()
        )
    try:
        for _ in range(600):
            if process.returncode is not None:
                raise SystemExit((folder / "log").read_text())
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield Relay(process, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Client:
    """As much SMTP as a bench needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        await client.reply()
        return client

    async def reply(self) -> bytes:
        while (line := await self.reader.readline())[3:4] == b"-":
            pass
        return line

    async def say(self, line: bytes) -> bytes:
        self.writer.write(line + b"\r\n")
        return await self.reply()

    async def data(
        self, domain: str = "orders.acme.example", people: Sequence[str] = ("anna@example.nl",)
    ) -> None:
        """Up to 354."""
        await self.say(b"EHLO app.acme.example")
        await self.say(f"MAIL FROM:<bounce@{domain}>".encode())
        for person in people:
            await self.say(f"RCPT TO:<{person}>".encode())
        if not (await self.say(b"DATA")).startswith(b"354"):
            raise SystemExit("no 354")

    def close(self) -> None:
        self.writer.close()


async def idle(gate: Relay, count: int) -> bool:
    """Clients that said EHLO and nothing more."""
    before = gate.memory()
    clients: list[Client] = []
    for _ in range(0, count, 100):
        some = await asyncio.gather(*(Client.connect(gate.port) for _ in range(100)))
        await asyncio.gather(*(c.say(b"EHLO idle.example") for c in some))
        clients += some
    held = gate.memory()
    print(f"{len(clients)} idle clients: {held:.0f} MB, from {before:.0f} MB: ", end="")
    print(f"{(held - before) * 1000 / len(clients):.1f} KB each (aim: {AIM_IDLE:.0f} MB in all)")
    for client in clients:
        client.close()
    return held < AIM_IDLE


async def mails(gate: Relay, seconds: float) -> list[float]:
    """How long each of a good client's mails took, in seconds."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        client = await Client.connect(gate.port)
        await client.data()
        head = f"From: o@orders.acme.example\r\nMessage-ID: <{os.urandom(8).hex()}@acme.example>"
        answer = await client.say(f"{head}\r\nSubject: order\r\n\r\nThank you.\r\n.".encode())
        if not answer.startswith(b"250"):
            raise SystemExit(answer.decode())
        client.close()
        taken.append(time.monotonic() - start)
    return taken


async def slow(gate: Relay, count: int, seconds: float) -> bool:
    """Clients that send an octet a second, half of them amid a command, half amid a message."""
    alone = await mails(gate, seconds)
    clients = [await Client.connect(gate.port) for _ in range(count)]
    for client in clients[::2]:
        await client.data()

    async def trickle(client: Client, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            client.writer.write(b"x")
            await asyncio.sleep(1)

    tricklers = [asyncio.create_task(trickle(c, n / count)) for n, c in enumerate(clients)]
    beside = await mails(gate, seconds)
    held = gate.memory()
    for task in tricklers:
        task.cancel()
    p99 = {name: _p99(taken) for name, taken in (("alone", alone), ("beside", beside))}
    print(f"a good client alone: {_figures(alone)}")
    print(f"beside {count} slow clients: {_figures(beside)}; {held:.0f} MB (aim: p99 {AIM_P99} s)")
    for client in clients:
        client.close()
    return p99["beside"] < AIM_P99


async def endless_line(gate: Relay, megabytes: int) -> bool:
    """One line without CRLF, as large as a message may be."""
    client = await Client.connect(gate.port)
    await client.data()
    gate.forget_peak()
    before = gate.memory()
    block = b"x" * MEGABYTE
    for _ in range(megabytes):
        client.writer.write(block)
        await client.writer.drain()
    answer = await client.say(b"\r\n.")
    grown = gate.memory("VmHWM") - before
    print(f"a line of {megabytes} MB: {grown:+.1f} MB at most (aim: {AIM_LINE}), answered ", end="")
    print(answer.decode("ascii").strip())
    client.close()
    return grown < AIM_LINE


async def large_mail(gate: Relay, megabytes: int) -> bool:
    """A mail that comes in whole: what it takes until its final dot, and after it."""
    client = await Client.connect(gate.port)
    await client.data()
    gate.forget_peak()
    before = gate.memory()
    client.writer.write(b"From: o@orders.acme.example\r\nSubject: large\r\n\r\n")
    for _ in range(megabytes * MEGABYTE // len(_BLOCK)):
        client.writer.write(_BLOCK)
        await client.writer.drain()
    await asyncio.sleep(1)  # the last of it has been read
    arriving = gate.memory("VmHWM") - before
    answer = await client.say(b".")
    handed = gate.memory("VmHWM") - before
    print(f"a mail of {megabytes} MB: {arriving:+.1f} MB at most while it comes in (aim: ", end="")
    print(f"{AIM_LINE}), {handed:+.1f} MB in the gate's hands, ", end="")
    print(f"{gate.memory() - before:+.1f} MB after; {answer.decode('ascii').strip()}")
    client.close()
    return max(arriving, handed) < AIM_LINE and answer.startswith(b"250")


def _p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def _figures(taken: list[float]) -> str:
    middle = statistics.median(taken) * 1000
    return f"{len(taken)} mails, median {middle:.0f} ms, p99 {_p99(taken) * 1000:.0f} ms"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--megabytes", type=int, default=100)
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sink = Sink(keep=10)
    await sink.start()
    good: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        async with relay(Path(folder), sink.smtp_port, asked.megabytes + 5) as gate:
            good.append(await idle(gate, asked.idle))
            good.append(await slow(gate, asked.slow, asked.seconds))
        # A fresh one, without memory to spare that others have left.
        hole = await asyncio.get_running_loop().create_server(Hole, "127.0.0.1", 0)
        port: int = hole.sockets[0].getsockname()[1]
        async with relay(Path(folder), port, asked.megabytes + 5) as gate:
            good.append(await endless_line(gate, asked.megabytes))
            good.append(await large_mail(gate, asked.megabytes))
    hole.close()
    await sink.close()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
