"""Which copies this process knows: in flight, relayed lately, or in the fallback file.

Only of mail that may go on without the store. So a client's retry during an outage is answered, or
waits, wherever that can be known.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from proxy.store.codec import instant
from proxy.store.merge import Ended, Intent
from proxy.store.model import Outcome, Result

#: Copies relayed lately that are remembered.
_MOST = 20_000

_OPEN = frozenset({Result.UNKNOWN, None})


@dataclass(frozen=True, slots=True)
class Relayed:
    """The first outcome of a copy."""

    ref: str
    reply: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Filed:
    """An attempt in the fallback file. `live`: of this process, and without a result."""

    intent: Intent
    live: bool
    ended: Ended | None = None


class Copies:
    """Keys are "same copy" hashes."""

    def __init__(self) -> None:
        self._flying: Counter[str] = Counter()
        self._relayed: OrderedDict[str, Relayed] = OrderedDict()
        self._filed: dict[str, list[Filed]] = {}

    # -- attempts that are in the store ----------------------------------------------------------

    def begin(self, keys: Iterable[str]) -> None:
        """Attempts are about to be committed."""
        self._flying.update(keys)

    def end(self, key: str) -> None:
        """One is over, or was never committed."""
        self._flying[key] -= 1
        if self._flying[key] <= 0:
            del self._flying[key]

    def flies(self, key: str) -> bool:
        """Whether this process may be sending it now."""
        return key in self._flying

    def relayed(self, key: str, ref: str, outcome: Outcome) -> None:
        """The upstream took it."""
        self._relayed.setdefault(key, Relayed(ref, outcome.reply, outcome.at))
        while len(self._relayed) > _MOST:
            self._relayed.popitem(last=False)

    # -- attempts that are in the file -----------------------------------------------------------

    def file(self, intent: Intent, *, live: bool) -> None:
        """An attempt begins without the store."""
        self._filed.setdefault(intent.copy_key, []).append(Filed(intent, live))

    def unfile(self, intent: Intent) -> None:
        """It did not begin: its record could not be written."""
        self._drop(intent.copy_key, intent.ref)

    def close(self, ended: Ended) -> None:
        """Its result is in the file."""
        of = self._filed.get(ended.copy_key, [])
        for i, filed in enumerate(of):
            if filed.intent.ref == ended.ref and filed.ended is None:
                of[i] = replace(filed, live=False, ended=ended)
        if ended.outcome.result is Result.ACCEPTED:
            self.relayed(ended.copy_key, ended.ref, ended.outcome)

    def in_file(self, key: str) -> bool:
        """Whether an attempt of it is in the file, whatever became of it."""
        return key in self._filed

    def unresolved(self, key: str) -> bool:
        """Whether one in the file has no result, or none that anybody can know."""
        return any(
            (f.ended.outcome.result if f.ended else None) in _OPEN
            for f in self._filed.get(key, ())
        )

    def answer(self, key: str, since: datetime) -> Relayed | None:
        """How it was relayed, if its last attempt was after `since`."""
        found = self._relayed.get(key)
        return found if found is not None and found.at >= since else None

    def finished(self) -> list[Filed]:
        """The attempts in the file that can be merged."""
        return [f for of in self._filed.values() for f in of if not f.live]

    @property
    def live(self) -> bool:
        """Whether an attempt of this process is in the file without a result."""
        return any(f.live for of in self._filed.values() for f in of)

    @property
    def oldest(self) -> datetime | None:
        """When the oldest attempt in the file began."""
        begun = [f.intent.at for of in self._filed.values() for f in of]
        return instant(min(begun)) if begun else None

    def forget(self, merged: Iterable[Filed]) -> None:
        """The store has these, and the file is gone."""
        for filed in merged:
            self._drop(filed.intent.copy_key, filed.intent.ref)

    def _drop(self, key: str, ref: str) -> None:
        kept = [f for f in self._filed.get(key, ()) if f.intent.ref != ref]
        if kept:
            self._filed[key] = kept
        else:
            self._filed.pop(key, None)
