"""How many people may be written to, and on which basis: the `bases` gauges.

Reads the ledger page by page and asks the engine about each (sender, address) pair for mail that
meets every other condition, a little at a time so that no message waits for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from policy.engine import living_basis
from policy.pack import Packs
from proxy import log
from proxy.config import Settings
from proxy.errors import StoreError
from proxy.facts import person_facts
from proxy.keys import Keys
from proxy.store.model import Store
from proxy.telemetry import Telemetry

#: Pairs read and judged between two pauses, and the pause in seconds: at most about a tenth of one
#: core.
_PAGE = 100
_PAUSE = 0.1

#: The windows of `bases_expiring`, in days.
WINDOWS = {"30d": 30, "60d": 60, "90d": 90}


class Census:
    """Counts living bases over the whole ledger."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: Keys,
        store: Store,
        packs: Packs,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._store = store
        self._packs = packs
        self._telemetry = telemetry

    async def every(self, seconds: float, clock: Callable[[], datetime]) -> None:
        """Count now and every `seconds`, until cancelled; store trouble skips one count."""
        while True:
            try:
                await self.count(clock())
            except StoreError as error:
                log.store_failed(ref="", operation="census", error=str(error))
            await asyncio.sleep(seconds)

    async def count(self, at: datetime) -> Counter[str]:
        """Count at one moment and set the gauges; returns the number of pairs per basis."""
        bases: Counter[str] = Counter()
        expiring: Counter[str] = Counter()
        after = 0
        while page := await self._store.subjects(after=after, limit=_PAGE):
            after = page[-1][0]
            subjects = [subject for _, subject in page if self._configured(subject.sender)]
            if subjects:
                snapshot = await self._store.lookup(subjects)
                for subject in subjects:
                    sender = self._settings.sender(subject.sender)
                    facts = person_facts(sender, snapshot.known[subject], at)
                    basis = living_basis(facts, self._packs)
                    if basis is None:
                        continue
                    bases[basis.reason.value] += 1
                    for name, days in WINDOWS.items():
                        if _ends_by(basis.expires_at, at + timedelta(days=days)):
                            expiring[name] += 1
            await asyncio.sleep(_PAUSE)
        self._telemetry.bases(bases)
        self._telemetry.bases_expiring(expiring)
        return bases

    def _configured(self, sender: str) -> bool:
        return any(s.id == sender for s in self._settings.senders)


def _ends_by(expires_at: datetime | date | None, limit: datetime) -> bool:
    if expires_at is None:
        return False
    if not isinstance(expires_at, datetime):
        expires_at = datetime.combine(expires_at, time.max, UTC)
    return expires_at <= limit
