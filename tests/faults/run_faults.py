"""Kill, starve and mislead real `sluis serve` processes, and hold what they promised to the record.

    python tests/faults/run_faults.py [--points 500] [--seed 1] [--at-once 2] [--only kills,...]

`--points` counts kill -9. On top come two relays on one store, errors of the disk, first starts, a
full disk, an upstream that fails at each stage in each way, and 1,000 transactions of each mode
whose system calls are read: attempt on disk before the dot, what a 250 rests on before it. The
table counts points and what was seen; each violation is a line, its directory (journal, log, trace,
what clients were told and what arrived) is kept, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import fault_disk
import fault_failures
import fault_pair
import fault_points
import fault_trace
from fault_chain import Chain
from fault_checker import Verdict
from fault_points import Point
from fault_site import DiedError, make_template

GROUPS = ("kills", "pair", "first", "errors", "disk", "upstream", "trace")

_COUNTED = (
    "told",
    "acknowledged",
    "arrived",
    "second copies",
    "marked retries",
    "reported",
    "opt-outs answered",
    "of them 202",
)


#: Transactions of each mode whose system calls are read.
_TRACED = 1000


@dataclass
class Outcome:
    """What one data directory came to."""

    group: str
    folder: Path
    kinds: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = field(default_factory=Verdict)


Job = Callable[[str], Awaitable[Outcome]]


def hosts() -> Iterator[str]:
    """Loopback addresses, one for each data directory."""
    return (f"127.{a}.{b}.1" for a in range(1, 200) for b in range(1, 250))


async def run_chain(
    group: str, template: Path | None, folder: Path, seed: str, points: Sequence[Point], host: str
) -> Outcome:
    """Points of one kind or several on one data directory."""
    outcome = Outcome(group, folder)
    chain = await Chain.begin(template, folder, seed, host)
    try:
        for point in points:
            outcome.kinds[point.kind] += 1
            if not await chain.point(point):
                outcome.missed[point.kind] += 1
        outcome.verdict = await chain.end()
    except DiedError as died:
        outcome.verdict.violations.append(f"it did not start: {died}")
    finally:
        chain.records.keep(folder)
        await chain.upstream.close()
    return outcome


async def run_disk(template: Path, folder: Path, rounds: int, host: str) -> Outcome:
    """A full disk."""
    verdict, points = await fault_disk.run_full_disk(template, folder, host, rounds)
    return Outcome("disk", folder, Counter(p.kind for p in points), verdict=verdict)


async def run_pair(template: Path, folder: Path, rounds: int, host: str) -> Outcome:
    """Two relays on one store."""
    verdict, points = await fault_pair.run_pair(template, folder, host, rounds)
    return Outcome("pair", folder, Counter(p.kind for p in points), verdict=verdict)


async def run_upstream(template: Path, folder: Path, mode: str, host: str) -> Outcome:
    """An upstream that fails at each stage in each way."""
    failures = list(fault_failures.failures())
    verdict, _ = await fault_failures.run_failures(template, folder, mode, host, failures)
    kinds = Counter(f"upstream fails at {f.stage.value}" for f in failures)
    return Outcome("upstream", folder, kinds, verdict=verdict)


async def run_trace(template: Path, folder: Path, queued: bool, host: str) -> Outcome:
    """Syncs before dot and 250, in 1,000 traced transactions of each mode."""
    verdict, trace = await fault_trace.run_trace(template, folder, host, _TRACED, queued=queued)
    kind = f"traced transaction, {'queued' if queued else 'inline'}"
    return Outcome("trace", folder, Counter({kind: len(trace.dots)}), verdict=verdict)


def jobs(only: Sequence[str], points: int, seed: int, template: Path, base: Path) -> list[Job]:
    """What there is to do; each takes the address to listen on."""
    made: list[Job] = []

    def add(group: str, name: str, chained: Sequence[Point], start: Path | None) -> None:
        made.append(
            partial(run_chain, group, start, base / name, f"{seed} {name}", chained)
        )

    if "upstream" in only:
        for mode in fault_failures.MODES:
            made.append(partial(run_upstream, template, base / f"upstream-{mode}", mode))
    if "trace" in only:
        for queued in (False, True):
            folder = base / ("trace-queued" if queued else "trace-inline")
            made.append(partial(run_trace, template, folder, queued))
    if "disk" in only and fault_disk.may_mount(base / "mount"):
        made.append(partial(run_disk, template, base / "disk", 10))
    if "pair" in only:
        made.append(partial(run_pair, template, base / "pair", 24))
    if "first" in only:
        for n, chained in enumerate(fault_points.first_starts(seed)):
            add("first", f"first-{n}", chained, None)
    if "errors" in only:
        for n, chained in enumerate(batched(fault_points.errors(seed), 5)):
            add("errors", f"errors-{n}", chained, template)
    if "kills" in only:
        for n, chained in enumerate(batched(fault_points.kills(points, seed), 8)):
            add("kills", f"kills-{n:03}", chained, template)
    return made


def batched(points: Sequence[Point], length: int) -> Iterator[list[Point]]:
    """The points in groups, each for one data directory."""
    for start in range(0, len(points), length):
        yield list(points[start : start + length])


async def run(
    only: Sequence[str], points: int, seed: int, at_once: int, base: Path
) -> list[Outcome]:
    """Everything, `at_once` data directories beside each other; progress goes to stderr."""
    template = await make_template(base / "template")
    addresses = hosts()
    turns = asyncio.Semaphore(at_once)
    done = itertools.count(1)
    todo = jobs(only, points, seed, template, base)

    async def one(job: Job) -> Outcome:
        async with turns:
            outcome = await job(next(addresses))
        left = f"{next(done)} of {len(todo)} data directories"
        found = f"{len(outcome.verdict.violations)} violations"
        sys.stderr.write(f"{left}: {outcome.folder.name}, {found}\n")
        if not outcome.verdict.violations:
            shutil.rmtree(outcome.folder, ignore_errors=True)
        return outcome

    return list(await asyncio.gather(*(one(job) for job in todo)))


def table(outcomes: Sequence[Outcome]) -> str:
    """Points of each kind, and per group what was seen."""
    lines = [f"{'':<44}{'points':>8}{'missed':>8}"]
    for group in GROUPS:
        mine = [o for o in outcomes if o.group == group]
        if not mine:
            continue
        kinds: Counter[str] = sum((o.kinds for o in mine), Counter())
        missed: Counter[str] = sum((o.missed for o in mine), Counter())
        counts: Counter[str] = sum((o.verdict.counts for o in mine), Counter())
        seen = ", ".join(f"{counts[name]} {name}" for name in _COUNTED)
        lines.append(f"{group}: {seen}")
        lines += [f"  {kind:<42}{n:>8}{missed[kind]:>8}" for kind, n in sorted(kinds.items())]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--points", type=int, default=500, help="how many kills")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--at-once", type=int, default=2, help="relays beside each other")
    made.add_argument("--only", default=",".join(GROUPS), help=f"some of {', '.join(GROUPS)}")
    made.add_argument("--keep", type=Path, help="where evidence is kept (default: a new folder)")
    return made


def main() -> int:
    asked = parser().parse_args()
    only = asked.only.split(",")
    if unknown := set(only) - set(GROUPS):
        parser().error(f"--only: {', '.join(sorted(unknown))}")
    base = asked.keep or Path(tempfile.mkdtemp(prefix="sluis-faults-"))
    start = time.monotonic()
    outcomes = asyncio.run(run(only, asked.points, asked.seed, asked.at_once, base))
    sys.stdout.write(f"{table(outcomes)}\n")
    wrong = [(o.folder, v) for o in outcomes for v in o.verdict.violations]
    for folder, violation in wrong:
        sys.stdout.write(f"VIOLATION {violation}; see {folder}\n")
    kills = sum(sum(o.kinds.values()) for o in outcomes if o.group in ("kills", "first"))
    kills += sum(o.kinds[fault_pair.KILLED] for o in outcomes)
    points = sum(sum(o.kinds.values()) for o in outcomes if o.group != "trace")
    sys.stdout.write(
        f"seed {asked.seed}: {points} points, {kills} of them kill -9, {len(wrong)} violations,"
        f" {time.monotonic() - start:.0f} s\n"
    )
    if not wrong:
        shutil.rmtree(base, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
