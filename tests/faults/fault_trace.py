"""Reads a system-call trace of the relay: what was on disk before the dot, and before the 250.

A commit is known by what it writes to the database's log: the row of a delivery carries its copy
key and, next to it, its state. So the first write of `KEYattempting` belongs to the commit of its
attempt, that of `KEYrelayed` to the commit of its result, and the sync that returns next makes each
durable.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fault_chain import Chain
from fault_checker import Verdict
from fault_clients import Line, make_mail, offer
from fault_site import PEOPLE

_CALL = re.compile(r"^(\d+) +(\w+)\((\d+)<([^>]*)>")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.*= 0$")
_STATE = re.compile(r"([0-9a-f]{64})(attempting|waiting|relayed)")
_MAIL = re.compile(r"Message-ID: (<[^>]+>)")
_REPLY = re.compile(r'"(250) [^"]*\(ref ([0-9A-Z]{16})\)\\r\\n')
_SENT = """\
SELECT s.message_id, s.ref, d.copy_key FROM delivery d JOIN submission s ON s.id = d.submission
ORDER BY d.id"""
_DOT = re.compile(r'(?:\\r\\n|iov_base=")\.\\r\\n"')
WRITES = "write,writev,sendto,sendmsg"


@dataclass(frozen=True, slots=True)
class Watch:
    """strace without any fault; strings whole up to `octets`."""

    octets: int = 9000

    @property
    def attached(self) -> bool:
        """From the start on: nothing may be missed."""
        return False

    def command(self, log: Path) -> list[str]:
        """strace, to be followed by a command line."""
        return [
            "strace", "-f", "-qq", "-y", "-o", str(log), "-s", str(self.octets),
            "-e", f"trace=pwrite64,fdatasync,fsync,{WRITES}",
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sent:
    """One mail as the journal has it."""

    mail: str
    ref: str
    copy_key: str


@dataclass
class Trace:
    """Places (line numbers) of what matters; of each only the first."""

    written: dict[tuple[str, str], int] = field(default_factory=dict)
    """(copy key, state) -> where its first write to the log began."""
    synced: list[int] = field(default_factory=list)
    """Where a sync of the log had returned, in order."""
    dots: dict[str, int] = field(default_factory=dict)
    """Message-ID -> where the write of its final dot began."""
    replies: dict[str, int] = field(default_factory=dict)
    """Reference -> where the write of its 250 began."""

    def durable(self, copy_key: str, state: str) -> int | None:
        """Where it was known that this state is on disk; None: never."""
        begun = self.written.get((copy_key, state))
        if begun is None:
            return None
        place = bisect_left(self.synced, begun)
        return self.synced[place] if place < len(self.synced) else None


def read_trace(lines: Iterable[str]) -> Trace:
    """The places of a trace that `Watch` wrote."""
    trace = Trace()
    syncing: set[str] = set()
    under_way: dict[str, str] = {}
    for number, line in enumerate(lines):
        call = _CALL.match(line)
        if call is None:
            resumed = _RESUMED.match(line)
            if resumed and resumed[1] in syncing:
                syncing.discard(resumed[1])
                trace.synced.append(number)
            continue
        thread, name, descriptor, target = call.groups()
        if target.endswith("sluis.db-wal"):
            if name == "pwrite64":
                for key, state in _STATE.findall(line):
                    trace.written.setdefault((key, state), number)
            elif name in ("fdatasync", "fsync"):
                if "<unfinished" in line:
                    syncing.add(thread)
                elif line.rstrip().endswith("= 0"):
                    trace.synced.append(number)
        elif name in WRITES.split(","):
            if found := _MAIL.search(line):
                under_way[descriptor] = found[1]
            if _DOT.search(line) and descriptor in under_way:
                trace.dots.setdefault(under_way.pop(descriptor), number)
            for reply in _REPLY.finditer(line):
                trace.replies.setdefault(reply[2], number)
    return trace


def disorder(trace: Trace, sent: Sequence[Sent], *, queued: bool) -> list[str]:
    """What came too early, in words; nothing where every mail kept the order of durable writes."""
    wrong = []
    for one in sent:
        dot, reply = trace.dots.get(one.mail), trace.replies.get(one.ref)
        attempt = trace.durable(one.copy_key, "attempting")
        promised = trace.durable(one.copy_key, "waiting" if queued else "relayed")
        if dot is None or reply is None or attempt is None or promised is None:
            places = f"dot {dot}, 250 {reply}, attempt {attempt}, promise {promised}"
            wrong.append(f"{one.mail} is not whole in the trace: {places}")
            continue
        if not attempt < dot:
            wrong.append(f"{one.mail}: dot at {dot}, its attempt on disk at {attempt}")
        if not promised < reply:
            wrong.append(f"{one.mail}: 250 at {reply}, what it rests on on disk at {promised}")
    return wrong


async def run_trace(
    template: Path, folder: Path, host: str, transactions: int, *, queued: bool
) -> tuple[Verdict, Trace]:
    """So many transactions of 20 clients at once, traced; the verdict has what came too early."""
    chain = await Chain.begin(template, folder, "trace", host, inline_wait="60s")
    served = await chain.site.serve(Watch())
    stream = "ordersq" if queued else "orders"
    numbers = iter(range(transactions))

    async def client() -> None:
        line = Line(host, served.smtp)
        for n in numbers:
            mail = make_mail(f"t{n:05}", stream, [PEOPLE[n % len(PEOPLE)]], point=n)
            told = await offer(line, mail, chain.records)
            assert told.code == 250, told
        line.close()

    await asyncio.gather(*(client() for _ in range(20)))
    await chain.site.emptied(300)  # strace makes it slow
    await served.kill()
    verdict = await chain.end()
    rows = chain.site.read(_SENT)
    sent = [Sent(str(mail), str(ref), str(key)) for mail, ref, key in rows]
    trace = await asyncio.to_thread(_read, folder)
    if len(sent) != transactions:
        verdict.violations.append(f"{len(sent)} of {transactions} transactions on record")
    verdict.violations += disorder(trace, sent, queued=queued)
    return verdict, trace


def _read(folder: Path) -> Trace:
    log = next(folder.glob("trace-*.txt"))
    with log.open(encoding="utf-8", errors="replace") as lines:
        return read_trace(lines)
