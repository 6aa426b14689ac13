"""What a decision may rest on while the store cannot be asked: the snapshot and what came since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from proxy import log
from proxy.errors import StoreError, StoreUnavailable
from proxy.fallback import snapshot
from proxy.fallback.overlay import Overlay
from proxy.store import model
from proxy.store.model import NewEvent, Subject
from proxy.store.suppressed import Suppressed

#: Read the whole ledger again after this, so that what has lapsed or was erased goes.
_WHOLE = timedelta(days=1)

#: Nothing new: the file is written again all the same after this, so that it stays young.
_REWRITE = timedelta(hours=1)

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Shelter:
    """Only for mail that is no marketing: it knows who gets no mail, and no basis of anybody."""

    def __init__(
        self,
        directory: Path,
        overlay: Overlay,
        *,
        max_age: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._overlay = overlay
        self._recent = Overlay()  # opt-outs that the store took and the file does not show yet
        self._max_age = max_age
        self._clock = clock
        self._file = snapshot.read(directory)
        self._seen_at = _LONG_AGO
        self.failed = False

    @property
    def usable(self) -> bool:
        """Whether there is a snapshot, and it is young enough."""
        return self._file is not None and self._file.usable(
            self._seen_at, self._clock(), self._max_age
        )

    @property
    def behind(self) -> bool:
        """Whether the store took something that the file does not show yet."""
        return len(self._recent) > 0

    def took(self, event: NewEvent) -> None:
        """The store has an opt-out that the next refresh will find."""
        self._recent.put(event)

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> model.Snapshot:
        """Who of these gets no mail. Raises `StoreUnavailable` without a usable snapshot."""
        if self._file is None or not self.usable:
            raise StoreUnavailable("no snapshot of the suppressions, or one that is too old")
        known = self._recent.known(self._file.known(subjects))
        return model.Snapshot(0, self._overlay.known(known), self._overlay.seq)

    async def refresh(self, ask: Callable[[int | None], Awaitable[Suppressed]]) -> None:
        """Bring the file up to date; `ask` reads the ledger above an id, or all of it (None)."""
        now, before = self._clock(), self._file
        shown = [event.uid for event in self._recent]
        try:
            whole = before is None or not timedelta() <= now - before.whole_at < _WHOLE
            seen = await ask(None if before is None or whole else before.high)
            fresh = before is not None and abs(now - before.made_at) < _REWRITE
            if before is None or seen.whole or seen.high != before.high or not fresh:
                await asyncio.to_thread(snapshot.write, self._directory, before, seen, now)
                self._file = await asyncio.to_thread(snapshot.read, self._directory)
        except (StoreError, OSError) as error:
            self.failed = True
            log.snapshot_failed(error=str(error))
            return
        self.failed = self._file is None
        self._seen_at = now
        self._recent.remove(shown)
