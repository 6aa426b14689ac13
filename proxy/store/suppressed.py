"""What stops even mail that is no marketing, read for the snapshot that is used without the store.

Of each person with an objection to everything or to a stream, or with a bounce, all entries that a
decision about such mail can rest on: those, and the acts and opt-ins that lift them.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from proxy.store.codec import array
from proxy.store.ledger import without_nulls
from proxy.store.sql import suppressed as sql
from proxy.store.sql.ledger import HIGH

#: People read by one statement.
_PAGE = 500

#: A hard bounce holds for 90 days (`policy.ledger`); older ones need not be carried.
BOUNCE_HOLDS = 91 * 24 * 3600 * 1_000_000


#: uid, wide, exact, sender, type, at, recorded_at (microseconds), has evidence, fields (JSON).
Entry = tuple[str, str, str, str, str, int, int, bool, str]


@dataclass(frozen=True, slots=True)
class Stopped:
    """One person: entries in no order; none where nothing hard stands against them."""

    wide: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A consistent read. `whole`: everybody there is; else those about whom something is new."""

    high: int
    whole: bool
    people: tuple[Stopped, ...]


def suppressed(db: sqlite3.Connection, above: int | None, at: int) -> Suppressed:
    """Everybody, or (`above` a ledger id) those about whom something came after it."""
    db.execute("BEGIN")
    try:
        (high,) = db.execute(HIGH.sql).fetchone()
        since = at - BOUNCE_HOLDS
        if above is None or above > high:
            wides = [wide for (wide,) in db.execute(*sql.ALL(since=since))]
            return Suppressed(high, True, tuple(_people(db, wides, since)))
        if above == high:
            return Suppressed(high, False, ())
        wides = [wide for (wide,) in db.execute(*sql.NEW(above=above))]
        return Suppressed(high, False, tuple(_people(db, wides, since)))
    finally:
        db.execute("ROLLBACK")


def _people(db: sqlite3.Connection, wides: Sequence[str], since: int) -> Iterator[Stopped]:
    for begin in range(0, len(wides), _PAGE):
        some = wides[begin : begin + _PAGE]
        found: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        keys = array(some)
        # Suppressions outlive the erasure of their events.
        for query in (sql.SUPPRESSIONS, sql.EVENTS):
            for wide, exact, uid, sender, type_, at, recorded_at, evidence, fields in db.execute(
                *query(wides=keys)
            ):
                text = without_nulls(fields) if query is sql.SUPPRESSIONS else fields
                proven = bool(evidence.strip())
                found[wide][uid] = uid, wide, exact, sender, type_, at, recorded_at, proven, text
        for wide in some:
            entries = tuple(found[wide].values())
            yield Stopped(wide, entries if any(_hard(e, since) for e in entries) else ())


def _hard(entry: Entry, since: int) -> bool:
    type_, at, fields = entry[4], entry[5], entry[8]
    if type_ == "bounce":
        return at >= since
    if type_ != "objection":
        return False
    return orjson.loads(fields).get("scope") in ("everything", "stream")
