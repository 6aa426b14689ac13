"""A store that may be down: what is of no use then is refused at once; reading goes on if it can.

All that is only passed on to the store behind it. What more happens while that is down is in
`store.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from proxy import log
from proxy.errors import StoreDown, StoreError, StoreRefused, StoreUnavailable
from proxy.store.model import (
    Decided,
    Due,
    Forward,
    JournalEntry,
    OutboxRow,
    Owed,
    Passing,
    State,
    Subject,
    Unfinished,
)
from proxy.store.sqlite import SqliteStore

T = TypeVar("T")


class Through:
    """The store behind, as far as it is open and well."""

    def __init__(self) -> None:
        self._inner: SqliteStore | None = None
        self._down: StoreError | None = StoreUnavailable("the store is not open yet")
        self._since = time.monotonic()
        self._wake = asyncio.Event()

    @property
    def down(self) -> StoreError | None:
        """Why nothing new can be written; None while all is well."""
        return self._down

    def _fell(self, operation: str, error: StoreError) -> None:
        """From here on nothing waits for the store."""
        if self._down is None:
            log.store_down(operation=operation, error=str(error))
            self._since = time.monotonic()
            self._wake.set()
        if not isinstance(self._down, StoreDown):
            self._down = error

    def _refusal(self) -> StoreError:
        lost = isinstance(self._down, StoreDown) and self._inner is not None
        return (StoreDown if lost else StoreUnavailable)(*(self._down.args if self._down else ()))

    async def _ask(self, operation: str, ask: Callable[[SqliteStore], Awaitable[T]]) -> T:
        """Something that is of no use while the store cannot be written."""
        if self._down is not None or self._inner is None:
            raise self._refusal()
        try:
            return await ask(self._inner)
        except StoreRefused:
            raise
        except StoreError as error:
            self._fell(operation, error)
            raise

    def _read(self) -> SqliteStore:
        """For reading, which may go on where writing does not."""
        if self._inner is None:
            raise self._refusal()
        return self._inner

    # -- outbox ----------------------------------------------------------------------------------

    async def due(self, at: datetime, limit: int) -> list[Due]:
        """See `Store.due`."""
        return await self._ask("read", lambda store: store.due(at, limit))

    async def owed(self, row: int) -> Owed | None:
        """See `Store.owed`."""
        return await self._ask("read", lambda store: store.owed(row))

    async def hasten(self, rows: Sequence[int], at: datetime) -> int:
        """See `Store.hasten`."""
        return await self._ask("hasten", lambda store: store.hasten(rows, at))

    async def unfinished(self) -> Unfinished:
        """See `Store.unfinished`."""
        return await self._read().unfinished()

    async def outbox(self, *, ref: str = "", limit: int = 1000) -> list[OutboxRow]:
        """See `Store.outbox`."""
        return await self._read().outbox(ref=ref, limit=limit)

    async def told(
        self, covers: Sequence[tuple[str, State]], since: datetime
    ) -> set[tuple[str, State]]:
        """See `Store.told`."""
        return await self._read().told(covers, since)

    # -- read ------------------------------------------------------------------------------------

    async def journal(
        self, *, ref: str = "", exact: str = "", limit: int = 1000
    ) -> list[JournalEntry]:
        """See `Store.journal`."""
        return await self._read().journal(ref=ref, exact=exact, limit=limit)

    async def decided(self, *, after: int, limit: int, since: datetime) -> list[Decided]:
        """See `Store.decided`."""
        return await self._read().decided(after=after, limit=limit, since=since)

    async def addresses(self, exacts: Sequence[str]) -> Mapping[str, str]:
        """See `Store.addresses`."""
        return await self._read().addresses(exacts)

    async def subjects(self, *, after: int, limit: int) -> list[tuple[int, Subject]]:
        """See `Store.subjects`."""
        return await self._read().subjects(after=after, limit=limit)

    # -- opt-outs passed on ----------------------------------------------------------------------

    async def forwards_due(self, at: datetime, limit: int) -> list[Forward]:
        """See `Store.forwards_due`."""
        return await self._ask("read", lambda store: store.forwards_due(at, limit))

    async def forwards(
        self, *, ref: str = "", ended: bool = False, limit: int = 1000
    ) -> list[Forward]:
        """See `Store.forwards`."""
        return await self._read().forwards(ref=ref, ended=ended, limit=limit)

    async def forwards_waiting(self) -> int:
        """See `Store.forwards_waiting`."""
        return await self._read().forwards_waiting()

    async def passed(self, passing: Passing) -> bool:
        """See `Store.passed`."""
        return await self._ask("pass", lambda store: store.passed(passing))

    # -- life ------------------------------------------------------------------------------------

    async def recover(self) -> int:
        """See `Store.recover`; `start` has done it."""
        return await self._ask("recover", lambda store: store.recover())

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._ask("ping", lambda store: store.ping())
