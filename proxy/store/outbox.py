"""The outbox in SQL: what is due, its claim with the decision taken again, and what people read.

The outbox is no table: it is the rows of the journal that are not at their end, and the bodies that
are kept for them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import orjson

from policy.model import Decision
from proxy.store import bodies, counting, ledger
from proxy.store.claim import add_notice, decision_columns
from proxy.store.codec import array, instant, micros
from proxy.store.lease import Owner
from proxy.store.model import (
    Body,
    Due,
    Fate,
    ForwardState,
    IntakeResult,
    OutboxRow,
    Owed,
    Passing,
    Reattempt,
    RowFate,
    State,
    Subject,
    Submission,
    Take,
    Unfinished,
)
from proxy.store.sql import outbox as sql
from proxy.store.sql.attempt import ATTEMPT_AGAIN, MAYBE_SENT, ROW
from proxy.store.sql.claim import ADD_ATTEMPT, ADD_DECISION, ADD_SUBMISSION
from proxy.store.sql.forwarding import PASS
from proxy.store.sql.lease import END


class TakeRow:
    """Claim of a waiting row: validate, write the decision, and begin its next attempt or end it.

    Without an owner (the command line) a row can only be ended.
    """

    name = "take"
    rank = 2
    rows = 1

    def __init__(self, take: Take, owner: Owner | None) -> None:
        if take.state not in (State.ATTEMPTING, State.BLOCKED, State.FAILED, State.WAITING):
            raise ValueError("a row that waits is tried, blocked, failed, or waits on")
        undecided = take.decision is None
        if undecided and take.state not in (State.FAILED, State.WAITING):
            raise ValueError("a row that is tried or blocked needs a decision")
        self._take = take
        self._owner = owner
        self._at = micros(take.at)
        self._decision = (
            decision_columns(take.decision, take.facts, self._at) if take.decision else None
        )

    def run(self, db: sqlite3.Connection) -> IntakeResult:
        """See `Store.take`."""
        take = self._take
        if self._owner is not None:
            self._owner.check(db)
        found = db.execute(*ROW(row=take.row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, _, _, _, exact, copy, n, *_ = found
        # What is held can only be given up here; a person lets it wait again (`Hasten`).
        held = state == State.HELD and take.state is State.FAILED
        if not (held or state == State.WAITING) or attempts != take.attempts:
            return _one(RowFate(n=n, fate=Fate.BUSY, row=take.row, attempt=attempts))
        elsewhere = db.execute(
            *sql.RELAYED(exact=exact, copy=copy, since=micros(take.dedupe_from), limit=1)
        ).fetchone()
        if elsewhere is not None:
            reply, ref = elsewhere
            self._end(db, State.RELAYED, reply)
            bodies.drop(db, exact, copy)
            return _one(RowFate(n=n, fate=Fate.ANSWERED, row=take.row, ref=ref, reply=reply))
        if take.decision is not None and ledger.touched(db, take.high, [take.subject]):
            return IntakeResult(stale=True)
        if take.decision is not None and take.room:
            again = _as_reattempt(take, take.decision)
            if counting.full(db, [(again, copy)]):
                return IntakeResult(stale=True)
        decision_id = 0
        if self._decision is not None:
            made = db.execute(ADD_DECISION.sql, (take.row, *self._decision))
            decision_id = made.lastrowid or 0
        if take.state is State.ATTEMPTING:
            return _one(self._attempt(db, exact, copy, n, attempts + 1, decision_id))
        self._end(db, take.state, take.reply)
        if take.state is not State.WAITING:
            bodies.drop(db, exact, copy)
            if take.notice is not None:
                add_notice(db, take.notice, self._at)
        return _one(RowFate(n=n, fate=Fate.RECORDED, row=take.row, reply=take.reply))

    def _attempt(
        self, db: sqlite3.Connection, exact: str, copy: str, n: int, no: int, decision_id: int
    ) -> RowFate:
        take, owner = self._take, self._owner
        if owner is None:
            raise ValueError("only the process that owns the outbox claims")
        (maybe_sent,) = db.execute(*MAYBE_SENT(exact=exact, copy=copy)).fetchone()
        attempt = (take.row, no, decision_id, owner.instance, owner.epoch, self._at, maybe_sent)
        db.execute(ADD_ATTEMPT.sql, attempt)
        db.execute(
            *ATTEMPT_AGAIN(
                row=take.row,
                no=no,
                instance=owner.instance,
                epoch=owner.epoch,
                at=self._at,
                lease=owner.until(),
            )
        )
        return RowFate(
            n=n, fate=Fate.CLAIMED, row=take.row, attempt=no, ambiguous_retry=bool(maybe_sent)
        )

    def _end(self, db: sqlite3.Connection, state: State, reply: str) -> None:
        waits = state is State.WAITING
        next_try = self._take.next_try
        db.execute(
            *END(
                row=self._take.row,
                state=state.value,
                reply=reply,
                unknown=0,
                next_try=(micros(next_try) if next_try else self._at) if waits else None,
                ended_at=None if waits else self._at,
            )
        )


class Pass:
    """Record a try, and put the mail that it makes into the outbox."""

    name = "pass"
    rank = 3
    rows = 1

    def __init__(self, passing: Passing) -> None:
        if passing.mail is not None and passing.state is not ForwardState.PASSED:
            raise ValueError("a mail goes with an opt-out that is passed on")
        self._passing = passing

    def run(self, db: sqlite3.Connection) -> bool:
        """Whether it waited as it was read."""
        p = self._passing
        at = micros(p.at)
        waits = p.state is ForwardState.WAITING
        done = db.execute(
            *PASS(
                id_=p.id,
                attempts_=p.attempts,
                state=p.state.value,
                attempts=p.attempts + p.tried,
                next_try=(micros(p.next_try) if p.next_try else at) if waits else None,
                answer=p.answer,
                ended_at=None if waits else at,
            )
        )
        if done.rowcount != 1:
            return False
        if p.mail is not None:
            add_notice(db, p.mail, at)
        return True


class Hasten:
    """Make rows due that wait or are held."""

    name = "hasten"
    rank = 3

    def __init__(self, rows: Sequence[int], at: datetime) -> None:
        self.rows = len(rows)
        self._rows = orjson.dumps(list(rows)).decode()
        self._at = micros(at)

    def run(self, db: sqlite3.Connection) -> int:
        """How many there were."""
        return db.execute(*sql.HASTEN(rows=self._rows, next_try=self._at)).rowcount


def due(db: sqlite3.Connection, at: datetime, limit: int) -> list[Due]:
    """See `Store.due`."""
    return [
        Due(
            row=row, attempts=attempts, ref=ref, n=n, stream=stream,
            received_at=instant(received_at), next_try=instant(next_try),
        )
        for row, attempts, ref, n, stream, received_at, next_try in db.execute(
            *sql.DUE(at=micros(at), limit=limit)
        )
    ]  # fmt: skip


def owed(db: sqlite3.Connection, row: int, directory: Path) -> Owed | None:
    """See `Store.owed`. A large mail is put into a file in `directory`."""
    found = db.execute(*sql.OWED(row=row)).fetchone()
    if found is None:
        return None
    attempts, n, copy, copy_key, sender, exact, wide, address, reply = found[:9]
    envelope, small, id_, state, tried_at, said = found[9:15]
    content = small if small is not None else bodies.content_of(db, id_, directory)
    if content is None:
        return None
    columns = dict(zip(ADD_SUBMISSION.names, found[15:], strict=True))
    columns["received_at"] = instant(columns["received_at"])
    columns["marks"] = tuple(orjson.loads(columns["marks"]))
    return Owed(
        row=row,
        attempts=attempts,
        n=n,
        copy=copy,
        copy_key=copy_key,
        subject=Subject(sender, exact, wide),
        address=address,
        reply=reply,
        submission=Submission(**columns),
        body=Body(envelope, content),
        state=State(state),
        tried_at=instant(tried_at) if tried_at is not None else None,
        said=bool(said),
    )


def unfinished(db: sqlite3.Connection) -> Unfinished:
    """See `Store.unfinished`."""
    rows = db.execute(*sql.COUNTS()).fetchall()
    oldest = min((at for _, _, at in rows), default=None)
    oldest_open = min((at for state, _, at in rows if state != State.HELD), default=None)
    return Unfinished(
        counts={state: count for state, count, _ in rows},
        oldest=instant(oldest) if oldest is not None else None,
        oldest_open=instant(oldest_open) if oldest_open is not None else None,
    )


def listed(db: sqlite3.Connection, ref: str, limit: int) -> list[OutboxRow]:
    """See `Store.outbox`."""
    found = db.execute(*(sql.ONE(ref=ref, limit=limit) if ref else sql.ALL(limit=limit)))
    return [
        OutboxRow(
            row=row, ref=ref_, n=n, state=State(state), owed=bool(owed_), stream=stream,
            received_at=instant(received_at), attempts=attempts,
            next_try=instant(next_try) if next_try is not None else None,
            maybe_sent=bool(maybe_sent), reply=reply, size=size,
        )
        for (
            row, ref_, n, state, owed_, stream, received_at, attempts, next_try, maybe_sent, reply,
            size,
        ) in found
    ]  # fmt: skip


def told(
    db: sqlite3.Connection, covers: Sequence[tuple[str, State]], since: datetime
) -> set[tuple[str, State]]:
    """See `Store.told`."""
    copies = array([copy_key for copy_key, _ in covers])
    found = db.execute(*sql.TOLD(copies=copies, since=micros(since)))
    return {(copy_key, State(state)) for copy_key, state in found} & set(covers)


def _one(fate: RowFate) -> IntakeResult:
    return IntakeResult(stale=False, fates=(fate,))


def _as_reattempt(take: Take, made: Decision) -> Reattempt:
    return Reattempt(
        row=take.row,
        attempt=take.attempts,
        subject=take.subject,
        decision=made,
        facts=take.facts,
        state=take.state,
        room=take.room,
    )
