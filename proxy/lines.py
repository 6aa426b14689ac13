"""The copies of one mail over connections: as many side by side as nobody else waits for, and on
each one after the other, so that the envelope of the next may leave with the dot of the one before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from proxy.copies import Outgoing
from proxy.delivery.upstream import Connection, Pool

#: Seconds for which a copy waits behind another one on its connection, where a second is free.
_PATIENCE = 1.0


class Line:
    """The copy that is sent now, and the connection that it goes over; None: one is to be lent."""

    __slots__ = ("_lines", "connection", "copy", "follows", "since")

    def __init__(
        self, copy: Outgoing, connection: Connection | None, lines: Lines | None = None
    ) -> None:
        self.copy = copy
        self.connection = connection
        self.follows: Outgoing | None = None  # the next copy, whose envelope may have left
        self.since = 0.0  # when that was settled, by the loop's clock
        self._lines = lines

    @property
    def alone(self) -> bool:
        """Whether its copy is the mail's only one."""
        return self._lines is None

    def next(self) -> Outgoing | None:
        """The copy that goes over this connection after the one now; None: it may not be kept."""
        if self._lines is not None:
            self.follows = self._lines.take()
            self.since = asyncio.get_running_loop().time()
        return self.follows

    def release(self) -> None:
        """Give the connection back, whatever state it is in."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.release()


class Lines:
    """Sends `copies`, each once, by `send`, which leaves on its line a connection that can go on,
    or none."""

    def __init__(
        self,
        pool: Pool,
        copies: Iterable[Outgoing],
        send: Callable[[Line], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._copies = deque(copies)
        self._send = send
        self._open: set[Line] = set()  # at work
        self._coming = 0  # lines that have no connection yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._troubles: list[Exception] = []

    async def run(self, connection: Connection | None) -> None:
        """Send all. `connection`, which is given back, may have the first copy begun.

        One copy's trouble stops no other: the first one is raised when all have ended.
        """
        first = Line(self._copies.popleft(), connection, self)
        self._pool.watch(self._grow)
        self._look()
        try:
            await self._work(first)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._timer.cancel()
            self._pool.unwatch(self._grow)
            for task in self._tasks:
                task.cancel()
        if self._troubles:
            raise self._troubles[0]

    def take(self) -> Outgoing | None:
        """For `Line`: the next copy, where nobody else waits for the connection."""
        if self._copies and not self._pool.wanted:
            return self._copies.popleft()
        return None

    def _look(self) -> None:
        """Now and then: a copy whose turn comes after one that hangs goes another way, if there is
        one. What left of it already ends with its connection.
        """
        loop = asyncio.get_running_loop()
        since = loop.time() - _PATIENCE
        for line in self._open:
            if line.follows is not None and line.since < since:
                if self._pool.spare <= self._coming + len(self._copies):
                    break
                self._copies.append(line.follows)
                line.follows = None
        self._grow()
        self._timer = loop.call_later(_PATIENCE, self._look)

    def _grow(self) -> None:
        """Open more lines: what lies idle, or may be opened, and nobody waits for."""
        if not self._copies:
            return
        for _ in range(min(len(self._copies), self._pool.spare) - self._coming):
            self._coming += 1
            task = asyncio.create_task(self._another())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _another(self) -> None:
        try:
            connection = await self._pool.lend_spare()
        finally:
            self._coming -= 1
        if connection is None:
            return  # there is one line at least, as long as there are copies
        if self._copies:
            await self._work(Line(self._copies.popleft(), connection, self))
        else:
            connection.release()

    async def _work(self, line: Line) -> None:
        self._open.add(line)
        try:
            while True:
                try:
                    await self._send(line)
                except Exception as error:
                    self._troubles.append(error)
                    line.release()
                if line.follows is not None:
                    line.copy, line.follows = line.follows, None
                    continue
                if not self._copies:
                    return
                if self._pool.wanted:
                    # In turn with other mail: the last line stands in line with it.
                    line.release()
                    if len(self._open) > 1:
                        return
                line.copy = self._copies.popleft()
        finally:
            self._open.discard(line)
            line.release()
