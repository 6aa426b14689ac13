"""A data directory, and the `sluis serve` processes that live and die on it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

SLUIS = Path(sys.executable).with_name("sluis")

CONFIG = """\
[server]
hostname = "gate.acme.example"
data_dir = "{data}"
development = true
[[listeners]]
address = "{host}:0"
trusted_networks = ["127.0.0.0/8"]
[[upstreams]]
address = "127.0.0.1:{upstream}"
tls = "none"
connections = 6
connect_timeout = "2s"
greeting_timeout = "{patience}"
command_timeout = "{patience}"
rcpt_timeout = "{patience}"
data_timeout = "{patience}"
block_timeout = "{patience}"
final_timeout = "{patience}"
[http]
public = "{host}:0"
public_url = "http://mail.acme.example"
admin = "{host}:0"
{http}
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
candidate_countries = ["NL"]
{streams}
[delivery]
inline_wait = "{inline_wait}"
retry_first = "40ms"
retry_longest = "300ms"
attempt_hold = "1s"
outbox_free = "{outbox_free}"
lease_margin = "500ms"
[log]
repeat = "1s"
"""

_STREAM = """\
[[streams]]
id = "{id}"
sender = "acme"
category = "{category}"
from_domains = ["{id}.acme.example"]
delivery = "{delivery}"
{more}
"""

#: Marketing and transactional, inline and queued; a stream's domain is its id below acme.example.
STREAMS = ("news", "newsq", "orders", "ordersq")
MARKETING = ("news", "newsq")
PEOPLE = tuple(f"p{n}@example.nl" for n in range(240))

#: Written by the harness, so that events and attempts are seen in the one order of their commits.
ORDER = """\
CREATE TABLE fault_order (id INTEGER PRIMARY KEY, kind TEXT, delivery INTEGER, no INTEGER);
CREATE TRIGGER fault_order_event AFTER INSERT ON event BEGIN
 INSERT INTO fault_order (kind, delivery) VALUES ('event', NEW.id); END;
CREATE TRIGGER fault_order_attempt AFTER INSERT ON attempt BEGIN
 INSERT INTO fault_order (kind, delivery, no) VALUES ('attempt', NEW.delivery, NEW.no); END;
"""


def domain(stream: str) -> str:
    """Of a stream's From and MAIL FROM."""
    return f"{stream}.acme.example"


def configuration(
    data: Path,
    upstream: int,
    *,
    host: str = "127.0.0.1",
    inline_wait: str = "400ms",
    patience: str = "3s",
    outbox_free: str = "1MiB",
    http: str = "",
    more: str = "",
) -> str:
    """The text of a configuration with the four streams.

    `http` are more lines of its table, `more` follows the whole.
    """
    streams = "".join(
        _STREAM.format(
            id=name,
            category="marketing" if name in MARKETING else "transactional",
            delivery="queued" if name.endswith("q") else "inline",
            more='topics = ["newsletter"]' if name in MARKETING else "",
        )
        for name in STREAMS
    )
    text = CONFIG.format(
        data=data,
        host=host,
        http=http,
        upstream=upstream,
        patience=patience,
        streams=streams,
        inline_wait=inline_wait,
        outbox_free=outbox_free,
    )
    return text + more


class DiedError(Exception):
    """The process ended before it served, with this status (negative: by a signal)."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"exit {status}: {why}")
        self.status = status


class Tracer(Protocol):
    """A strace: its command line, and whether it comes to a process that serves already."""

    @property
    def attached(self) -> bool: ...

    def command(self, log: Path) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Trap:
    """What strace does to the process: `inject` of one or several system calls.

    `calls` are traced; `what` is `signal=SIGKILL`, `error=EIO`, ...; `when` counts per thread, from
    the start of the process (`early`) or from when it serves.
    """

    calls: str
    what: str
    when: str
    early: bool = False

    def command(self, log: Path) -> list[str]:
        """strace, to be followed by a command line or `-p` with a process id."""
        inject = f"inject={self.calls}:{self.what}:when={self.when}"
        # No --seccomp-bpf: with it strace 6.1 injects no signal.
        return [
            "strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={self.calls}", "-e", inject,
        ]  # fmt: skip

    @property
    def attached(self) -> bool:
        """Whether strace comes to a process that serves already, where the system allows it."""
        return not self.early and _may_attach()


@dataclass
class Served:
    """A process that serves, or did. `under` is whether it is the child of its strace."""

    process: asyncio.subprocess.Process
    under: bool = False
    tracer: asyncio.subprocess.Process | None = None
    smtp: int = 0
    public: int = 0
    admin: int = 0

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def strike(self, number: int = signal.SIGKILL) -> None:
        """A signal, now."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._victim(), number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.strike()
        await self._gone()

    async def stop(self) -> int:
        """SIGTERM, and wait: the exit status."""
        self.strike(signal.SIGTERM)
        return await self._gone()

    async def _gone(self) -> int:
        status = await self.process.wait()
        if self.tracer is not None:
            await self.tracer.wait()
        return status

    def _victim(self) -> int:
        pid = self.process.pid
        if not self.alive:
            raise ProcessLookupError
        if self.under:
            with contextlib.suppress(OSError):
                # strace ends with its child; where it has none yet, it is strace itself
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                return int(children[0]) if children else pid
        return pid


