"""Fold the log into the database beside the commits, so that no commit waits for it.

SQLite by itself folds in the commit that finds the log at its limit, which then takes as long as
ten. Here another connection copies the pages on a thread of its own, and commits go on meanwhile.
Only a log of which everything is folded is begun anew, and under load something always came since:
from a certain length on the writer folds that little rest itself, between two groups. What SQLite
does at `connection.LOG_PAGES` remains for a single commit of that size, and for short-lived
processes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from proxy.errors import StoreError
from proxy.store.connection import Connection, trouble

#: Commits between two foldings; one is 15 to 40 pages.
EVERY = 128

#: From this many pages on the log is to be begun anew; half of what SQLite does it at by itself.
LONG = 8000


class Folding:
    """What folds for one writer; its connection is opened by the first folding."""

    def __init__(
        self, path: Path, writer: Connection, failed: Callable[[str, StoreError], None]
    ) -> None:
        """`failed` hears of trouble, once each: the rows are in the log all the same."""
        self._path = path
        self._writer = writer
        self._failed = failed
        self._commits = 0
        self._beside: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def committed(self) -> None:
        """Count a commit."""
        self._commits += 1
        if self._commits >= EVERY and self._task is None:
            self._commits = 0
            self._task = asyncio.create_task(self._fold())

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._beside is not None:
            await self._beside.close()

    async def _fold(self) -> None:
        try:
            if self._beside is None:
                self._beside = await Connection.open(self._path, read_only=True)
            if await self._beside.run(_folded) >= LONG:
                # Once more for what came meanwhile, so that the writer has next to nothing to do.
                await self._beside.run(_folded)
                await self._writer.run(_folded)
        except Exception as error:
            why = trouble(error)
            if why is None:
                raise
            self._failed("fold", why)
        finally:
            self._task = None


def _folded(db: sqlite3.Connection) -> int:
    """Copy what no reader still needs elsewhere; the pages in the log."""
    _, pages, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
