"""What was written down elsewhere while the store could not be written, brought into it: in SQL.

One transaction for all of it, and each part once, however often it is brought: events by their uid,
attempts by copy key and reference, results by attempt.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.store import bodies, ledger
from proxy.store.attempt import Record
from proxy.store.claim import decision_columns, submission_columns
from proxy.store.codec import micros
from proxy.store.lease import Holding, Owner
from proxy.store.model import Intake, NewEvent, Outcome, Result, State
from proxy.store.sql import merge as sql
from proxy.store.sql.attempt import MAYBE_SENT, ROW, SETTLE_COPY
from proxy.store.sql.claim import ADD_ATTEMPT, ADD_DECISION, ADD_SUBMISSION
from proxy.store.sql.lease import ADD_OUTCOME

_ENDS = {
    Result.ACCEPTED: State.RELAYED,
    Result.PERMANENT: State.FAILED,
    Result.TEMPORARY: State.RETURNED,
    Result.UNSENT: State.RETURNED,
    Result.UNKNOWN: State.UNKNOWN,
}


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
    made = dict(zip(ADD_SUBMISSION.names, submission_columns(intake.submission), strict=True))
    subject = row.subject
    columns = [name for name in ADD_DECISION.names if name != "delivery"]
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
        decision=dict(zip(columns, decision_columns(row.decision, row.facts, at), strict=True)),
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
        copy, exact = intent.copy_key, str(intent.row["exact"])
        if db.execute(*sql.MERGED(exact=exact, copy=copy, ref=intent.ref)).fetchone() is not None:
            return None
        result = ended.outcome.result if ended else Result.UNKNOWN
        reply = ended.outcome.reply if ended else ""
        at = micros(ended.outcome.at) if ended else self._at
        (maybe_sent,) = db.execute(*MAYBE_SENT(exact=exact, copy=copy)).fetchone()
        other = db.execute(*sql.OTHERS(exact=exact, copy=copy)).fetchone() is not None
        who = {"instance": self._owner.instance, "epoch": self._owner.epoch}
        submission_id = db.execute(*ADD_SUBMISSION(**intent.submission)).lastrowid
        id_ = db.execute(
            *sql.ADD_DELIVERY(
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
        made = db.execute(*ADD_DECISION(delivery=id_, **intent.decision)).lastrowid
        db.execute(
            *ADD_ATTEMPT(
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
            *ADD_OUTCOME(
                delivery=id_, attempt=1, result=result.value, reply=reply, at=at, note=note
            )
        )
        if result is Result.ACCEPTED:
            # Whatever waits of this copy has left by another way.
            db.execute(*SETTLE_COPY(exact=exact, copy=copy, reply=reply, ended_at=at))
            bodies.drop(db, exact, copy)
        # A second copy is out only where this attempt may have sent one.
        sent = result in (Result.ACCEPTED, Result.UNKNOWN)
        return other and sent