@dataclass
class Site:
    """One data directory with its configuration; `starts` counts the processes so far."""

    folder: Path
    upstream: int
    starts: int = 0
    options: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Where its relays listen: no two sites share it, so a client never meets another's."""
        return self.options.get("host", "127.0.0.1")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def database(self) -> Path:
        return self.data / "sluis.db"

    def configure(self) -> None:
        """Write the configuration."""
        text = configuration(self.data, self.upstream, **self.options)
        (self.folder / "sluis.toml").write_text(text, "utf-8")

    async def serve(self, trap: Tracer | None = None, *, prefix: Sequence[str] = ()) -> Served:
        """Start, and wait until it serves. Raises `DiedError`."""
        self.starts += 1
        errors = self.folder / f"serve-{self.starts:03}.log"
        strace = trap.command(self.folder / f"trace-{self.starts:03}.txt") if trap else []
        attached = trap is not None and trap.attached
        with errors.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                *([] if attached else strace),
                str(SLUIS),
                "serve",
                "--config",
                str(self.folder / "sluis.toml"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        served = Served(process, under=trap is not None and not attached)
        said = await _started(process, errors)
        served.smtp = int(said["listeners"][0].rpartition(":")[2])
        served.public, served.admin = said["public"], said["admin"]
        if attached:
            served.tracer = await asyncio.create_subprocess_exec(
                *strace,
                "-p",
                str(process.pid),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            tracer = served.tracer
            await until(lambda: _traced(process.pid) or tracer.returncode is not None, 20)
        return served

    async def run(self, *arguments: str) -> tuple[int, str]:
        """One other command: exit status, and what it wrote."""
        process = await asyncio.create_subprocess_exec(
            str(SLUIS),
            *arguments,
            "--config",
            str(self.folder / "sluis.toml"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    def read(self, sql: str) -> list[tuple[object, ...]]:
        """Rows of the journal as it is now; none before there is a database."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA busy_timeout = 5000")
            return db.execute(sql).fetchall()

    async def emptied(self, seconds: float) -> bool:
        """Wait until nothing is unfinished; False if that does not come."""
        sql = "SELECT count(*) FROM delivery WHERE state IN ('attempting', 'waiting')"
        return await until(lambda: self.read(sql) == [(0,)], seconds, pause=0.03)


async def until(condition: Callable[[], bool], seconds: float, *, pause: float = 0.01) -> bool:
    """Wait for what nobody announces; False if it does not come in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (holds := condition()) and loop.time() < deadline:  # noqa: ASYNC110  the one that polls
        await asyncio.sleep(pause)
    return holds


async def make_template(folder: Path) -> Path:
    """A data directory with every person's opt-in, as `sluis import` makes it before any start."""
    site = lay_out(None, folder, 1)
    people = folder / "people.csv"
    rows = [
        f"acme,{person},opt-in,2026-03-01T12:00:00Z,form:1,NL,consumer,unticked,newsletter"
        for person in PEOPLE
    ]
    columns = "sender,address,type,at,evidence,country,kind,box,topics"
    await asyncio.to_thread(people.write_text, "\n".join([columns, *rows, ""]), "utf-8")
    status, said = await site.run("import", str(people))
    if status != 0:
        raise DiedError(status, said)
    with closing(sqlite3.connect(site.database)) as db:
        db.executescript(ORDER)
    return site.data


def lay_out(template: Path | None, folder: Path, upstream: int, **options: str) -> Site:
    """A new site; its data directory is a copy of `template`, or none yet."""
    folder.mkdir(parents=True)
    site = Site(folder, upstream, options=options)
    site.configure()
    if template is not None:
        shutil.copytree(template, site.data)
    return site


async def _started(process: asyncio.subprocess.Process, errors: Path) -> dict[str, Any]:
    """What it says when it serves. Raises `DiedError`."""
    over = False

    def said() -> list[bytes]:
        nonlocal over
        over = process.returncode is not None
        return [x for x in errors.read_bytes().splitlines() if b'"server.started"' in x]

    await until(lambda: bool(said()) or over, 60)
    found = said()
    if not found:
        raise DiedError(process.returncode or 0, f"see {errors}")
    ports: dict[str, Any] = json.loads(found[0])
    return ports


def _may_attach() -> bool:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"


def _traced(pid: int) -> bool:
    """Whether each thread of the process has its tracer."""
    try:
        threads = [task / "status" for task in Path(f"/proc/{pid}/task").iterdir()]
        return all("TracerPid:\t0" not in status.read_text() for status in threads)
    except OSError:
        return True  # it is gone


def _die_with_parent() -> None:
    """PR_SET_PDEATHSIG: an interrupted run leaves no relay behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
