"""Commit C1 in SQL: who attempts, whether the same copy is known, and the rows of a new submission.

The state machine of `docs/store.md`; operations on a raw connection, each inside a transaction that
`group.py` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import cast

from policy.model import Decision
from proxy.store import bodies, counting, ledger, several
from proxy.store.beside import NOTHING, Beside
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
_FIRST_STATES = frozenset({*NEW_STATES, State.WAITING})


#: An earlier row of the same copy: row, state, owed, maybe_sent, last_attempt_at, attempts,
#: instance, epoch, reply, ref.
_Earlier = tuple[int, str, int, int, int | None, int, str | None, int | None, str, str]
#: Those of each (exact, copy key), oldest first.
_Prior = Mapping[tuple[str, str], Sequence[_Earlier]]


def _dedupe(n: int, prior: Sequence[_Earlier], since: int, owner: Owner) -> RowFate | None:
    """The table of delivery.md section 5; None: decide anew, in a new row."""
    for _, state, _, _, last_attempt_at, _, _, _, reply, ref in prior:
        recent = last_attempt_at is not None and last_attempt_at >= since
        if state == State.RELAYED and recent:
            return RowFate(n=n, fate=Fate.ANSWERED, ref=ref, reply=reply)
    for row, state, owed, _, _, attempts, instance, epoch, reply, ref in prior:
        if state in (State.WAITING, State.HELD) or (state == State.ATTEMPTING and owed):
            return RowFate(n=n, fate=Fate.QUEUED, ref=ref, reply=reply)
        if state == State.ATTEMPTING:
            if (instance, epoch) != (owner.instance, owner.epoch):
                return RowFate(n=n, fate=Fate.BUSY, ref=ref)
            return RowFate(n=n, fate=Fate.IN_FLIGHT, row=row, attempt=attempts, ref=ref)
    return None


#: A row that is written: what was decided, its decision as columns, and whether an earlier try of
#: its copy may have been sent.
NewColumns = tuple[NewRow, tuple[object, ...], int]
#: A submission as columns, its reference, its rows, and when.
NewSubmission = tuple[tuple[object, ...], str, Sequence[NewColumns], int]


class Claim:
    """Commit C1 of one submission, encoded before the write lock is taken."""

    name = "claim"
    rank = 2  # sees the blocking events and the results handed in before it

    def __init__(self, intake: Intake, owner: Owner, beside: Beside = NOTHING) -> None:
        rows = intake.rows
        if len(rows) > 1 and (
            len({r.copy_key for r in rows}) < len(rows) or len({r.n for r in rows}) < len(rows)
        ):
            raise ValueError("the rows of one submission need distinct copy keys and numbers")
        for row in rows:
            if row.state not in _FIRST_STATES:
                raise ValueError("a new row is attempting, blocked, returned or waiting")
            if row.state is State.WAITING and intake.body is None:
                raise ValueError("a row that waits is owed, and needs a body")
        self.rows = len(rows)
        self._intake = intake
        self._owner = owner
        self._beside = beside
        self._at = micros(intake.at)
        self._subjects = [r.subject for r in rows]
        self._copies = [(r.subject.exact, r.copy_key) for r in rows]
        self._submission = submission_columns(intake.submission)
        self._decisions = [decision_columns(r.decision, r.facts, self._at) for r in rows]

    def run(self, db: sqlite3.Connection) -> IntakeResult:
        """All rows or none."""
        return _together(db, [self])[0]

    @staticmethod
    def run_all(db: sqlite3.Connection, claims: Sequence[Claim]) -> list[IntakeResult]:
        """As `run` of one after the other: those go together of which none reads what another
        writes."""
        results: list[IntakeResult] = []
        some: list[Claim] = []
        copies: set[tuple[str, str]] = set()
        for claim in claims:
            alone = claim._alone
            if some and (alone or not copies.isdisjoint(claim._copies)):
                results += _together(db, some)
                some, copies = [], set()
            if alone:
                results += _together(db, [claim])
            else:
                some.append(claim)
                copies.update(claim._copies)
        return results + _together(db, some) if some else results

    @property
    def _alone(self) -> bool:
        """Whether it counts a person's mails, or writes more than its rows."""
        intake = self._intake
        limited = any(row.room for row in intake.rows)
        return limited or intake.body is not None or intake.notice is not None

    def _fates(self, prior: _Prior) -> dict[int, RowFate | None]:
        """What earlier rows of its copies answer, by number; None: a new row."""
        rows = self._intake.rows
        if not prior:
            return dict.fromkeys([row.n for row in rows])
        since = micros(self._intake.dedupe_from)
        return {
            row.n: _dedupe(row.n, prior.get(copy, ()), since, self._owner)
            for row, copy in zip(rows, self._copies, strict=True)
        }

    def _stale(self, db: sqlite3.Connection, top: int, fresh: Sequence[NewColumns]) -> bool:
        """Whether the ledger has something newer than the decisions, or a person no room."""
        high = self._intake.high
        if top > high and ledger.newer(db, high, [row.subject for row, _, _ in fresh]):
            return True
        attempts = [(row, row.copy_key) for row, _, _ in fresh if row.state is State.ATTEMPTING]
        return counting.full(db, attempts)


