"""What is kept beside a store in trouble comes into it once, whatever is killed, and binds
meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import contract_path
import pytest
from fallback_child import Silent, over, without
from store_process import child_environment, lines
from store_values import (
    ANNA,
    BODY,
    BRAM,
    after,
    event,
    high,
    intake,
    only,
    outcome,
    person,
    row,
)

from policy.model import Objection, Scope, Via
from proxy.errors import StoreDown, StoreTaken, StoreUnavailable
from proxy.fallback.file import RESERVED, open_file
from proxy.fallback.store import FallbackStore
from proxy.store.model import Added, Fate, Result, RowFate, State, Subject, Take
from proxy.store.sqlite import SqliteStore, open_sqlite

CHILD = Path(contract_path.__file__).parents[1] / "contract" / "fallback_child.py"


async def made(directory: Path) -> None:
    store = await open_sqlite(directory / "store.db", instance="a", owner=True, create=True)
    await store.close()


class Both:
    """A fallback store whose inner store is refused and let be at will."""

    def __init__(self, store: FallbackStore, telemetry: Silent) -> None:
        self.store = store
        self.telemetry = telemetry

    @property
    def inner(self) -> SqliteStore:
        assert self.store._inner is not None
        return self.store._inner

    def down(self) -> None:
        self.store._fell("test", StoreUnavailable("locked"))

    async def up(self) -> None:
        await self.store._probe()
        assert self.store.down is None

    async def begin(self, ref: str, copy_key: str) -> RowFate:
        return only(await self.store.claim(without(ref, copy_key)))

    async def sent(self, ref: str, copy_key: str, result: Result = Result.ACCEPTED) -> RowFate:
        fate = await self.begin(ref, copy_key)
        assert fate.fate is Fate.CLAIMED
        await self.store.record([outcome(fate, result)])
        return fate


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    await made(tmp_path)
    telemetry = Silent()
    store = over(tmp_path, down=False, telemetry=telemetry)
    await store.start()
    yield Both(store, telemetry)
    await store.close()


async def test_an_opt_out_binds_at_once_and_comes_in_once(both: Both, tmp_path: Path) -> None:
    before = await both.store.lookup([ANNA])
    both.down()
    assert await both.store.oppose(event("o1")) is Added.KEPT
    assert await both.store.oppose(event("o1")) is Added.KEPT
    assert (tmp_path / "fallback").stat().st_mode & 0o777 == 0o600
    known = (await both.store.lookup([ANNA])).known[ANNA]
    assert [e.uid for e in known.events] == ["o1"]
    both.store._down = None  # it serves, and is not merged yet
    stale = await both.store.claim(intake("r", row("k"), high=before.high))
    assert stale.stale, "its lookup was before the opt-out"
    seen = await both.store.lookup([ANNA])
    again = replace(intake("r", row("k"), high=seen.high), overlay=seen.overlay)
    assert only(await both.store.claim(again)).fate is Fate.CLAIMED, "decided with it"
    held = replace(intake("q", row("k2"), high=seen.high), overlay=seen.overlay)
    await both.up()
    assert not (tmp_path / "fallback").exists()
    assert (await both.store.claim(held)).stale, "the merge made it newer than the lookup"
    known = (await both.inner.lookup([ANNA])).known[ANNA]
    assert [e.uid for e in known.events] == ["o1"]
    assert both.store.pending() == (0, None)


async def test_a_store_that_fails_only_then_gets_the_same_event(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was made, and the answer was lost."""
    real = SqliteStore.oppose

    async def lost(self: SqliteStore, new: object) -> Added:
        await real(self, new)  # type: ignore[arg-type]
        raise StoreUnavailable("disk I/O error")

    monkeypatch.setattr(SqliteStore, "oppose", lost)
    assert await both.store.oppose(event("o1")) is Added.KEPT
    monkeypatch.undo()
    await both.up()
    known = (await both.inner.lookup([ANNA])).known[ANNA]
    assert [e.uid for e in known.events] == ["o1"]


