"""How many people may be written to, and on which basis: the `bases` gauges.

Reads the ledger page by page and asks the engine about each (sender, address) pair for mail that
meets every other condition, a little at a time, and less while there is mail (`pace.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from policy.pack import Packs
from proxy import log
from proxy.config import Settings
from proxy.errors import StoreError
from proxy.living import living
from proxy.pace import Pace
from proxy.store.model import Store
from proxy.telemetry import Telemetry

#: Pairs to a look-up.
_PAGE = 100

#: The windows of `bases_expiring`, in days.
WINDOWS = {"30d": 30, "60d": 60, "90d": 90}


class Census:
    """Counts living bases over the whole ledger."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        packs: Packs,
        telemetry: Telemetry,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._packs = packs
        self._telemetry = telemetry
        self._pace = pace or Pace()

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
        limits = {name: at + timedelta(days=days) for name, days in WINDOWS.items()}
        rest = self._pace.rest
        pages = living(self._settings, self._store, self._packs, at, page=_PAGE, rest=rest)
        async for pairs in pages:
            for pair in pairs:
                bases[pair.basis.reason.value] += 1
                ends_at = pair.ends_at
                if ends_at is not None:
                    expiring.update(name for name, limit in limits.items() if ends_at <= limit)
        self._telemetry.bases(bases)
        self._telemetry.bases_expiring(expiring)
        return bases
