"""Several rows in one statement.

Each statement of the driver lets go of the interpreter and asks for it again, which a thread beside
a busy event loop pays with a wait; a hundred rows in two statements wait twice.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

#: Rows of a statement: few sizes, so that all of them stay prepared; each of a few mails.
_SIZES = (64, 16, 8, 7, 6, 5, 4, 3, 2, 1)
_ROW = re.compile(r"VALUES (\([?,\s]+\))")


def insert(db: sqlite3.Connection, sql: str, rows: Sequence[Sequence[object]]) -> list[int]:
    """Insert `rows` in their order by an INSERT of one row; their ids, where the table counts them.

    Within a transaction that has the write lock AUTOINCREMENT gives a statement's rows ids without
    a gap; of what a conflict leaves out, and of tables without a serial id, they mean nothing.
    """
    if len(rows) == 1:
        return [db.execute(sql, rows[0]).lastrowid or 0]
    ids: list[int] = []
    start = 0
    while start < len(rows):
        size = next(size for size in _SIZES if size <= len(rows) - start)
        values = tuple(chain.from_iterable(rows[start : start + size]))
        last = db.execute(_several(sql, size), values).lastrowid or 0
        ids += range(last - size + 1, last + 1)
        start += size
    return ids


@lru_cache(maxsize=64)
def _several(sql: str, count: int) -> str:
    found = _ROW.search(sql)
    if found is None:
        raise ValueError("not an INSERT of one row")
    return f"{sql[: found.start(1)]}{', '.join([found[1]] * count)}{sql[found.end(1) :]}"
