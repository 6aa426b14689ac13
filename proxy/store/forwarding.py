"""Opt-outs on their way to the opt-out that a mail came with: made with the event, tried later."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from proxy.store.codec import instant, micros
from proxy.store.model import Forward, ForwardState, NewEvent
from proxy.store.sql import forwarding as sql


def add(db: sqlite3.Connection, event: NewEvent) -> None:
    """Make the forward that an opt-out asks for; none for a mail that has one already."""
    ref, _, copy = event.forward.partition(".")
    if not copy.isascii() or not copy.isdigit() or len(copy) > 9:
        return
    who = event.subject
    db.execute(
        *sql.ADD(
            ref=ref, sender=who.sender, exact=who.exact, copy=int(copy),
            at=micros(event.recorded_at), limit=1,
        )
    )  # fmt: skip


def due(db: sqlite3.Connection, at: datetime, limit: int) -> list[Forward]:
    """See `Store.forwards_due`."""
    return _read(db, *sql.DUE(at=micros(at), limit=limit))


def listed(db: sqlite3.Connection, ref: str, ended: bool, limit: int) -> list[Forward]:
    """See `Store.forwards`."""
    if ref:
        query = sql.ALL_OF if ended else sql.WAITING_OF
        return _read(db, *query(ref=ref, limit=limit))
    query = sql.ALL if ended else sql.WAITING
    return _read(db, *query(limit=limit))


def waiting(db: sqlite3.Connection) -> int:
    """See `Store.forwards_waiting`."""
    (count,) = db.execute(*sql.COUNT()).fetchone()
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