@pytest.mark.parametrize(
    ("result", "state", "maybe"),
    [
        (Result.ACCEPTED, State.RELAYED, False),
        (Result.PERMANENT, State.FAILED, False),
        (Result.TEMPORARY, State.RETURNED, False),
        (Result.UNSENT, State.RETURNED, False),
        (Result.UNKNOWN, State.UNKNOWN, True),
    ],
)
async def test_an_attempt_without_the_store_is_merged_as_it_ended(
    both: Both, result: Result, state: State, maybe: bool
) -> None:
    both.down()
    fate = await both.sent("r1", "k1", result)
    await both.up()
    [entry] = await both.store.journal(ref="r1")
    assert (entry.state, entry.maybe_sent, entry.attempts) == (state, maybe, 1)
    assert (entry.result, entry.reply) == (result.value, outcome(fate, result).reply)
    assert entry.address == "", "the file does not hold it"
    assert both.telemetry.ambiguous == 0
    await both.store._merge()
    assert len(await both.store.journal(ref="r1")) == 1


async def test_a_live_attempt_is_waited_for(both: Both, tmp_path: Path) -> None:
    both.down()
    fate = await both.begin("r1", "k1")
    await both.store.oppose(event("o1"))
    await both.up()
    assert [e.uid for e in (await both.inner.lookup([ANNA])).known[ANNA].events] == ["o1"]
    assert await both.store.journal(ref="r1") == []
    assert (tmp_path / "fallback").exists()
    busy = only(await both.store.claim(intake("r2", row("k1", marketing=False))))
    assert busy.fate is Fate.BUSY, "no copy of which an attempt is in the file"
    await both.store.record([outcome(fate)])
    await both.store._merge()
    assert not (tmp_path / "fallback").exists()
    [entry] = await both.store.journal(ref="r1")
    assert entry.state is State.RELAYED
    known = only(await both.store.claim(intake("r2", row("k1", marketing=False))))
    assert (known.fate, known.ref) == (Fate.ANSWERED, "r1")


async def test_what_an_earlier_run_left_open_is_unknown(both: Both, tmp_path: Path) -> None:
    both.down()
    await both.begin("r1", "k1")
    await both.store.close()
    down = over(tmp_path, down=True)
    await down.start()
    assert only(await down.claim(without("r2", "k1"))).fate is Fate.BUSY, "unresolved in the file"
    await down.close()
    store = over(tmp_path, down=False)
    await store.start()
    [entry] = await store.journal(ref="r1")
    assert (entry.state, entry.maybe_sent) == (State.UNKNOWN, True)
    seen = await high(store)
    retry = only(await store.claim(intake("r2", row("k1"), high=seen)))
    assert (retry.fate, retry.ambiguous_retry) == (Fate.CLAIMED, True)
    await store.close()


async def test_copies_that_this_process_knows_are_not_sent_beside(both: Both) -> None:
    flying = only(await both.store.claim(intake("r1", row("k1", marketing=False))))
    done = only(await both.store.claim(intake("r2", row("k2", marketing=False))))
    await both.store.record([outcome(done)])
    both.down()
    assert (await both.begin("r3", "k1")).fate is Fate.BUSY
    answered = await both.begin("r4", "k2")
    assert (answered.fate, answered.ref) == (Fate.ANSWERED, "r2")
    await both.store.record([outcome(flying)])
    assert (await both.begin("r5", "k1")).fate is Fate.ANSWERED
    await both.sent("r6", "k6", Result.TEMPORARY)
    assert (await both.begin("r7", "k6")).fate is Fate.CLAIMED, "it was certainly not taken"
    await both.store.oppose(event("o1"))


