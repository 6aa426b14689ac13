"""Attempts in SQL: commit C2, deciding again before the dot, and recovery after a crash.

The state machine of `docs/store.md`; operations on a raw connection, each inside a transaction that
`group.py` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, func, literal_column, select

from proxy.store import bodies, counting, ledger
from proxy.store.claim import (
    ADD_ATTEMPT,
    ADD_DECISION,
    NEW_STATES,
    Owner,
    add_notice,
    decision_columns,
)
from proxy.store.codec import micros
from proxy.store.model import (
    Fate,
    IntakeResult,
    Outcome,
    Reattempt,
    Result,
    RowFate,
    Settlement,
    State,
    Subject,
)
from proxy.store.schema import compiled, delivery, inserting, outcome

ROW = compiled(
    select(
        delivery.c.state,
        delivery.c.attempts,
        delivery.c.owed,
        delivery.c.marketing,
        delivery.c.sender,
        delivery.c.exact,
        delivery.c.copy_key,
        delivery.c.n,
        delivery.c.instance,
        delivery.c.epoch,
        delivery.c.submission,
    ).where(delivery.c.id == bindparam("row"))
)
_OWE = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(owed=literal_column("1"))
)
_SAME_OUTCOME = compiled(
    select(literal_column("1"))
    .select_from(outcome)
    .where(
        outcome.c.delivery == bindparam("row"),
        outcome.c.attempt == bindparam("attempt"),
        outcome.c.result == bindparam("result"),
        outcome.c.reply == bindparam("reply"),
    )
)
_ADD_OUTCOME = inserting(outcome)
END = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(
        state=bindparam("state"),
        reply=bindparam("reply"),
        maybe_sent=func.max(delivery.c.maybe_sent, bindparam("unknown")),
        next_try=bindparam("next_try"),
        ended_at=bindparam("ended_at"),
    )
)
_SETTLE_COPY = compiled(
    delivery.update()
    .where(
        delivery.c.copy_key == bindparam("copy"),
        delivery.c.state == literal_column("'waiting'"),
    )
    .values(
        state=literal_column("'relayed'"),
        reply=bindparam("reply"),
        next_try=literal_column("NULL"),
        ended_at=bindparam("ended_at"),
    )
)
MAYBE_SENT = compiled(
    select(func.coalesce(func.max(delivery.c.maybe_sent), literal_column("0"))).where(
        delivery.c.copy_key == bindparam("copy")
    )
)
ATTEMPT_AGAIN = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(
        state=literal_column("'attempting'"),
        attempts=bindparam("no"),
        instance=bindparam("instance"),
        epoch=bindparam("epoch"),
        last_attempt_at=bindparam("at"),
    )
)
_ORPHANS = compiled(
    select(delivery.c.id, delivery.c.attempts, delivery.c.owed)
    .where(
        delivery.c.state == literal_column("'attempting'"),
        delivery.c.instance == bindparam("instance"),
        delivery.c.epoch < bindparam("epoch"),
    )
    .order_by(delivery.c.id)
)


class Reclaim:
    """Decide again for attempts of this process whose dot was never written."""

    name = "reclaim"
    rank = 2

    def __init__(self, rows: Sequence[Reattempt], high: int, at: datetime, owner: Owner) -> None:
        if any(r.state not in NEW_STATES for r in rows):
            raise ValueError("a row decided again is attempting, blocked or returned")
        self.rows = len(rows)
        self._rows = rows
        self._high = high
        self._at = micros(at)
        self._owner = owner
        self._decisions = [decision_columns(r.decision, r.facts, self._at) for r in rows]

    def run(self, db: sqlite3.Connection) -> IntakeResult:
        """Stale as in `Claim`; a row that is no longer this attempt's is `BUSY`."""
        self._owner.check(db)
        subjects: list[Subject] = [r.subject for r in self._rows]
        if subjects and ledger.touched(db, self._high, subjects):
            return IntakeResult(stale=True)
        limited = [(r, _copy_key(db, r.row)) for r in self._rows if r.room]
        if counting.full(db, limited):
            return IntakeResult(stale=True)
        fates = [
            self._again(db, row, columns)
            for row, columns in zip(self._rows, self._decisions, strict=True)
        ]
        return IntakeResult(stale=False, fates=tuple(fates))

    def _again(
        self, db: sqlite3.Connection, new: Reattempt, columns: tuple[object, ...]
    ) -> RowFate:
        found = db.execute(*ROW(row=new.row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, owed, _, _, _, copy, n, instance, epoch, _ = found
        owner = self._owner
        if (state, attempts, instance, epoch) != (
            State.ATTEMPTING, new.attempt, owner.instance, owner.epoch,
        ):  # fmt: skip
            return RowFate(n=n, fate=Fate.BUSY, row=new.row, attempt=attempts)
        db.execute(
            _ADD_OUTCOME.sql, (new.row, new.attempt, Result.UNSENT.value, "", self._at, "held")
        )
        decision_id = db.execute(ADD_DECISION.sql, (new.row, *columns)).lastrowid
        if new.state is not State.ATTEMPTING:
            waits = new.state is State.RETURNED and owed
            db.execute(
                *END(
                    row=new.row,
                    state=State.WAITING.value if waits else new.state.value,
                    reply=new.reply,
                    unknown=0,
                    next_try=self._at if waits else None,
                    ended_at=None if waits else self._at,
                )
            )
            if owed and not waits:
                bodies.drop(db, copy)
            return RowFate(n=n, fate=Fate.RECORDED, row=new.row, reply=new.reply)
        (maybe_sent,) = db.execute(*MAYBE_SENT(copy=copy)).fetchone()
        no = attempts + 1
        db.execute(
            ADD_ATTEMPT.sql,
            (new.row, no, decision_id, owner.instance, owner.epoch, self._at, maybe_sent),
        )
        db.execute(
            *ATTEMPT_AGAIN(
                row=new.row, no=no, instance=owner.instance, epoch=owner.epoch, at=self._at
            )
        )
        return RowFate(
            n=n, fate=Fate.CLAIMED, row=new.row, attempt=no, ambiguous_retry=bool(maybe_sent)
        )


def _copy_key(db: sqlite3.Connection, row: int) -> str:
    found = db.execute(*ROW(row=row)).fetchone()
    return str(found[6]) if found is not None else ""


def _end_state(result: Result, owed: bool) -> State:
    """The row's state after an attempt that was still its own (delivery.md section 2)."""
    if result is Result.ACCEPTED:
        return State.RELAYED
    if result is Result.PERMANENT:
        return State.FAILED
    if owed:
        return State.WAITING
    return State.UNKNOWN if result is Result.UNKNOWN else State.RETURNED


#: A late 2xx makes these relayed; what else a row became in the meantime stands.
_OPEN_TO_LATE = (State.UNKNOWN, State.WAITING, State.RETURNED, State.ATTEMPTING)


class Record:
    """Commit C2. Idempotent: the same outcome of the same attempt is written once."""

    name = "record"
    rank = 1  # before claims, so that a retry finds the result that this process already has

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.rows = len(outcomes)
        self._outcomes = [(o, micros(o.at)) for o in outcomes]

    def run(self, db: sqlite3.Connection) -> None:
        """Each outcome ends its own attempt, or is appended to it as late when it lost its row."""
        for o, at in self._outcomes:
            self._end(db, o, at)

    def _end(self, db: sqlite3.Connection, o: Outcome, at: int) -> None:
        found = db.execute(*ROW(row=o.row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, owed, marketing, sender, exact, copy, *_ = found
        mine = state == State.ATTEMPTING and attempts == o.attempt
        same = _SAME_OUTCOME(row=o.row, attempt=o.attempt, result=o.result.value, reply=o.reply)
        if not mine and db.execute(*same).fetchone() is not None:
            return
        db.execute(
            _ADD_OUTCOME.sql,
            (o.row, o.attempt, o.result.value, o.reply, at, "" if mine else "late"),
        )
        accepted = o.result is Result.ACCEPTED
        if mine:
            end = _end_state(o.result, bool(owed))
        elif accepted and state in _OPEN_TO_LATE:
            end = State.RELAYED
        else:
            return
        waits = end is State.WAITING
        db.execute(
            *END(
                row=o.row,
                state=end.value,
                reply=o.reply,
                unknown=int(o.result is Result.UNKNOWN),
                next_try=(micros(o.next_try) if o.next_try else at) if waits else None,
                ended_at=None if waits else at,
            )
        )
        if accepted:
            db.execute(*_SETTLE_COPY(copy=copy, reply=o.reply, ended_at=at))
            if marketing:
                db.execute(ledger.MARK_MAIL.sql, (exact, sender, at))
        if accepted or (owed and not waits):
            bodies.drop(db, copy)


class Settle:
    """What a 250 for several recipients, or one before the upstream's reply, rests on."""

    name = "settle"
    rank = 1

    def __init__(self, settlement: Settlement, owner: Owner) -> None:
        if settlement.owe and settlement.body is None:
            raise ValueError("what is owed needs a body")
        self.rows = len(settlement.outcomes) + len(settlement.owe)
        self._settlement = settlement
        self._record = Record(settlement.outcomes)
        self._owner = owner
        self._at = micros(settlement.at)

    def run(self, db: sqlite3.Connection) -> list[int]:
        """First what is owed, so that results find it so; then results, then the notice."""
        owed = [row for row, no in self._settlement.owe if self._owe(db, row, no)]
        self._record.run(db)
        if self._settlement.notice is not None:
            add_notice(db, self._settlement.notice, self._at)
        return owed

    def _owe(self, db: sqlite3.Connection, row: int, no: int) -> bool:
        found = db.execute(*ROW(row=row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, *_, instance, epoch, submission = found
        now, mine = (state, attempts, instance, epoch), self._owner
        kept = self._settlement.body
        if kept is None or now != (State.ATTEMPTING, no, mine.instance, mine.epoch):
            return False
        bodies.add(db, submission, kept)
        db.execute(*_OWE(row=row))
        return True


class Recover:
    """End the attempts of older runs of this instance: nobody knows whether their copies left."""

    name = "recover"
    rank = 3
    rows = 0

    def __init__(self, owner: Owner, at: datetime) -> None:
        self._owner = owner
        self._at = micros(at)

    def run(self, db: sqlite3.Connection) -> int:
        """How many were ended. Safe to repeat."""
        self._owner.check(db)
        orphans = db.execute(
            *_ORPHANS(instance=self._owner.instance, epoch=self._owner.epoch)
        ).fetchall()
        for id_, no, owed in orphans:
            db.execute(_ADD_OUTCOME.sql, (id_, no, Result.UNKNOWN.value, "", self._at, "recovered"))
            db.execute(
                *END(
                    row=id_,
                    state=_end_state(Result.UNKNOWN, bool(owed)).value,
                    reply="",
                    unknown=1,
                    next_try=self._at if owed else None,
                    ended_at=None if owed else self._at,
                )
            )
        return len(orphans)
