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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.race.people import stored
from bench.race.process import BenchError, free_port, installed, run, stop, tree, until

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
admin = "127.0.0.1:{admin}"
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
    """A running one: ports of SMTP, of the opt-out page and of `/readyz`, its process, its folder.

    `seconds_to_ready`: from the call of the program to `200` on `/readyz`, with its database made.
    `records`: where it signs, the DNS records of its keys by name.
    """

    port: int
    public: int
    pid: int
    folder: Path
    seconds_to_ready: float
    records: Mapping[str, str]


@contextlib.contextmanager
def sluis(upstream: int, people: int, *, dkim: bool = False, delay_ms: int = 0) -> Iterator[Relay]:
    """A relay whose ledger has an opt-in of `people` persons, until the block ends.

    `delay_ms` holds every fsync up for so long, by strace.
    """
    with tempfile.TemporaryDirectory(prefix="sluis-bench-") as name:
        folder = Path(name)
        made = [_key(folder, algorithm) for algorithm in ("rsa", "ed25519")] if dkim else []
        stored(folder / "data", people)
        port, public, admin = free_port(), free_port(), free_port()
        (folder / "sluis.toml").write_text(
            CONFIG.format(
                folder=folder,
                port=port,
                public=public,
                admin=admin,
                upstream=upstream,
                more="".join(table for table, _, _ in made),
            )
        )
        words = [*_slow_disk(delay_ms), *SLUIS, "serve", "--config", str(folder / "sluis.toml")]
        with (folder / "log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(words, stdout=log, stderr=log, env=installed())
        try:
            try:
                until(lambda: _ready(admin) or process.poll() is not None, "sluis is ready")
                seconds = time.perf_counter() - began
                if process.poll() is not None:
                    raise BenchError(f"sluis ended with {process.returncode}")
            except BenchError as error:
                raise BenchError(f"{error}: {(folder / 'log').read_text()[-2000:]}") from None
            # Of strace the relay is the child.
            pid = tree(process.pid)[1] if delay_ms else process.pid
            records = {name: record for _, name, record in made}
            yield Relay(port, public, pid, folder, seconds, records)
        finally:
            stop(process)


def _ready(admin: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", admin), timeout=1) as sock:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return sock.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _slow_disk(delay_ms: int) -> list[str]:
    if not delay_ms:
        return []
    return [
        *("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"),
        *("-e", "trace=fsync,fdatasync"),
        *("-e", f"inject=fsync,fdatasync:delay_exit={delay_ms * 1000}"),
    ]


def _key(folder: Path, algorithm: str) -> tuple[str, str, str]:
    """The table of the configuration, and name and text of the DNS record."""
    words = ["dkim", "generate", "news.shop.example", "--selector", algorithm, f"--{algorithm}"]
    told = json.loads(run([*SLUIS, *words, "--out", str(folder), "--json"]))
    return KEY.format(algorithm=algorithm, file=told["key_file"]), told["name"], told["record"]


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
