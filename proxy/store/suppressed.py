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
from sqlalchemy import ColumnElement, bindparam, literal_column, or_, select, union

from proxy.store.codec import array
from proxy.store.ledger import HIGH, opt_out_fields, without_nulls
from proxy.store.schema import compiled, each, event, suppression

#: People read by one statement.
_PAGE = 500

#: A hard bounce holds for 90 days (`policy.ledger`); older ones need not be carried.
BOUNCE_HOLDS = 91 * 24 * 3600 * 1_000_000

_HARD = suppression.c.scope.in_([literal_column("'everything'"), literal_column("'stream'")])
_ALL = compiled(
    union(
        select(event.c.wide).where(
            event.c.type == literal_column("'bounce'"), event.c.at >= bindparam("since")
        ),
        select(suppression.c.wide).where(_HARD),
    )
)
_NEW = compiled(select(event.c.wide).distinct().where(event.c.id > bindparam("above")))
_TYPES: list[ColumnElement[str]] = [
    literal_column(f"'{type_}'") for type_ in ("bounce", "objection", "opt-in", "contact")
]
_EVENTS = compiled(
    select(
        event.c.wide, event.c.exact, event.c.uid, event.c.sender, event.c.type, event.c.at,
        event.c.recorded_at, event.c.evidence, event.c.fields,
    ).where(event.c.wide.in_(each("wides")), event.c.type.in_(_TYPES))
)  # fmt: skip
_SUPPRESSIONS = compiled(
    select(
        suppression.c.wide, suppression.c.exact, suppression.c.uid, suppression.c.sender,
        suppression.c.type, suppression.c.at, suppression.c.recorded_at,
        literal_column("''"), opt_out_fields(),
    ).where(
        suppression.c.wide.in_(each("wides")),
        or_(suppression.c.type == literal_column("'objection'"), _HARD),
    )
)  # fmt: skip

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
            wides = [wide for (wide,) in db.execute(*_ALL(since=since))]
            return Suppressed(high, True, tuple(_people(db, wides, since)))
        if above == high:
            return Suppressed(high, False, ())
        wides = [wide for (wide,) in db.execute(*_NEW(above=above))]
        return Suppressed(high, False, tuple(_people(db, wides, since)))
    finally:
        db.execute("ROLLBACK")


def _people(db: sqlite3.Connection, wides: Sequence[str], since: int) -> Iterator[Stopped]:
    for begin in range(0, len(wides), _PAGE):
        some = wides[begin : begin + _PAGE]
        found: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        keys = array(some)
        # Suppressions outlive the erasure of their events.
        for query in (_SUPPRESSIONS, _EVENTS):
            for wide, exact, uid, sender, type_, at, recorded_at, evidence, fields in db.execute(
                *query(wides=keys)
            ):
                text = without_nulls(fields) if query is _SUPPRESSIONS else fields
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
