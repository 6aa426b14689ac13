"""Whose an attempt is and until when, and how it is ended for an owner that is gone.

Several processes may serve from one store. Each attempt belongs to one run of one of them, for as
long as its lease lasts by the clock of the store; docs/store.md says what follows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from proxy.errors import StoreTaken
from proxy.store.codec import micros
from proxy.store.model import Result, State
from proxy.store.sql import lease as sql

#: A wall clock that ran ahead of the monotonic one by more than this was set.
_LEAP = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who attempts: one run of one instance. A later run has a higher epoch.

    An attempt is the run's own for `lease` from its commit, by `clock`, the clock of the store.
    """

    instance: str
    epoch: int
    lease: timedelta
    clock: Callable[[], datetime]

    def check(self, db: sqlite3.Connection) -> None:
        """Raise `StoreTaken` when a later run of this instance has begun: send no more."""
        row = db.execute(*sql.EPOCH(instance=self.instance)).fetchone()
        if row is None or row[0] != self.epoch:
            raise StoreTaken("another process has taken over this instance")

    def until(self) -> int:
        """The end of the lease of an attempt that is committed now, in microseconds."""
        return micros(self.clock() + self.lease)


@dataclass(frozen=True, slots=True)
class Holding:
    """What becomes of owed mail of which nobody knows whether it left.

    `hold` None: it waits, and is sent again. Else a person decides, for so long after the mail was
    received; then it ends as failed.
    """

    hold: timedelta | None = None

    def end(self, result: Result, owed: bool) -> State:
        """The row's state after an attempt that was still its own (delivery.md section 2)."""
        if result is Result.ACCEPTED:
            return State.RELAYED
        if result is Result.PERMANENT:
            return State.FAILED
        if owed:
            held = result is Result.UNKNOWN and self.hold is not None
            return State.HELD if held else State.WAITING
        return State.UNKNOWN if result is Result.UNKNOWN else State.RETURNED

    def until(self, received_at: int) -> int:
        """When held mail ends, both in microseconds."""
        return received_at + (self.hold or timedelta()) // timedelta(microseconds=1)


class Steady:
    """Notices when the wall clock was set ahead (or the machine slept).

    Leases that were taken before then seem to end too early. All of them are over, whatever the
    clock says, once a whole lease went by.
    """

    def __init__(self, lease: timedelta) -> None:
        self._lease = lease.total_seconds()
        self._last: tuple[datetime, float] | None = None
        self._distrusted_until = float("-inf")

    def trusts(self, wall: datetime, monotonic: float) -> bool:
        """Whether leases can be counted by `wall` now; to be asked every few seconds."""
        if self._last is not None:
            then, before = self._last
            if wall - then - timedelta(seconds=monotonic - before) > _LEAP:
                self._distrusted_until = monotonic + self._lease
        self._last = wall, monotonic
        return monotonic >= self._distrusted_until


class Recover:
    """End the attempts whose owner is gone: nobody knows whether their copies left.

    Gone are earlier runs of any instance, and whoever has let the lease run out. A run trusts
    itself a second lease long, as it knows its own attempts.
    """

    name = "recover"
    rank = 3
    rows = 0

    def __init__(self, owner: Owner, at: datetime, holding: Holding, *, leases: bool) -> None:
        """`leases` False: the clock was set, only dead runs count."""
        self._owner = owner
        self._at = micros(at)
        self._holding = holding
        self._now = micros(at) if leases else None
        self._long_ago = micros(at - owner.lease) if leases else None

    def run(self, db: sqlite3.Connection) -> int:
        """How many were ended. Safe to repeat."""
        owner = self._owner
        owner.check(db)
        orphans = db.execute(
            *sql.ORPHANS(
                instance=owner.instance, epoch=owner.epoch, now=self._now, long_ago=self._long_ago
            )
        ).fetchall()
        for id_, no, owed, received_at in orphans:
            unknown = (id_, no, Result.UNKNOWN.value, "", self._at, "recovered")
            db.execute(sql.ADD_OUTCOME.sql, unknown)
            end = self._holding.end(Result.UNKNOWN, bool(owed))
            due = self._holding.until(received_at) if end is State.HELD else self._at
            db.execute(
                *sql.END(
                    row=id_,
                    state=end.value,
                    reply="",
                    unknown=1,
                    next_try=due if owed else None,
                    ended_at=None if owed else self._at,
                )
            )
        return len(orphans)
