"""The connections of one listener: who is in, what is being handed over, how it all ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from proxy import log
from proxy.config import Listener, Settings
from proxy.config.values import is_loopback
from proxy.replies import Reply
from proxy.smtp import Gate, replies
from proxy.smtp.auth import Authenticator
from proxy.smtp.limits import Address, Admission
from proxy.smtp.session import Session
from proxy.smtp.tls import Certificate
from proxy.smtp.wire import Counters, Desk


class Connection(Protocol):
    """One client's connection, as far as the house cares."""

    peer: str
    network: str
    exempt: bool  # counts in all only, not with its network
    dialogue: Session | None

    def part(self) -> None:
        """Send what is queued and close."""
        ...

    def cut(self) -> None:
        """Close at once."""
        ...


class House:
    """Made in the running loop. Raises `ConfigError` for an unusable certificate."""

    def __init__(
        self,
        listener: Listener,
        settings: Settings,
        gate: Gate,
        counters: Counters,
        *,
        clock: Callable[[], datetime],
        admission: Admission,
        pause: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.listener = listener
        self.hostname = settings.server.hostname
        self.session_seconds = settings.limits.session_timeout.total_seconds()
        self.certificate = Certificate(listener)
        self._connections: set[Connection] = set()
        self._works: dict[asyncio.Future[Reply], asyncio.Future[Reply]] = {}
        self._empty = asyncio.Event()
        self._leaving = asyncio.Event()
        self._closing = False
        self._admission = admission
        self._counters = counters
        self._authenticator = Authenticator(settings.credentials)
        self.desk = Desk(
            listener=listener,
            settings=settings,
            gate=gate,
            counters=counters,
            clock=clock,
            now=self.loop.time,
            authenticator=self._authenticator,
            failures=admission.failures,
            memory=admission.memory,
            disk=admission.disk,
            strangers=admission.strangers,
            # The configuration allows passwords without TLS on loopback only.
            password_in_clear=listener.tls == "none" and is_loopback(listener.host),
            work=self._work,
            pause=pause or self._pause,
        )

    def enter(self, connection: Connection, address: Address | None) -> Reply | None:
        """Let a connection in, or say why not."""
        refusal = (
            replies.SHUTTING_DOWN
            if self._closing
            else self._admission.enter(address, trusted=connection.exempt)
        )
        if refusal is None:
            self._connections.add(connection)
            self._counters.connection_opened(self.listener.address)
            return None
        self.refuse(connection, refusal)
        return refusal

    def move(
        self, connection: Connection, before: Address | None, after: Address | None, *, exempt: bool
    ) -> Reply | None:
        """A proxy's connection turns out to be one of `after`; or the refusal, and it stays."""
        self._admission.leave(before, trusted=True)
        refusal = self._admission.enter(after, trusted=exempt)
        if refusal is not None:
            self._admission.enter(before, trusted=True)  # its own place is free still
            self.refuse(connection, refusal)
        return refusal

    def refuse(self, connection: Connection, refusal: Reply) -> None:
        """Note a connection that is not served."""
        self._counters.reply("connect", refusal.code)
        log.smtp_refused(
            listener=self.listener.address,
            peer=connection.peer,
            command="connect",
            code=refusal.code,
            reason=refusal.text,
        )

    def leave(self, connection: Connection, address: Address | None) -> None:
        """A connection that was let in has ended."""
        self._connections.discard(connection)
        self._admission.leave(address, trusted=connection.exempt)
        self._counters.connection_closed(self.listener.address)
        self._look_around()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()

    async def drain(self, seconds: float) -> bool:
        """Take leave of the idle, wait for the others; True when the house is empty in time."""
        self._closing = True
        self._leaving.set()
        for connection in list(self._connections):
            if connection.dialogue is None:
                connection.cut()  # still in a handshake
            elif connection.dialogue.wind_down():
                connection.part()
        self._look_around()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.cut()
            return False
        return True

    def close(self) -> None:
        """End everything now."""
        self._closing = True
        for connection in list(self._connections):
            connection.cut()
        for work in self._works:
            work.cancel()
        self._authenticator.close()

    def _work(self, work: Awaitable[Reply]) -> asyncio.Future[Reply]:
        """The result of what must not end with a connection; `drain` waits for it."""
        task = asyncio.ensure_future(work)
        # Not the task itself: who is cancelled while awaiting it would cancel it.
        self._works[task] = said = self.loop.create_future()
        task.add_done_callback(self._worked)
        return said

    def _worked(self, task: asyncio.Future[Reply]) -> None:
        said = self._works.pop(task)
        if self._closing:
            self._look_around()
        if task.cancelled():
            said.cancel()
            return
        error = task.exception()
        if said.done():
            return  # the client is gone, and nobody asks
        if error is not None:
            said.set_exception(error)
        else:
            said.set_result(task.result())

    def _look_around(self) -> None:
        if self._closing and not self._connections and not self._works:
            self._empty.set()
