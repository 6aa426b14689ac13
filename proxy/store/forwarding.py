"""Opt-outs on their way to the opt-out that a mail came with: made with the event, tried later."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from sqlalchemy import bindparam, func, literal_column, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql import Select

from proxy.store.codec import instant, micros
from proxy.store.model import Forward, ForwardState, NewEvent
from proxy.store.schema import Query, compiled, delivery, forward, submission

_WAITING = forward.c.state == literal_column("'waiting'")

# The newest mail of that reference which went to this very person, and can be answered so.
_ADD = compiled(
    insert(forward)
    .from_select(
        ["submission", "copy", "asked_at", "state", "attempts", "next_try", "answer"],
        select(
            submission.c.id, delivery.c.copy, bindparam("at"), literal_column("'waiting'"),
            literal_column("0"), bindparam("at"), literal_column("''"),
        )
        .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
        .where(
            submission.c.ref == bindparam("ref"),
            submission.c.sender == bindparam("sender"),
            submission.c.forward_by != literal_column("''"),
            delivery.c.copy == bindparam("copy"),
            delivery.c.exact == bindparam("exact"),
        )
        .order_by(submission.c.id.desc())
        .limit(bindparam("limit")),
    )
    .on_conflict_do_nothing(index_elements=["submission", "copy"])
)  # fmt: skip

_COLUMNS = (
    forward.c.id, submission.c.ref, forward.c.copy, submission.c.stream, submission.c.sender,
    submission.c.forward, submission.c.forward_by, forward.c.state, forward.c.attempts,
    forward.c.asked_at, forward.c.next_try, forward.c.answer, forward.c.ended_at,
)  # fmt: skip


def _chosen() -> Select[tuple[object, ...]]:
    both = forward.join(submission, submission.c.id == forward.c.submission)
    return select(*_COLUMNS).select_from(both)


_DUE = compiled(
    _chosen()
    .where(_WAITING, forward.c.next_try <= bindparam("at"))
    .order_by(forward.c.next_try, forward.c.id)
    .limit(bindparam("limit"))
)


def _listing(*, one: bool, ended: bool) -> Query:
    where = _chosen()
    if one:
        where = where.where(submission.c.ref == bindparam("ref"))
    if not ended:
        where = where.where(_WAITING)
    return compiled(where.order_by(forward.c.id).limit(bindparam("limit")))


_LISTINGS = {
    (one, ended): _listing(one=one, ended=ended) for one in (False, True) for ended in (False, True)
}
_COUNT = compiled(select(func.count()).select_from(forward).where(_WAITING))
#: Ends or postpones one that waits; `id_` and `attempts_` say which, as it was read.
PASS = compiled(
    forward.update()
    .where(forward.c.id == bindparam("id_"), _WAITING, forward.c.attempts == bindparam("attempts_"))
    .values(
        state=bindparam("state"),
        attempts=bindparam("attempts"),
        next_try=bindparam("next_try"),
        answer=bindparam("answer"),
        ended_at=bindparam("ended_at"),
    )
)


def add(db: sqlite3.Connection, event: NewEvent) -> None:
    """Make the forward that an opt-out asks for; none for a mail that has one already."""
    ref, _, copy = event.forward.partition(".")
    if not copy.isascii() or not copy.isdigit() or len(copy) > 9:
        return
    who = event.subject
    db.execute(
        *_ADD(
            ref=ref, sender=who.sender, exact=who.exact, copy=int(copy),
            at=micros(event.recorded_at), limit=1,
        )
    )  # fmt: skip


def due(db: sqlite3.Connection, at: datetime, limit: int) -> list[Forward]:
    """See `Store.forwards_due`."""
    return _read(db, *_DUE(at=micros(at), limit=limit))


def listed(db: sqlite3.Connection, ref: str, ended: bool, limit: int) -> list[Forward]:
    """See `Store.forwards`."""
    query = _LISTINGS[bool(ref), ended]
    return _read(db, *(query(ref=ref, limit=limit) if ref else query(limit=limit)))


def waiting(db: sqlite3.Connection) -> int:
    """See `Store.forwards_waiting`."""
    (count,) = db.execute(*_COUNT()).fetchone()
    return int(count)


def _read(db: sqlite3.Connection, sql: str, arguments: tuple[object, ...]) -> list[Forward]:
    return [
        Forward(
            id=id_, ref=ref, copy=copy, stream=stream, sender=sender, uri=uri, by=by,
            state=ForwardState(state), attempts=attempts, asked_at=instant(asked_at),
            next_try=instant(next_try) if next_try is not None else None, answer=answer,
            ended_at=instant(ended_at) if ended_at is not None else None,
        )
        for (
            id_, ref, copy, stream, sender, uri, by, state, attempts, asked_at, next_try, answer,
            ended_at,
        ) in db.execute(sql, arguments)
    ]  # fmt: skip
