"""Recovery of a large outbox: one commit, and work that grows with what was left open alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import contract_path  # noqa: F401
import pytest

from bench.recovery import fill, start
from proxy.store.group import commit
from proxy.store.lease import Holding, Owner, Recover
from proxy.store.sql.lease import ORPHANS
from proxy.store.sqlite import open_sqlite

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


async def prepared(path: Path, rows: int) -> Path:
    await (await open_sqlite(path, instance="a", owner=True, create=True)).close()
    fill(path, rows, 100)
    return path


async def test_twenty_thousand_rows_are_recovered_in_one_commit(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "store.db", 20_000)
    _, _, ended, due = await start(path)
    assert (ended, due) == (10_000, 1000)
    with closing(sqlite3.connect(path)) as db:
        states = db.execute("SELECT state, maybe_sent, count(*) FROM delivery GROUP BY 1, 2")
        assert sorted(states) == [("waiting", 0, 10_000), ("waiting", 1, 10_000)]
        noted = db.execute("SELECT note, count(*) FROM outcome GROUP BY 1").fetchall()
        assert noted == [("recovered", 10_000)]


@pytest.mark.parametrize("rows", [100, 1000])
async def test_each_row_that_was_left_open_costs_two_statements(tmp_path: Path, rows: int) -> None:
    path = await prepared(tmp_path / "store.db", rows)
    owner = Owner("other", 1, timedelta(minutes=9), lambda: NOW)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO instance (id, epoch, opened_at) VALUES ('other', 1, 0)")
        said: list[str] = []
        db.set_trace_callback(said.append)
        (ended,), commits = commit(db, [Recover(owner, NOW, Holding(), leases=True)])
        db.set_trace_callback(None)
        assert (ended, commits) == (rows // 2, 1)
        # BEGIN, whether the epoch is still ours, what is left open, COMMIT. An UPDATE is traced
        # once more for each trigger that looks at it.
        assert len(set(said)) == 4 + rows
        assert commit(db, [Recover(owner, NOW, Holding(), leases=True)]) == ([0], 0)


async def test_the_journal_is_not_scanned_for_it(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "store.db", 10)
    sql, values = ORPHANS(instance="a", epoch=1, now=1, long_ago=1)
    with closing(sqlite3.connect(path)) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert not [step for step in plan if step.startswith("SCAN")], plan
    assert "SEARCH open USING INDEX ix_delivery_attempting (instance>?)" in plan
