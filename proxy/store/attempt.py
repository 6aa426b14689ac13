"""Attempts in SQL: commit C2, what a 250 rests on, and deciding again before the dot.

The state machine of `docs/store.md`; operations on a raw connection, each inside a transaction that
`group.py` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from proxy.store import bodies, counting, ledger, several
from proxy.store.claim import NEW_STATES, add_notice, decision_columns
from proxy.store.codec import micros, to_json
from proxy.store.lease import Holding, Owner
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
from proxy.store.sql import attempt as sql
from proxy.store.sql.claim import ADD_ATTEMPT, ADD_DECISION
from proxy.store.sql.lease import ADD_OUTCOME, END, END_KNOWN
from proxy.store.sql.ledger import MARK_MAIL


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
        found = db.execute(*sql.ROW(row=new.row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, owed, _, _, exact, copy, n, instance, epoch, _ = found
        owner = self._owner
        if (state, attempts, instance, epoch) != (
            State.ATTEMPTING, new.attempt, owner.instance, owner.epoch,
        ):  # fmt: skip
            return RowFate(n=n, fate=Fate.BUSY, row=new.row, attempt=attempts)
        db.execute(
            ADD_OUTCOME.sql, (new.row, new.attempt, Result.UNSENT.value, "", self._at, "held")
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
                bodies.drop(db, exact, copy)
            return RowFate(n=n, fate=Fate.RECORDED, row=new.row, reply=new.reply)
        (maybe_sent,) = db.execute(*sql.MAYBE_SENT(exact=exact, copy=copy)).fetchone()
        no = attempts + 1
        db.execute(
            ADD_ATTEMPT.sql,
            (new.row, no, decision_id, owner.instance, owner.epoch, self._at, maybe_sent),
        )
        db.execute(
            *sql.ATTEMPT_AGAIN(
                row=new.row,
                no=no,
                instance=owner.instance,
                epoch=owner.epoch,
                at=self._at,
                lease=owner.until(),
            )
        )
        return RowFate(
            n=n, fate=Fate.CLAIMED, row=new.row, attempt=no, ambiguous_retry=bool(maybe_sent)
        )


def _copy_key(db: sqlite3.Connection, row: int) -> str:
    found = db.execute(*sql.ROW(row=row)).fetchone()
    return str(found[6]) if found is not None else ""


#: A late 2xx makes these relayed; what else a row became in the meantime stands.
_OPEN_TO_LATE = (State.UNKNOWN, State.WAITING, State.HELD, State.RETURNED, State.ATTEMPTING)


class Record:
    """Commit C2. Idempotent: the same outcome of the same attempt is written once."""

    name = "record"
    rank = 1  # before claims, so that a retry finds the result that this process already has

    def __init__(self, outcomes: Sequence[Outcome], holding: Holding) -> None:
        self.rows = len(outcomes)
        self._outcomes = [(o, micros(o.at)) for o in outcomes]
        self._holding = holding

    def run(self, db: sqlite3.Connection) -> list[int]:
        """Each outcome ends its own attempt, or is appended to it as late when it lost its row.

        The rows whose end it is.
        """
        return [o.row for o, at in self._outcomes if self._end(db, o, at)]

    @staticmethod
    def run_all(db: sqlite3.Connection, records: Sequence[Record]) -> list[list[int]]:
        """As `run` of one after the other.

        Together go results of live attempts that nobody was promised: none of them touches the row
        of another, nor what a late result settles, which waits.
        """
        outcomes = [given for record in records for given in record._outcomes]
        asked = to_json([o.row for o, _ in outcomes])
        rows = {row[0]: row for row in db.execute(sql.ROWS.sql, (asked,))}
        if len(rows) < len(outcomes):  # a row with two results, or none of that number
            return [record.run(db) for record in records]
        added: list[tuple[object, ...]] = []
        ends: list[tuple[object, ...]] = []
        mails: list[tuple[object, ...]] = []
        others: set[int] = set()
        for record in records:
            for o, at in record._outcomes:
                _, state, attempts, owed, marketing, sender, exact = rows[o.row]
                result = o.result
                mine = state == State.ATTEMPTING and attempts == o.attempt
                if not mine or owed or result is Result.UNKNOWN:
                    others.add(o.row)
                    continue
                added.append((o.row, o.attempt, result.value, o.reply, at, ""))
                ends.append((record._holding.end(result, False).value, None, o.reply, at, o.row))
                if marketing and result is Result.ACCEPTED:
                    mails.append((exact, sender, at))
        several.insert(db, ADD_OUTCOME.sql, added)
        db.executemany(END_KNOWN.sql, ends)
        db.executemany(MARK_MAIL.sql, mails)
        if not others:
            return [[o.row for o, _ in record._outcomes] for record in records]
        return [
            [o.row for o, at in record._outcomes if o.row not in others or record._end(db, o, at)]
            for record in records
        ]

    def _end(self, db: sqlite3.Connection, o: Outcome, at: int) -> bool:
        found = db.execute(*sql.ROW(row=o.row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, owed, marketing, sender, exact, copy, *_ = found
        mine = state == State.ATTEMPTING and attempts == o.attempt
        accepted = o.result is Result.ACCEPTED
        same = sql.SAME_OUTCOME(row=o.row, attempt=o.attempt, result=o.result.value, reply=o.reply)
        if not mine and (known := db.execute(*same).fetchone()) is not None:
            return accepted or bool(known[0] == "")
        db.execute(
            ADD_OUTCOME.sql,
            (o.row, o.attempt, o.result.value, o.reply, at, "" if mine else "late"),
        )
        if mine:
            end = self._holding.end(o.result, bool(owed))
        elif accepted and state in _OPEN_TO_LATE:
            end = State.RELAYED
        else:
            return accepted
        open_ = end in (State.WAITING, State.HELD)
        next_try = self._due(db, o, end, at) if open_ else None
        ended_at = None if open_ else at
        if o.result is Result.UNKNOWN:
            db.execute(
                *END(
                    row=o.row, state=end.value, reply=o.reply, unknown=1, next_try=next_try,
                    ended_at=ended_at,
                )
            )  # fmt: skip
        else:
            db.execute(END_KNOWN.sql, (end.value, next_try, o.reply, ended_at, o.row))
        if accepted and marketing:
            db.execute(MARK_MAIL.sql, (exact, sender, at))
        # The live row of a copy is its only one (`ux_delivery_live`): beside it nothing waits.
        if accepted and not mine:
            db.execute(*sql.SETTLE_COPY(exact=exact, copy=copy, reply=o.reply, ended_at=at))
        if (accepted and not mine) or (owed and not open_):
            bodies.drop(db, exact, copy)
        return True

    def _due(self, db: sqlite3.Connection, o: Outcome, end: State, at: int) -> int:
        if end is State.WAITING:
            return micros(o.next_try) if o.next_try else at
        (received_at,) = db.execute(*sql.RECEIVED_AT(row=o.row)).fetchone()
        return self._holding.until(received_at)


class Settle:
    """What a 250 for several recipients, or one before the upstream's reply, rests on."""

    name = "settle"
    rank = 1

    def __init__(self, settlement: Settlement, owner: Owner, holding: Holding) -> None:
        if (settlement.owe or settlement.wait) and settlement.body is None:
            raise ValueError("what is owed needs a body")
        self.rows = len(settlement.outcomes) + len(settlement.owe) + len(settlement.wait)
        self._settlement = settlement
        self._record = Record(settlement.outcomes, holding)
        self._owner = owner
        self._at = micros(settlement.at)

    def run(self, db: sqlite3.Connection) -> list[int]:
        """First what is owed, so that results find it so; then results, then the notice.

        A notice that tells of a failure which is not the row's end is not written.
        """
        settlement = self._settlement
        owed = [row for row, no in settlement.owe if self._owe(db, row, no)]
        owed += [row for row, due in settlement.wait if self._wait(db, row, due)]
        ended = self._record.run(db)
        told = {o.row for o in settlement.outcomes if o.result is Result.PERMANENT}
        if settlement.notice is not None and told.issubset(ended):
            add_notice(db, settlement.notice, self._at)
        unowed = {row for row, _ in settlement.owe}.difference(owed)
        return [*owed, *(row for row in ended if row not in unowed and row not in owed)]

    def _owe(self, db: sqlite3.Connection, row: int, no: int) -> bool:
        found = db.execute(*sql.ROW(row=row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, owed, *_, instance, epoch, submission = found
        now, mine = (state, attempts, instance, epoch), self._owner
        kept = self._settlement.body
        if kept is None or now != (State.ATTEMPTING, no, mine.instance, mine.epoch):
            return bool(owed)  # ours to finish since before: the mail is kept, whatever it became
        bodies.add(db, submission, kept)
        db.execute(*sql.OWE(row=row))
        return True

    def _wait(self, db: sqlite3.Connection, row: int, due: datetime) -> bool:
        """Owe a recipient whom the decision deferred."""
        found = db.execute(*sql.ROW(row=row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, _, owed, _, _, exact, copy, _, _, _, submission = found
        kept = self._settlement.body
        if (
            kept is None
            or state != State.RETURNED
            or db.execute(*sql.TAKEN_UP(exact=exact, copy=copy, row=row)).fetchone() is not None
        ):
            return bool(owed)
        bodies.add(db, submission, kept)
        db.execute(*sql.WAIT(row=row, next_try=micros(due)))
        return True
