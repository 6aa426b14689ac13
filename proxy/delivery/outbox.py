"""The outbox worker: tries what is due, a bounded number at once, one stream not before another.

It holds no mail and no law: it picks rows that wait and hands each to `attempt` (the gate's), which
decides again. `OutboxState` is what gate and worker share: a bell, and how full the outbox is.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from proxy import log
from proxy.config import Delivery
from proxy.errors import StoreDown, StoreError
from proxy.replies import Reply
from proxy.store.model import Due, State, Store, Unfinished

#: Seconds between two looks for what is due, when nobody rings.
POLL = 0.25

#: Seconds between two counts of what is unfinished, each after a look for attempts whose owner is
#: gone.
_COUNT = 5.0

#: Rows looked at for each that can be tried now, so that streams can take turns.
_CHOICE = 20

#: Rows looked through at most for those that are held, oldest first.
_LISTED = 10_000

#: While no upstream can be reached: the first pause, and the longest, in seconds.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Tried(Enum):
    """What became of one try, as far as the worker minds."""

    DONE = auto()
    NO_UPSTREAM = auto()


class OutboxEvents(Protocol):
    """What the worker tells telemetry."""

    def outbox(self, counts: dict[str, int], oldest_seconds: float) -> None:
        """Unfinished rows per state, and the age of the oldest."""
        ...


class OutboxState:
    """How full the outbox is, and a bell for what was put in."""

    def __init__(self, delivery: Delivery, data_dir: Path) -> None:
        self._limits = delivery
        self._data_dir = data_dir
        self._count = 0
        self._age = 0.0
        self._free: int | None = None
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Something became due."""
        self._bell.set()

    async def rung(self, seconds: float) -> None:
        """Wait for the bell, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        except TimeoutError:
            return
        self._bell.clear()

    def measure(self, seen: Unfinished, now: datetime) -> float:
        """Take note; the age of the oldest in seconds.

        Mail that a person holds back says nothing of how delivery goes, so it is no reason to
        refuse more.
        """
        self._count = sum(seen.counts.values())
        self._age = _age(seen.oldest_open, now)
        try:
            self._free = shutil.disk_usage(self._data_dir).free
        except OSError:
            self._free = None
        return _age(seen.oldest, now)

    def refusal(self) -> Reply | None:
        """The reply to `MAIL` while the outbox may not grow; None while it may."""
        limits = self._limits
        if self._free is not None and self._free < limits.outbox_free:
            return Reply(452, "4.3.1", "too little room on disk, try again")
        if self._count >= limits.outbox_messages:
            return Reply(452, "4.3.1", "the outbox is full, try again")
        if limits.outbox_age is not None and self._age >= limits.outbox_age.total_seconds():
            return Reply(452, "4.3.1", "mail taken before waits too long, try again")
        return None


class Outbox:
    """Runs until stopped; what is being tried then is tried to its end."""

    def __init__(
        self,
        store: Store,
        attempt: Callable[[Due], Awaitable[Tried]],
        state: OutboxState,
        telemetry: OutboxEvents,
        *,
        at_once: int,
        clock: Callable[[], datetime],
        poll: float = POLL,
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._state = state
        self._telemetry = telemetry
        self._at_once = at_once
        self._clock = clock
        self._poll = poll
        self._running: dict[int, asyncio.Task[None]] = {}
        self._pause = 0.0
        self._stopping = self._named = False

    async def run(self) -> None:
        """Pick and try, for ever."""
        loop = asyncio.get_running_loop()
        counted = -_COUNT
        while not self._stopping:
            try:
                if loop.time() - counted >= _COUNT:
                    counted = loop.time()
                    await self._recover()
                    await self._measure()
                if self._pause:
                    await asyncio.sleep(self._pause)
                picked = await self._pick()
            except StoreDown:
                return  # until restart
            except StoreError as error:
                log.store_failed(ref="", operation="outbox", error=str(error))
                picked = []
            except Exception as error:  # the one edge: what is owed must go on being tried
                log.incident(ref="", error=error)
                picked = []
            if self._stopping:
                return
            for due in picked:
                task = asyncio.create_task(self._try(due))
                self._running[due.row] = task
            if not picked:
                await self._state.rung(self._poll)

    async def stop(self) -> None:
        """Pick nothing more, and wait for what is being tried."""
        self._stopping = True
        self._state.ring()
        while self._running:
            await asyncio.wait(set(self._running.values()))

    async def _recover(self) -> None:
        count = await self._store.recover()
        if count:
            log.attempts_recovered(count=count)
        if count or not self._named:
            await self._name_held()

    async def _name_held(self) -> None:
        """What a start or another's end left to a person: a count alone would name no mail."""
        if (await self._store.unfinished()).counts.get(State.HELD, 0):
            for row in await self._store.outbox(limit=_LISTED):
                if row.state is State.HELD:
                    log.message_held(ref=row.ref, n=row.n)
        self._named = True

    async def _measure(self) -> None:
        seen = await self._store.unfinished()
        age = self._state.measure(seen, self._clock())
        self._telemetry.outbox(dict(seen.counts), age)

    async def _pick(self) -> list[Due]:
        free = self._at_once - len(self._running)
        if free <= 0:
            return []
        limit = len(self._running) + free * _CHOICE
        due = await self._store.due(self._clock(), limit)
        ready = [one for one in due if one.row not in self._running]
        return take_turns(ready)[: free if not self._pause else 1]

    async def _try(self, due: Due) -> None:
        tried = Tried.DONE
        try:
            tried = await self._attempt(due)
        except StoreDown:
            self._stopping = True  # until restart; the next start takes it up
        finally:
            del self._running[due.row]
            if tried is Tried.NO_UPSTREAM:
                self._pause = min(max(self._pause * 2, _PAUSE), _LONGEST_PAUSE)
            else:
                self._pause = 0.0
                self._state.ring()


def _age(then: datetime | None, now: datetime) -> float:
    return max(0.0, (now - then).total_seconds()) if then else 0.0


def take_turns(due: Iterable[Due]) -> list[Due]:
    """One of each stream in turn, each stream's own in their order."""
    queues: dict[str, deque[Due]] = {}
    for one in due:
        queues.setdefault(one.stream, deque()).append(one)
    turns: list[Due] = []
    while queues:
        for stream in list(queues):
            turns.append(queues[stream].popleft())
            if not queues[stream]:
                del queues[stream]
    return turns
