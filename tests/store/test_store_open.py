"""Opening: creation, migration, refusal of what is no store; the instance id and the lock."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import contract_path  # noqa: F401
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from store_process import child, child_environment
from store_values import ANNA, event

from proxy.errors import StoreDown, StoreMissing, StoreUnavailable
from proxy.store import instance, migrate, upgrade
from proxy.store.schema import metadata, triggers
from proxy.store.sql.tables import REVISION
from proxy.store.sqlite import SqliteStore, open_sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def opened(path: Path, *, create: bool = False, check: bool = False) -> SqliteStore:
    return await open_sqlite(path, instance="a", owner=True, create=create, check=check)


@pytest.fixture
async def made(path: Path) -> Path:
    """A store with one objection in it."""
    store = await opened(path, create=True)
    await store.append([event("o")])
    await store.close()
    return path


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


# -- creation --------------------------------------------------------------------------------------


async def test_a_missing_store_is_made_only_on_request(path: Path) -> None:
    with pytest.raises(StoreMissing, match="does not exist"):
        await opened(path)
    assert names(path.parent) == []
    store = await opened(path, create=True)
    await store.append([event("o")])
    private = {name: oct(mode(path.parent / name)) for name in names(path.parent)}
    assert private == {f"store.db{suffix}": "0o600" for suffix in ("", "-shm", "-wal")}
    await store.close()
    assert names(path.parent) == ["store.db"]


async def test_a_store_opened_again_keeps_everything(made: Path) -> None:
    for create in (True, False):
        store = await opened(made, create=create, check=True)
        assert [e.uid for e in (await store.lookup([ANNA])).known[ANNA].events] == ["o"]
        await store.close()


async def test_two_that_create_at_once_share_one_store(path: Path) -> None:
    stores = await asyncio.gather(
        *(open_sqlite(path, instance=f"i{i}", owner=True, create=True) for i in range(4))
    )
    for i, store in enumerate(stores):
        assert await store.append([event(f"o{i}")]) == [True]
    assert len((await stores[0].lookup([ANNA])).known[ANNA].events) == 4
    for store in stores:
        await store.close()
    assert names(path.parent) == ["store.db"]


@pytest.mark.parametrize("create", [True, False])
async def test_an_emptied_file_is_never_taken_for_a_new_store(made: Path, create: bool) -> None:
    os.truncate(made, 0)
    with pytest.raises(StoreDown, match="restore"):
        await opened(made, create=create)
    assert names(made.parent) == ["store.db"]
    assert os.stat(made).st_size == 0  # noqa: PTH116


async def test_a_lost_database_beside_its_log_is_not_made_anew(made: Path) -> None:
    store = await opened(made)
    await store.append([event("p")])
    os.unlink(made)  # noqa: PTH108
    with pytest.raises(StoreDown, match="restore"):
        await open_sqlite(made, instance="b", owner=True, create=True)
    await store.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"SQLite format 3\0" + b"x" * 5000])
async def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    instance.create_file(path, content)
    with pytest.raises(StoreDown):
        await opened(path, create=True)


async def test_a_foreign_database_is_refused(path: Path) -> None:
    execute(path, "CREATE TABLE event (id INTEGER)")
    with pytest.raises(StoreDown, match="no Sluis store"):
        await opened(path)


async def test_an_unreachable_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await opened(tmp_path / "missing" / "store.db", create=True)


async def test_a_check_finds_a_damaged_index(made: Path) -> None:
    execute(
        made,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema"
        " WHERE name = 'ix_event_exact') WHERE name = 'ix_event_wide'",
    )
    with pytest.raises(StoreDown):
        await opened(made, check=True)


# -- migration -------------------------------------------------------------------------------------


def schema(db: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Every object of the schema; the order of a table's constraints does not matter."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {(t, n, normal(sql)) for t, n, sql in rows if n != "alembic_version"}


def normal(sql: str) -> str:
    head, _, rest = " ".join(sql.split()).partition("(")
    body, _, options = rest.rpartition(")")
    return f"{head}({','.join(sorted(part.strip() for part in body.split(',')))}){options}"


async def test_a_new_database_has_the_schema_of_the_code(made: Path) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, closing(sqlite3.connect(made)) as db:
        metadata.create_all(connection)
        for trigger in triggers():
            connection.exec_driver_sql(trigger)
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        assert schema(db) == schema(raw)
        assert len(schema(db)) > 40


def test_the_code_knows_the_newest_revision() -> None:
    script = ScriptDirectory.from_config(upgrade.config())
    assert script.get_heads() == [REVISION]


async def test_migrations_make_what_a_new_database_has(made: Path) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        upgrade.upgrade(db, None)
        with closing(sqlite3.connect(made)) as new:
            assert schema(db) == schema(new)
            versions = [x.execute("SELECT * FROM alembic_version").fetchall() for x in (db, new)]
            assert versions == [[(REVISION,)], [(REVISION,)]]


async def test_a_store_of_a_newer_version_is_refused(made: Path) -> None:
    execute(made, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreMissing, match="newer version"):
        await opened(made)


async def test_a_store_without_a_version_is_refused(made: Path) -> None:
    execute(made, "DELETE FROM alembic_version")
    with pytest.raises(StoreDown, match="0 schema versions"):
        await opened(made)


async def test_an_upgrade_that_fails_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is one transaction: break it at its last statement."""
    instance.create_file(path, b"")
    with closing(migrate.connect(path)) as db:
        db.execute("CREATE TABLE outcome (x)")  # in the way of the migration
        before = schema(db)
        with pytest.raises(Exception, match="outcome"):
            upgrade.upgrade(db, None)
        assert schema(db) == before
        db.execute("DROP TABLE outcome")
        upgrade.upgrade(db, None)
        assert ("table", "outcome") in {(t, n) for t, n, _ in schema(db)}


