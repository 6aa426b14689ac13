"""Counting on SQLite: the index that it rests on, new and in a database of an earlier schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
from store_values import ANNA, after, relayed

from proxy.store.sql.counting import MAILS
from proxy.store.sql.tables import REVISION
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


async def test_a_database_of_the_first_schema_gets_the_index_and_keeps_its_rows(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        for what in ("INDEX ix_delivery_person", "INDEX ix_delivery_due", "TABLE body"):
            db.execute(f"DROP {what}")
        for table in ("notice", "forward"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE submission DROP COLUMN forward_by")
        db.execute("ALTER TABLE delivery DROP COLUMN lease")
        db.execute("UPDATE alembic_version SET version_num = '0001'")
    store = await open_sqlite(path, instance="a", owner=True)
    known = (await store.lookup([ANNA], mails_since=after(-1))).known[ANNA]
    assert [m.copy_key for m in known.mails] == ["k"]
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == (REVISION,)
        names = {row[1] for row in db.execute("PRAGMA index_list(delivery)")}
        assert "ix_delivery_person" in names
