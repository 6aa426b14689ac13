"""Opt-outs that come many at a time, in three statements instead of four each.

Every statement gives up Python's lock and waits for it again, so that a hundred of them hold up
both the clicks and the mail beside them. What these statements do equals running the appends one
after the other: only opt-outs of people with none so far are taken together, each person once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

import orjson

# One row out of one statement. CROSS JOIN keeps the order: the few asked for first, then an index.
_KNOWN = """\
SELECT
 (SELECT json_group_array(s.exact) FROM json_each(:exacts) j
  CROSS JOIN suppression s ON s.exact = j.value),
 (SELECT json_group_array(m.ref) FROM json_each(:refs) j
  CROSS JOIN submission m ON m.ref = j.value WHERE m.forward_by <> '')
"""
_ADD_EVENTS = """\
INSERT INTO event (uid, sender, exact, wide, type, at, recorded_at, evidence, fields)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
 value ->> 7, value ->> 8
FROM json_each(:rows) ORDER BY key
"""
_ADD_SUPPRESSIONS = """\
INSERT INTO suppression
 (id, uid, sender, exact, wide, type, scope, topics, stream, via, at, recorded_at)
SELECT e.id, e.uid, e.sender, e.exact, e.wide, e.type, j.value ->> 9, j.value ->> 10,
 j.value ->> 11, j.value ->> 12, e.at, e.recorded_at
FROM json_each(:rows) j CROSS JOIN event e ON e.uid = j.value ->> 0 ORDER BY j.key
"""

#: A new event and its suppression: uid, sender, exact, wide, type, at, recorded_at, evidence,
#: fields; scope, topics, stream, via.
Row = tuple[str, str, str, str, str, int, int, str, str, str, str, str | None, str | None]


def known(
    db: sqlite3.Connection, exacts: Collection[str], refs: Collection[str]
) -> tuple[set[str], set[str]]:
    """Of exact keys those with a suppression; of references those of mail whose opt-out can be
    passed on."""
    asked = {"exacts": _json(exacts), "refs": _json(refs)}
    held, forwarded = db.execute(_KNOWN, asked).fetchone()
    return set(orjson.loads(held)), set(orjson.loads(forwarded))


def add(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Events and their suppressions, in this order.

    Raises `sqlite3.IntegrityError` for a uid that is there, and `ValueError` for a text with a NUL,
    after which SQLite reads no further in JSON: then each is to be appended alone.
    """
    text = _json(rows)
    if "\\u0000" in text:
        raise ValueError("a text with a NUL")
    asked = {"rows": text}
    db.execute(_ADD_EVENTS, asked)
    db.execute(_ADD_SUPPRESSIONS, asked)


def _json(values: Collection[object]) -> str:
    return orjson.dumps(list(values)).decode()