async def test_an_upgrade_that_fails_in_its_process_says_why_here(made: Path) -> None:
    execute(
        made, "UPDATE alembic_version SET version_num = '0004'", "DROP TABLE delivery"
    )
    with pytest.raises(StoreUnavailable, match=r"store\.db cannot be upgraded: no such table: del"):
        await opened(made)
    with closing(sqlite3.connect(made)) as db:
        assert db.execute("SELECT * FROM alembic_version").fetchall() == [("0004",)]


def test_opening_what_is_up_to_date_imports_neither_alembic_nor_sqlalchemy(made: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from proxy.store.sqlite import open_sqlite\n"
        "async def main():\n"
        "    store = await open_sqlite(Path(sys.argv[1]), instance='a', owner=True)\n"
        "    await store.close()\n"
        "asyncio.run(main()); sys.exit(bool({'alembic', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(made)], env=child_environment(), check=False
    )
    assert done.returncode == 0


# -- instance --------------------------------------------------------------------------------------


def test_the_data_directory_is_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        data_dir = tmp_path / "var" / "sluis"
        instance.prepare(data_dir)
        instance.prepare(data_dir)
        instance.instance_id(data_dir)
        instance.InstanceLock.acquire(data_dir).release()
        (data_dir / "other").write_text("x")
    finally:
        os.umask(before)
    assert mode(data_dir) == mode(data_dir.parent) == 0o700
    assert {name: mode(data_dir / name) for name in names(data_dir)} == dict.fromkeys(
        ("instance", "lock", "other"), 0o600
    )


def test_a_file_in_place_of_the_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = os.umask(0o077)
    try:
        for data_dir in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(StoreUnavailable):
                instance.prepare(data_dir)
    finally:
        os.umask(before)


def test_the_instance_id_stays(tmp_path: Path) -> None:
    first = instance.instance_id(tmp_path)
    assert len(first) == 32
    assert instance.instance_id(tmp_path) == first
    assert names(tmp_path) == ["instance"]


@pytest.mark.parametrize("content", ["", "x" * 32, "00" * 15])
def test_a_damaged_instance_id_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "instance").write_text(content)
    with pytest.raises(StoreUnavailable, match="32 hex digits"):
        instance.instance_id(tmp_path)


def test_only_one_process_holds_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        child(tmp_path, "lock"),
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert b"locked" in holder.stdout.readline()
        with pytest.raises(instance.InstanceLocked, match=f"process {holder.pid}"):
            instance.InstanceLock.acquire(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    with instance.InstanceLock.acquire(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(instance.InstanceLocked):
            instance.InstanceLock.acquire(tmp_path)
    instance.InstanceLock.acquire(tmp_path).release()
