"""One SQLite connection on a thread of its own, and which of its errors mean what.

The private seam of aiosqlite is here and nowhere else: `Connection._execute` with the raw
connection `_conn`. A whole transaction then runs as one function on the connection's thread. So no
task that is cancelled between two awaits can leave a transaction open behind it, and a group of
commits costs one thread hop instead of one per statement. `pyproject.toml` pins the version range
of aiosqlite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite

from proxy.errors import StoreDown, StoreError, StoreUnavailable

T = TypeVar("T")

#: The name of the threads that every mail waits for.
HOT = "sluis-store"

#: How long a statement waits for another process's write lock, in milliseconds.
BUSY_TIMEOUT = 5000

#: json_each as a built-in (3.38) and STRICT tables (3.37).
MINIMUM_SQLITE = (3, 38, 0)

#: Pages in the log from which on a commit folds it itself; `fold.py` comes before it.
LOG_PAGES = 16_000

#: A checkpointed log is cut back to this many bytes.
_LOG_SIZE = 64 * 1024 * 1024


class Connection:
    """A connection whose every piece of work runs on its own thread."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db

    @classmethod
    async def open(cls, path: Path, *, read_only: bool, hot: bool = False) -> Connection:
        """Connect to an existing file; `hot`: every mail waits for it.

        Raises `sqlite3.Error` or `StoreUnavailable`.
        """
        db = aiosqlite.connect(
            address(path),
            uri=True,
            isolation_level=None,
            cached_statements=256,
            timeout=BUSY_TIMEOUT / 1000,
        )
        # A process that dies without closing must not wait for this thread.
        db._thread.daemon = True
        if hot:
            db._thread.name = HOT
        connection = cls(await db)
        try:
            await connection.run(lambda raw: configure(raw, read_only=read_only))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the thread. It goes on to its end even when the caller is cancelled."""
        execute = cast(Callable[..., Any], self._db._execute)
        return cast(T, await execute(lambda: work(self._db._conn)))

    async def close(self) -> None:
        """Close once all work handed in is done."""
        await self._db.close()


def address(path: Path) -> str:
    """The URI of an existing file: SQLite must never make one by itself."""
    return f"{path.absolute().as_uri()}?mode=rw"


def configure(db: sqlite3.Connection, *, read_only: bool = False) -> None:
    """Durable commits: the log is synced at every COMMIT, before it returns."""
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old, 3.38 is needed")
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreUnavailable(f"this file system gives no write-ahead log (journal mode {mode})")
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",  # what is deleted is mail and addresses: no copy stays in free pages
        # A statement for several rows keeps the pages it changes: else from 64 KiB on in a file.
        "temp_store = MEMORY",
        "recursive_triggers = ON",  # REPLACE then meets the triggers that forbid DELETE
        f"busy_timeout = {BUSY_TIMEOUT}",
        f"journal_size_limit = {_LOG_SIZE}",
        f"wal_autocheckpoint = {LOG_PAGES}",
        f"query_only = {'ON' if read_only else 'OFF'}",
    ):
        db.execute(f"PRAGMA {pragma}")


#: Primary result codes after which nothing this process believes about the file can be trusted.
_LOST = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

#: I/O errors of the shared-memory index, which holds no data: a full disk shows itself here too.
_SHARED_MEMORY = {
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
}

_FOR_NOW = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_PROTOCOL,
}


def trouble(error: BaseException) -> StoreError | None:
    """What an exception says about the store; None when only its own operation is at fault."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return None
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if code & 0xFF in _LOST and code not in _SHARED_MEMORY:
        return StoreDown(f"{error} ({name})")
    if code & 0xFF in _FOR_NOW or code in _SHARED_MEMORY:
        return StoreUnavailable(f"{error} ({name})")
    return None
