"""The store on SQLite: a writer with group commit, a reader for batched lookups, one for pages.

Write-ahead log, `synchronous=FULL`: when an awaitable of this store returns, its rows are on disk.
One process owns the outbox (`owner=True`); others may append and read while it runs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from proxy.errors import StoreDown, StoreError, StoreRefused, StoreUnavailable
from proxy.store import counting, forwarding, ledger, migrate, outbox, own
from proxy.store.asked import Asked, looked_up
from proxy.store.attempt import Reclaim, Record, Settle
from proxy.store.beside import NOTHING, Beside, Validated
from proxy.store.claim import Claim
from proxy.store.codec import micros
from proxy.store.connection import Connection, trouble
from proxy.store.fold import Folding
from proxy.store.group import Batcher, Operation, commit
from proxy.store.journal import decided, entries
from proxy.store.lease import Holding, Owner, Recover, Steady
from proxy.store.merge import Ended, Intent, Merge, Merged
from proxy.store.model import (
    Added,
    Decided,
    Due,
    Forward,
    Intake,
    IntakeResult,
    JournalEntry,
    NewAttributes,
    NewEvent,
    OutboxRow,
    Outcome,
    Owed,
    Passing,
    Reattempt,
    Settlement,
    Snapshot,
    State,
    Subject,
    Take,
    Unfinished,
)
from proxy.store.suppressed import Suppressed, suppressed

T = TypeVar("T")

#: Operations per transaction at most: bounds how long the write lock is held.
MAX_GROUP = 512

#: How long an attempt is its owner's, unless the configuration says otherwise.
LEASE = timedelta(minutes=30)

#: Pause before results that could not be written are tried again, in seconds.
_RETRY_PAUSE = 0.5


class StoreEvents(Protocol):
    """What the store tells telemetry. Seconds are wall seconds."""

    def commit(self, rows: int, seconds: float) -> None:
        """A group was committed: rows asked for, and how long the whole group took."""
        ...

    def lookup(self, subjects: int, seconds: float) -> None:
        """A batch was read in one statement."""
        ...

    def store_error(self, operation: str) -> None:
        """An operation failed for good or for now."""
        ...


class _Silent:
    def commit(self, rows: int, seconds: float) -> None:
        """Count nothing."""

    def lookup(self, subjects: int, seconds: float) -> None:
        """Count nothing."""

    def store_error(self, operation: str) -> None:
        """Count nothing."""


def _now() -> datetime:
    return datetime.now(UTC)


async def open_sqlite(
    path: Path,
    *,
    instance: str,
    owner: bool,
    telemetry: StoreEvents | None = None,
    create: bool = False,
    check: bool = False,
    max_group: int = MAX_GROUP,
    lease: timedelta = LEASE,
    hold: timedelta | None = None,
    keys: str = "",
    clock: Callable[[], datetime] = _now,
    monotonic: Callable[[], float] = time.monotonic,
    beside: Beside | None = None,
) -> SqliteStore:
    """Open the database at `path`, bringing its schema up to date first.

    `owner` takes a new epoch of `instance` and may claim, each attempt for `lease`; `recover` ends
    what owners that are gone left open. `hold`: owed mail that may have been sent is held for a
    person, for so long after it was received. `keys` is the fingerprint of the pseudonym key: a
    store that was written under another is refused, as none of its opt-outs would be found.
    `create` makes a missing database; without it a missing one is an error, because an empty
    suppression list must never appear by accident.
    `check` reads every page first (slow). `max_group` bounds the operations of one transaction;
    `beside` binds them. Raises `StoreUnavailable`, `StoreDown` for a damaged file, or
    `StoreMissing` for one that is missing, foreign, or written under other keys.
    """
    opened: list[Connection] = []
    try:
        await asyncio.to_thread(migrate.prepare, path, create=create, check=check)
        writer = await Connection.open(path, read_only=False, hot=True)
        opened.append(writer)
        for hot in (True, False):
            opened.append(await Connection.open(path, read_only=True, hot=hot))
        if keys:
            await writer.run(partial(own.bind, path=path, keys=keys))
        who = None
        if owner:
            begin = partial(own.new_epoch, instance=instance, at=micros(clock()))
            who = Owner(instance, await writer.run(begin), lease, clock)
    except BaseException as error:
        for connection in opened:
            await connection.close()
        if isinstance(error, StoreError) or not isinstance(error, Exception):
            raise
        raise trouble(error) or StoreUnavailable(f"{path}: {error}") from error
    return SqliteStore(
        path,
        writer,
        lookups=opened[1],
        pages=opened[2],
        owner=who,
        telemetry=telemetry or _Silent(),
        max_group=max_group,
        holding=Holding(hold),
        steady=Steady(lease),
        clock=clock,
        monotonic=monotonic,
        beside=NOTHING if beside is None else beside,
    )


async def make_sqlite(path: Path) -> None:
    """Make a complete database at `path`, unless there is one. Raises as `open_sqlite`."""
    try:
        await asyncio.to_thread(migrate.prepare, path, create=True)
    except (sqlite3.Error, OSError) as error:
        raise trouble(error) or StoreUnavailable(f"{path}: {error}") from error


class SqliteStore:
    """`model.Store` on one SQLite file; made by `open_sqlite`."""

    def __init__(
        self,
        path: Path,
        writer: Connection,
        *,
        lookups: Connection,
        pages: Connection,
        owner: Owner | None,
        telemetry: StoreEvents,
        max_group: int,
        holding: Holding,
        steady: Steady,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        beside: Beside,
    ) -> None:
        self._path = path
        self._identity = _identity(path)
        self._writer = writer
        self._reader = lookups
        self._pages = pages
        self._owner = owner
        self._telemetry = telemetry
        self._holding = holding
        self._steady = steady
        self._clock = clock
        self._monotonic = monotonic
        self._beside = beside
        self._writes: Batcher[Operation, Any] = Batcher(self._commit, limit=max_group)
        self._reads: Batcher[Asked, Snapshot] = Batcher(self._read, limit=max_group)
        self._folding = Folding(path, writer, self._failed)
        self._kept: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    # -- ledger ----------------------------------------------------------------------------------

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        """See `Store.lookup`. Calls that arrive while a statement runs share the next one."""
        return await self._reads.hand_in(Asked(subjects, mails_since))

    async def append(
        self, events: Sequence[NewEvent], attributes: Sequence[NewAttributes] = ()
    ) -> list[bool]:
        """See `Store.append`."""
        new: list[bool] = await self._writes.hand_in(ledger.Append(events, attributes))
        return new

    async def oppose(self, event: NewEvent) -> Added:
        """See `Store.oppose`."""
        (new,) = await self.append([event])
        return Added.NEW if new else Added.KNOWN

    async def suppressed(self, above: int | None) -> Suppressed:
        """What stops even mail that is no marketing: of all, or where it changed since `above`."""
        return await self._page(lambda db: suppressed(db, above, micros(self._clock())))

    async def subjects(self, *, after: int, limit: int) -> list[tuple[int, Subject]]:
        """See `Store.subjects`; the id is that of the pair's first event."""
        return await self._page(lambda db: ledger.pairs(db, after, limit))

    async def addresses(self, exacts: Sequence[str]) -> Mapping[str, str]:
        """See `Store.addresses`."""
        return await self._page(lambda db: ledger.addresses(db, exacts))

    # -- journal ---------------------------------------------------------------------------------

    async def claim(self, intake: Intake) -> IntakeResult:
        """See `Store.claim`. Copy keys and numbers are distinct in an intake (`ValueError`)."""
        claim = Claim(intake, self._own(), self._beside)
        result: IntakeResult = await self._writes.hand_in(claim)
        return result

    async def reclaim(
        self, rows: Sequence[Reattempt], *, high: int, at: datetime, overlay: int = 0
    ) -> IntakeResult:
        """See `Store.reclaim`. `BUSY`: the attempt is no longer this process's; send nothing."""
        operation = Reclaim(rows, high, at, self._own())
        return await self._validated(operation, overlay, [row.subject for row in rows])

    async def record(self, outcomes: Sequence[Outcome]) -> list[int]:
        """See `Store.record`."""
        ended: list[int] = await self._writes.hand_in(Record(outcomes, self._holding))
        return ended

    def record_later(self, outcomes: Sequence[Outcome]) -> None:
        """See `Store.record_later`. Handed in at once: a claim made after it sees the result."""
        operation = Record(outcomes, self._holding)
        task = asyncio.create_task(self._keep(operation, self._writes.hand_in(operation)))
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def recording(self, outcomes: Sequence[Outcome]) -> asyncio.Future[list[int]]:
        """`record`, handed in at once; its trouble is the caller's."""
        return self._writes.hand_in(Record(outcomes, self._holding))

    async def merge(
        self,
        events: Sequence[NewEvent],
        intents: Sequence[tuple[Intent, Ended | None]],
        results: Sequence[Ended],
    ) -> Merged:
        """One commit of all that was written down beside the store; once, however often asked."""
        now = micros(self._clock())
        operation = Merge(events, intents, results, self._own(), self._holding, now)
        merged: Merged = await self._writes.hand_in(operation)
        return merged

    async def settle(self, settlement: Settlement) -> list[int]:
        """See `Store.settle`. In the order of handing in with `record`."""
        operation = Settle(settlement, self._own(), self._holding)
        done: list[int] = await self._writes.hand_in(operation)
        return done

    # -- outbox ----------------------------------------------------------------------------------

    async def due(self, at: datetime, limit: int) -> list[Due]:
        """See `Store.due`."""
        return await self._page(lambda db: outbox.due(db, at, limit))

    async def owed(self, row: int) -> Owed | None:
        """See `Store.owed`."""
        return await self._page(lambda db: outbox.owed(db, row, self._path.parent))

    async def take(self, take: Take) -> IntakeResult:
        """See `Store.take`. A process that does not own the outbox may only end rows."""
        operation = outbox.TakeRow(take, self._owner)
        if take.decision is None:
            result: IntakeResult = await self._writes.hand_in(operation)
            return result
        return await self._validated(operation, take.overlay, [take.subject])

    async def hasten(self, rows: Sequence[int], at: datetime) -> int:
        """See `Store.hasten`."""
        count: int = await self._writes.hand_in(outbox.Hasten(rows, at))
        return count

    async def unfinished(self) -> Unfinished:
        """See `Store.unfinished`."""
        return await self._page(outbox.unfinished)

    async def outbox(self, *, ref: str = "", limit: int = 1000) -> list[OutboxRow]:
        """See `Store.outbox`."""
        return await self._page(lambda db: outbox.listed(db, ref, limit))

    async def told(
        self, covers: Sequence[tuple[str, State]], since: datetime
    ) -> set[tuple[str, State]]:
        """See `Store.told`."""
        return await self._page(lambda db: outbox.told(db, covers, since))

    # -- opt-outs passed on ----------------------------------------------------------------------

    async def forwards_due(self, at: datetime, limit: int) -> list[Forward]:
        """See `Store.forwards_due`."""
        return await self._page(lambda db: forwarding.due(db, at, limit))

    async def forwards(
        self, *, ref: str = "", ended: bool = False, limit: int = 1000
    ) -> list[Forward]:
        """See `Store.forwards`."""
        return await self._page(lambda db: forwarding.listed(db, ref, ended, limit))

    async def forwards_waiting(self) -> int:
        """See `Store.forwards_waiting`."""
        return await self._page(forwarding.waiting)

    async def passed(self, passing: Passing) -> bool:
        """See `Store.passed`."""
        done: bool = await self._writes.hand_in(outbox.Pass(passing))
        return done

    # -- journal, read ---------------------------------------------------------------------------

    async def journal(
        self, *, ref: str = "", exact: str = "", limit: int = 1000
    ) -> list[JournalEntry]:
        """See `Store.journal`: oldest first for a `ref`, newest first for an `exact` key."""
        return await self._page(lambda db: entries(db, ref, exact, limit))

    async def decided(self, *, after: int, limit: int, since: datetime) -> list[Decided]:
        """See `Store.decided`."""
        return await self._page(lambda db: decided(db, after, limit, since))

    async def recover(self) -> int:
        """See `Store.recover`."""
        now = self._clock()
        leases = self._steady.trusts(now, self._monotonic())
        operation = Recover(self._own(), now, self._holding, leases=leases)
        ended: int = await self._writes.hand_in(operation)
        return ended

    # -- life ------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Read, and commit a row, so that a full or read-only disk shows."""
        await self._writes.hand_in(own.Ping(micros(self._clock())))
        await self.lookup([])

    async def room(self) -> None:
        """`ping`, with as much as a mail may take: one row always fits where nothing else does."""
        await self._writes.hand_in(own.Ping(micros(self._clock()), own.MAIL_OF_ROOM))
        await self.lookup([])

    async def close(self) -> None:
        """Write what waits, then close; the last to close folds the log into the database."""
        self._closing.set()
        if self._kept:
            await asyncio.wait(set(self._kept))
        await self._writes.idle()
        await self._reads.idle()
        closed = StoreUnavailable("the store is closed")
        self._writes.stop(closed)
        self._reads.stop(closed)
        await self._folding.close()
        for connection in (self._pages, self._reader, self._writer):
            await connection.close()

    def _own(self) -> Owner:
        if self._owner is None:
            raise ValueError("only the process that owns the outbox (owner=True) claims")
        return self._owner

    async def _validated(
        self, operation: Operation, overlay: int, subjects: Sequence[Subject]
    ) -> IntakeResult:
        validated = Validated(operation, self._beside, overlay, subjects)
        result: IntakeResult = await self._writes.hand_in(validated)
        return result

    async def _commit(self, operations: list[Operation]) -> Sequence[Any]:
        began = time.perf_counter()
        results, commits = await self._writer.run(partial(self._in_place, operations))
        if commits:
            self._folding.committed()
            rows = sum(operation.rows for operation in operations)
            self._telemetry.commit(rows, time.perf_counter() - began)
        for operation, result in zip(operations, results, strict=True):
            if isinstance(result, StoreError):
                self._failed(operation.name, result)
        return results

    def _in_place(
        self, operations: list[Operation], db: sqlite3.Connection
    ) -> tuple[Sequence[Any], int]:
        # A file deleted or replaced under us would take opt-outs that no other process sees.
        if _identity(self._path) != self._identity:
            return [StoreDown(f"{self._path} was removed or replaced")] * len(operations), 0
        return commit(db, operations, self._beside)

    async def _read(self, asked: list[Asked]) -> Sequence[Snapshot | StoreError]:
        began = time.perf_counter()
        subjects = {subject for some in asked for subject in some.subjects}
        try:
            seen, mails = await self._reader.run(lambda db: looked_up(db, subjects, asked))
        except Exception as error:
            failed = trouble(error) or StoreUnavailable(f"lookup: {type(error).__name__}: {error}")
            failed.__cause__ = error
            self._failed("lookup", failed)
            return [failed] * len(asked)
        self._telemetry.lookup(len(subjects), time.perf_counter() - began)
        return [self._snapshot(seen, mails, some) for some in asked]

    def _snapshot(
        self, seen: ledger.Read, mails: counting.Mails, asked: Asked
    ) -> Snapshot | StoreError:
        subjects, since = asked.subjects, asked.mails_since
        if seen.unreadable and any(
            s.exact in seen.unreadable or s.wide in seen.unreadable for s in subjects
        ):
            self._telemetry.store_error("lookup")
            return StoreRefused("a ledger entry cannot be read by this version")
        known = {s: seen.known[s] for s in subjects}
        if since is not None:
            for s in subjects:
                if found := mails.get((s.sender, s.wide)):
                    mine = tuple(mail for mail in found if mail.at > since)
                    known[s] = replace(known[s], mails=mine)
        return Snapshot(seen.high, known)

    async def _page(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._reads.fatal is not None:
            raise type(self._reads.fatal)(*self._reads.fatal.args)
        try:
            return await self._pages.run(work)
        except Exception as error:
            failed = trouble(error) or StoreUnavailable(f"read: {type(error).__name__}: {error}")
            self._failed("read", failed)
            raise failed from error

    def _failed(self, operation: str, why: StoreError) -> None:
        self._telemetry.store_error(operation)
        if isinstance(why, StoreDown):
            # Whatever it was, it is not tried again: a second fsync could report what the first
            # lost.
            self._writes.stop(why)
            self._reads.stop(why)

    async def _keep(self, operation: Record, first: asyncio.Future[Any]) -> None:
        """Hold results that could not be written, and hand them in again until they are."""
        written = first
        while True:
            try:
                await written
            except (StoreRefused, StoreDown):
                return
            except StoreUnavailable:
                if self._closing.is_set():
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _RETRY_PAUSE)
                written = self._writes.hand_in(operation)
            else:
                return


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
