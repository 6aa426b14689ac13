"""What a running `sluis serve` takes in memory, at rest and with large mail; how soon it is ready.

    python -m bench.memory [ready] [sessions] [large] [--starts 5]

A relay of its own in a process of its own, on loopback, with an upstream in this process that keeps
nothing. Resident memory (VmRSS; VmHWM for peaks, counted from the moment before) in megabytes of
10^6 octets, mapped files included; PSS counts a page that others map too by its share. A start is
timed from the call of the program to `200` on `/readyz`, with the database already made. Exits 1
where a figure is beyond the aim that stands beside it.
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
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.front_door import MEGABYTE, Client, Hole, Relay, config_text, relay
from bench.race.process import installed
from policy.address import parse
from policy.events import detail_from
from proxy.app import running
from proxy.config import load
from proxy.config.signing import PrivateKey
from proxy.store.model import NewAttributes, NewEvent

MARKETING = """\
[delivery]
inline_wait = "300s"
[[streams]]
id = "newsletter"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
from_domains = ["news.acme.example"]
"""
PEOPLE = [f"person{n}@example.nl" for n in range(50)]
_BLOCK = (b"y" * 76 + b"\r\n") * 3360  # 256 KiB of ordinary lines
_HEAD = (
    "From: hello@{domain}\r\nSubject: large\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n'
    "Content-Type: text/plain; charset=utf-8\r\n\r\nAcme Schoenen B.V. has news.\r\n--b\r\n"
    "Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
)


def told(what: str, figure: float, aim: float, unit: str = "MB", note: str = "") -> bool:
    """Print one line; whether the aim is met."""
    print(f"{what}: {figure:.1f} {unit} (aim: {aim:g}){note and f'; {note}'}", flush=True)
    return figure <= aim


async def mail(
    gate: Relay, megabytes: int, domain: str, people: Sequence[str], *, ready: asyncio.Barrier
) -> bytes:
    """One large mail with a small text; the reply. All wait for each other before the dot."""
    client = await Client.connect(gate.port)
    await client.data(domain, people)
    client.writer.write(_HEAD.format(domain=domain).encode())
    for _ in range(megabytes * MEGABYTE // len(_BLOCK)):
        client.writer.write(_BLOCK)
        await client.writer.drain()
    await ready.wait()
    answer = await client.say(b"--b--\r\n.")
    client.close()
    return answer


async def together(
    gate: Relay,
    what: str,
    aim: float,
    *,
    count: int,
    megabytes: int,
    domain: str = "orders.acme.example",
    people: Sequence[str] = ("anna@example.nl",),
) -> bool:
    """Large mails at once: the most that the relay took over what it took before."""
    gate.forget_peak()
    before = gate.memory()
    start = time.monotonic()
    ready = asyncio.Barrier(count)
    mails = (mail(gate, megabytes, domain, people, ready=ready) for _ in range(count))
    answers = await asyncio.gather(*mails)
    taken = time.monotonic() - start
    if not all(answer.startswith(b"250") for answer in answers):
        raise SystemExit(b"\n".join(answers).decode())
    grown = gate.memory("VmHWM") - before
    after = gate.memory() - before
    speed = count * megabytes * len(people) / taken
    return told(what, grown, aim, note=f"{after:+.1f} MB after; {speed:.0f} MB/s went out")


async def sessions(folder: Path, upstream: int, count: int, aim_each: float, aim: float) -> bool:
    """Clients that said EHLO and nothing more."""
    async with relay(folder, upstream, 25) as gate:
        before = gate.memory()
        clients: list[Client] = []
        for _ in range(0, count, 100):
            some = await asyncio.gather(*(Client.connect(gate.port) for _ in range(100)))
            await asyncio.gather(*(c.say(b"EHLO idle.example") for c in some))
            clients += some
        held = gate.memory()
        for client in clients:
            client.close()
    each = (held - before) * MEGABYTE / 1024 / count
    good = told(f"{count} sessions, each", each, aim_each, "KiB")
    return told(f"{count} sessions, in all", held, aim) and good


async def know(folder: Path, upstream: int) -> None:
    """Let all of `PEOPLE` have opted in."""
    config = folder / "people.toml"
    text = config_text(folder, port=0, upstream=upstream, megabytes=25)
    config.write_text(text + MARKETING)
    async with running(load(config, {})) as sluis:
        now = datetime.now(UTC)
        events, attributes = [], []
        for n, person in enumerate(PEOPLE):
            parsed = parse(person)
            subject = sluis.keys.subject("acme", parsed)
            events.append(
                NewEvent(
                    uid=f"e{n}",
                    subject=subject,
                    detail=detail_from("opt-in", {"box": "unticked", "topics": ["newsletter"]}),
                    at=now - timedelta(days=9),
                    recorded_at=now,
                    evidence="form:1",
                    address=parsed.exact,
                )
            )
            who = {"country": "NL", "kind": "consumer"}
            attributes.append(NewAttributes(subject=subject, at=now, values=who))
        await sluis.store.append(events, attributes)


async def large(folder: Path, upstream: int) -> bool:
    """Mail of 10 and 100 MB."""
    good: list[bool] = []
    await know(folder, upstream)
    async with relay(folder, upstream, 105, MARKETING) as gate:
        # What a first mail loads stays; it is told apart.
        base = gate.memory()
        await together(gate, "first mail of 1 MB", 10, count=1, megabytes=1)
        print(f"at rest: {base:.1f} MB, after the first mail {gate.memory():.1f} MB")
        good.append(await together(gate, "100 MB to one", 16, count=1, megabytes=100))
        good.append(await together(gate, "20 x 10 MB at once", 42, count=20, megabytes=10))
        good.append(await together(gate, "5 x 10 MB at once", 42, count=5, megabytes=10))
        news = "news.acme.example"
        good.append(
            await together(
                gate,
                "10 MB to 50 people, each a footer of their own",
                42,
                count=1,
                megabytes=10,
                domain=news,
                people=PEOPLE,
            )
        )
    keys = _signing(folder)
    async with relay(folder, upstream, 105, MARKETING + keys) as gate:
        await together(gate, "first mail of 1 MB", 10, count=1, megabytes=1)
        good.append(
            await together(
                gate,
                "the same, each signed twice",
                42,
                count=1,
                megabytes=10,
                domain=news,
                people=PEOPLE,
            )
        )
    return all(good)


def _signing(folder: Path) -> str:
    """The configuration of an RSA and an Ed25519 key, which are made."""
    tables = []
    made: dict[str, PrivateKey] = {
        "r": rsa.generate_private_key(65537, 2048),
        "e": Ed25519PrivateKey.generate(),
    }
    for name, key in made.items():
        path = folder / f"{name}.pem"
        path.touch(0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        tables.append(
            f'[[dkim.keys]]\ndomain = "acme.example"\nselector = "{name}"\nkey_file = "{path}"\n'
        )
    return "".join(tables)


async def ready(folder: Path, upstream: int, starts: int) -> bool:
    """From the call of the program to `200` on `/readyz`."""
    times: list[float] = []
    cpu: list[float] = []
    resting: list[tuple[float, float, float, float]] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        admin: int = free.getsockname()[1]
    config = folder / "start.toml"
    text = config_text(folder, port=0, upstream=upstream, megabytes=25)
    config.write_text(text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{admin}"'))
    for _ in range(starts + 1):
        start = time.monotonic()
        words = (sys.executable, "-m", "proxy.cli.main", "serve", "--config", str(config))
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=installed(),
        )
        while not await _is_ready(admin):
            if process.returncode is not None or time.monotonic() - start > 60:
                raise SystemExit("it does not start")
            await asyncio.sleep(0.005)
        times.append(time.monotonic() - start)
        cpu.append(_cpu(process.pid))
        gate = Relay(process, 0)
        rss, anon, file = (gate.memory(key) for key in ("VmRSS", "RssAnon", "RssFile"))
        resting.append((rss, anon, file, gate.memory("Pss", "smaps_rollup")))
        process.terminate()
        await process.wait()
    # The first start makes the database, and may compile.
    rss, anon, file, pss = (statistics.median(column) for column in zip(*resting[1:], strict=True))
    note = f"{min(times[1:]):.2f} at best, {statistics.median(cpu[1:]):.2f} s of CPU"
    good = told("start to ready, median", statistics.median(times[1:]), 1.0, "s", note)
    parts = f"{anon:.1f} MB of its own, {file:.1f} MB mapped files; PSS {pss:.1f} MB"
    return told("at rest", rss, 90, note=parts) and good


def _cpu(pid: int) -> float:
    """Seconds that a process has worked."""
    words = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return b" 200 " in line
    return False


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", nargs="*", help="ready, sessions, large; all without")
    parser.add_argument("--starts", type=int, default=5)
    asked = parser.parse_args()
    chosen = asked.what or ["ready", "sessions", "large"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = await asyncio.get_running_loop().create_server(Hole, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    good: list[bool] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "ready" in chosen:
            good.append(await ready(folder, port, asked.starts))
        if "sessions" in chosen:
            good.append(await sessions(folder, port, 1000, 30, 120))
            good.append(await sessions(folder, port, 2000, 30, 120))
        if "large" in chosen:
            good.append(await large(folder, port))
    server.close()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
