"""The journal as people read it."""

from __future__ import annotations

import sqlite3
from datetime import datetime

import orjson
from sqlalchemy import Text, bindparam, func, literal_column, or_, select

from proxy.store import schema
from proxy.store.codec import instant, micros
from proxy.store.model import Decided, JournalEntry, State
from proxy.store.schema import compiled, decision, delivery, outcome, submission

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


def _decided() -> schema.Query:
    newest = (
        select(func.max(_decisions.c.id)).where(_decisions.c.delivery == delivery.c.id)
    ).scalar_subquery()
    return compiled(
        select(
            delivery.c.id, submission.c.ref, delivery.c.n, submission.c.stream, delivery.c.sender,
            submission.c.mode, submission.c.content_hash, submission.c.mail_from,
            decision.c.verdict, decision.c.reason, decision.c.cite, decision.c.pack,
            decision.c.facts, decision.c.at,
        )
        .select_from(
            delivery.join(submission, submission.c.id == delivery.c.submission)
            .join(decision, decision.c.id == newest)
        )
        .where(delivery.c.id > bindparam("after"), decision.c.at >= bindparam("since"))
        .order_by(delivery.c.id)
        .limit(bindparam("limit"))
    )  # fmt: skip


_DECIDED = _decided()


def entries(db: sqlite3.Connection, ref: str, exact: str, limit: int) -> list[JournalEntry]:
    """Rows of the transaction `ref` in the order they were written, or the newest of `exact`."""
    rows = db.execute(*_ENTRIES(ref=ref or None, exact=exact or None, limit=limit)).fetchall()
    if ref:
        rows.reverse()
    return [_entry(row) for row in rows]


def decided(db: sqlite3.Connection, after: int, limit: int, since: datetime) -> list[Decided]:
    """Rows after the id `after` whose newest decision was taken at `since` or later."""
    rows = db.execute(*_DECIDED(after=after, limit=limit, since=micros(since))).fetchall()
    return [
        Decided(
            id=id_, ref=ref, n=n, stream=stream, sender=sender, mode=mode,
            at_rcpt=not content_hash, null=not mail_from, verdict=verdict, reason=reason,
            cite=cite, pack=pack, facts=facts, decided_at=instant(at),
        )
        for (
            id_, ref, n, stream, sender, mode, content_hash, mail_from, verdict, reason, cite,
            pack, facts, at,
        ) in rows
    ]  # fmt: skip


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
