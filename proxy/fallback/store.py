"""The store, and what happens while it cannot be written (delivery.md 3.7 to 3.9).

Stands where a store stands. While all is well it passes everything on. Once the store is in
trouble: opt-outs and the results of attempts go to the fallback file, and are held over every
decision; mail that is no marketing may be decided on a snapshot and attempted from here; all else
is refused at once. When the store answers again, the file is merged before anything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, Protocol

from proxy import log
from proxy.errors import (
    StoreDown,
    StoreError,
    StoreMissing,
    StoreRefused,
    StoreTaken,
    StoreUnavailable,
)
from proxy.fallback.keep import Keep
from proxy.fallback.shelter import Shelter
from proxy.fallback.through import Through
from proxy.store.merge import Ended, intent_of
from proxy.store.model import (
    Added,
    Fate,
    Intake,
    IntakeResult,
    NewAttributes,
    NewEvent,
    Outcome,
    Reattempt,
    Result,
    RowFate,
    Settlement,
    Snapshot,
    State,
    Subject,
    Take,
)
from proxy.store.sqlite import SqliteStore

#: Seconds between two tries of a store that is in trouble, and between two of a merge.
PROBE = 1.0

#: Seconds between two refreshes of the snapshot.
REFRESH = 60.0

#: Seconds before a result that could be written nowhere is tried again.
_PAUSE = 0.5


class FallbackEvents(Protocol):
    """What is told to telemetry."""

    def store_error(self, operation: str) -> None:
        """An operation failed."""
        ...

    def ambiguous_retry(self) -> None:
        """A copy may have been sent a second time."""
        ...

    def undeduped(self) -> None:
        """Mail was sent without its history."""
        ...


class _Attempt(NamedTuple):
    """An attempt of this process without a result. `remembered`: its copy may go without."""

    copy_key: str
    ref: str
    remembered: bool


class FallbackStore(Through):
    """`model.Store`, made of one that may fail; `start` before use, `run` beside it."""

    def __init__(
        self,
        opening: Callable[[], Awaitable[SqliteStore]],
        keep: Keep,
        shelter: Shelter,
        *,
        telemetry: FallbackEvents,
        must_open: bool = False,
    ) -> None:
        super().__init__()
        self._opening = opening
        self._must_open = must_open
        self._keep = keep
        self._shelter = shelter
        self._telemetry = telemetry
        self._recovered: int | None = None
        self._attempts: dict[int, _Attempt] = {}
        self._last = 0
        self._refreshed_at: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._merging = asyncio.Lock()
        self._closing = False

    # -- state -----------------------------------------------------------------------------------

    @property
    def shelter(self) -> Shelter:
        """What decisions may rest on while it is down."""
        return self._shelter

    @property
    def goes_on(self) -> bool:
        """Whether mail that is no marketing can be served without the store."""
        taken = isinstance(self._down, StoreTaken)
        return self._shelter.usable and self._keep.trouble is None and not taken

    @property
    def degraded(self) -> set[str]:
        """What `/readyz` names."""
        named: set[str] = set()
        if self._down is not None:
            named.add("store")
        if self._keep.trouble is not None:
            named.add("fallback")
        if self._shelter.failed or (self._down is not None and not self._shelter.usable):
            named.add("snapshot")
        return named

    def pending(self) -> tuple[int, datetime | None]:
        """Records that wait for the merge, and since when."""
        return self._keep.pending, self._keep.oldest

    async def start(self) -> int | None:
        """Open, merge, recover: how many attempts of earlier runs were ended; None: degraded.

        Raises `StoreError` where serving without a store would be wrong: there never was one, or
        what lies there is none of ours.
        """
        try:
            await self._come_up()
        except StoreMissing:
            raise
        except StoreError as error:
            if self._must_open:
                raise
            self._down = error
            self._telemetry.store_error("open")
            log.store_down(operation="open", error=str(error))
        return self._recovered

    async def run(self) -> None:
        """Bring the store back, merge, and keep the snapshot young, for ever."""
        while True:
            try:
                await self._tend()
            except StoreError as error:
                self._fell("merge", error)
            except Exception as error:  # the one edge: this must go on
                log.incident(ref="", error=error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), PROBE)
            self._wake.clear()

    async def _tend(self) -> None:
        if self._down is not None:
            await self._probe()
            return
        if self._keep.pending:
            await self._merge()
        now = asyncio.get_running_loop().time()
        if self._refreshed_at is None or now - self._refreshed_at >= REFRESH:
            self._refreshed_at = now
            await self._refresh()

    async def _probe(self) -> None:
        """See whether the store answers again. One that lost data does not until restart."""
        if self._inner is not None and isinstance(self._down, StoreDown):
            return
        try:
            if self._inner is not None:
                await self._inner.room()
            await self._come_up()
        except StoreError as error:
            self._down = error
        else:
            log.store_up(seconds=round(time.monotonic() - self._since, 3))

    async def _come_up(self) -> None:
        """Everything that must come before the first claim."""
        if self._inner is None:
            self._inner = await self._opening()
        if self._keep.pending:
            await self._merge()
        if self._recovered is None:
            self._recovered = await self._inner.recover()
        self._down = None

    async def _merge(self) -> bool:
        """One commit of what waits, then the overlay and the file go; what came meanwhile stays.

        Whether it was committed. One at a time: the file is known by how many records it has.
        """
        async with self._merging:
            return await self._merge_now()

    async def _merge_now(self) -> bool:
        if self._inner is None:
            return False
        kept = self._keep.kept()
        try:
            merged = await self._inner.merge(kept.events, kept.intents, kept.results)
        except StoreRefused as error:
            # Held over every decision it can wait for a person; the store serves meanwhile.
            log.store_failed(ref="", operation="merge", error=str(error))
            return False
        for _ in range(merged.ambiguous):
            self._telemetry.ambiguous_retry()
        for event in kept.events:  # the store may fall again before the snapshot shows them
            self._shelter.took(event)
        try:
            await self._keep.merged(kept)
        except StoreError as error:
            # The file's trouble is not the store's: what stays in it is merged again, to no effect.
            log.store_failed(ref="", operation="merge", error=str(error))
        if merged.events or merged.attempts or kept.results:
            log.fallback_merged(
                events=merged.events, attempts=merged.attempts, results=len(kept.results)
            )
        return True

    async def _refresh(self) -> None:
        inner = self._inner
        if inner is not None:
            await self._shelter.refresh(inner.suppressed)

    # -- ledger ----------------------------------------------------------------------------------

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        """See `Store.lookup`; with what is held beside the ledger."""
        inner = self._inner
        if inner is None:
            raise self._refusal()
        try:
            seen = await inner.lookup(subjects, mails_since=mails_since)
        except StoreRefused:
            raise
        except StoreError as error:
            self._fell("lookup", error)
            raise
        overlay = self._keep.overlay
        return overlay.over(seen) if overlay.seq else seen

    async def append(
        self, events: Sequence[NewEvent], attributes: Sequence[NewAttributes] = ()
    ) -> list[bool]:
        """See `Store.append`. Only opt-outs (`oppose`) can be taken without the store."""
        new = await self._ask("append", lambda store: store.append(events, attributes))
        for event in events:
            self._shelter.took(event)
        return new

    async def oppose(self, event: NewEvent) -> Added:
        """See `Store.oppose`. The result of a commit may be unknown: it is one event all the
        same."""
        try:
            added = await self._ask("append", lambda store: store.oppose(event))
        except StoreRefused:
            raise
        except StoreError:
            try:
                await self._keep.oppose(event)
            except StoreError:
                self._telemetry.store_error("oppose")
                raise
            self._wake.set()
            return Added.KEPT
        self._shelter.took(event)
        return added

    # -- attempts --------------------------------------------------------------------------------

    async def claim(self, intake: Intake) -> IntakeResult:
        """See `Store.claim`. No copy of which an attempt is in the fallback file is claimed."""
        if intake.undeduped:
            return await self._begin(intake)
        copies = self._keep.copies
        keys: dict[int, str] = {}
        remembered: dict[int, str] = {}
        for row in intake.rows:
            key = row.copy_key
            if copies.in_file(key):
                return IntakeResult(stale=False, fates=tuple(map(_busy, intake.rows)))
            keys[row.n] = key
            if not row.marketing:
                remembered[row.n] = key
        if remembered:
            copies.begin(remembered.values())
        begun: set[int] = set()
        try:
            if self._down is not None or self._inner is None:
                raise self._refusal()
            try:
                result = await self._inner.claim(intake)
            except StoreRefused:
                raise
            except StoreError as error:
                self._fell("claim", error)
                raise
            for fate in result.fates:
                if fate.fate is Fate.CLAIMED:
                    begun.add(fate.n)
                    self._attempts[fate.row] = _Attempt(
                        keys[fate.n], fate.ref, fate.n in remembered
                    )
            return result
        finally:
            for n, key in remembered.items():
                if n not in begun:
                    copies.end(key)

    async def _begin(self, intake: Intake) -> IntakeResult:
        """The one attempt of one recipient's mail, without the store: durable when this returns."""
        [row] = intake.rows
        if row.marketing or row.state is not State.ATTEMPTING:
            raise ValueError("only mail that is no marketing is attempted without the store")
        if isinstance(self._down, StoreTaken):
            raise self._refusal()
        copies, key = self._keep.copies, row.copy_key
        found = copies.answer(key, intake.dedupe_from)
        if found is not None and not self._keep.untold(key):
            fate = RowFate(n=row.n, fate=Fate.ANSWERED, ref=found.ref, reply=found.reply)
            return IntakeResult(stale=False, fates=(fate,))
        if copies.flies(key) or copies.unresolved(key) or self._keep.untold(key):
            return IntakeResult(stale=False, fates=(_busy(row),))
        # Nothing is awaited from here to the hand-in, so who opts out now comes after it in the
        # file; who did so since the decision, and was answered, is seen here.
        if self._keep.overlay.touched(intake.overlay, [row.subject]):
            return IntakeResult(stale=True)
        intent = intent_of(intake)
        await self._keep.begin(intent)
        self._telemetry.undeduped()
        self._last -= 1
        self._attempts[self._last] = _Attempt(key, intent.ref, remembered=False)
        fate = RowFate(n=row.n, fate=Fate.CLAIMED, row=self._last, attempt=1, ref=intent.ref)
        return IntakeResult(stale=False, fates=(fate,))

    async def reclaim(
        self, rows: Sequence[Reattempt], *, high: int, at: datetime, overlay: int = 0
    ) -> IntakeResult:
        """See `Store.reclaim`. An attempt without the store is not taken up again."""
        if any(row.row < 0 for row in rows):
            raise StoreUnavailable("an attempt without the store is not taken up again")
        result = await self._ask(
            "reclaim", lambda store: store.reclaim(rows, high=high, at=at, overlay=overlay)
        )
        for fate in result.fates:
            if fate.fate is not Fate.CLAIMED:
                self._over(fate.row)
        return result

    async def take(self, take: Take) -> IntakeResult:
        """See `Store.take`. As with `claim`, nothing is tried of which the file has an attempt."""
        copies, key = self._keep.copies, take.copy_key
        if copies.in_file(key):
            fate = RowFate(n=0, fate=Fate.BUSY, row=take.row, attempt=take.attempts)
            return IntakeResult(stale=False, fates=(fate,))
        copies.begin([key])
        begun = False
        try:
            result = await self._ask("take", lambda store: store.take(take))
            for fate in result.fates:
                if fate.fate is Fate.CLAIMED:
                    begun = True
                    self._attempts[fate.row] = _Attempt(key, fate.ref, remembered=True)
            return result
        finally:
            if not begun:
                copies.end(key)

    async def record(self, outcomes: Sequence[Outcome]) -> list[int]:
        """See `Store.record`: in the store, or in the fallback file.

        What is in the file ended so if it was accepted, which stands however late it comes, or if
        the attempt is only there: whether another process took it over cannot be asked.
        """
        if self._down is None and self._inner is not None and all(o.row > 0 for o in outcomes):
            try:
                ended = await self._inner.record(outcomes)
            except StoreRefused:
                raise
            except StoreError as error:
                self._fell("record", error)
            else:
                self._ended(outcomes)
                return ended
        for outcome in outcomes:
            attempt = self._attempts.get(outcome.row)
            if attempt is not None:
                here = replace(outcome, row=0) if outcome.row < 0 else outcome
                try:
                    await self._keep.end(Ended(attempt.copy_key, attempt.ref, here))
                except StoreError:
                    # It is known all the same, so a store that is well again can be told at once.
                    if self._down is not None or not await self._merge():
                        raise
        self._wake.set()
        self._ended(outcomes)
        return [o.row for o in outcomes if o.row < 0 or o.result is Result.ACCEPTED]

    def record_later(self, outcomes: Sequence[Outcome]) -> None:
        """See `Store.record_later`: kept, and tried again here and there until it is written."""
        first: asyncio.Future[list[int]] | None = None
        if self._down is None and self._inner is not None and all(o.row > 0 for o in outcomes):
            first = self._inner.recording(outcomes)
        self._spawn(self._later(outcomes, first))

    async def _later(
        self, outcomes: Sequence[Outcome], first: asyncio.Future[list[int]] | None
    ) -> None:
        try:
            if first is not None:
                await first
                self._ended(outcomes)
                return
        except StoreRefused:
            self._ended(outcomes)
            return
        except StoreError as error:
            self._fell("record", error)
        while True:
            try:
                await self.record(outcomes)
                return
            except StoreRefused:
                return
            except StoreError:
                if self._closing:
                    return  # the next start ends its attempt as unknown
                await asyncio.sleep(_PAUSE)

    async def settle(self, settlement: Settlement) -> list[int]:
        """See `Store.settle`. Without the store nothing can be owed."""
        rows = [*(o.row for o in settlement.outcomes), *(row for row, _ in settlement.owe)]
        if any(row < 0 for row in rows):
            raise StoreUnavailable("an attempt without the store cannot be owed")
        owed = await self._ask("settle", lambda store: store.settle(settlement))
        self._ended(settlement.outcomes)
        return owed

    def _ended(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            attempt = self._over(outcome.row)
            if attempt and attempt.remembered and outcome.result is Result.ACCEPTED:
                self._keep.copies.relayed(attempt.copy_key, attempt.ref, outcome)

    def _over(self, row: int) -> _Attempt | None:
        attempt = self._attempts.pop(row, None)
        if attempt is not None and attempt.remembered:
            self._keep.copies.end(attempt.copy_key)
        return attempt

    # -- life ------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Write what waits, in one place or the other, then close both."""
        self._closing = True
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._inner is not None:
            if self._shelter.behind:  # the next run may find a store that it cannot open
                await self._refresh()
            await self._inner.close()
        await self._keep.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _busy(row: object) -> RowFate:
    return RowFate(n=getattr(row, "n", 0), fate=Fate.BUSY)
