"""Bring a database file to the schema of this code: create, check, upgrade. Synchronous.

Alembic is imported only when there is something to do. A new database is made under another name
and linked into place when it is complete, so a file that exists but is empty is always damage and
never a fresh store.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from proxy.errors import StoreDown, StoreMissing
from proxy.store.connection import BUSY_TIMEOUT, address, configure
from proxy.store.instance import create_file, sync_directory

#: The newest migration; equal to Alembic's head, known without importing Alembic (tested).
REVISION = "0005"

#: `PRAGMA application_id` of our files ("SLUI"), so that a foreign database is refused.
APPLICATION_ID = 0x534C5549

#: Alembic keeps its context in a module: one upgrade at a time in a process.
_ALEMBIC = threading.Lock()

_MIGRATIONS = Path(__file__).parent / "migrations"


def prepare(path: Path, *, create: bool, check: bool = False) -> None:
    """Make sure that `path` is a store of this schema.

    Raises `StoreMissing` (missing, not a store, or of a newer version), `StoreDown` (damaged), or
    `sqlite3.Error`.
    """
    if not path.exists():
        if not create:
            raise StoreMissing(
                f"{path} does not exist; the first `sluis import` or `sluis serve` makes it. If a"
                " relay ran here before, it and its opt-outs were lost: restore a backup"
            )
        _create(path)
    with closing(_connect(path)) as db:
        current = _revision(db, path)
        if check:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreDown(f"{path} is damaged: {found}")
        if current != REVISION:
            _upgrade(db, path, current)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        address(path),
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT / 1000,
        check_same_thread=False,
    )
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    return db


def _create(path: Path) -> None:
    for suffix in ("-wal", "-journal"):
        left = path.with_name(path.name + suffix)
        if left.exists():
            raise StoreMissing(f"{path} is missing but {left.name} is there: restore the database")
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    create_file(new, b"")
    try:
        with closing(_connect(new)) as db:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            configure(db)
            _upgrade(db, new, None)
        # The last connection has folded the log into the file.
        _sync(new)
        try:
            os.link(new, path)
        except FileExistsError:
            return  # another process was first; its store is as good
        sync_directory(path.parent)
    finally:
        for suffix in ("", "-wal", "-shm"):
            new.with_name(new.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _revision(db: sqlite3.Connection, path: Path) -> str:
    """The schema's revision. What is no store is refused: an empty one forgets every opt-out."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreMissing(f"{path} is no Sluis store, or an emptied one: restore it from a backup")
    rows = db.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(rows) != 1:
        raise StoreMissing(f"{path} has {len(rows)} schema versions: restore it from a backup")
    return str(rows[0][0])


def _upgrade(db: sqlite3.Connection, path: Path, current: str | None) -> None:
    """Run the missing migrations in one transaction; an interrupted one leaves nothing."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import StaticPool

    config = alembic_config()
    if current is not None:
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current not in known:
            raise StoreMissing(
                f"{path} was written by a newer version of Sluis (schema {current}, this one knows"
                f" up to {REVISION}): install that version"
            )
    engine = create_engine("sqlite://", creator=lambda: db, poolclass=StaticPool)

    # The driver would not open a transaction for DDL: open one ourselves, with the write lock.
    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with _ALEMBIC, engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def alembic_config() -> Any:
    """Alembic's configuration, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