async def test_a_second_copy_is_counted_and_no_row_is_made_unknown(both: Both) -> None:
    """The store had all three; this run does not know of them any more."""
    store = both.store
    rows = [row("waits", marketing=False), row("unknown", n=2, marketing=False)]
    await store.claim(
        replace(
            intake("w", replace(rows[0], state=State.WAITING), high=await high(store)), body=BODY
        )
    )
    lost = only(await store.claim(intake("u", rows[1], high=await high(store))))
    await store.record([outcome(lost, Result.UNKNOWN)])
    both.down()
    await both.sent("r1", "waits", Result.UNKNOWN)
    await both.sent("r2", "unknown")
    await both.up()
    assert both.telemetry.ambiguous == 1
    [waits] = await store.journal(ref="w")
    assert waits.state is State.WAITING
    [due] = await store.due(after(10), 5)
    seen = await store.lookup([ANNA])
    taken = only(
        await store.take(
            Take(
                row=due.row,
                attempts=due.attempts,
                subject=ANNA,
                state=State.ATTEMPTING,
                decision=rows[0].decision,
                facts="{}",
                high=seen.high,
                overlay=seen.overlay,
                dedupe_from=after(-9),
                at=after(11),
                copy_key="waits",
            )
        )
    )
    assert (taken.fate, taken.ambiguous_retry) == (Fate.CLAIMED, True)
    both.down()
    await store.record([outcome(taken)])
    await both.up()
    [waits] = await store.journal(ref="w")
    assert waits.state is State.RELAYED


async def test_what_waits_and_left_without_the_store_is_not_sent_again(both: Both) -> None:
    store = both.store
    waiting = row("k1", marketing=False, state=State.WAITING)
    new = replace(intake("w", waiting, high=await high(store)), body=BODY)
    await store.claim(new)
    both.down()
    await both.sent("r1", "k1")
    await both.up()
    assert [e.state for e in await store.journal(ref="w")] == [State.RELAYED]
    assert await store.due(after(99), 5) == []


async def test_a_result_goes_to_its_own_row_or_nowhere(both: Both, tmp_path: Path) -> None:
    fate = only(await both.store.claim(intake("r1", row("k1"))))
    both.down()
    both.store.record_later([outcome(fate, Result.TEMPORARY)])
    await both.store.close()
    assert (tmp_path / "fallback").exists()
    # A database put back from a backup: the number is another mail's.
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"store.db{suffix}").unlink(missing_ok=True)
    await made(tmp_path)
    other = await open_sqlite(tmp_path / "store.db", instance="a", owner=True)
    await other.claim(intake("r9", row("k9")))
    await other.close()
    store = over(tmp_path, down=False)
    await store.start()
    [entry] = await store.journal(ref="r9")
    assert (entry.state, entry.result) == (State.UNKNOWN, "unknown"), "recovered, not returned"
    await store.close()


async def test_no_marketing_is_attempted_without_the_store(both: Both) -> None:
    both.down()
    new = without("r1", "k1")
    with pytest.raises(ValueError, match="marketing"):
        await both.store.claim(replace(new, rows=(replace(new.rows[0], marketing=True),)))
    with pytest.raises(StoreUnavailable):
        await both.store.claim(intake("r1", row("k1")))


