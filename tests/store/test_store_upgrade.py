"""Databases of every version before: what is in them stays, and the newest code works on it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool
from store_values import (
    ANNA,
    BRAM,
    after,
    event,
    high,
    intake,
    only,
    outcome,
    relayed,
    row,
    states,
)

from proxy.store import instance, migrate
from proxy.store.model import Fate, Result, State
from proxy.store.sql.tables import REVISION
from proxy.store.sqlite import SqliteStore, open_sqlite
from proxy.store.upgrade import config

BEFORE = sorted(
    {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    - {REVISION}
)


async def opened(path: Path, *, create: bool = False) -> SqliteStore:
    return await open_sqlite(
        path, instance="a", owner=True, create=create, clock=lambda: after(3600)
    )


async def old(path: Path, revision: str) -> None:
    """A database as that version made it, with an objection, and copies relayed, lost, refused,
    and under way."""
    new = path.with_name("new.db")
    store = await opened(new, create=True)
    await store.append([event("o", BRAM)])
    await relayed(store, "relayed", "k1")
    lost = only(await store.claim(intake("lost", row("k2"), high=await high(store))))
    await store.record([outcome(lost, Result.UNKNOWN)])
    await store.claim(intake("blocked", row("k3", state=State.BLOCKED), high=await high(store)))
    await store.claim(intake("open", row("k4"), high=await high(store)))
    await store.close()
    instance.create_file(path, b"")
    with closing(migrate.connect(path)) as db, closing(sqlite3.connect(new)) as source:
        db.execute(f"PRAGMA application_id = {migrate.APPLICATION_ID}")
        made = config()
        engine = create_engine("sqlite://", creator=lambda: db, poolclass=StaticPool)
        with engine.connect() as connection:
            made.attributes["connection"] = connection
            command.upgrade(made, revision)
            connection.commit()
        tables = [name for (name,) in db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            " AND name <> 'alembic_version'"
        )]  # fmt: skip
        for table in tables:
            names = ", ".join(f'"{c[1]}"' for c in db.execute(f"PRAGMA table_info({table})"))
            rows = source.execute(f"SELECT {names} FROM {table}").fetchall()
            marks = ", ".join("?" * (names.count(",") + 1))
            db.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)


@pytest.mark.parametrize("revision", BEFORE)
async def test_the_newest_code_works_on_what_older_versions_wrote(
    tmp_path: Path, revision: str
) -> None:
    path = tmp_path / "store.db"
    await old(path, revision)
    store = await opened(path)
    seen = await high(store)
    assert (await store.lookup([BRAM])).known[BRAM].events
    assert [m.copy_key for m in (await store.lookup([ANNA], mails_since=after(-1))).known[
        ANNA
    ].mails] == ["k1", "k2", "k4"]  # fmt: skip
    again = [
        only(await store.claim(intake(f"again{n}", row(f"k{n}"), high=seen))) for n in (1, 2, 3)
    ]
    assert [f.fate for f in again] == [Fate.ANSWERED, Fate.CLAIMED, Fate.CLAIMED]
    assert [f.ambiguous_retry for f in again] == [False, True, False]
    await store.close()
    store = await opened(path)  # another run: what the one before began is ended
    assert await store.recover() == 3
    assert await states(store, "open") == [State.UNKNOWN]
    assert len(await store.journal(exact=ANNA.exact)) == 6
    await store.close()

    with closing(sqlite3.connect(path)) as db:
        keeps_what_a_new_one_keeps(db)


def keeps_what_a_new_one_keeps(db: sqlite3.Connection) -> None:
    """Its version, whole, each state and no other, and which of them are live."""
    assert db.execute("SELECT version_num FROM alembic_version").fetchone() == (REVISION,)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    blocked = "WHERE copy_key = 'k3' AND state = 'blocked'"
    for state in State:
        db.execute("BEGIN")
        db.execute(
            f"UPDATE delivery SET state = ?, attempts = 1, instance = 'a', epoch = 1 {blocked}",
            (state.value,),
        )
        live = db.execute(
            "SELECT count(*) FROM delivery INDEXED BY ux_delivery_live WHERE copy_key = 'k3'"
            " AND (state = 'attempting' OR state = 'waiting' OR state = 'held')"
        ).fetchone()
        # The other row of this copy was claimed after the upgrade, and recovered.
        assert live == (int(state in (State.ATTEMPTING, State.WAITING, State.HELD)),)
        db.execute("ROLLBACK")
    with pytest.raises(sqlite3.IntegrityError, match="delivery_state"):
        db.execute(f"UPDATE delivery SET state = 'lost' {blocked}")
