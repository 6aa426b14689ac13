"""Sluis as it is installed: `sluis serve` with its journal, limits, metrics and log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.race.process import BenchError, free_port, listens, run, stop, until

CONFIG = """\
[server]
hostname = "relay.shop.example"
data_dir = "{folder}/data"
development = true
[[listeners]]
address = "127.0.0.1:{port}"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "127.0.0.1:{upstream}"
tls = "none"
connections = 30
messages_per_connection = 1000000
[http]
public = "127.0.0.1:{public}"
public_url = "http://127.0.0.1:{public}"
admin = "127.0.0.1:0"
[[senders]]
id = "shop"
name = "Voorbeeld Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@shop.example"
[[streams]]
id = "news"
sender = "shop"
category = "marketing"
from_domains = ["news.shop.example"]
[[streams]]
id = "orders"
sender = "shop"
category = "transactional"
from_domains = ["orders.shop.example"]
[limits]
connections = 10000
messages_per_connection = 10000000
message_size = "60MiB"
session_timeout = "10h"
errors = 100000000
{more}
"""
KEY = """\
[[dkim.keys]]
domain = "news.shop.example"
selector = "{algorithm}"
key_file = "{file}"
"""
SLUIS = [sys.executable, "-m", "proxy.cli.main"]


@dataclass(frozen=True, slots=True)
class Relay:
    """A running one: ports of SMTP and of the opt-out page, its process, its folder."""

    port: int
    public: int
    pid: int
    folder: Path
    seconds_to_ready: float


@contextlib.contextmanager
def sluis(upstream: int, people: int, *, dkim: bool = False, delay_ms: int = 0) -> Iterator[Relay]:
    """A relay whose ledger has an opt-in of `people` persons, until the block ends.

    `delay_ms` holds every fsync up for so long, by strace.
    """
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name:
        folder = Path(name)
        keys = ""
        if dkim:
            keys = "".join(_key(folder, algorithm) for algorithm in ("rsa", "ed25519"))
        config = folder / "sluis.toml"
        port, public = free_port(), free_port()
        config.write_text(
            CONFIG.format(folder=folder, port=port, public=public, upstream=upstream, more=keys)
        )
        if people:
            _consents(folder, config, people)
        with (folder / "log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                [*_slow_disk(delay_ms), *SLUIS, "serve", "--config", str(config)],
                stdout=log,
                stderr=log,
            )
        try:
            until(
                lambda: listens(port) or process.poll() is not None,
                f"sluis listens: {(folder / 'log').read_text()[-2000:]}",
            )
            seconds = time.perf_counter() - began
            if process.poll() is not None:
                raise BenchError((folder / "log").read_text()[-2000:])
            yield Relay(port, public, process.pid, folder, seconds)
        finally:
            stop(process)


def _slow_disk(delay_ms: int) -> list[str]:
    if not delay_ms:
        return []
    return [
        *("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"),
        *("-e", "trace=fsync,fdatasync"),
        *("-e", f"inject=fsync,fdatasync:delay_exit={delay_ms * 1000}"),
    ]


def _key(folder: Path, algorithm: str) -> str:
    words = ["dkim", "generate", "news.shop.example", "--selector", algorithm, f"--{algorithm}"]
    told = json.loads(run([*SLUIS, *words, "--out", str(folder), "--json"]))
    return KEY.format(algorithm=algorithm, file=told["key_file"])


def _consents(folder: Path, config: Path, people: int) -> None:
    rows = folder / "consents.csv"
    with rows.open("w") as file:
        file.write("sender,address,type,at,evidence,country,kind,box\n")
        for n in range(1, people + 1):
            file.write(
                f"shop,{n}person@people.example,opt-in,2026-03-01T12:00:00Z,form:v3,NL,consumer,unticked\n"
            )
    run([*SLUIS, "import", str(rows), "--config", str(config)], seconds=3600)
    rows.unlink()


def fsync_ms(folder: Path, rounds: int = 200) -> float:
    """The median of the disk's own fdatasync after an append of 4 KB, in milliseconds."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(rounds):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    (folder / "probe").unlink()
    return sorted(times)[rounds // 2] * 1000


def post_all(port: int, requests: list[bytes], connections: int = 50) -> float:
    """POST each request over kept connections; answers per second. All must be 200."""

    async def play() -> float:
        queue = iter(requests)

        async def worker() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in queue:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise BenchError(head.decode("latin-1"))
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line[15:]))
            writer.close()

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(connections)))
        return len(requests) / (time.perf_counter() - began)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(play())