async def test_a_file_that_fails_is_no_trouble_of_the_store(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is told to the store, which is well again; the file is left as it is."""
    both.down()
    fate = await both.begin("r1", "k1")

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreDown):
        await both.store.record([outcome(fate)])
    monkeypatch.undo()
    await both.up()
    assert both.store.degraded == {"fallback"}
    assert await both.store.record([outcome(fate)]) == [fate.row]
    [entry] = await both.store.journal(ref="r1")
    assert entry.state is State.RELAYED
    await both.store._tend()
    assert both.store.down is None
    assert (tmp_path / "fallback").exists()
    assert await both.store.oppose(event("o1")) is Added.NEW
    await both.store.close()
    again = over(tmp_path, down=False)
    await again.start()
    assert len(await again.journal(ref="r1")) == 1
    assert not (tmp_path / "fallback").exists()
    await again.close()


async def test_a_decision_from_before_an_opt_out_is_taken_again(both: Both) -> None:
    """Without the store, too: a connection may have been waited for since the decision."""
    both.down()
    decided = replace(without("r1", "k1"), overlay=both.store._keep.overlay.seq)
    who = decided.rows[0].subject
    assert await both.store.oppose(event("o1", who)) is Added.KEPT
    assert (await both.store.claim(decided)).stale
    assert not both.store._keep.copies.in_file("k1"), "nothing was begun"
    again = replace(decided, overlay=both.store._keep.overlay.seq)
    assert only(await both.store.claim(again)).fate is Fate.CLAIMED, "decided with it"
    await both.store.oppose(event("o2", BRAM))
    other = replace(without("r3", "k3"), overlay=again.overlay)
    assert only(await both.store.claim(other)).fate is Fate.CLAIMED, "of somebody else"


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Set to [True]: nothing more fits on the disk of the fallback file."""
    full: list[bool] = [False]
    real = os.write

    def write(descriptor: int, octets: bytes) -> int:
        if full[0] and bytes(octets[:4]) == b"SLR1":
            raise OSError(28, "No space left on device")
        return real(descriptor, octets)

    monkeypatch.setattr("proxy.fallback.file.os.write", write)
    yield full
    full[0] = False


@pytest.mark.parametrize("in_store", [False, True], ids=["in-file", "in-store"])
async def test_a_retry_is_not_answered_by_a_result_that_is_not_durable(
    both: Both, unsynced: list[bool], in_store: bool
) -> None:
    new = intake("r1", row("k1", person("r1"), marketing=False)) if in_store else None
    fate = only(await both.store.claim(new)) if new else None
    both.down()
    fate = fate or await both.begin("r1", "k1")
    unsynced[0] = True
    with pytest.raises(StoreUnavailable):
        await both.store.record([outcome(fate)])
    assert (await both.begin("r2", "k1")).fate is Fate.BUSY, "a crash would forget the result"
    unsynced[0] = False
    await both.store.record([outcome(fate)])
    answered = await both.begin("r3", "k1")
    assert (answered.fate, answered.ref) == (Fate.ANSWERED, "r1")


async def test_a_merge_makes_a_result_durable_too(both: Both, unsynced: list[bool]) -> None:
    both.down()
    fate = await both.begin("r1", "k1")
    unsynced[0] = True
    with pytest.raises(StoreUnavailable):
        await both.store.record([outcome(fate, Result.TEMPORARY)])
    await both.up()
    both.down()
    unsynced[0] = False
    assert (await both.begin("r2", "k1")).fate is Fate.CLAIMED


async def test_a_result_that_can_be_written_nowhere_is_held_once(
    both: Both, unsynced: list[bool]
) -> None:
    """It is handed in again and again; what is kept of it must not grow."""
    fate = only(await both.store.claim(intake("r1", row("k1"))))
    both.down()
    unsynced[0] = True
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await both.store.record([outcome(fate)])
    assert both.store.pending()[0] == 1
    await both.up()
    [entry] = await both.store.journal(ref="r1")
    assert entry.state is State.RELAYED
    assert both.store.pending() == (0, None)


async def test_two_merges_at_once_take_away_no_opt_out_that_came_between(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is known by how many records it has: as many are in it again after the first."""
    both.down()
    await both.store.oppose(event("o1"))
    real = SqliteStore.merge
    first, second = asyncio.Event(), asyncio.Event()
    turns = [first, second]

    async def slow(self: SqliteStore, *kept: Any) -> object:
        merged = await real(self, *kept)
        await turns.pop(0).wait()
        return merged

    monkeypatch.setattr(SqliteStore, "merge", slow)
    merging = [asyncio.create_task(both.store._merge()) for _ in range(2)]
    first.set()
    await merging[0]
    assert not (tmp_path / "fallback").exists()
    await both.store.oppose(event("o2", BRAM))
    second.set()
    await merging[1]
    known = (await both.inner.lookup([BRAM])).known[BRAM]
    assert known.events or (tmp_path / "fallback").exists(), "a kill now would forget it"


async def test_a_file_whose_name_may_be_lost_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory's sync failed: what is synced in the file is gone after a power loss."""
    store = over(tmp_path, down=True)
    await store.start()
    real = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for _ in range(2):
        with pytest.raises(StoreDown):
            await store.oppose(event("o1"))
    await store.close()


EVERYTHING = Objection(scope=Scope.EVERYTHING, via=Via.PAGE)
DORA = Subject("acme", "0d" * 16, "0a" * 16)  # pseudonyms as they are: the snapshot counts on it


async def stops(store: FallbackStore) -> list[str]:
    """What a decision that is taken without the store knows of Dora."""
    return [e.uid for e in (await store.shelter.lookup([DORA])).known[DORA].events]


async def test_an_opt_out_that_was_merged_stops_mail_if_the_store_falls_again(both: Both) -> None:
    """It is in the store, and not yet in the snapshot, which is made once a minute."""
    await both.store._refresh()
    both.down()
    await both.store.oppose(event("o1", DORA, EVERYTHING))
    assert await stops(both.store) == ["o1"]
    await both.up()
    both.down()
    assert await stops(both.store) == ["o1"]
    both.store._down = None
    await both.store._refresh()
    assert not both.store.shelter.behind
    both.down()
    assert await stops(both.store) == ["o1"], "in the snapshot, once"


async def test_a_run_leaves_a_snapshot_that_shows_its_last_opt_outs(
    both: Both, tmp_path: Path
) -> None:
    """A restart, and the store cannot be opened then."""
    await both.store._refresh()
    assert await both.store.oppose(event("o1", DORA, EVERYTHING)) is Added.NEW
    await both.store.close()
    again = over(tmp_path, down=True)
    await again.start()
    assert again.shelter.usable
    assert await stops(again) == ["o1"]
    await again.close()


async def test_a_run_that_was_replaced_sends_nothing(both: Both, tmp_path: Path) -> None:
    """Its directory was copied, or its lock is gone: the other run sends what this one would."""
    other = await open_sqlite(tmp_path / "store.db", instance="a", owner=True)
    with pytest.raises(StoreTaken):
        await both.store.claim(intake("r1", row("k1"), high=await high(both.store)))
    with pytest.raises(StoreDown):
        await both.store.claim(without("r2", "k2"))
    assert not both.store.goes_on
    await other.close()


# -- the file --------------------------------------------------------------------------------------


async def test_a_torn_tail_is_cut_off_and_the_rest_stands(tmp_path: Path) -> None:
    file, _ = open_file(tmp_path)
    await file.append(b"one", reserved=True)
    await file.append(b"two", reserved=True)
    await file.close()
    path = tmp_path / "fallback"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    file, payloads = open_file(tmp_path)
    assert payloads == (b"one",)
    await file.append(b"three", reserved=True)
    await file.close()
    assert open_file(tmp_path)[1] == (b"one", b"three")


@pytest.mark.parametrize("at", [0, 5, 17, -1])
async def test_a_damaged_file_is_refused(tmp_path: Path, at: int) -> None:
    file, _ = open_file(tmp_path)
    await file.append(b"one", reserved=True)
    await file.close()
    path = tmp_path / "fallback"
    octets = bytearray(path.read_bytes())
    octets[at] ^= 1
    path.write_bytes(octets)
    with pytest.raises(StoreDown, match=r"docs/operations\.md"):
        open_file(tmp_path)
    assert path.read_bytes() == octets, "nothing is thrown away"


async def test_it_is_bounded_and_the_last_room_is_for_opt_outs(tmp_path: Path) -> None:
    file, _ = open_file(tmp_path)
    file._most = RESERVED + 100
    await file.append(b"x" * 40, reserved=False)
    with pytest.raises(StoreUnavailable, match="full"):
        await file.append(b"x" * 40, reserved=False)
    await file.append(b"x" * 40, reserved=True)
    assert file.count == 2
    await file.close()


async def test_what_does_not_fit_on_the_disk_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = open_file(tmp_path)
    await file.append(b"one", reserved=True)
    real = os.write

    def short(descriptor: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:20])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(StoreUnavailable, match="No space"):
        await file.append(b"two" * 10, reserved=True)
    monkeypatch.undo()
    assert isinstance(file.trouble, StoreUnavailable)
    await file.append(b"three", reserved=True)
    assert file.trouble is None
    await file.close()
    assert open_file(tmp_path)[1] == (b"one", b"three")


async def test_a_failed_sync_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(tmp_path)
    store = over(tmp_path, down=True)
    await store.start()
    await store.oppose(event("o1"))

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreDown):
        await store.oppose(event("o2", BRAM))
    assert store._keep.overlay.events(BRAM) == [], "it was not acknowledged"
    monkeypatch.undo()
    with pytest.raises(StoreDown):
        await store.oppose(event("o3"))
    with pytest.raises(StoreDown):
        await store.claim(without("r1", "k1", BRAM))
    assert "fallback" in store.degraded
    assert not store.goes_on
    await store.close()
    again = over(tmp_path, down=False)
    await again.start()
    known = (await again.lookup([ANNA])).known[ANNA]
    assert [e.uid for e in known.events] == ["o1"]
    await again.close()


