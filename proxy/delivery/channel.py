"""One TCP or TLS connection to an SMTP server as an `asyncio.Protocol`: commands out, replies in.

Knows how many replies are due, so that one which nothing asked for is never taken for the
next one's. Works alike on asyncio and uvloop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import cast

from proxy.delivery import wire
from proxy.errors import SluisError

#: Octets handed to the transport before it asks to wait.
HIGH_WATER = 256 * 1024


class BrokenError(SluisError):
    """The connection cannot be used any more; `str()` says why, in a few ASCII words."""


class LostError(BrokenError):
    """The peer or the network closed it."""


class TimedOutError(BrokenError):
    """The peer did not answer, or did not read, within the time-out of the stage."""


class GarbledError(BrokenError):
    """What the peer said is not SMTP, or not an answer to what was asked."""


class Channel(asyncio.Protocol):
    """Not reusable once `failure` is set. All methods are for the loop's own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._replies = wire.Replies()
        self._answers: deque[wire.Answer] = deque()
        self._due = 1  # the greeting
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        # One timer that is set again only when it went off too early: setting one per reply costs
        # as much as reading it.
        self._timer: asyncio.TimerHandle | None = None
        self._expires = 0.0
        self._late = "", 0.0
        self.failure: BrokenError | None = None
        #: The first reply that came although none was due.
        self.early: wire.Answer | None = None
        #: The peer said 421, or we QUIT: no further mail on this connection.
        self.closing = False
        self.encrypted = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._adopt(cast(asyncio.Transport, transport))

    def _adopt(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.encrypted = transport.get_extra_info("ssl_object") is not None
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        if self.failure is not None:
            return
        garbage = None
        try:
            self._replies.feed(data)
        except wire.GarbageError as error:
            garbage = error
        ready = self._replies.ready
        while ready:
            answer = ready.popleft()
            if answer.code == 421:
                self.closing = True
            if self._due:
                self._due -= 1
                self._answers.append(answer)
            else:
                self.early = self.early or answer
        if garbage is not None:
            self._fail(GarbledError(str(garbage)))
        else:
            self._wake()

    def eof_received(self) -> None:
        """Part of `asyncio.Protocol`. A server that stops talking has ended the session."""
        self._fail(LostError("connection closed"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self._fail(LostError("connection lost" if exc else "connection closed"))
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- for sessions ----------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Alive, and nothing is due, unread or unasked for: a new transaction may begin."""
        return (
            self.failure is None
            and not self.closing
            and self.early is None
            and self._due == 0
            and not self._answers
            and self._replies.between
            and self._transport is not None
            and not self._transport.is_closing()
        )

    @property
    def peer(self) -> str:
        """The peer's IP address, "" if unknown."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if name else ""

    def send(self, data: bytes, *, replies: int) -> None:
        """Write `data`, which gets `replies` replies. On a dead channel `reply` will raise."""
        self.send_all((data,), replies=replies)

    def send_all(
        self, parts: Sequence[bytes | bytearray | memoryview], *, replies: int
    ) -> None:
        """Write `parts` in one go."""
        if self.failure is None and self._transport is not None:
            self._due += replies
            self._transport.writelines(parts)

    def arrived(self) -> wire.Answer | None:
        """The next reply if it is there; else `reply` waits for it."""
        return self._answers.popleft() if self._answers else None

    async def reply(self, timeout: float) -> wire.Answer:  # noqa: ASYNC109
        """The next reply. Raises `BrokenError`, once all that had arrived before were taken."""
        if not self._answers:
            self.check()
            self._waiter = self._loop.create_future()
            self._wait_for("no reply", timeout)
            try:
                await self._waiter
            finally:
                self._waiter = None
            if not self._answers:
                self.check()
        return self._answers.popleft()

    async def ask(self, command: bytes, timeout: float) -> wire.Answer:  # noqa: ASYNC109
        """Write one command and await its reply. Raises `BrokenError`."""
        self.send(command, replies=1)
        return await self.reply(timeout)

    @property
    def full(self) -> bool:
        """Whether `drain` would wait, or raise."""
        return self._paused or self.failure is not None

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until the peer has read enough to go on, or spoke early. Raises `BrokenError`."""
        self.check()
        if self._paused and self.early is None:
            self._drained = self._loop.create_future()
            self._wait_for("no progress", timeout)
            try:
                await self._drained
            finally:
                self._drained = None
            self.check()

    def check(self) -> None:
        """Raise `BrokenError` if the connection is dead."""
        if self.failure is not None:
            raise type(self.failure)(str(self.failure))
        if self._transport is None or self._transport.is_closing():
            raise LostError("connection closed")

    async def start_tls(self, context: ssl.SSLContext, name: str, timeout: float) -> None:  # noqa: ASYNC109
        """Go on in TLS. Raises `BrokenError`, `OSError` or `TimeoutError`; it is dead then.

        Octets after the reply to STARTTLS were injected in clear (as in CVE-2011-0411): refused.
        """
        transport = self._transport
        if transport is None or not self.quiet:
            self.check()
            raise GarbledError("plaintext after the reply to STARTTLS")
        async with asyncio.timeout(timeout):
            upgraded = await self._loop.start_tls(transport, self, context, server_hostname=name)
        if upgraded is None:
            raise LostError("connection closed during the TLS handshake")
        self._adopt(upgraded)

    def abort(self) -> None:
        """Close at once; what was not written is dropped."""
        self._fail(LostError("connection closed by us"))

    def quit(self, grace: float = 2.0) -> None:
        """Say QUIT and close; at the latest after `grace` seconds."""
        if self.failure is None:
            self.closing = True
            self.send(b"QUIT\r\n", replies=1)
            timer = self._loop.call_later(grace, self.abort)
            self.closed.add_done_callback(lambda _: timer.cancel())

    def _wait_for(self, what: str, seconds: float) -> None:
        self._late = what, seconds
        self._expires = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._expires:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._expires, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self.failure is not None or (self._waiter is None and self._drained is None):
            return
        if self._loop.time() < self._expires:
            self._set_timer()
        else:
            what, seconds = self._late
            self._fail(TimedOutError(f"{what} within {seconds:g} s"))

    def _fail(self, failure: BrokenError) -> None:
        if self.failure is None:
            self.failure = failure
            if self._transport is not None:
                self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and (self._answers or self.failure) and not self._waiter.done():
            self._waiter.set_result(None)
        if self._drained is not None and (self.early or self.failure) and not self._drained.done():
            self._drained.set_result(None)
