"""Nothing is acknowledged before it is on disk; a kill anywhere loses nothing acknowledged.

The system calls are watched, failed and cut by strace: the code under test has no hooks for it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
import pytest
from store_process import child, child_environment, lines
from store_values import ANNA, BRAM, high, intake, only, row

from proxy.store.model import Fate, State
from proxy.store.sqlite import open_sqlite


@pytest.fixture(scope="module")
def strace() -> str:
    """The tool that these tests stand on; installed when it is missing."""
    if shutil.which("strace") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "strace"], check=False)
    found = shutil.which("strace")
    if found is None:
        pytest.fail("strace is missing: run `apt-get install strace` as root, then test again")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An existing store, made by a process that ended well."""
    made = tmp_path / "store.db"
    run(child(made, "mail", "1"))
    return made


def run(command: Sequence[str], *, killed: bool = False) -> list[dict[str, object]]:
    """Run to the end; what the child reported."""
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, timeout=90, check=False
    )
    if killed:
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL, 0), done.stderr
    else:
        assert done.returncode == 0, done.stderr
    return lines(done.stdout)


def traced(
    strace: str, trace: Path, command: Sequence[str], *options: str, killed: bool = False
) -> tuple[list[dict[str, object]], list[str]]:
    """The same under strace; also the trace, whole lines in the order in which calls began."""
    argv = [strace, "-f", "-y", "-qq", "-o", str(trace), *options, *command]
    reports = run(argv, killed=killed)
    return reports, trace.read_text().splitlines()


SYNCS = re.compile(r"^(\d+) +(?:fdatasync|fsync)\(\d+<(.*?)>\) += 0")
WRITES = re.compile(r"^(\d+) +pwrite64\(\d+<(.*?)>")
CREATES = re.compile(r'^(\d+) +openat\(.*?"(.*?)", .*O_CREAT')
REPORTS = re.compile(r'^(\d+) +write\(1<.*?"step\\": \\"(\w+)')


def test_every_reply_comes_after_the_sync_of_what_it_says(strace: str, path: Path) -> None:
    _, trace = traced(
        strace,
        path.with_suffix(".trace"),
        child(path, "once"),
        "-e",
        "trace=pwrite64,fdatasync,fsync,openat,write",
    )
    log, directory = f"{path}-wal", str(path.parent)
    unsynced = since = 0
    steps: list[str] = []
    new_name = False
    for line in trace:
        if (found := WRITES.match(line)) and found[2] == log:
            unsynced += 1
            since += 1
        elif (found := SYNCS.match(line)) and found[2] == log:
            unsynced = 0
        elif (found := SYNCS.match(line)) and found[2] == directory:
            new_name = False
        elif (found := CREATES.match(line)) and found[2] == log and not steps:
            new_name = True
        elif found := REPORTS.match(line):
            assert since > 0, f"{found[2]} was acknowledged and nothing was written"
            assert unsynced == 0, f"{found[2]} was acknowledged before it was synced"
            assert not new_name, "the log's name was not synced"
            since = 0
            steps.append(found[2])
    assert steps == ["claim", "record", "append"]