async def test_the_file_holds_no_recipient(tmp_path: Path) -> None:
    store = over(tmp_path, down=True)
    await store.start()
    await store.oppose(replace(event("o1"), address="anna@example.nl"))
    await store.claim(without("r1", "k1"))
    await store.close()
    assert b"@example.nl" not in (tmp_path / "fallback").read_bytes()


# -- killed anywhere -------------------------------------------------------------------------------


def killed(
    directory: Path, action: str, call: str, when: int
) -> tuple[list[dict[str, object]], bool]:
    """Run a child under strace, killed at its `when`-th `call`; what it acknowledged."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("strace is missing: run `apt-get install strace` as root, then test again")
    trace = directory / "trace"
    inject = f"inject={call}:signal=SIGKILL:when={when}"
    done = subprocess.run(
        [
            *(strace, "-f", "-qq", "-o", str(trace), "-e", f"trace={call}", "-e", inject),
            *(sys.executable, str(CHILD), str(directory), action, "2"),
        ],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    cut = "killed by SIGKILL" in trace.read_text()
    assert cut or done.returncode == 0, done.stderr
    return lines(done.stdout), cut


async def test_a_kill_anywhere_loses_no_answer_and_doubles_nothing(tmp_path: Path) -> None:
    """While it is written, while it is merged, and in the merge of what a killed merge left."""
    await made(tmp_path)
    points = [
        *(("keep", "fsync", when) for when in (2, 3, 4, 6)),
        *(("merge", "fdatasync", when) for when in (1, 2)),
        *(("merge", "pwrite64", when) for when in (3, 9)),
        ("keep", "write", 9),
        *(("merge", call, 1) for call in ("rename", "fsync", "unlink")),
    ]
    acknowledged: list[dict[str, object]] = []
    cuts = 0
    for action, call, when in points:
        reports, cut = killed(tmp_path, action, call, when)
        acknowledged += reports
        cuts += cut
    assert cuts >= len(points) - 3
    store = over(tmp_path, down=False)
    await store.start()
    assert store.down is None
    assert not (tmp_path / "fallback").exists()
    for report in acknowledged:
        if name := report.get("opposed"):
            subject = person(str(name))
            known = (await store.lookup([subject])).known[subject]
            assert [e.uid for e in known.events] == [name], "an answered opt-out"
        if ref := report.get("relayed"):
            [entry] = await store.journal(ref=str(ref))
            assert entry.state is State.RELAYED, "a mail that was acknowledged"
        if ref := report.get("begun"):
            [entry] = await store.journal(ref=str(ref))
            assert entry.state in (State.RELAYED, State.UNKNOWN), "a mail that may have left"
    await store.close()
    assert sum("opposed" in report for report in acknowledged) > 3
    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        twice = db.execute(
            "SELECT copy_key FROM delivery GROUP BY copy_key HAVING count(*) > 1"
            " UNION ALL SELECT uid FROM event GROUP BY uid HAVING count(*) > 1"
        ).fetchall()
    assert twice == []
