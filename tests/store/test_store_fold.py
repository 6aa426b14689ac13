"""The log is folded into the database beside the commits, and begun anew while commits go on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
import pytest
from store_process import child
from store_values import event, person
from test_store_durable import SYNCS, strace, traced  # noqa: F401

from proxy.store import fold
from proxy.store.connection import LOG_PAGES
from proxy.store.sqlite import SqliteStore, open_sqlite


async def commits(store: SqliteStore, first: int, last: int) -> None:
    """Each a commit of its own."""
    for i in range(first, last):
        await store.append([event(f"e{i}", person(f"p{i}"))])


async def folded(store: SqliteStore) -> None:
    """Wait for the folding that was begun."""
    async with asyncio.timeout(20):
        while store._folding._task is not None:
            await asyncio.wait({store._folding._task})


def in_the_file_alone(path: Path, copy: Path) -> int:
    """How many events are in the database without its log."""
    copy.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM event").fetchone()[0])


async def test_every_so_many_commits_it_is_folded_on_another_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "EVERY", 8)
    path = tmp_path / "store.db"
    store = await open_sqlite(path, instance="a", owner=True, create=True)
    await commits(store, 0, 7)
    await folded(store)
    assert in_the_file_alone(path, tmp_path / "7") == 0
    assert store._folding._beside is None, "what runs for a moment needs no connection for it"
    await commits(store, 7, 8)
    await folded(store)
    assert in_the_file_alone(path, tmp_path / "8") == 8
    await store.close()


async def test_a_log_in_use_without_a_pause_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "EVERY", 8)
    monkeypatch.setattr(fold, "LONG", 50)
    path = tmp_path / "store.db"
    store = await open_sqlite(path, instance="a", owner=True, create=True)
    await asyncio.gather(*(commits(store, n * 1000, n * 1000 + 150) for n in range(4)))
    await folded(store)
    pages = path.with_name("store.db-wal").stat().st_size // 4096
    assert pages < 1000, "150 commits or more, of seven pages or more each"
    await store.close()
    assert in_the_file_alone(path, tmp_path / "copy") == 600


async def test_a_commit_folds_only_a_log_that_nothing_else_folded(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await open_sqlite(path, instance="a", owner=True, create=True)
    limit = await store._writer.run(
        lambda db: db.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
    )
    assert limit == LOG_PAGES >= 2 * fold.LONG
    await store.close()


def test_a_sync_of_the_database_that_failed_stops_the_store(
    strace: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    options = ("-e", "trace=fdatasync", "-P", str(path))
    reports, trace = traced(strace, tmp_path / "trace", child(path, "mail", "0"), *options)
    inject = ("-e", "inject=fdatasync:error=EIO")
    reports, trace = traced(strace, tmp_path / "trace", child(path, "folds"), *options, *inject)
    assert any("EIO" in line for line in trace)
    assert [r["error"] for r in reports if "folded" in r] == ["StoreDown"]
    assert not any(SYNCS.match(line) for line in trace)
    reports, _ = traced(strace, tmp_path / "trace", child(path, "folds"), *options)
    [again] = [r for r in reports if "folded" in r]
    assert again["error"] is None, "a restart makes it well"