def test_a_new_database_is_complete_before_it_has_its_name(strace: str, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _, trace = traced(
        strace,
        tmp_path / "trace",
        child(path, "mail", "0"),
        "-e",
        "trace=pwrite64,fdatasync,fsync,link,linkat",
    )
    linked = next(i for i, line in enumerate(trace) if re.search(r" link(at)?\(", line))
    written = [i for i, x in enumerate(trace[:linked]) if WRITES.match(x) and x.count(".new>")]
    synced = [i for i, x in enumerate(trace[:linked]) if SYNCS.match(x) and x.count(".new>")]
    assert written
    assert synced
    assert max(synced) > max(written)
    after = [found[2] for x in trace[linked:] if (found := SYNCS.match(x))]
    assert after[0] == str(tmp_path)


def writer_syncs(trace: Sequence[str], path: Path) -> tuple[int, int]:
    """How many syncs the writer thread made before the store was open, and in all."""
    before = total = 0
    writer = next(f[1] for x in trace if (f := SYNCS.match(x)) and f[2] == f"{path}-wal")
    opened = False
    for line in trace:
        opened = opened or r"opened\"" in line
        if (found := SYNCS.match(line)) and found[1] == writer:
            total += 1
            before += not opened
    return before, total


def test_a_failed_sync_is_never_acknowledged_and_never_tried_again(strace: str, path: Path) -> None:
    trace_file = path.with_suffix(".trace")
    reports, trace = traced(strace, trace_file, child(path, "fail"), "-e", "trace=fdatasync,write")
    assert {r["error"] for r in reports if "call" in r} == {None}
    before, _ = writer_syncs(trace, path)
    # One failure only: from then on the disk would work again, and must not be believed.
    inject = f"inject=fdatasync:error=EIO:when={before + 1}"
    reports, trace = traced(
        strace, trace_file, child(path, "fail"), "-e", "trace=fdatasync,write", "-e", inject
    )
    assert sum("EIO" in line for line in trace) == 1
    calls = [(r["call"], r["error"]) for r in reports if "call" in r]
    assert len(calls) == 12
    assert {error for _, error in calls} == {"StoreDown"}
    reports = run(child(path, "fail"))
    assert {r["error"] for r in reports if "call" in r} == {None}, "a restart makes it well"


async def check(path: Path, reports: Sequence[dict[str, object]], seen: set[str]) -> None:
    """Reopen as the next process would, and hold the store to what was acknowledged."""
    store = await open_sqlite(path, instance="a", owner=True, check=True)
    await store.recover()
    assert await store.recover() == 0
    known = (await store.lookup([ANNA])).known[ANNA].events
    uids = {e.uid for e in known}
    told: dict[str, set[str]] = {"event": set(), "claimed": set(), "relayed": set()}
    for report in reports:
        for what, ref in report.items():
            told.setdefault(what, set()).add(str(ref))
    assert told["event"] <= uids
    refs = {e.ref for e in await store.journal(exact=ANNA.exact)}
    assert told["claimed"] <= refs
    for ref in refs - seen:
        entries = await store.journal(ref=ref)
        assert [e.n for e in entries] == [1, 2], "all rows of a submission or none"
        first, second = entries
        if ref in told["relayed"]:
            assert first.state is State.RELAYED
        else:
            assert first.state in (State.RELAYED, State.UNKNOWN)
        assert (second.state, second.maybe_sent) == (State.UNKNOWN, True)
        fate = only(
            await store.claim(intake(f"{ref}+", row(f"{ref}/bram", BRAM), high=await high(store)))
        )
        assert (fate.fate, fate.ambiguous_retry) == (Fate.CLAIMED, True)
    seen |= refs
    await store.close()


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
async def test_a_kill_at_any_system_call_loses_nothing_acknowledged(
    strace: str, path: Path, call: str
) -> None:
    """Each run meets what the killed one before it left, so recovery is repeated and killed too."""
    seen: set[str] = set()
    await check(path, [], seen)
    points = (3, 4, 6, 9, 11) if call == "fdatasync" else (5, 30, 52, 63, 90)
    acknowledged = cut = 0
    for when in points:
        reports, trace = traced(
            strace,
            path.with_suffix(".trace"),
            child(path, "mail", "3"),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:signal=SIGKILL:when={when}",
            killed=True,
        )
        cut += any("killed by SIGKILL" in line for line in trace)
        acknowledged += len(reports)
        await check(path, reports, seen)
    assert cut >= len(points) - 2
    assert acknowledged > len(points)


async def test_a_kill_while_the_store_is_made_leaves_a_store_or_none(
    strace: str, tmp_path: Path
) -> None:
    points = [("pwrite64", 40), ("fdatasync", 1), ("link,linkat", 1)]
    for i, (call, when) in enumerate(points):
        directory = tmp_path / str(i)
        directory.mkdir()
        path = directory / "store.db"
        traced(
            strace,
            tmp_path / "trace",
            child(path, "mail", "0"),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:signal=SIGKILL:when={when}",
            killed=True,
        )
        store = await open_sqlite(path, instance="a", owner=True, create=True, check=True)
        await store.ping()
        await store.close()


def kill_with_an_open_attempt(path: Path) -> None:
    holder = subprocess.Popen(
        child(path, "hold"),
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    assert b"row" in holder.stdout.readline()
    holder.kill()
    holder.communicate()


async def test_a_process_killed_with_an_attempt_open_leaves_it_unknown(path: Path) -> None:
    kill_with_an_open_attempt(path)
    store = await open_sqlite(path, instance="a", owner=True)
    assert await store.recover() >= 1
    (entry,) = await store.journal(ref="held")
    assert (entry.state, entry.maybe_sent) == (State.UNKNOWN, True)
    fate = only(await store.claim(intake("retry", row("held"), high=await high(store))))
    assert (fate.fate, fate.ambiguous_retry) == (Fate.CLAIMED, True)
    await store.close()


async def owed_is_whole(path: Path, reports: list[dict[str, object]]) -> None:
    """What was said to be owed waits with its body or is at its end; no body outlives its mail."""
    store = await open_sqlite(path, instance="a", owner=True)
    await store.recover()
    ends = {State.WAITING, State.RELAYED}
    for report in reports:
        for ref in (report.get("queued"), report.get("owed"), report.get("notice")):
            if ref:
                entry = (await store.journal(ref=str(ref)))[0]
                assert entry.state in ends, report
        if ref := report.get("settled"):
            first, second = await store.journal(ref=str(ref))
            assert first.state is State.RELAYED
            assert second.state in ends
        if ref := report.get("done"):
            states = {e.n: e.state for e in await store.journal(ref=str(ref))}
            assert states[int(str(report.get("n", 1)))] is State.RELAYED
    for row_ in await store.outbox(limit=100_000):
        assert row_.state is State.WAITING
        assert row_.owed
        assert await store.owed(row_.row) is not None, "owed, and its body is gone"
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        idle = db.execute(
            "SELECT count(*) FROM body WHERE submission NOT IN (SELECT submission FROM delivery"
            " WHERE owed = 1 AND state IN ('waiting', 'attempting'))"
        ).fetchone()
    assert idle == (0,)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
async def test_a_kill_at_any_system_call_loses_nothing_owed(
    strace: str, path: Path, call: str
) -> None:
    points = (3, 4, 5, 6, 7, 8, 11) if call == "fdatasync" else (9, 21, 34, 47, 60, 88, 120)
    acknowledged = cut = 0
    for when in points:
        reports, trace = traced(
            strace,
            path.with_suffix(".trace"),
            child(path, "owe", "2"),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:signal=SIGKILL:when={when}",
            killed=True,
        )
        cut += any("killed by SIGKILL" in line for line in trace)
        acknowledged += len(reports)
        await owed_is_whole(path, reports)
    assert cut >= len(points) - 2
    assert acknowledged > len(points)
