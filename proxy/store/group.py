"""Group commit and batched reads: one batch runs at a time, what comes meanwhile waits together.

A batch of writes is one transaction: BEGIN IMMEDIATE, blocking events, results, claims, COMMIT.
Nobody is woken before COMMIT has returned. When an operation of a batch raises, everything is
rolled back and each operation runs in a transaction of its own, so that a bad one hurts only
itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar

from proxy.errors import StoreError, StoreRefused, StoreUnavailable
from proxy.store.connection import trouble

In = TypeVar("In")
Out = TypeVar("Out")


class Operation(Protocol):
    """Something to write. `run` may be called twice (after a rollback) and keeps no state.

    A class that also has `run_all(db, operations)`, with a result for each, takes those of its kind
    that follow one another in a group together; in effect as if one by one.
    """

    @property
    def name(self) -> str:
        """For metrics."""
        ...

    @property
    def rank(self) -> int:
        """Lower ranks go first within a group."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it asks for, for metrics."""
        ...

    def run(self, db: sqlite3.Connection) -> Any:
        """Do it inside the open transaction."""
        ...


class Batcher(Generic[In, Out]):
    """Collects items while a batch runs; the next batch takes them together, at most `limit`."""

    def __init__(
        self, work: Callable[[list[In]], Awaitable[Sequence[Out | StoreError]]], *, limit: int
    ) -> None:
        self._work = work
        self._limit = limit
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._fatal: StoreError | None = None

    @property
    def fatal(self) -> StoreError | None:
        """Why nothing is taken any more."""
        return self._fatal

    def stop(self, why: StoreError) -> None:
        """Refuse what waits and all that comes; the first reason stands."""
        self._fatal = self._fatal or why
        while self._waiting:
            self._refuse(self._waiting.popleft()[1], self._fatal)

    def hand_in(self, item: In) -> asyncio.Future[Out]:
        """The item's result, later. Cancelling the future does not take the item back."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        if self._fatal is not None:
            self._refuse(future, self._fatal)
            return future
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return future

    async def idle(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _drain(self) -> None:
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        try:
            while self._waiting:
                size = min(self._limit, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(size)]
                results = await self._results([item for item, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if isinstance(result, StoreError):
                        self._refuse(future, result)
                    elif not future.done():
                        future.set_result(result)
                batch = []
        except BaseException as error:
            # The loop is going down: what was handed in has no known result.
            why = StoreUnavailable(f"the store stopped: {type(error).__name__}")
            for _, future in batch:
                self._refuse(future, why)
            self.stop(why)
            raise
        finally:
            self._task = None

    async def _results(self, items: list[In]) -> Sequence[Out | StoreError]:
        try:
            return await self._work(items)
        except Exception as error:  # a bug fails its own batch, and the next is tried
            failed = StoreUnavailable(f"{type(error).__name__}: {error}")
            failed.__cause__ = error
            return [failed] * len(items)

    @staticmethod
    def _refuse(future: asyncio.Future[Out], why: StoreError) -> None:
        if not future.done():
            own = type(why)(*why.args)
            own.__cause__ = why.__cause__ or why
            future.set_exception(own)


_UNLOCKED: AbstractContextManager[object] = nullcontext()


def commit(
    db: sqlite3.Connection,
    operations: Sequence[Operation],
    lock: AbstractContextManager[object] = _UNLOCKED,
) -> tuple[list[Any], int]:
    """Run a group: a result or a `StoreError` for each operation, and the number of commits.

    `lock` is held from the first operation of a transaction to the end of its COMMIT.
    """
    order = sorted(range(len(operations)), key=lambda i: operations[i].rank)
    results: list[Any] = [None] * len(operations)
    try:
        commits = _transaction(db, operations, order, results, lock)
    except Exception as error:
        whole = trouble(error)
        if whole is None and len(operations) == 1:
            whole = _refused(operations[0], error)
        if whole is not None:
            if whole is not error:
                whole.__cause__ = error
            return [whole] * len(operations), 0
    else:
        return results, commits
    commits = 0
    for i in order:
        (results[i],), more = commit(db, [operations[i]], lock)
        commits += more
        if isinstance(results[i], StoreError) and not isinstance(results[i], StoreRefused):
            # The store itself is in trouble: do not wait for it once per operation.
            for j in order[order.index(i) + 1 :]:
                results[j] = results[i]
            break
    return results, commits


def _transaction(
    db: sqlite3.Connection,
    operations: Sequence[Operation],
    order: Sequence[int],
    results: list[Any],
    lock: AbstractContextManager[object],
) -> int:
    before = db.total_changes
    try:
        db.execute("BEGIN IMMEDIATE")
        with lock:
            for kind, places in groupby(order, lambda i: type(operations[i])):
                some = list(places)
                together = getattr(kind, "run_all", None)
                if together is None or len(some) == 1:
                    done = [operations[i].run(db) for i in some]
                else:
                    done = together(db, [operations[i] for i in some])
                for i, result in zip(some, done, strict=True):
                    results[i] = result
            if db.total_changes == before:
                db.execute("ROLLBACK")
                return 0
            db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return 1


def _refused(operation: Operation, error: Exception) -> StoreError:
    return StoreRefused(f"{operation.name}: {type(error).__name__}: {error}")
