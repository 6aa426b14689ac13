"""The journal as people read it."""

from __future__ import annotations

import sqlite3
from datetime import datetime

import orjson

from proxy.store.codec import instant, micros
from proxy.store.model import Decided, JournalEntry, State
from proxy.store.sql import journal as sql


def entries(db: sqlite3.Connection, ref: str, exact: str, limit: int) -> list[JournalEntry]:
    """Rows of the transaction `ref` in the order they were written, or the newest of `exact`."""
    rows = db.execute(*sql.ENTRIES(ref=ref or None, exact=exact or None, limit=limit)).fetchall()
    if ref:
        rows.reverse()
    return [_entry(row) for row in rows]


def decided(db: sqlite3.Connection, after: int, limit: int, since: datetime) -> list[Decided]:
    """Rows after the id `after` whose newest decision was taken at `since` or later."""
    rows = db.execute(*sql.DECIDED(after=after, limit=limit, since=micros(since))).fetchall()
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