def _together(db: sqlite3.Connection, claims: Sequence[Claim]) -> list[IntakeResult]:
    """Claims of different copies, of which none reads what another writes: each kind of row of all
    of them is one statement."""
    prior = _prior(db, claims)
    results: list[IntakeResult | None] = []
    begun: list[tuple[int, dict[int, RowFate | None]]] = []
    new: list[NewSubmission] = []
    top = -1
    for claim in claims:
        intake = claim._intake
        if claim._beside.touched(intake.overlay, claim._subjects):
            results.append(IntakeResult(stale=True))
            continue
        fates = claim._fates(prior)
        known = [fate for fate in fates.values() if fate is not None]
        if any(fate.fate in (Fate.IN_FLIGHT, Fate.BUSY) for fate in known):
            skipped = (f or RowFate(n=n, fate=Fate.SKIPPED) for n, f in fates.items())
            results.append(IntakeResult(stale=False, fates=tuple(skipped)))
            continue
        fresh = [
            (row, made, max([earlier[3] for earlier in prior.get(copy, ())], default=0))
            for row, made, copy in zip(intake.rows, claim._decisions, claim._copies, strict=True)
            if fates[row.n] is None
        ]
        if not fresh:
            results.append(IntakeResult(stale=False, fates=tuple(known)))
            continue
        if top < 0:
            claim._owner.check(db)
            top = ledger.top(db)
        if claim._stale(db, top, fresh):
            results.append(IntakeResult(stale=True))
            continue
        begun.append((len(results), fates))
        results.append(None)
        new.append((claim._submission, intake.submission.ref, fresh, claim._at))
    if new:
        ids, made_fates = add_submissions(db, new, claims[0]._owner)
        for (place, fates), id_, fresh_fates in zip(begun, ids, made_fates, strict=True):
            for fate in fresh_fates:
                fates[fate.n] = fate
            results[place] = IntakeResult(
                stale=False, fates=tuple([f for f in fates.values() if f is not None])
            )
            _add_beside(db, claims[place]._intake, id_, fresh_fates, claims[place]._at)
    return [result for result in results if result is not None]


def _prior(db: sqlite3.Connection, claims: Sequence[Claim]) -> _Prior:
    copies = [copy for claim in claims for copy in claim._copies]
    if len(copies) == 1:
        rows = db.execute(sql.PRIOR_ONE.sql, copies[0]).fetchall()
    else:
        rows = db.execute(sql.PRIOR.sql, (to_json(copies),)).fetchall()
    prior: dict[tuple[str, str], list[_Earlier]] = {}
    for exact, copy_key, *earlier in rows:
        prior.setdefault((exact, copy_key), []).append(cast(_Earlier, earlier))
    return prior


def _add_beside(
    db: sqlite3.Connection, intake: Intake, submission: int, fates: Sequence[RowFate], at: int
) -> None:
    """The mail, where a new row of it waits, and the notice."""
    if intake.body is not None and any(f.fate is Fate.QUEUED for f in fates):
        bodies.add(db, submission, intake.body)
    if intake.notice is not None:
        add_notice(db, intake.notice, at)


def add_submissions(
    db: sqlite3.Connection, new: Sequence[NewSubmission], owner: Owner | None
) -> tuple[list[int], list[list[RowFate]]]:
    """Submissions with their rows, a decision for each, and the attempts of those that are
    `attempting`: the ids of the submissions, and the fates of their rows."""
    submissions = several.insert(db, sql.ADD_SUBMISSION.sql, [columns for columns, _, _, _ in new])
    instance, epoch, lease = None, None, None
    named = []
    placed = []
    for id_, (_, _, rows, at) in zip(submissions, new, strict=True):
        deliveries: list[tuple[object, ...]] = []
        for row, _, maybe_sent in rows:
            s, state = row.subject, row.state
            if row.address:
                named.append((s.exact, row.address))
            if state is State.ATTEMPTING:
                if lease is None and owner is not None:
                    instance, epoch, lease = owner.instance, owner.epoch, owner.until()
                deliveries.append((
                    id_, row.n, row.copy, s.sender, s.exact, s.wide, row.copy_key,
                    int(row.marketing), "attempting", 0, maybe_sent, 1, instance, epoch, at, None,
                    row.reply, None, lease,
                ))  # fmt: skip
                continue
            waiting = state is State.WAITING
            next_try = (micros(row.next_try) if row.next_try else at) if waiting else None
            deliveries.append((
                id_, row.n, row.copy, s.sender, s.exact, s.wide, row.copy_key, int(row.marketing),
                state.value, int(waiting), maybe_sent, 0, None, None, None, next_try, row.reply,
                None if waiting else at, None,
            ))  # fmt: skip
        # Not those of all mails at once: SQLite keeps each page that a statement for several rows
        # changes as it was before, and these rows change two or three pages each.
        ids = several.insert(db, sql.ADD_DELIVERY.sql, deliveries)
        placed.append([(id_, *row) for id_, row in zip(ids, rows, strict=True)])
    columns = [(id_, *made) for rows in placed for id_, _, made, _ in rows]
    decisions = iter(several.insert(db, sql.ADD_DECISION.sql, columns))
    several.insert(db, ADD_ADDRESS.sql, named)
    attempts = []
    fates = []
    for (_, ref, _, at), written in zip(new, placed, strict=True):
        its: list[RowFate] = []
        for id_, row, _, maybe_sent in written:
            decision = next(decisions)
            if row.state is State.ATTEMPTING:
                attempts.append((id_, 1, decision, instance, epoch, at, maybe_sent))
                its.append(RowFate(
                    n=row.n, fate=Fate.CLAIMED, row=id_, attempt=1, ref=ref,
                    ambiguous_retry=bool(maybe_sent),
                ))  # fmt: skip
            else:
                fate = Fate.QUEUED if row.state is State.WAITING else Fate.RECORDED
                its.append(RowFate(n=row.n, fate=fate, row=id_, ref=ref, reply=row.reply))
        fates.append(its)
    several.insert(db, sql.ADD_ATTEMPT.sql, attempts)
    return submissions, fates


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
    made = decision_columns(new.row.decision, new.row.facts, at)
    [submission], _ = add_submissions(
        db, [(columns, new.submission.ref, [(new.row, made, 0)], at)], None
    )
    bodies.add(db, submission, new.body)


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
