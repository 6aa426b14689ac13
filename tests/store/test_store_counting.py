"""Counting on SQLite: the index that it rests on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
from store_values import relayed

from proxy.store.sql.counting import MAILS
from proxy.store.sqlite import open_sqlite


async def filled(path: Path) -> None:
    store = await open_sqlite(path, instance="a", owner=True, create=True)
    await relayed(store, "r", "k")
    await store.close()


async def test_the_mails_of_a_person_are_found_by_the_index(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    with closing(sqlite3.connect(path)) as db:
        sql, values = MAILS(wides='["wide:anna"]', since=0)
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    used = "SEARCH delivery USING INDEX ix_delivery_person (wide=? AND last_attempt_at>?)"
    assert used in plan
