"""Bring a database file to the schema of this code: create, check, upgrade. Synchronous.

A new database is made of the statements in `sql/tables.py`; for the migrations of an older one a
process of its own is started (`upgrade.py`), so that Alembic is never loaded here. A new one is
made under another name and linked into place when it is complete, so a file that exists but is
empty is always damage and never a fresh store.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from proxy.errors import StoreDown, StoreMissing, StoreUnavailable
from proxy.store.connection import BUSY_TIMEOUT, address, configure
from proxy.store.instance import create_file, sync_directory
from proxy.store.sql.tables import REVISION, TABLES

#: `PRAGMA application_id` of our files ("SLUI"), so that a foreign database is refused.
APPLICATION_ID = 0x534C5549

#: What an upgrade in its process may end with.
_TROUBLES = {kind.__name__: kind for kind in (StoreUnavailable, StoreDown, StoreMissing)}


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
    with closing(connect(path)) as db:
        current = revision(db, path)
        if check:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreDown(f"{path} is damaged: {found}")
        if current != REVISION:
            _upgrade(path)


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing file, to look at its schema or change it."""
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
        with closing(connect(new)) as db:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            configure(db)
            db.execute("BEGIN IMMEDIATE")
            for statement in TABLES:
                db.execute(statement)
            db.execute("INSERT INTO alembic_version VALUES (?)", (REVISION,))
            db.execute("COMMIT")
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


def revision(db: sqlite3.Connection, path: Path) -> str:
    """The schema's revision. What is no store is refused: an empty one forgets every opt-out."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreMissing(f"{path} is no Sluis store, or an emptied one: restore it from a backup")
    rows = db.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(rows) != 1:
        raise StoreMissing(f"{path} has {len(rows)} schema versions: restore it from a backup")
    return str(rows[0][0])


def _upgrade(path: Path) -> None:
    """Run the missing migrations in a process of its own."""
    # It finds our code where we found it, and nothing in the directory that we happen to be in.
    words = [sys.executable, "-P", "-m", "proxy.store.upgrade", str(path)]
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(  # noqa: S603  ourselves
        words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    try:
        kind, why = json.loads(done.stdout)
    except ValueError:
        kind, why = "", done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    raise _TROUBLES.get(kind, StoreUnavailable)(f"{path} cannot be upgraded: {why}")
