"""One upstream of the pool: its sessions, who waits for one, and whether it is worth trying."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Protocol

from proxy import log
from proxy.delivery.channel import Channel
from proxy.delivery.handshake import HandshakeError, UpstreamLike, handshake, tls_context
from proxy.delivery.session import Session
from proxy.errors import ConfigError

#: An upstream that cannot be reached is left alone for this long, then twice as long, and so on, in
#: seconds.
_FIRST_PAUSE = 0.5
_LAST_PAUSE = 30.0


class UpstreamEvents(Protocol):
    """Who wants to know that an upstream went away or came back (`proxy.telemetry.Telemetry`)."""

    def upstream(self, name: str, up: bool) -> None:
        """`name` can be reached, or cannot; told at each change."""
        ...


class Endpoint:
    """One upstream: its idle sessions, who waits for one, and whether it is worth trying.

    Every slot up to the limit is idle, lent (`_lent`) or being opened (`_opening`).
    """

    def __init__(self, upstream: UpstreamLike, hostname: str, telemetry: UpstreamEvents) -> None:
        self._upstream = upstream
        self.name = upstream.name
        self._hostname = hostname
        self._telemetry = telemetry
        try:
            self._context = tls_context(upstream)
        except OSError as error:
            raise ConfigError([
                f"upstreams: ca_file {upstream.ca_file} of {upstream.name} cannot be used "
                f"({error.strerror or 'unreadable'}): name a PEM file with certificates"
            ]) from None
        self._idle: list[Session] = []
        self._waiters: deque[asyncio.Future[Session | bool]] = deque()
        self._lent = 0
        self._opening = 0
        self._failures = 0
        self._retry_at = 0.0
        self._known: bool | None = None
        self._closed = False
        self._reaper: asyncio.TimerHandle | None = None
        self.why = "not tried"
        self.offered: frozenset[str] | None = None  # in reply to its last EHLO

    @property
    def up(self) -> bool:
        return self._known is not False

    @property
    def wanted(self) -> bool:
        """Whether somebody waits in line for a session."""
        if self._waiters:
            self._settle()  # some may have been cancelled
        return bool(self._waiters)

    @property
    def spare(self) -> int:
        """How many sessions could be had without waiting in line."""
        if self.wanted:
            return 0
        idle = len(self._idle)
        return idle + self._upstream.connections - self._taken() if self._may_open() else idle

    async def take(self, patient: bool) -> Session | None:
        """A session, or None if there is none to be had. `patient` also awaits a trial's end."""
        if self._waiters:
            self._settle()  # some may have been cancelled
        if not self._waiters:
            if (session := self._pop()) is not None:
                return session
            if self._may_open():
                self._opening += 1
                return await self._fresh()
        if not (self._lent or (self._opening and (patient or not self._failures))):
            return None
        waiter: asyncio.Future[Session | bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            got = await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._return(waiter.result())
            raise
        if isinstance(got, Session):
            return got
        return await self._fresh() if got else None

    async def take_spare(self) -> Session | None:
        """A session that nobody waits for, idle or new; None where one would have to wait."""
        if self.wanted:
            return None
        if (session := self._pop()) is not None:
            return session
        if not self._may_open():
            return None
        self._opening += 1
        return await self._fresh()

    def at_hand(self) -> Session | None:
        """A session that idles, where nobody waits for one."""
        return None if self._waiters else self._pop()

    async def open(self) -> Session:
        """A new session in a slot that the caller holds. Raises `HandshakeError`."""
        try:
            channel, offered = await handshake(self._upstream, self._hostname, self._context)
        except HandshakeError as error:
            self._failed(str(error))
            raise
        self._failures = 0
        self.offered = frozenset(offered)
        self._tell(True)
        return Session(channel, offered, self._upstream)

    async def hear(self) -> None:
        """Ask what it offers, where no mail has asked yet, and say goodbye.

        A failure is told once and makes no pause: the next mail tries for itself.
        """
        if self.offered is not None or not self._may_open():
            return
        self._opening += 1
        try:
            channel, offered = await handshake(self._upstream, self._hostname, self._context)
        except HandshakeError as error:
            if self._known is None:
                self.why = str(error)
                log.upstream_failed(ref="", upstream=self.name, error=self.why)
                self._tell(False)
        else:
            channel.quit()
            self.offered = frozenset(offered)
            self._tell(True)
        finally:
            self._opening -= 1
            self._settle()

    def give_back(self, session: Session) -> None:
        """The slot is free again; the session goes to whoever waits, else it idles, or ends."""
        self._lent -= 1
        if session.usable and not self._closed:
            session.idle_since = asyncio.get_running_loop().time()
            self._idle.append(session)
        else:
            session.channel.quit()
        self._settle()
        self._arm()

    def close(self) -> list[Channel]:
        """Turn everybody away; the channels that are saying goodbye."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(False)
        self._waiters.clear()
        if self._reaper is not None:
            self._reaper.cancel()
        channels = [session.channel for session in self._idle]
        for channel in channels:
            channel.quit()
        self._idle.clear()
        return channels

    def _pop(self) -> Session | None:
        """Lend the session used last that is still alive."""
        while self._idle:
            session = self._idle.pop()
            if session.usable:
                self._lent += 1
                return session
            session.channel.quit()
        return None

    def _may_open(self) -> bool:
        if self._closed or self._taken() >= self._upstream.connections:
            return False
        if not self._failures:
            return True
        return not self._opening and asyncio.get_running_loop().time() >= self._retry_at

    def _taken(self) -> int:
        return len(self._idle) + self._lent + self._opening

    async def _fresh(self) -> Session | None:
        """Turn a slot in `_opening` into a lent session."""
        try:
            session = await self.open()
        except HandshakeError:
            self._opening -= 1
            self._settle()
            return None
        except BaseException:
            self._opening -= 1
            self._settle()
            raise
        self._opening -= 1
        self._lent += 1
        self._settle()
        return session

    def _return(self, got: Session | bool) -> None:
        """What a cancelled waiter had been given."""
        if isinstance(got, Session):
            self.give_back(got)
        elif got:
            self._opening -= 1
            self._settle()

    def _settle(self) -> None:
        """Serve waiters in order: a session, leave to open one (True), "look elsewhere" (False)."""
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.done():
                if (session := self._pop()) is not None:
                    waiter.set_result(session)
                elif self._may_open():
                    self._opening += 1
                    waiter.set_result(True)
                elif self._lent or self._opening:
                    return
                else:
                    waiter.set_result(False)
            self._waiters.popleft()

    def _failed(self, why: str) -> None:
        """Circuit breaker: a pause, longer each time, with jitter against replicas in step."""
        self.why = why
        now = asyncio.get_running_loop().time()
        if now >= self._retry_at:
            log.upstream_failed(ref="", upstream=self.name, error=why)
            pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 16))
            self._failures += 1
            self._retry_at = now + pause * random.uniform(0.75, 1.25)  # noqa: S311
        self._tell(False)

    def _tell(self, up: bool) -> None:
        if self._known is not up:
            self._known = up
            self._telemetry.upstream(self.name, up)

    # -- idle sessions end before the upstream would end them --------------------------------------

    def _arm(self) -> None:
        if self._reaper is None and self._idle and not self._closed:
            loop = asyncio.get_running_loop()
            when = self._idle[0].idle_since + self._upstream.idle_timeout.total_seconds()
            self._reaper = loop.call_at(when, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        limit = self._upstream.idle_timeout.total_seconds()
        now = asyncio.get_running_loop().time()
        while self._idle and now - self._idle[0].idle_since >= limit - 0.001:
            self._idle.pop(0).channel.quit()
        self._settle()
        self._arm()
