"""What the worker asks every moment must not grow with the journal."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
import pytest

from proxy.store.query import Query
from proxy.store.sql import bodies, outbox
from proxy.store.sqlite import open_sqlite

QUERIES: dict[str, tuple[Query, dict[str, object]]] = {
    "counts": (outbox.COUNTS, {}),
    "list": (outbox.ALL, {"limit": 10}),
    "show": (outbox.ONE, {"ref": "r", "limit": 10}),
    "due": (outbox.DUE, {"at": 1, "limit": 10}),
    "owed": (outbox.OWED, {"row": 1}),
    "relayed": (outbox.RELAYED, {"exact": "p", "copy": "k", "since": 1, "limit": 1}),
    "hasten": (outbox.HASTEN, {"rows": "[1]", "next_try": 1}),
    "told": (outbox.TOLD, {"copies": "[]", "since": 1}),
    "drop": (bodies.DROP, {"exact": "p", "copy": "k"}),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_no_table_is_scanned(tmp_path: Path, name: str) -> None:
    path = tmp_path / "store.db"
    store = await open_sqlite(path, instance="a", owner=True, create=True)
    await store.close()
    query, values = QUERIES[name]
    sql, arguments = query(**values)
    with closing(sqlite3.connect(path)) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]
    scans = [step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step]
    assert all(step == "SCAN live USING INDEX ux_delivery_live" for step in scans), plan
