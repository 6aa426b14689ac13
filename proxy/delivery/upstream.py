"""The upstream side: a pool of SMTP connections that sends exactly the bytes it is given.

    async with pool.connection() as connection:  # in hand before the decision is committed
        connection.begin(copy)                   # MAIL, RCPT, DATA in one write if PIPELINING
        ...                                      # commit C1
        given = await connection.finish(parts)   # content and final dot; or `abandon()`

`docs/upstream.md` says what is promised at each stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from proxy.content import Piece
from proxy.delivery import wire
from proxy.delivery.endpoint import Endpoint, UpstreamEvents
from proxy.delivery.handshake import HandshakeError, UpstreamLike
from proxy.delivery.session import Copy, Given, Ready, Session, StaleError, unanswered
from proxy.errors import UpstreamUnavailable
from proxy.store.model import Result

__all__ = ["Connection", "Copy", "Given", "Pool", "UpstreamEvents", "UpstreamLike"]

#: How long `Pool.close` waits for the replies to QUIT, in seconds.
_GOODBYE = 1.0


class Pool:
    """Connections to the `upstreams`, in order of preference."""

    def __init__(
        self, upstreams: Sequence[UpstreamLike], *, hostname: str, telemetry: UpstreamEvents
    ) -> None:
        """`hostname` is what EHLO says. Raises `ConfigError` if a `ca_file` cannot be used."""
        self._endpoints = [Endpoint(u, hostname, telemetry) for u in upstreams]
        self._closed = False
        self._watchers: dict[Callable[[], None], None] = {}  # who waits longest comes first

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A connection of one's own, from the first upstream that has one; waits in line for it.

        Entering raises `UpstreamUnavailable` if no upstream can be reached now.
        """
        return self._lend()

    async def lend(self) -> Connection:
        """As `connection`; whoever takes it calls `release`. Raises `UpstreamUnavailable`."""
        return Connection(self, *await self.acquire())

    def at_hand(self) -> Connection | None:
        """A connection that idles and nobody waits for, of the first upstream; whoever takes it
        calls `release`. None: ask `lend`."""
        first = self._endpoints[0]
        if self._closed or (session := first.at_hand()) is None:
            return None
        return Connection(self, first, session)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits in line for a connection."""
        return any(e.wanted for e in self._endpoints)

    @property
    def spare(self) -> int:
        """How many connections can be had without waiting in line."""
        endpoint = self._preferred()
        return endpoint.spare if endpoint is not None and not self._closed else 0

    async def lend_spare(self) -> Connection | None:
        """As `lend`, but only what can be had without waiting in line."""
        endpoint = self._preferred()
        if endpoint is None or self._closed or (session := await endpoint.take_spare()) is None:
            return None
        return Connection(self, endpoint, session)

    def _preferred(self) -> Endpoint | None:
        """The first upstream that can be reached, as far as is known."""
        for endpoint in self._endpoints:
            if endpoint.up:
                return endpoint
        return None

    def watch(self, came_back: Callable[[], None]) -> None:
        """Call `came_back` each time that a connection was given back, until `unwatch`."""
        self._watchers[came_back] = None

    def unwatch(self, came_back: Callable[[], None]) -> None:
        """See `watch`."""
        self._watchers.pop(came_back, None)

    def came_back(self) -> None:
        """For `Connection`: one was given back."""
        for tell in tuple(self._watchers):
            tell()

    def up(self) -> dict[str, bool]:
        """Which upstreams can be reached, as far as is known; one never tried counts as up."""
        return {e.name: e.up for e in self._endpoints}

    def offers(self, extension: str) -> bool:
        """Whether every upstream that was reached said that it has `extension`, and one was."""
        heard = [e.offered for e in self._endpoints if e.offered is not None]
        return bool(heard) and all(extension in offered for offered in heard)

    async def hear(self) -> bool:
        """Ask every upstream not reached yet what it offers; whether all have said it by now."""
        await asyncio.gather(*(e.hear() for e in self._endpoints))
        return all(e.offered is not None for e in self._endpoints)

    async def close(self) -> None:
        """End the session of every connection not in use; the others when they come back."""
        self._closed = True
        closing = [channel for endpoint in self._endpoints for channel in endpoint.close()]
        if closing:
            await asyncio.wait([c.closed for c in closing], timeout=_GOODBYE)
            for channel in closing:
                channel.abort()

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[Connection]:
        connection = await self.lend()
        try:
            yield connection
        finally:
            connection.release()

    async def acquire(self, but: Endpoint | None = None) -> tuple[Endpoint, Session]:
        """For `Connection`: a session, not of endpoint `but`. Raises `UpstreamUnavailable`."""
        for patient in (False, True):
            for endpoint in self._endpoints:
                if self._closed:
                    raise UpstreamUnavailable("shutting down")
                if endpoint is not but and (session := await endpoint.take(patient)) is not None:
                    return endpoint, session
        raise UpstreamUnavailable("; ".join(f"{e.name}: {e.why}" for e in self._endpoints))


class Connection:
    """One connection, for one caller at a time and any number of mails, one after another."""

    def __init__(self, pool: Pool, endpoint: Endpoint, session: Session) -> None:
        self._pool = pool
        self._endpoint: Endpoint | None = endpoint
        self._session = session
        self._asked: Copy | None = None    # as the caller gave it
        self._copy: Copy | None = None     # what goes on the wire
        self._begun = False
        self._heard = False                # what there is to hear of the envelope
        self._released = False
        self._fate: Given | None = None    # the result of every recipient that `_copy` has

    @property
    def name(self) -> str:
        """The upstream's configured name."""
        return self._endpoint.name if self._endpoint else ""

    @property
    def max_size(self) -> int:
        """The largest content in octets that the upstream takes; 0 is no known limit."""
        return self._session.max_size

    def supports(self, extension: str) -> bool:
        """Whether the upstream offered `extension` in reply to EHLO on this connection."""
        return extension.upper() in self._session.offered

    def begin(self, copy: Copy) -> None:
        """Start a transaction; what is on the wire afterwards cannot deliver anything yet.

        What this upstream cannot take is not sent at all: `finish` then gives `552 5.3.4`,
        `554 5.6.3`, `550 5.6.7` or `553 5.1.3`, stage local. Raises `ValueError` for an address
        with a control character.
        """
        if self._asked is not None:
            raise RuntimeError("the transaction before has neither finished nor been abandoned")
        if self._released:
            raise RuntimeError("the connection has been given back")
        wire.refuse_controls(copy.mail_from)
        sent = copy
        if not all(map(wire.plain, copy.recipients)):
            for address in copy.recipients:
                wire.refuse_controls(address)
            sent = copy.only(wire.unambiguous)
        self._asked, self._copy = copy, sent
        self._fate, self._begun, self._heard = None, False, False
        if self._session.usable:
            self._start()

    async def envelope(self) -> None:
        """Await the upstream's answers up to 354; `finish` then has only the content to send.

        If the connection was dead before it answered anything, the transaction moves once to a
        fresh one.
        Raises nothing: what went wrong is in the result of `finish`.
        """
        if not await self._answered():
            await self._renew()
            if self._fate is None and not await self._answered():
                why = "connection closed before any reply, twice"
                self._fate = unanswered(Result.UNSENT, why, "mail")
        self._heard = True

    @property
    def begun(self) -> bool:
        """Whether a transaction is in hand."""
        return self._asked is not None

    async def finish(
        self,
        parts: Sequence[Piece],
        ready: Ready | None = None,
        follow: Copy | None = None,
    ) -> list[Given]:
        """Send the content and the final dot; one `Given` per recipient of the copy, in order.

        `parts` are the content without dot-stuffing, cut anywhere, its lines ended by CRLF (not
        checked here); it is sent octet by octet, a final CRLF added only if missing. `ready` is
        asked when only the last block and the dot are left; where it says no, they are not sent.
        The envelope of `follow` may go in one write with the dot: if it did, it is `begun`.
        """
        if not self._heard:
            await self.envelope()
        asked, copy = self._asked, self._copy
        if asked is None or copy is None:
            raise RuntimeError("no transaction was begun")
        rides: Copy | None = None
        if self._fate is not None:
            given = [self._fate] * len(copy.recipients)
        elif copy.recipients:
            rides = follow if follow is not None and self._rides(follow) else None
            given = await self._session.finish(parts, ready)
        else:
            given = []
        self._asked = self._copy = None
        self._begun = self._heard = False
        if rides is not None and self._session.begun:
            self._asked = self._copy = rides
            self._begun = True
        name = self.name
        if any(one.upstream != name for one in given):
            given = [Given(g.result, g.code, g.reply, g.stage, g.remote, name) for g in given]
        if copy is asked:
            return given
        rest = iter(given)
        return [next(rest) if wire.unambiguous(r) else _AMBIGUOUS for r in asked.recipients]

    async def abandon(self) -> None:
        """End the transaction, if any, without sending; the connection may begin another one."""
        self._asked = self._copy = None
        if self._begun:
            self._session.abandon()
        self._begun = False

    def release(self) -> None:
        """Give the connection back, whatever state it is in."""
        if self._begun and self._asked is not None:
            self._session.abandon()
        self._asked, self._begun, self._released = None, False, True
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.give_back(self._session)
            self._pool.came_back()

    def _rides(self, copy: Copy) -> bool:
        return (
            bool(copy.recipients)
            and wire.plain(copy.mail_from)
            and all(map(wire.plain, copy.recipients))
            and _refusal(copy, self._session) is None
            and self._session.follow(copy)
        )

    def _start(self) -> None:
        copy = self._copy
        if copy is None:
            raise RuntimeError("no transaction was begun")
        self._fate = _refusal(copy, self._session)
        self._begun = self._fate is None and bool(copy.recipients)
        if self._begun:
            self._session.begin(copy)

    async def _answered(self) -> bool:
        """Whether the session in hand took the envelope to some end; False: it was dead before."""
        if self._copy is None:
            raise RuntimeError("no transaction was begun")
        if self._fate is not None or not self._copy.recipients:
            return True
        if not self._begun:
            return False
        try:
            await self._session.envelope()
        except StaleError:
            self._begun = False
            return False
        return True

    async def _renew(self) -> None:
        """Put a fresh session under the transaction, if possible of the same upstream."""
        stage = "connect"
        try:
            if self._endpoint is not None:
                endpoint = self._endpoint
                self._session.channel.quit()
                try:
                    self._session = await endpoint.open()
                except HandshakeError as error:
                    stage = error.stage
                    self._endpoint = None
                    endpoint.give_back(self._session)
                    self._endpoint, self._session = await self._pool.acquire(but=endpoint)
            else:
                self._endpoint, self._session = await self._pool.acquire()
        except UpstreamUnavailable as error:
            self._fate = unanswered(Result.UNSENT, str(error), stage)
            return
        self._start()


def _refusal(copy: Copy, session: Session) -> Given | None:
    """What this upstream cannot take, found without asking it."""
    if not wire.unambiguous(copy.mail_from):
        return _AMBIGUOUS
    if copy.smtputf8 and "SMTPUTF8" not in session.offered:
        return _refused(550, "5.6.7", "upstream does not offer SMTPUTF8")
    if copy.body_8bit and "8BITMIME" not in session.offered:
        return _refused(554, "5.6.3", "8-bit content and upstream does not offer 8BITMIME")
    if session.max_size and copy.size > session.max_size:
        return _refused(552, "5.3.4", f"message larger than upstream takes ({session.max_size})")
    return None


def _refused(code: int, enhanced: str, why: str) -> Given:
    return Given(Result.PERMANENT, code, f"{code} {enhanced} {why}", "local")


_AMBIGUOUS = _refused(553, "5.1.3", "address with a space or angle bracket is not sent")
