"""Commit C1 in SQL: who attempts, whether the same copy is known, and the rows of a new submission.

The state machine of `docs/store.md`; operations on a raw connection, each inside a transaction that
`group.py` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from policy.model import Decision
from proxy.store import bodies, counting, ledger, several
from proxy.store.codec import basis_json, day_or_instant, micros, to_json
from proxy.store.lease import Owner
from proxy.store.model import (
    Fate,
    Intake,
    IntakeResult,
    NewRow,
    Notice,
    RowFate,
    State,
    Submission,
)
from proxy.store.sql import claim as sql
from proxy.store.sql.ledger import ADD_ADDRESS

#: What a decision can make of a row at once.
NEW_STATES = (State.ATTEMPTING, State.BLOCKED, State.RETURNED)


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
        if p.state in (State.WAITING, State.HELD) or (p.state == State.ATTEMPTING and p.owed):
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
        if any(r.state not in (*NEW_STATES, State.WAITING) for r in rows):
            raise ValueError("a new row is attempting, blocked, returned or waiting")
        if intake.body is None and any(r.state is State.WAITING for r in rows):
            raise ValueError("a row that waits is owed, and needs a body")
        self.rows = len(rows)
        self._intake = intake
        self._owner = owner
        self._at = micros(intake.at)
        self._dedupe_from = micros(intake.dedupe_from)
        if len(rows) == 1:
            self._prior = sql.PRIOR_ONE(exact=rows[0].subject.exact, copy_key=rows[0].copy_key)
        else:
            copies = to_json([(r.subject.exact, r.copy_key) for r in rows])
            self._prior = sql.PRIOR(copies=copies)
        self._submission = submission_columns(intake.submission)
        self._decisions = [decision_columns(r.decision, r.facts, self._at) for r in rows]

    def run(self, db: sqlite3.Connection) -> IntakeResult:
        """All rows or none."""
        rows = self._intake.rows
        prior: dict[str, list[_Prior]] = {}
        for copy_key, *columns in db.execute(*self._prior):
            prior.setdefault(copy_key, []).append(_Prior(*columns))
        fates = {
            r.n: _dedupe(r.n, prior.get(r.copy_key, ()), self._dedupe_from, self._owner)
            for r in rows
        }
        known = [f.fate for f in fates.values() if f is not None]
        if Fate.IN_FLIGHT in known or Fate.BUSY in known:
            skipped = (f or RowFate(n=n, fate=Fate.SKIPPED) for n, f in fates.items())
            return IntakeResult(stale=False, fates=tuple(skipped))
        fresh_ns = {n for n, fate in fates.items() if fate is None}
        fresh = [r.subject for r in rows if r.n in fresh_ns]
        if fresh:
            self._owner.check(db)
            if ledger.touched(db, self._intake.high, fresh):
                return IntakeResult(stale=True)
            attempts = [
                (r, r.copy_key)
                for r in rows
                if fates[r.n] is None and r.state is State.ATTEMPTING
            ]
            if counting.full(db, attempts):
                return IntakeResult(stale=True)
            submission_id = db.execute(sql.ADD_SUBMISSION.sql, self._submission).lastrowid or 0
            ref = self._intake.submission.ref
            new = [
                (row, made, max((p.maybe_sent for p in prior.get(row.copy_key, ())), default=0))
                for row, made in zip(rows, self._decisions, strict=True)
                if row.n in fresh_ns
            ]
            for fate in add_rows(db, submission_id, ref, new, self._at, self._owner):
                fates[fate.n] = fate
            kept = self._intake.body
            if kept is not None and any(
                r.state is State.WAITING and r.n in fresh_ns for r in rows
            ):
                bodies.add(db, submission_id, kept)
            if self._intake.notice is not None:
                add_notice(db, self._intake.notice, self._at)
        return IntakeResult(stale=False, fates=tuple(f for f in fates.values() if f is not None))


def add_rows(
    db: sqlite3.Connection,
    submission_id: int,
    ref: str,
    new: Sequence[tuple[NewRow, tuple[object, ...], int]],
    at: int,
    owner: Owner | None,
) -> list[RowFate]:
    """New rows, each with its decision (as columns) and whether an earlier try of its copy may have
    been sent, and the attempts of those that are `attempting`."""
    instance, epoch, lease = None, None, None
    if owner is not None and any(row.state is State.ATTEMPTING for row, _, _ in new):
        instance, epoch, lease = owner.instance, owner.epoch, owner.until()
    deliveries = []
    for row, _, maybe_sent in new:
        attempting, waiting = row.state is State.ATTEMPTING, row.state is State.WAITING
        s = row.subject
        deliveries.append((
            submission_id, row.n, row.copy, s.sender, s.exact, s.wide, row.copy_key,
            int(row.marketing), row.state.value, int(waiting), maybe_sent, int(attempting),
            instance if attempting else None, epoch if attempting else None,
            at if attempting else None,
            (micros(row.next_try) if row.next_try else at) if waiting else None, row.reply,
            None if attempting or waiting else at, lease if attempting else None,
        ))  # fmt: skip
    ids = several.insert(db, sql.ADD_DELIVERY.sql, deliveries)
    made = [(id_, *columns) for id_, (_, columns, _) in zip(ids, new, strict=True)]
    decisions = several.insert(db, sql.ADD_DECISION.sql, made)
    named = [(row.subject.exact, row.address) for row, _, _ in new if row.address]
    several.insert(db, ADD_ADDRESS.sql, named)
    attempts = []
    fates = []
    for id_, decision_id, (row, _, maybe_sent) in zip(ids, decisions, new, strict=True):
        if row.state is State.ATTEMPTING:
            attempts.append((id_, 1, decision_id, instance, epoch, at, maybe_sent))
            fates.append(RowFate(
                n=row.n, fate=Fate.CLAIMED, row=id_, attempt=1, ref=ref,
                ambiguous_retry=bool(maybe_sent),
            ))  # fmt: skip
        else:
            fate = Fate.QUEUED if row.state is State.WAITING else Fate.RECORDED
            fates.append(RowFate(n=row.n, fate=fate, row=id_, ref=ref, reply=row.reply))
    several.insert(db, sql.ADD_ATTEMPT.sql, attempts)
    return fates


def add_notice(db: sqlite3.Connection, new: Notice, at: int) -> None:
    """Put a notice into the outbox, unless it tells nothing that was not told in its window."""
    since = micros(new.since)
    told = [
        db.execute(*sql.TOLD_AT(copy=copy_key, state=state.value)).fetchone()
        for copy_key, state in new.covers
    ]
    if told and all(found is not None and found[0] >= since for found in told):
        return
    for copy_key, state in new.covers:
        db.execute(*sql.DONT_TELL(copy=copy_key, state=state.value))
        db.execute(sql.TELL.sql, (copy_key, state.value, at))
    columns = submission_columns(new.submission)
    submission_id = db.execute(sql.ADD_SUBMISSION.sql, columns).lastrowid or 0
    made = decision_columns(new.row.decision, new.row.facts, at)
    add_rows(db, submission_id, new.submission.ref, [(new.row, made, 0)], at, None)
    bodies.add(db, submission_id, new.body)


def submission_columns(s: Submission) -> tuple[object, ...]:
    """A submission in the order of its table."""
    return (
        s.ref, micros(s.received_at), s.submitter, s.listener, s.mail_from, s.message_id,
        s.content_hash, s.size, s.stream, s.sender, s.category, s.mode, s.class_source, s.campaign,
        s.variant, s.template, s.forward, to_json(s.marks), s.forward_by,
    )  # fmt: skip


def decision_columns(made: Decision, facts: str, at: int) -> tuple[object, ...]:
    """A decision without its trace, which follows again from the facts and the pack digest."""
    return (
        at, made.verdict.value, made.reason.value, made.cite, made.pack, made.rule,
        made.jurisdiction, basis_json(made), made.event, to_json(made.obligations),
        day_or_instant(made.expires_at), int(made.needs_review), facts,
    )  # fmt: skip
