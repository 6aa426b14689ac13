"""What is SQLite's own: statements counted, triggers, locks, full disks, and rows that are owed."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
import pytest
from store_values import (
    ANNA,
    BRAM,
    after,
    again,
    event,
    high,
    intake,
    only,
    opt_in,
    outcome,
    person,
    relayed,
    row,
    states,
)

from policy.model import Complaint, ComplaintVia, Detail, Objection, Scope, Via
from proxy.errors import StoreDown, StoreUnavailable
from proxy.store import connection
from proxy.store.model import Fate, Result, State
from proxy.store.query import Query
from proxy.store.schema import APPEND_ONLY
from proxy.store.sql import attempt, claim, journal, lease, ledger
from proxy.store.sqlite import SqliteStore, open_sqlite


class Counted:
    """`StoreEvents` that remembers."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.lookups: list[int] = []
        self.errors: list[str] = []

    def commit(self, rows: int, seconds: float) -> None:
        assert seconds >= 0
        self.commits.append(rows)

    def lookup(self, subjects: int, seconds: float) -> None:
        assert seconds >= 0
        self.lookups.append(subjects)

    def store_error(self, operation: str) -> None:
        self.errors.append(operation)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path, counted: Counted) -> AsyncIterator[SqliteStore]:
    opened = await open_sqlite(
        path, instance="a", owner=True, create=True, telemetry=counted, clock=lambda: after(3600)
    )
    yield opened
    await opened.close()


async def trace(who: connection.Connection) -> list[str]:
    """Every statement of a connection from now on."""
    statements: list[str] = []
    await who.run(lambda db: db.set_trace_callback(statements.append))
    return statements


def commits(statements: list[str]) -> int:
    return statements.count("COMMIT")


async def owe(store: SqliteStore, id_: int) -> None:
    """Make a row owed, as the outbox will when it holds the body."""
    await store._writer.run(
        lambda db: db.execute("UPDATE delivery SET owed = 1 WHERE id = ?", (id_,))
    )


def move(old: Path, new: Path) -> None:
    """Rename a file under an open store."""
    old.rename(new)


