"""The ledger in SQL: append events, read what is known of people, see whether something newer came.

Plain functions on a raw connection; `group.py` decides when they run and in which transaction.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from policy.events import FieldError, fields_of, type_of
from policy.model import TAKEN_HERE, Complaint, Detail, Event, Objection, Scope
from proxy.store import clicks, forwarding
from proxy.store.codec import (
    ATTRIBUTE,
    EVENT,
    MAIL,
    SUPPRESSION,
    TOP,
    array,
    detail,
    instant,
    micros,
    to_json,
)
from proxy.store.model import Known, NewAttributes, NewEvent, Subject
from proxy.store.sql import ledger as sql

_TAKEN_HERE = array(sorted(TAKEN_HERE))

# -- append ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Opposed:
    """The columns of a suppression that say what was objected to."""

    scope: str
    topics: str
    stream: str | None
    via: str | None


def _opposed(detail_: Detail) -> _Opposed | None:
    if isinstance(detail_, Objection):
        return _Opposed(
            detail_.scope.value,
            to_json(sorted(set(detail_.topics))),
            detail_.stream,
            detail_.via.value if detail_.via else None,
        )
    if isinstance(detail_, Complaint):
        return _Opposed(
            Scope.MARKETING.value, "[]", None, detail_.via.value if detail_.via else None
        )
    return None


@lru_cache(maxsize=1024)
def _encoded(detail_: Detail) -> tuple[str, str, _Opposed | None]:
    """Type, fields and what it objects to. Cached: the opt-outs of a minute are hardly of two
    kinds."""
    return type_of(detail_), to_json(fields_of(detail_)), _opposed(detail_)


class Append:
    """Events and attributes of one call, encoded before the write lock is taken."""

    name = "append"
    rank = 0  # blocking events come first in a group

    def __init__(self, events: Sequence[NewEvent], attributes: Sequence[NewAttributes]) -> None:
        self.rows = len(events) + len(attributes)
        self._events = [(e, *_encoded(e.detail)) for e in events]
        self._attributes = [(a, micros(a.at), to_json(dict(a.values))) for a in attributes]

    def run(self, db: sqlite3.Connection) -> list[bool]:
        """For each event whether it was new."""
        new = [self._add(db, *entry) for entry in self._events]
        for entry in self._events:
            if entry[0].forward:
                forwarding.add(db, entry[0])
        for attributes, at, values in self._attributes:
            _merge(db, attributes, at, orjson.loads(values))
        return new

    @staticmethod
    def run_all(db: sqlite3.Connection, appends: Sequence[Append]) -> list[list[bool]]:
        """As `run` of one after the other; opt-outs that stand side by side go in together."""
        results: list[list[bool]] = []
        side_by_side: list[Append] = []
        for append in appends:
            if append._opt_out:
                side_by_side.append(append)
                continue
            results += _opt_outs(db, side_by_side)
            side_by_side = []
            results.append(append.run(db))
        return results + _opt_outs(db, side_by_side)

    @property
    def _opt_out(self) -> bool:
        """Whether this is one opt-out and nothing else, that can wait for its neighbours."""
        if len(self._events) != 1 or self._attributes:
            return False
        event_, _, _, opposed = self._events[0]
        return event_.unless_in_force and not event_.address and opposed is not None

    def _add(
        self, db: sqlite3.Connection, e: NewEvent, type_: str, fields: str, opposed: _Opposed | None
    ) -> bool:
        who = e.subject
        if e.unless_in_force and opposed is not None:
            held = db.execute(
                *sql.IN_FORCE(
                    exact=who.exact, sender=who.sender, wide=who.wide, type=type_,
                    scope=opposed.scope, topics=opposed.topics, stream=opposed.stream,
                    taken=int(opposed.via in TAKEN_HERE), vias=_TAKEN_HERE,
                )
            ).fetchone()  # fmt: skip
            if held is not None:
                return False
        at, recorded_at = micros(e.at), micros(e.recorded_at)
        added = db.execute(
            sql.ADD_EVENT.sql,
            (e.uid, who.sender, who.exact, who.wide, type_, at, recorded_at, e.evidence, fields),
        ).fetchone()
        if e.address:
            db.execute(sql.ADD_ADDRESS.sql, (who.exact, e.address))
        if added is None:
            return False
        if opposed is not None:
            db.execute(
                sql.ADD_SUPPRESSION.sql,
                (
                    added[0], e.uid, who.sender, who.exact, who.wide, type_,
                    opposed.scope, opposed.topics, opposed.stream, opposed.via, at, recorded_at,
                ),
            )  # fmt: skip
        return True


def _opt_outs(db: sqlite3.Connection, appends: Sequence[Append]) -> list[list[bool]]:
    """One opt-out each. Whoever has one so far, or is in this group twice, is looked at alone,
    after the others: a person's keep the order in which they came."""
    entries = [append._events[0] for append in appends]
    events = [entry[0] for entry in entries]
    if len({e.uid for e in events}) < max(2, len(events)):  # too few, or one that comes again
        return [append.run(db) for append in appends]
    held, forwarded = clicks.known(
        db,
        [e.subject.exact for e in events],
        [e.forward.partition(".")[0] for e in events if e.forward],
    )
    rows: list[clicks.Row] = []
    alone: list[int] = []
    left: set[str] = set()
    for n, (e, type_, fields, opposed) in enumerate(entries):
        who = e.subject
        if opposed is None or who.exact in held or who.wide in left:
            alone.append(n)
            left.add(who.wide)
            continue
        held.add(who.exact)
        rows.append((
            e.uid, who.sender, who.exact, who.wide, type_, micros(e.at), micros(e.recorded_at),
            e.evidence, fields, opposed.scope, opposed.topics, opposed.stream, opposed.via,
        ))  # fmt: skip
    if rows:
        clicks.add(db, rows)
    results = [[True] for _ in appends]
    for n in alone:
        results[n] = [appends[n]._add(db, *entries[n])]
    for e in events:
        if e.forward.partition(".")[0] in forwarded:
            forwarding.add(db, e)
    return results


