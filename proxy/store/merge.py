"""What was written down elsewhere while the store could not be written, brought into it: in SQL.

One transaction for all of it, and each part once, however often it is brought: events by their uid,
attempts by copy key and reference, results by attempt.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, exists, func, literal_column, or_, select

from proxy.store import bodies, ledger
from proxy.store.attempt import MAYBE_SENT, ROW, SETTLE_COPY, Record
from proxy.store.claim import decision_columns, submission_columns
from proxy.store.codec import micros
from proxy.store.lease import Holding, Owner
from proxy.store.model import Intake, NewEvent, Outcome, Result, State
from proxy.store.schema import attempt, compiled, decision, delivery, outcome, submission

#: Stands among the marks of a submission whose history was not asked, and finds it again.
UNDEDUPED = "undeduped"

_SUBMISSION = tuple(str(c.name) for c in submission.columns if c.name != "id")
_DECISION = tuple(str(c.name) for c in decision.columns if c.name not in ("id", "delivery"))

_ENDS = {
    Result.ACCEPTED: State.RELAYED,
    Result.PERMANENT: State.FAILED,
    Result.TEMPORARY: State.RETURNED,
    Result.UNSENT: State.RETURNED,
    Result.UNKNOWN: State.UNKNOWN,
}


def _adding(table: Any, *names: str) -> Any:
    return compiled(table.insert().inline().values({name: bindparam(name) for name in names}))


_ADD_SUBMISSION = _adding(submission, *_SUBMISSION)
_ADD_DECISION = _adding(decision, "delivery", *_DECISION)
_ADD_DELIVERY = _adding(
    delivery,
    *("submission", "n", "copy", "sender", "exact", "wide", "copy_key", "marketing", "state"),
    *("owed", "maybe_sent", "attempts", "instance", "epoch", "last_attempt_at", "reply"),
    "ended_at",
)
_ADD_ATTEMPT = _adding(
    attempt,
    *("delivery", "no", "decision", "instance", "epoch", "committed_at", "ambiguous_retry"),
)
_ADD_OUTCOME = _adding(outcome, "delivery", "attempt", "result", "reply", "at", "note")

_MERGED = compiled(
    select(literal_column("1"))
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(
        delivery.c.copy_key == bindparam("copy"),
        submission.c.ref == bindparam("ref"),
        exists(
            select(literal_column("1"))
            .select_from(func.json_each(submission.c.marks).table_valued("value").alias("mark"))
            .where(literal_column("mark.value") == literal_column(f"'{UNDEDUPED}'"))
        ),
    )
)
# What may have left, or may be leaving: this copy is then the second one, or may be.
_OTHERS = compiled(
    select(literal_column("1"))
    .select_from(delivery)
    .where(
        delivery.c.copy_key == bindparam("copy"),
        or_(
            delivery.c.state.in_([literal_column("'relayed'"), literal_column("'unknown'")]),
            delivery.c.state == literal_column("'attempting'"),
            delivery.c.maybe_sent == literal_column("1"),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Intent:
    """The one attempt of one recipient's mail, begun without the store, as columns.

    No address of the recipient is among them. Times are microseconds.
    """

    submission: Mapping[str, Any]
    row: Mapping[str, Any]
    decision: Mapping[str, Any]
    at: int

    @property
    def copy_key(self) -> str:
        """The "same copy" hash."""
        return str(self.row["copy_key"])

    @property
    def ref(self) -> str:
        """The reference that the client hears."""
        return str(self.submission["ref"])


def intent_of(intake: Intake) -> Intent:
    """The attempt of an intake with one row that is `attempting`."""
    [row] = intake.rows
    at = micros(intake.at)
    made = dict(zip(_SUBMISSION, submission_columns(intake.submission), strict=True))
    subject = row.subject
    return Intent(
        submission=made,
        row={
            "n": row.n,
            "copy": row.copy,
            "sender": subject.sender,
            "exact": subject.exact,
            "wide": subject.wide,
            "copy_key": row.copy_key,
        },
        decision=dict(zip(_DECISION, decision_columns(row.decision, row.facts, at), strict=True)),
        at=at,
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of an attempt: of row `outcome.row`, or of an `Intent` (0) with these two keys."""

    copy_key: str
    ref: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Merged:
    """What was new: opt-outs, attempts, and how many of these may have sent a second copy."""

    events: int
    attempts: int
    ambiguous: int


class Merge:
    """All of it or nothing. An intent without a result ends as unknown."""

    name = "merge"
    rank = 0

    def __init__(
        self,
        events: Sequence[NewEvent],
        intents: Sequence[tuple[Intent, Ended | None]],
        results: Sequence[Ended],
        owner: Owner,
        holding: Holding,
        at: int,
    ) -> None:
        self.rows = len(events) + len(intents) + len(results)
        self._events = ledger.Append(events, ())
        self._intents = intents
        self._results = [(ended, Record([ended.outcome], holding)) for ended in results]
        self._owner = owner
        self._at = at

    def run(self, db: sqlite3.Connection) -> Merged:
        """Safe to repeat, whole or in part."""
        self._owner.check(db)
        events = sum(self._events.run(db))
        for ended, record in self._results:
            found = db.execute(*ROW(row=ended.outcome.row)).fetchone()
            # A database put back from a backup may have another mail under this number, or none.
            if found is not None and found[6] == ended.copy_key:
                record.run(db)
        added = [self._add(db, intent, ended) for intent, ended in self._intents]
        new = [one for one in added if one is not None]
        return Merged(events, len(new), sum(new))

    def _add(self, db: sqlite3.Connection, intent: Intent, ended: Ended | None) -> bool | None:
        """Whether another copy may be out; None where the attempt was here already."""
        copy = intent.copy_key
        if db.execute(*_MERGED(copy=copy, ref=intent.ref)).fetchone() is not None:
            return None
        result = ended.outcome.result if ended else Result.UNKNOWN
        reply = ended.outcome.reply if ended else ""
        at = micros(ended.outcome.at) if ended else self._at
        (maybe_sent,) = db.execute(*MAYBE_SENT(copy=copy)).fetchone()
        other = db.execute(*_OTHERS(copy=copy)).fetchone() is not None
        who = {"instance": self._owner.instance, "epoch": self._owner.epoch}
        submission_id = db.execute(*_ADD_SUBMISSION(**intent.submission)).lastrowid
        id_ = db.execute(
            *_ADD_DELIVERY(
                **intent.row,
                **who,
                submission=submission_id,
                marketing=0,
                state=_ENDS[result].value,
                owed=0,
                maybe_sent=max(maybe_sent, int(result is Result.UNKNOWN)),
                attempts=1,
                last_attempt_at=intent.at,
                reply=reply,
                ended_at=at,
            )
        ).lastrowid
        made = db.execute(*_ADD_DECISION(delivery=id_, **intent.decision)).lastrowid
        db.execute(
            *_ADD_ATTEMPT(
                **who,
                delivery=id_,
                no=1,
                decision=made,
                committed_at=intent.at,
                ambiguous_retry=int(other),
            )
        )
        note = "" if ended else "recovered"
        db.execute(
            *_ADD_OUTCOME(
                delivery=id_, attempt=1, result=result.value, reply=reply, at=at, note=note
            )
        )
        if result is Result.ACCEPTED:
            # Whatever waits of this copy has left by another way.
            db.execute(*SETTLE_COPY(copy=copy, reply=reply, ended_at=at))
            bodies.drop(db, copy)
        # A second copy is out only where this attempt may have sent one.
        sent = result in (Result.ACCEPTED, Result.UNKNOWN)
        return other and sent