async def until(condition: object, seconds: float = 20) -> None:
    """Wait for `condition()`, at most so long."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)


# -- group commit ----------------------------------------------------------------------------------


async def test_concurrent_claims_share_commits(store: SqliteStore, counted: Counted) -> None:
    statements = await trace(store._writer)
    claims = [store.claim(intake(f"r{i}", row(f"k{i}"))) for i in range(100)]
    fates = [only(result) for result in await asyncio.gather(*claims)]
    assert [f.fate for f in fates] == [Fate.CLAIMED] * 100
    assert commits(statements) == 1
    await asyncio.gather(*(store.record([outcome(fate)]) for fate in fates))
    assert commits(statements) == 2
    assert counted.commits == [100, 100]


async def test_what_arrives_during_a_commit_is_the_next_group(store: SqliteStore) -> None:
    statements = await trace(store._writer)
    first = asyncio.ensure_future(store.append([event("first", BRAM)]))
    await asyncio.sleep(0)  # its group is with the writer now
    await asyncio.sleep(0)
    rest = [store.append([event(f"u{i}")]) for i in range(50)]
    await asyncio.gather(first, *rest)
    assert commits(statements) == 2


async def test_a_group_has_a_limit(path: Path) -> None:
    opened = await open_sqlite(path, instance="a", owner=True, create=True, max_group=10)
    statements = await trace(opened._writer)
    await asyncio.gather(*(opened.append([event(f"u{i}")]) for i in range(25)))
    assert commits(statements) == 3
    await opened.close()


async def test_an_answer_from_the_journal_costs_no_commit(
    store: SqliteStore, counted: Counted
) -> None:
    await relayed(store, "first", "k")
    seen = await high(store)
    before = list(counted.commits)
    statements = await trace(store._writer)
    await asyncio.gather(*(store.claim(intake("r", row("k"), high=seen)) for _ in range(20)))
    assert commits(statements) == 0
    assert not [s for s in statements if s.startswith(("INSERT", "UPDATE"))]
    assert counted.commits == before


async def test_a_stale_claim_and_a_known_event_cost_no_commit(store: SqliteStore) -> None:
    await store.append([event("o")])
    statements = await trace(store._writer)
    assert (await store.claim(intake("r", row("k")))).stale
    assert await store.append([event("o")]) == [False]
    assert commits(statements) == 0


async def test_lookups_that_wait_together_are_one_statement(
    store: SqliteStore, counted: Counted
) -> None:
    people = [person(f"p{i}") for i in range(200)]
    await store.append([opt_in(f"u{i}", p) for i, p in enumerate(people)])
    statements = await trace(store._reader)
    await asyncio.gather(*(store.lookup([p, ANNA]) for p in people))
    assert len(statements) == 1
    assert counted.lookups == [201]


async def test_no_hot_statement_scans_a_table(store: SqliteStore) -> None:
    queries = {
        f"{module.__name__}.{name}": value
        for module in (ledger, claim, attempt, journal)
        for name, value in vars(module).items()
        if isinstance(value, Query)
    }
    assert len(queries) > 15

    def scans(db: sqlite3.Connection) -> list[str]:
        found = []
        for name, query in queries.items():
            plan = db.execute(f"EXPLAIN QUERY PLAN {query.sql}", ("[]",) * len(query.names))
            for *_, step in plan:
                if step.startswith("SCAN") and "VIRTUAL TABLE" not in step:
                    found.append(f"{name}: {step}")
        return found

    assert await store._pages.run(scans) == []


async def test_what_every_mail_writes_builds_no_table_for_it(store: SqliteStore) -> None:
    """SQLite makes one, with a page cache of its own, for `IN` with three or more members."""
    hot = {
        name: getattr(module, name)
        for module, names in (
            (claim, ("PRIOR_ONE", "ADD_SUBMISSION", "ADD_DELIVERY", "ADD_DECISION", "ADD_ATTEMPT")),
            (attempt, ("ROW",)),
            (lease, ("EPOCH", "ADD_OUTCOME", "END", "END_KNOWN")),
            (ledger, ("HIGH", "MARK_MAIL", "ADD_ADDRESS", "LOOKUP_ONE")),
        )
        for name in names
    }

    def built(db: sqlite3.Connection) -> set[str]:
        return {
            name
            for name, query in hot.items()
            for _, code, *_ in db.execute(f"EXPLAIN {query.sql}", ("x",) * len(query.names))
            if code in ("OpenEphemeral", "OpenAutoindex", "SorterOpen")
        }

    assert await store._writer.run(built) == set()


# -- one bad operation, one bad entry --------------------------------------------------------------


async def test_an_entry_that_cannot_be_read_hurts_only_its_people(store: SqliteStore) -> None:
    await store.append([opt_in("a"), opt_in("b", BRAM)])
    await store._writer.run(
        lambda db: db.execute(
            "INSERT INTO event (uid, sender, exact, wide, type, at, recorded_at, evidence, fields)"
            " VALUES ('new', 'acme', ?, ?, 'telepathy', 0, 0, '', '{}')",
            (ANNA.exact, ANNA.wide),
        )
    )
    anna, bram = await asyncio.gather(
        store.lookup([ANNA]), store.lookup([BRAM]), return_exceptions=True
    )
    assert isinstance(anna, StoreUnavailable)
    assert not isinstance(bram, BaseException)
    assert [e.uid for e in bram.known[BRAM].events] == ["b"]


async def test_an_objection_outlives_the_erasure_of_its_event(store: SqliteStore) -> None:
    details: list[Detail] = [
        Objection(scope=Scope.STREAM, stream="newsletter", via=Via.PAGE),
        Objection(scope=Scope.TOPIC, topics=("a", "b")),
        Complaint(via=ComplaintVia.ARF),
        Complaint(),
    ]
    await store.append([event(f"u{i}", detail=d, evidence="x") for i, d in enumerate(details)])
    await store.append([opt_in("i")])
    before = (await store.lookup([ANNA])).known[ANNA].events

    def erase(db: sqlite3.Connection) -> None:
        db.execute("DROP TRIGGER event_no_delete")
        db.execute("DELETE FROM event")

    await store._writer.run(erase)
    left = (await store.lookup([ANNA])).known[ANNA].events
    assert [e.detail for e in left] == details
    assert [(e.uid, e.at, e.sender, e.exact) for e in left] == [
        (e.uid, e.at, e.sender, e.exact) for e in before[:-1]
    ]
    assert {e.evidence for e in left} == {""}
    again_ = event("again", detail=details[0], unless_in_force=True)
    assert await store.append([again_]) == [False]


# -- history is append-only ------------------------------------------------------------------------


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET rowid = rowid",
        "DELETE FROM {table}",
        "INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
    ],
)
async def test_history_cannot_be_rewritten(store: SqliteStore, table: str, statement: str) -> None:
    await store.append([event("o", BRAM)])
    await relayed(store, "r", "k")
    column = "delivery = delivery" if table == "attempt" else "id = id"
    sql = statement.format(table=table).replace("rowid = rowid", column)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await store._writer.run(lambda db: db.execute(sql))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM delivery", "never deleted"),
        ("UPDATE delivery SET copy_key = 'other'", "keeps its identity"),
        ("UPDATE delivery SET exact = 'other'", "keeps its identity"),
        ("UPDATE delivery SET state = 'failed'", "relayed is final"),
        ("UPDATE delivery SET maybe_sent = 0", "never cleared"),
        ("INSERT INTO delivery SELECT * FROM delivery", "UNIQUE"),
    ],
)
async def test_a_delivery_keeps_what_must_never_change(
    store: SqliteStore, statement: str, words: str
) -> None:
    fate = only(await store.claim(intake("r", row("k"))))
    await store.record([outcome(fate, Result.UNKNOWN)])
    await store.record([outcome(fate)])
    with pytest.raises(sqlite3.IntegrityError, match=words):
        await store._writer.run(lambda db: db.execute(statement))


async def test_a_state_is_one_of_those_we_know(store: SqliteStore) -> None:
    await store.claim(intake("r", row("k")))
    with pytest.raises(sqlite3.IntegrityError, match="delivery_state"):
        await store._writer.run(lambda db: db.execute("UPDATE delivery SET state = 'lost'"))


async def test_one_copy_is_live_at_most_once(store: SqliteStore) -> None:
    await store.claim(intake("r", row("k")))
    columns = "submission, n, copy, sender, exact, wide, copy_key, marketing, owed, maybe_sent"
    twin = (
        f"INSERT INTO delivery ({columns}, state, attempts, reply)"
        f" SELECT {columns}, 'waiting', 0, '' FROM delivery"
    )
    with pytest.raises(sqlite3.IntegrityError, match="copy_key"):
        await store._writer.run(lambda db: db.execute(twin))


async def test_the_same_outcome_is_kept_once(store: SqliteStore) -> None:
    fate = only(await store.claim(intake("r", row("k"))))
    for result in (Result.UNKNOWN, Result.UNKNOWN, Result.ACCEPTED, Result.ACCEPTED):
        await store.record([outcome(fate, result)])
    kept = await store._writer.run(
        lambda db: db.execute("SELECT result, note FROM outcome ORDER BY id").fetchall()
    )
    assert kept == [("unknown", ""), ("accepted", "late")]


# -- rows that are owed ----------------------------------------------------------------------------


async def test_an_owed_attempt_is_answered_as_queued(store: SqliteStore) -> None:
    fate = only(await store.claim(intake("first", row("k"))))
    await owe(store, fate.row)
    second = only(await store.claim(intake("second", row("k"))))
    assert (second.fate, second.ref) == (Fate.QUEUED, "first")


@pytest.mark.parametrize("result", [Result.TEMPORARY, Result.UNSENT, Result.UNKNOWN])
async def test_an_owed_row_waits_and_is_answered_as_queued(
    store: SqliteStore, result: Result
) -> None:
    fate = only(await store.claim(intake("first", row("k"))))
    await owe(store, fate.row)
    await store.record([outcome(fate, result)])
    (entry,) = await store.journal(ref="first")
    assert (entry.state, entry.ended_at) == (State.WAITING, None)
    assert entry.maybe_sent == (result is Result.UNKNOWN)
    assert only(await store.claim(intake("second", row("k")))).fate is Fate.QUEUED


async def test_recovery_lets_an_owed_row_wait(store: SqliteStore, path: Path) -> None:
    fate = only(await store.claim(intake("first", row("k"))))
    await owe(store, fate.row)
    next_ = await open_sqlite(path, instance="a", owner=True)
    assert await next_.recover() == 1
    (entry,) = await next_.journal(ref="first")
    assert (entry.state, entry.maybe_sent, entry.ended_at) == (State.WAITING, True, None)
    await next_.record([outcome(fate, at=after(9))])  # the old owner's 2xx: late, and true
    (entry,) = await next_.journal(ref="first")
    assert (entry.state, entry.ended_at) == (State.RELAYED, after(9))
    await next_.close()


async def test_a_late_acceptance_settles_the_waiting_row_of_the_same_copy(
    store: SqliteStore,
) -> None:
    first = only(await store.claim(intake("first", row("k"))))
    await store.record([outcome(first, Result.UNKNOWN)])
    second = only(await store.claim(intake("second", row("k"))))
    await owe(store, second.row)
    await store.record([outcome(second, Result.TEMPORARY)])
    assert await states(store, "second") == [State.WAITING]
    await store.record([outcome(first)])
    assert await states(store, "first") == await states(store, "second") == [State.RELAYED]


async def test_an_owed_row_decided_again_and_deferred_waits(store: SqliteStore) -> None:
    fate = only(await store.claim(intake("r", row("k"))))
    await owe(store, fate.row)
    await store.reclaim([again(fate, state=State.RETURNED)], high=0, at=after(1))
    assert await states(store, "r") == [State.WAITING]


# -- trouble ---------------------------------------------------------------------------------------


async def test_a_locked_database_is_unavailable_for_now(
    store: SqliteStore, path: Path, counted: Counted
) -> None:
    await store._writer.run(lambda db: db.execute("PRAGMA busy_timeout = 50"))
    fate = only(await store.claim(intake("r", row("k"))))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        results = await asyncio.gather(
            *(store.append([event(f"o{i}")]) for i in range(5)), return_exceptions=True
        )
        assert {type(r) for r in results} == {StoreUnavailable}
        store.record_later([outcome(fate, Result.PERMANENT)])
        await until(lambda: "record" in counted.errors)
        assert (await store.lookup([ANNA])).known[ANNA].events == ()  # readers go on
        other.execute("ROLLBACK")
    assert await store.append([event("o")]) == [True]
    await until(lambda: not store._kept)
    assert await states(store, "r") == [State.FAILED]


async def test_a_full_disk_is_unavailable_until_there_is_room(store: SqliteStore) -> None:
    await store.append([event("before", BRAM)])

    def pages(db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA page_count").fetchone()[0])

    size = await store._writer.run(pages)
    await store._writer.run(lambda db: db.execute(f"PRAGMA max_page_count = {size}"))
    big = event("big", evidence="x" * 100_000)
    results = await asyncio.gather(
        store.append([big]), store.claim(intake("r", row("k", BRAM))), return_exceptions=True
    )
    assert {type(r) for r in results} == {StoreUnavailable}
    assert (await store.lookup([ANNA])).known[ANNA].events == ()
    await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 1073741823"))
    assert await store.append([big]) == [True]


async def test_a_read_only_database_fails_ping_but_not_lookup(store: SqliteStore) -> None:
    await store._writer.run(lambda db: db.execute("PRAGMA query_only = ON"))
    with pytest.raises(StoreUnavailable):
        await store.ping()
    assert (await store.lookup([ANNA])).high == 0
    await store._writer.run(lambda db: db.execute("PRAGMA query_only = OFF"))
    await store.ping()


async def test_a_file_removed_under_us_stops_everything(store: SqliteStore, path: Path) -> None:
    move(path, path.with_suffix(".gone"))
    calls = [store.append([event("o")]), store.claim(intake("r", row("k")))]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(r) for r in results} == {StoreDown}
    move(path.with_suffix(".gone"), path)  # too late: other processes may have written elsewhere
    for call in (store.append([event("o")]), store.lookup([ANNA]), store.journal(ref="r")):
        with pytest.raises(StoreDown):
            await call


def damage(path: Path) -> None:
    """Overwrite the start of every page but the first."""
    content = bytearray(path.read_bytes())
    for offset in range(4096, len(content), 4096):
        content[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(content)


async def test_a_damaged_page_stops_everything(path: Path) -> None:
    first = await open_sqlite(path, instance="a", owner=True, create=True)
    await first.append([opt_in(f"u{i}", person(f"p{i}")) for i in range(500)])
    await first.close()
    damage(path)
    with pytest.raises(StoreDown):
        await open_sqlite(path, instance="a", owner=True)


async def test_a_bug_beside_the_store_fails_its_own_batch(
    store: SqliteStore, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rows: int, seconds: float) -> None:
        raise RuntimeError("metrics")

    monkeypatch.setattr(counted, "commit", broken)
    with pytest.raises(StoreUnavailable, match="metrics"):
        await store.append([event("o")])
    monkeypatch.undo()
    assert await store.append([event("o"), event("p")]) == [False, True]


async def test_waiting_callers_hear_of_a_loop_that_ends(path: Path) -> None:
    opened = await open_sqlite(path, instance="a", owner=True, create=True)
    call = asyncio.ensure_future(opened.append([event("o")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert opened._writes._task is not None
    opened._writes._task.cancel()
    with pytest.raises(StoreUnavailable, match="stopped"):
        await call
    with pytest.raises(StoreUnavailable, match="stopped"):
        await opened.append([event("p")])
    await opened.close()
