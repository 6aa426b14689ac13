"""Opt-outs that the store does not have yet, laid over every decision of this process.

Only the event loop changes it. The store's writer holds `lock` from its check to the end of its
COMMIT: who adds an opt-out and then passes the lock knows that no attempt can be committed any more
that did not see it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType

from policy.model import Event
from proxy.store.model import Known, NewEvent, Snapshot, Subject


class Overlay:
    """Events by the keys of whom they are about; `seq` grows with each."""

    def __init__(self) -> None:
        self.seq = 0
        self._lock = threading.Lock()
        self._by_key: dict[str, tuple[tuple[int, NewEvent], ...]] = {}
        self._uids: dict[str, NewEvent] = {}

    def __len__(self) -> int:
        return len(self._uids)

    def __iter__(self) -> Iterator[NewEvent]:
        return iter(list(self._uids.values()))

    @property
    def oldest(self) -> datetime | None:
        """When the oldest was recorded."""
        return min((event.recorded_at for event in self._uids.values()), default=None)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def put(self, event: NewEvent) -> None:
        """Every lookup from now on sees it."""
        if event.uid in self._uids:
            return
        self.seq += 1
        self._uids[event.uid] = event
        for key in _keys(event.subject):
            self._by_key[key] = (*self._by_key.get(key, ()), (self.seq, event))

    async def holds(self) -> None:
        """Wait until what was put in binds every attempt that is not committed yet."""
        await asyncio.to_thread(self._pass)

    def _pass(self) -> None:
        with self._lock:
            pass

    def remove(self, uids: Iterable[str]) -> None:
        """The store has these now, or they were never acknowledged."""
        for uid in uids:
            event = self._uids.pop(uid, None)
            if event is None:
                continue
            for key in _keys(event.subject):
                kept = tuple(e for e in self._by_key[key] if e[1].uid != uid)
                if kept:
                    self._by_key[key] = kept
                else:
                    del self._by_key[key]

    def touched(self, since: int, subjects: Sequence[Subject]) -> bool:
        """Whether something put in after `since` is about one of these. Any thread may ask."""
        if self.seq <= since:
            return False
        return any(
            seq > since
            for subject in subjects
            for key in _keys(subject)
            for seq, _ in self._by_key.get(key, ())
        )

    def over(self, snapshot: Snapshot) -> Snapshot:
        """The same with what is held here about its people."""
        if not self.seq:
            return snapshot
        known = self.known(snapshot.known) if self._uids else snapshot.known
        return replace(snapshot, known=known, overlay=self.seq)

    def known(self, known: Mapping[Subject, Known]) -> Mapping[Subject, Known]:
        """What is known, and what is held here; nothing twice."""
        made = dict(known)
        for subject, one in known.items():
            if more := self.events(subject, {e.uid for e in one.events}):
                made[subject] = replace(one, events=(*one.events, *more))
        return made

    def events(self, subject: Subject, but: Iterable[str] = ()) -> list[Event]:
        """What is held here about a person, as its ledger would show it."""
        seen = set(but)
        found: list[Event] = []
        for key in _keys(subject):
            for _, new in self._by_key.get(key, ()):
                if new.uid not in seen:
                    seen.add(new.uid)
                    found.append(_as_seen(new, subject))
        return found


def _keys(subject: Subject) -> tuple[str, ...]:
    return (subject.wide,) if subject.wide == subject.exact else (subject.wide, subject.exact)


def _as_seen(new: NewEvent, subject: Subject) -> Event:
    return Event(
        at=new.at,
        recorded_at=new.recorded_at,
        sender=new.subject.sender,
        detail=new.detail,
        evidence=new.evidence,
        uid=new.uid,
        exact=new.subject.exact == subject.exact,
    )
