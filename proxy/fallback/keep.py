"""What is kept beside the store: the fallback file, and what is in it as this process acts on it.

Memory first, then the file: whatever the file holds is in memory too, so that a merge of what is in
memory leaves nothing behind. What could not be written is forgotten again where it would bind
somebody, and kept where it is true all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.errors import StoreError
from proxy.fallback.copies import Copies, Filed
from proxy.fallback.file import FallbackFile
from proxy.fallback.overlay import Overlay
from proxy.fallback.records import Opposed, Record, encoded
from proxy.store.merge import Ended, Intent
from proxy.store.model import NewEvent, Result


@dataclass(frozen=True, slots=True)
class Kept:
    """What can be merged now, and how many records of the file it covers (`whole`: all of them)."""

    events: tuple[NewEvent, ...]
    filed: tuple[Filed, ...]
    results: tuple[Ended, ...]
    records: int
    whole: bool

    @property
    def intents(self) -> list[tuple[Intent, Ended | None]]:
        """Attempts and their results."""
        return [(filed.intent, filed.ended) for filed in self.filed]


class Keep:
    """Raises `StoreError` where the file cannot be written."""

    def __init__(self, file: FallbackFile, records: Sequence[Record]) -> None:
        self.overlay = Overlay()
        self.copies = Copies()
        self._file = file
        self._results: dict[tuple[int, int, str], Ended] = {}
        self._untold: set[str] = set()
        for record in records:
            if isinstance(record, Opposed):
                self.overlay.put(record.event)
            elif isinstance(record, Intent):
                self.copies.file(record, live=False)
            else:
                self._known(record)

    @property
    def trouble(self) -> StoreError | None:
        """Why the file could not be written at last."""
        return self._file.trouble

    @property
    def pending(self) -> int:
        """Records that wait to be merged."""
        return max(self._file.count, len(self.overlay) + len(self._results))

    @property
    def oldest(self) -> datetime | None:
        """When the oldest of them was made."""
        results = [ended.outcome.at for ended in self._results.values()]
        found = [self.overlay.oldest, self.copies.oldest, *results]
        return min((at for at in found if at is not None), default=None)

    async def oppose(self, event: NewEvent) -> None:
        """Binding from here on, and durable when this returns."""
        self.overlay.put(event)
        try:
            await self.overlay.holds()
            await self._file.append(encoded(Opposed(event)), reserved=True)
        except StoreError:
            self.overlay.remove([event.uid])
            raise

    async def begin(self, intent: Intent) -> None:
        """Durable when this returns: now its dot may be written."""
        self.copies.file(intent, live=True)
        try:
            await self._file.append(encoded(intent), reserved=False)
        except StoreError:
            self.copies.unfile(intent)
            raise

    async def end(self, ended: Ended) -> None:
        """Durable when this returns. Where it raises the result stays known, and is merged."""
        self._untold.add(ended.copy_key)
        self._known(ended)
        await self._file.append(encoded(ended), reserved=True)
        self._untold.discard(ended.copy_key)

    def untold(self, key: str) -> bool:
        """Whether a result of the copy is known, but not durable: nobody may be answered by it."""
        return key in self._untold

    def kept(self) -> Kept:
        """What a merge can bring into the store now."""
        return Kept(
            tuple(self.overlay),
            tuple(self.copies.finished()),
            tuple(self._results.values()),
            self._file.count,
            not self.copies.live,
        )

    async def merged(self, kept: Kept) -> bool:
        """The store has it: take the overlay away, then the file; whether nothing is left."""
        self.overlay.remove(event.uid for event in kept.events)
        for ended in kept.results:
            if self._results.get(_one(ended)) is ended:
                del self._results[_one(ended)]
        merged = (*kept.results, *(filed.ended for filed in kept.filed if filed.ended))
        self._untold.difference_update(ended.copy_key for ended in merged)
        if not kept.whole or not await self._file.remove(kept.records):
            return False
        self.copies.forget(kept.filed)
        return self.pending == 0

    async def close(self) -> None:
        """Finish what is being written."""
        await self._file.close()

    def _known(self, ended: Ended) -> None:
        if not ended.outcome.row:
            self.copies.close(ended)
            return
        # Handed in again and again where nothing can be written, it is one result.
        self._results.setdefault(_one(ended), ended)
        if ended.outcome.result is Result.ACCEPTED:
            self.copies.relayed(ended.copy_key, ended.ref, ended.outcome)


def _one(ended: Ended) -> tuple[int, int, str]:
    """What a result is one of: row, attempt, and the copy, as another database may have the row."""
    return ended.outcome.row, ended.outcome.attempt, ended.copy_key