def _merge(db: sqlite3.Connection, new: NewAttributes, at: int, values: dict[str, Any]) -> None:
    """Key by key the value with the latest `at` wins; on a tie the later written."""
    who = new.subject
    row = db.execute(*sql.ATTRIBUTES(exact=who.exact, sender=who.sender)).fetchone()
    held: dict[str, list[Any]] = orjson.loads(row[0]) if row else {}
    for key, value in values.items():
        if key not in held or held[key][1] <= at:
            held[key] = [value, at]
    db.execute(sql.SET_ATTRIBUTES.sql, (who.exact, who.sender, to_json(held)))
    if new.address:
        db.execute(sql.ADD_ADDRESS.sql, (who.exact, new.address))


# -- read ------------------------------------------------------------------------------------------


#: An entry as its columns stand, and its detail: uid, sender, exact, at, recorded_at, evidence.
_Entry = tuple[str, str, str, int, int, str, Detail]


def _seen_by(entry: _Entry, exact: str) -> Event:
    uid, sender, its, at, recorded_at, evidence, detail_ = entry
    happened = instant(at)
    return Event(
        at=happened,
        recorded_at=happened if recorded_at == at else instant(recorded_at),
        sender=sender,
        detail=detail_,
        evidence=evidence,
        uid=uid,
        exact=its == exact,
    )


@dataclass(frozen=True, slots=True)
class Read:
    """What one statement saw. `unreadable`: keys with an entry that this version cannot decode."""

    high: int
    known: dict[Subject, Known]
    unreadable: frozenset[str]


def read(db: sqlite3.Connection, subjects: Collection[Subject]) -> Read:
    """What is known of all `subjects`, in one statement."""
    if len(subjects) == 1:
        [only] = subjects
        query = sql.LOOKUP_ONE(wides=only.wide, exacts=only.exact)
    else:
        wides, exacts = {s.wide for s in subjects}, {s.exact for s in subjects}
        query = sql.LOOKUP(wides=array(wides), exacts=array(exacts))
    rows = db.execute(*query).fetchall()
    high = 0
    entries: dict[int, _Entry] = {}
    by_wide: defaultdict[str, list[int]] = defaultdict(list)
    by_exact: defaultdict[str, list[int]] = defaultdict(list)
    attributes: dict[tuple[str, str], dict[str, object]] = {}
    mails: dict[tuple[str, str], int] = {}
    unreadable: set[str] = set()
    for kind, id_, uid, sender, exact, wide, type_, at, recorded_at, evidence, fields in rows:
        if kind == EVENT or (kind == SUPPRESSION and id_ not in entries):
            try:
                what = detail(type_, fields if kind == EVENT else without_nulls(fields))
            except FieldError:
                unreadable |= {exact, wide}
                continue
            entries[id_] = (uid, sender, exact, at, recorded_at, evidence, what)
            by_wide[wide].append(id_)
            by_exact[exact].append(id_)
        elif kind == TOP:
            high = id_ or 0
        elif kind == MAIL:
            mails[sender, exact] = at
        elif kind == ATTRIBUTE:
            held = orjson.loads(fields)
            attributes[sender, exact] = {k: v for k, (v, _) in held.items() if v is not None}
    known = {}
    for s in subjects:
        mine = sorted({*by_wide.get(s.wide, ()), *by_exact.get(s.exact, ())})
        mail = mails.get((s.sender, s.exact))
        known[s] = Known(
            events=tuple(_seen_by(entries[id_], s.exact) for id_ in mine),
            attributes=attributes.get((s.sender, s.exact), {}),
            last_marketing_at=instant(mail) if mail is not None else None,
        )
    return Read(high, known, frozenset(unreadable))


def without_nulls(fields: str) -> str:
    """The fields of a suppression as those of its event were."""
    return to_json({k: v for k, v in orjson.loads(fields).items() if v is not None})


def top(db: sqlite3.Connection) -> int:
    """The highest event id; 0 in an empty ledger."""
    (found,) = db.execute(sql.HIGH.sql).fetchone()
    return int(found)


def touched(db: sqlite3.Connection, high: int, subjects: Collection[Subject]) -> bool:
    """Whether an event above `high` touches one of `subjects`.

    Ids are in commit order, because SQLite has one write lock for all processes: what a reader at
    `high` did not see has a higher id.
    """
    return top(db) > high and newer(db, high, subjects)


def newer(db: sqlite3.Connection, high: int, subjects: Collection[Subject]) -> bool:
    """The same where there is an event above `high`."""
    found = db.execute(
        *sql.TOUCHED(
            high=high,
            wides=array({s.wide for s in subjects}),
            exacts=array({s.exact for s in subjects}),
        )
    )
    return found.fetchone() is not None


def addresses(db: sqlite3.Connection, exacts: Collection[str]) -> dict[str, str]:
    """The addresses of exact keys that were not erased."""
    return dict(db.execute(*sql.ADDRESSES(exacts=array(set(exacts)))).fetchall())


def pairs(db: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, Subject]]:
    """Distinct (sender, address) pairs by the id of their first event."""
    rows = db.execute(*sql.SUBJECTS(after=after, limit=limit)).fetchall()
    return [(id_, Subject(sender, exact, wide)) for id_, sender, exact, wide in rows]
