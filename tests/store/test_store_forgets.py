"""A body leaves with the commit that ends the last of its owed rows, and leaves nothing behind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import contract_path  # noqa: F401
from store_values import ANNA, BRAM, after, intake, outcome, row

from proxy.store.attempt import Record
from proxy.store.group import commit
from proxy.store.lease import Holding
from proxy.store.model import Body, Result, RowFate, Settlement, State
from proxy.store.sqlite import open_sqlite

SECRET = b"nobody else should ever read this line"
BODY = Body("{}", b"Subject: x\r\n\r\n" + SECRET * 500)


async def owed(path: Path) -> list[RowFate]:
    """Two attempts of one mail that is owed."""
    store = await open_sqlite(path, instance="a", owner=True, create=True)
    rows = [row("a", ANNA), row("b", BRAM, n=2)]
    fates = list((await store.claim(intake("r", rows))).fates)
    owe = tuple((fate.row, fate.attempt) for fate in fates)
    await store.settle(Settlement(owe=owe, body=BODY, at=after(0)))
    await store.close()
    return fates


async def test_it_is_deleted_in_the_commit_that_ends_the_last_row_and_no_earlier(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    first, second = await owed(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        said: list[str] = []
        commit(db, [Record([outcome(first)], Holding())])
        assert db.execute("SELECT count(*) FROM body").fetchone() == (1,)
        db.set_trace_callback(said.append)
        _, commits = commit(db, [Record([outcome(second, Result.PERMANENT)], Holding())])
        db.set_trace_callback(None)
        assert commits == 1
        words = [line.split()[0].upper() for line in said if not line.startswith("--")]
        ended = next(n for n, line in enumerate(said) if line.startswith("UPDATE delivery"))
        gone = next(n for n, line in enumerate(said) if line.startswith("DELETE FROM body"))
        assert words[0] == "BEGIN"
        assert 0 < ended < gone < len(words) - 1
        assert words[-1] == "COMMIT"
        assert db.execute("SELECT count(*) FROM body").fetchone() == (0,)


async def test_nothing_of_it_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    fates = await owed(path)
    assert SECRET in path.read_bytes()
    store = await open_sqlite(path, instance="a", owner=True)
    await store.record([replace(outcome(fate), result=Result.PERMANENT) for fate in fates])
    assert [e.state for e in await store.journal(ref="r")] == [State.FAILED, State.FAILED]
    await store.close()  # folds the log into the file
    assert not path.with_name("store.db-wal").exists()
    assert SECRET not in path.read_bytes()
