"""The journal in SQL: commit claim (C1), record (C2), deciding again, recovery, reading.

The state machine of `docs/store.md`; plain functions on a raw connection, each inside a transaction
that `group.py` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import Text, bindparam, func, literal_column, or_, select

from policy.model import Decision
from proxy.errors import StoreDown
from proxy.store import ledger, schema
from proxy.store.codec import array, basis_json, day_or_instant, instant, micros, to_json
from proxy.store.model import (
    Fate,
    Intake,
    IntakeResult,
    JournalEntry,
    NewRow,
    Outcome,
    Reattempt,
    Result,
    RowFate,
    State,
    Subject,
)
from proxy.store.schema import (
    attempt,
    compiled,
    decision,
    delivery,
    each,
    inserting,
    outcome,
    submission,
)

# -- statements ------------------------------------------------------------------------------------

_EPOCH = compiled(
    select(schema.instance.c.epoch).where(schema.instance.c.id == bindparam("instance"))
)
_PRIOR = compiled(
    select(
        delivery.c.copy_key,
        delivery.c.id,
        delivery.c.state,
        delivery.c.owed,
        delivery.c.maybe_sent,
        delivery.c.last_attempt_at,
        delivery.c.attempts,
        delivery.c.instance,
        delivery.c.epoch,
        delivery.c.reply,
        submission.c.ref,
    )
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(delivery.c.copy_key.in_(each("copy_keys")))
    .order_by(delivery.c.id)
)
_ADD_SUBMISSION = inserting(submission)
_ADD_DELIVERY = inserting(delivery)
_ADD_DECISION = inserting(decision)
_ADD_ATTEMPT = inserting(attempt)

_ROW = compiled(
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
    ).where(delivery.c.id == bindparam("row"))
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
_END = compiled(
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
_MAYBE_SENT = compiled(
    select(func.coalesce(func.max(delivery.c.maybe_sent), literal_column("0"))).where(
        delivery.c.copy_key == bindparam("copy")
    )
)
_ATTEMPT_AGAIN = compiled(
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

_decisions = decision.alias("all_decisions")
_outcomes = outcome.alias("all_outcomes")


def _entries() -> schema.Query:
    newest_decision = (
        select(func.max(_decisions.c.id)).where(_decisions.c.delivery == delivery.c.id)
    ).scalar_subquery()
    newest_outcome = (
        select(func.max(_outcomes.c.id)).where(_outcomes.c.delivery == delivery.c.id)
    ).scalar_subquery()
    empty = literal_column("''", Text)
    of_ref = select(submission.c.id).where(submission.c.ref == bindparam("ref"))
    return compiled(
        select(
            submission.c.ref, delivery.c.n, delivery.c.copy, delivery.c.exact,
            func.coalesce(schema.address.c.address, empty), delivery.c.state, submission.c.stream,
            delivery.c.sender, submission.c.mode, decision.c.verdict, decision.c.reason,
            decision.c.cite, decision.c.pack, decision.c.rule, decision.c.basis, decision.c.event,
            decision.c.facts, decision.c.at, delivery.c.attempts,
            func.coalesce(outcome.c.result, empty), delivery.c.reply, delivery.c.ended_at,
            delivery.c.maybe_sent,
        )
        .select_from(
            delivery.join(submission, submission.c.id == delivery.c.submission)
            .join(decision, decision.c.id == newest_decision)
            .outerjoin(schema.address, schema.address.c.exact == delivery.c.exact)
            .outerjoin(outcome, outcome.c.id == newest_outcome)
        )
        .where(or_(delivery.c.submission.in_(of_ref), delivery.c.exact == bindparam("exact")))
        .order_by(delivery.c.id.desc())
        .limit(bindparam("limit"))
    )  # fmt: skip


_ENTRIES = _entries()

# -- claim -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Owner:
    """Who attempts: one run of one instance. A later run has a higher epoch."""

    instance: str
    epoch: int

    def check(self, db: sqlite3.Connection) -> None:
        """Raise `StoreDown` when a later run of this instance has begun: send no more."""
        row = db.execute(*_EPOCH(instance=self.instance)).fetchone()
        if row is None or row[0] != self.epoch:
            raise StoreDown("another process has taken over this instance")


@dataclass(frozen=True, slots=True)
class _Prior:
    """An earlier row of the same copy."""

    row: int
    state: str
    owed: int
    maybe_sent: int
    last_attempt_at: int | None
    attempts: int
    instance: str | None
    epoch: int | None
    reply: str
    ref: str


def _dedupe(n: int, prior: Sequence[_Prior], dedupe_from: int, owner: Owner) -> RowFate | None:
    """The table of delivery.md section 5; None: decide anew, in a new row."""
    for p in prior:
        recent = p.last_attempt_at is not None and p.last_attempt_at >= dedupe_from
        if p.state == State.RELAYED and recent:
            return RowFate(n=n, fate=Fate.ANSWERED, ref=p.ref, reply=p.reply)
    for p in prior:
        if p.state == State.WAITING or (p.state == State.ATTEMPTING and p.owed):
            return RowFate(n=n, fate=Fate.QUEUED, ref=p.ref, reply=p.reply)
        if p.state == State.ATTEMPTING:
            if (p.instance, p.epoch) != (owner.instance, owner.epoch):
                return RowFate(n=n, fate=Fate.BUSY, ref=p.ref)
            return RowFate(n=n, fate=Fate.IN_FLIGHT, row=p.row, attempt=p.attempts, ref=p.ref)
    return None


class Claim:
    """Commit C1 of one submission, encoded before the write lock is taken."""

    name = "claim"
    rank = 2  # sees the blocking events and the results handed in before it

    def __init__(self, intake: Intake, owner: Owner) -> None:
        rows = intake.rows
        if len({r.copy_key for r in rows}) < len(rows) or len({r.n for r in rows}) < len(rows):
            raise ValueError("the rows of one submission need distinct copy keys and numbers")
        if any(r.state not in _NEW_STATES for r in rows):
            raise ValueError("a new row is attempting, blocked or returned")
        self.rows = len(rows)
        self._intake = intake
        self._owner = owner
        self._at = micros(intake.at)
        self._dedupe_from = micros(intake.dedupe_from)
        self._copy_keys = array([r.copy_key for r in rows])
        self._submission = _submission_columns(intake)
        self._decisions = [decision_columns(r.decision, r.facts, self._at) for r in rows]

    def run(self, db: sqlite3.Connection) -> IntakeResult:
        """All rows or none."""
        rows = self._intake.rows
        prior: dict[str, list[_Prior]] = {}
        for copy_key, *columns in db.execute(*_PRIOR(copy_keys=self._copy_keys)):
            prior.setdefault(copy_key, []).append(_Prior(*columns))
        fates = {
            r.n: _dedupe(r.n, prior.get(r.copy_key, ()), self._dedupe_from, self._owner)
            for r in rows
        }
        known = [f.fate for f in fates.values() if f is not None]
        if Fate.IN_FLIGHT in known or Fate.BUSY in known:
            skipped = (f or RowFate(n=n, fate=Fate.SKIPPED) for n, f in fates.items())
            return IntakeResult(stale=False, fates=tuple(skipped))
        fresh = [r.subject for r in rows if fates[r.n] is None]
        if fresh:
            self._owner.check(db)
            if ledger.touched(db, self._intake.high, fresh):
                return IntakeResult(stale=True)
            submission_id = db.execute(_ADD_SUBMISSION.sql, self._submission).lastrowid
            for row, columns in zip(rows, self._decisions, strict=True):
                if fates[row.n] is None:
                    sticky = max((p.maybe_sent for p in prior.get(row.copy_key, ())), default=0)
                    fates[row.n] = self._write(db, submission_id, row, columns, sticky)
        return IntakeResult(stale=False, fates=tuple(f for f in fates.values() if f is not None))

    def _write(
        self,
        db: sqlite3.Connection,
        submission_id: int | None,
        row: NewRow,
        columns: tuple[object, ...],
        maybe_sent: int,
    ) -> RowFate:
        attempting = row.state is State.ATTEMPTING
        owner = self._owner
        s = row.subject
        id_ = db.execute(
            _ADD_DELIVERY.sql,
            (
                submission_id, row.n, row.copy, s.sender, s.exact, s.wide, row.copy_key,
                int(row.marketing), row.state.value, 0, maybe_sent, int(attempting),
                owner.instance if attempting else None, owner.epoch if attempting else None,
                self._at if attempting else None, None, row.reply,
                None if attempting else self._at,
            ),
        ).lastrowid or 0  # fmt: skip
        decision_id = db.execute(_ADD_DECISION.sql, (id_, *columns)).lastrowid
        if row.address:
            db.execute(ledger.ADD_ADDRESS.sql, (s.exact, row.address))
        ref = self._intake.submission.ref
        if not attempting:
            return RowFate(n=row.n, fate=Fate.RECORDED, row=id_, ref=ref, reply=row.reply)
        db.execute(
            _ADD_ATTEMPT.sql,
            (id_, 1, decision_id, owner.instance, owner.epoch, self._at, maybe_sent),
        )
        return RowFate(
            n=row.n,
            fate=Fate.CLAIMED,
            row=id_,
            attempt=1,
            ref=ref,
            ambiguous_retry=bool(maybe_sent),
        )


_NEW_STATES = (State.ATTEMPTING, State.BLOCKED, State.RETURNED)


def _submission_columns(intake: Intake) -> tuple[object, ...]:
    s = intake.submission
    return (
        s.ref, micros(s.received_at), s.submitter, s.listener, s.mail_from, s.message_id,
        s.content_hash, s.size, s.stream, s.sender, s.category, s.mode, s.class_source, s.campaign,
        s.variant, s.template, s.forward, to_json(s.marks),
    )  # fmt: skip


def decision_columns(made: Decision, facts: str, at: int) -> tuple[object, ...]:
    """A decision without its trace, which follows again from the facts and the pack digest."""
    return (
        at, made.verdict.value, made.reason.value, made.cite, made.pack, made.rule,
        made.jurisdiction, basis_json(made), made.event, to_json(made.obligations),
        day_or_instant(made.expires_at), int(made.needs_review), facts,
    )  # fmt: skip


class Reclaim:
    """Decide again for attempts of this process whose dot was never written."""

    name = "reclaim"
    rank = 2

    def __init__(self, rows: Sequence[Reattempt], high: int, at: datetime, owner: Owner) -> None:
        if any(r.state not in _NEW_STATES for r in rows):
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
        fates = [
            self._again(db, row, columns)
            for row, columns in zip(self._rows, self._decisions, strict=True)
        ]
        return IntakeResult(stale=False, fates=tuple(fates))

    def _again(
        self, db: sqlite3.Connection, new: Reattempt, columns: tuple[object, ...]
    ) -> RowFate:
        found = db.execute(*_ROW(row=new.row)).fetchone()
        if found is None:
            raise LookupError("no such row")
        state, attempts, owed, _, _, _, copy, n, instance, epoch = found
        owner = self._owner
        if (state, attempts, instance, epoch) != (
            State.ATTEMPTING, new.attempt, owner.instance, owner.epoch,
        ):  # fmt: skip
            return RowFate(n=n, fate=Fate.BUSY, row=new.row, attempt=attempts)
        db.execute(
            _ADD_OUTCOME.sql, (new.row, new.attempt, Result.UNSENT.value, "", self._at, "held")
        )
        decision_id = db.execute(_ADD_DECISION.sql, (new.row, *columns)).lastrowid
        if new.state is not State.ATTEMPTING:
            waits = new.state is State.RETURNED and owed
            db.execute(
                *_END(
                    row=new.row,
                    state=State.WAITING.value if waits else new.state.value,
                    reply=new.reply,
                    unknown=0,
                    next_try=self._at if waits else None,
                    ended_at=None if waits else self._at,
                )
            )
            return RowFate(n=n, fate=Fate.RECORDED, row=new.row, reply=new.reply)
        (maybe_sent,) = db.execute(*_MAYBE_SENT(copy=copy)).fetchone()
        no = attempts + 1
        db.execute(
            _ADD_ATTEMPT.sql,
            (new.row, no, decision_id, owner.instance, owner.epoch, self._at, maybe_sent),
        )
        db.execute(
            *_ATTEMPT_AGAIN(
                row=new.row, no=no, instance=owner.instance, epoch=owner.epoch, at=self._at
            )
        )
        return RowFate(
            n=n, fate=Fate.CLAIMED, row=new.row, attempt=no, ambiguous_retry=bool(maybe_sent)
        )


# -- record ----------------------------------------------------------------------------------------


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
        found = db.execute(*_ROW(row=o.row)).fetchone()
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
            *_END(
                row=o.row,
                state=end.value,
                reply=o.reply,
                unknown=int(o.result is Result.UNKNOWN),
                next_try=at if waits else None,
                ended_at=None if waits else at,
            )
        )
        if accepted:
            db.execute(*_SETTLE_COPY(copy=copy, reply=o.reply, ended_at=at))
            if marketing:
                db.execute(ledger.MARK_MAIL.sql, (exact, sender, at))


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
                *_END(
                    row=id_,
                    state=_end_state(Result.UNKNOWN, bool(owed)).value,
                    reply="",
                    unknown=1,
                    next_try=self._at if owed else None,
                    ended_at=None if owed else self._at,
                )
            )
        return len(orphans)


# -- read ------------------------------------------------------------------------------------------


def entries(db: sqlite3.Connection, ref: str, exact: str, limit: int) -> list[JournalEntry]:
    """Rows of the transaction `ref` in the order they were written, or the newest of `exact`."""
    rows = db.execute(*_ENTRIES(ref=ref or None, exact=exact or None, limit=limit)).fetchall()
    if ref:
        rows.reverse()
    return [_entry(row) for row in rows]


def _entry(row: tuple[object, ...]) -> JournalEntry:
    (
        ref, n, copy, exact, address, state, stream, sender, mode, verdict, reason, cite, pack,
        rule, basis, event, facts, at, attempts, result, reply, ended_at, maybe_sent,
    ) = row  # fmt: skip
    return JournalEntry(
        ref=str(ref), n=_int(n), copy=_int(copy), exact=str(exact), address=str(address),
        state=State(str(state)), stream=str(stream), sender=str(sender), mode=str(mode),
        verdict=str(verdict), reason=str(reason), cite=str(cite), pack=str(pack), rule=str(rule),
        basis_event=orjson.loads(str(basis))["event"] if basis else str(event),
        facts=str(facts), decided_at=instant(_int(at)), attempts=_int(attempts),
        result=str(result), reply=str(reply),
        ended_at=instant(_int(ended_at)) if ended_at is not None else None,
        maybe_sent=bool(maybe_sent),
    )  # fmt: skip


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("an integer column")
    return value
