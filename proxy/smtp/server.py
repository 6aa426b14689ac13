"""Sockets: one aiosmtpd protocol object per connection, and the listener around them.

The only file that knows aiosmtpd. What is kept of it is the protocol with its task and its control
of output, and the change of transport under STARTTLS (private seams, hence the pinned range). Its
command loop is not used: it takes bare LF for a line end, parses addresses with `email`, cancels a
hand-over when the client half-closes, and keeps a timer per command that DATA does not refresh.
What comes in goes straight into a buffer of ours, and what goes out to the transport: a stream
reader and writer between cost more than the command that they carry.
"""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import sslproto
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import cast

from aiosmtpd.smtp import SMTP

from proxy.config import Listener, Settings
from proxy.replies import Reply
from proxy.smtp import Gate, replies
from proxy.smtp.house import House
from proxy.smtp.limits import (
    GOODBYE_SECONDS,
    HANDSHAKE_SECONDS,
    Address,
    Admission,
    read_peer,
    trusted_network,
)
from proxy.smtp.proxied import Announced, read_header
from proxy.smtp.session import Session
from proxy.smtp.tls import Certificate
from proxy.smtp.wire import Counters, EndlessLine, Gone

_IN_MAX = 1 << 16  # octets held of what was not asked for yet, until the client has to wait
_LINE_MAX = 1 << 16  # octets without LF before a command line counts as endless
_OUT_MAX = 1 << 15  # queued replies are sent at the latest at this size
_BACKLOG = 1024
_TURN = 50  # lines that were there already, until other clients have their turn
_HUSH = 4  # turns of the loop until what is in the socket already has been read


class _NoHooks:
    """aiosmtpd's handler, which is not used."""

    def __dir__(self) -> list[str]:
        return []


_NO_HOOKS = _NoHooks()


class RelaySMTP(SMTP):
    """One connection: the `Wire` of its session. Admission, deadlines, TLS; no SMTP."""

    transport: asyncio.Transport | None

    def __init__(self, house: House) -> None:
        super().__init__(_NO_HOOKS, hostname=house.hostname, loop=house.loop)
        self._house = house
        self._in = b""  # what came, as it came
        self._at = 0  # octets of it that were asked for already
        self._more_came: asyncio.Future[None] | None = None
        self._ended = self._choked = False
        self._lines = 0  # since others had their turn
        self._out = bytearray()
        self._admitted = False
        self.address = read_peer(None)
        self._header: bytearray | None = None  # of the PROXY protocol, while it comes in
        self._raw: asyncio.Transport | None = None
        self._deadline = math.inf
        self._alarm_at = math.inf
        self._ends_at = math.inf
        self._goodbye: asyncio.TimerHandle | None = None
        self.peer = self.network = ""
        self.tls = self.exempt = self.may_speak_for_others = False
        self.dialogue: Session | None = None

    def __dir__(self) -> list[str]:
        # aiosmtpd looks through it for commands, for each connection; of those none is used.
        return []

    # -- Connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called for the TCP connection, and again when a TLS layer stands on it."""
        transport = cast("asyncio.Transport", transport)
        if self._raw is not None:
            self.tls = True
            self._in, self._at = b"", 0  # what came in clear is not this client's
            super().connection_made(transport)
            return None
        self._raw = transport
        self._take_for(read_peer(transport.get_extra_info("peername")))
        listener = self._house.listener
        is_proxy = bool(trusted_network(self.address, listener.proxy_protocol))
        self.exempt = is_proxy or bool(self.network)
        refusal = self._house.enter(self, self.address)
        if refusal is not None:
            return self._turn_away(refusal)
        self._admitted = True
        self._ends_at = self.loop.time() + self._house.session_seconds
        if is_proxy:
            self._header = bytearray()
            self._take_for(None)
            return self._wait_until(self.loop.time() + HANDSHAKE_SECONDS)
        return self._open(b"")

    def data_received(self, octets: bytes) -> None:
        """What a proxy says of its client comes before all else, TLS too."""
        if self._header is None:
            return self._take_in(octets)
        self._header += octets
        try:
            found = read_header(bytes(self._header))
        except ValueError:
            self._house.refuse(self, replies.NO_PROXY_HEADER)
            return self.cut()
        return None if found is None else self._announced(found)

    def _announced(self, found: Announced) -> None:
        rest = bytes(self._header or b"")[found.size :]
        self._header = None
        before, self.exempt = self.address, True
        self._take_for(found.client)
        refusal = self._house.move(self, before, found.client, exempt=bool(self.network))
        if refusal is not None:
            self.address = before
            return self._turn_away(refusal)
        self.exempt = bool(self.network)
        return self._open(rest)

    def _open(self, octets: bytes) -> None:
        """Begin: TLS, or the session. `octets` came already."""
        transport = cast("asyncio.Transport", self._raw)
        if self._house.listener.tls == "implicit":
            # Here, not in create_server: a handshake takes a place too.
            self.hold()
            self._layer_tls(transport).add_done_callback(self._after_implicit_handshake)
            if octets and self._tls_protocol is not None:
                feed = asyncio.protocols._feed_data_to_buffered_proto  # type: ignore[attr-defined]
                feed(self._tls_protocol, octets)
            return
        super().connection_made(transport)
        if octets:
            self._take_in(octets)

    def _take_for(self, client: Address | None) -> None:
        """The client is `client`; None is one that nobody knows, and that nobody trusts."""
        listener = self._house.listener
        self.address = client
        self.peer = str(client or "")
        self.network = trusted_network(client, listener.trusted_networks)
        self.may_speak_for_others = bool(trusted_network(client, listener.xclient_networks))

    def assume(self, client: Address | None) -> None:
        """XCLIENT: the peer speaks for `client` now. Its place, and its right to do so, remain."""
        self.peer = str(client or "")
        self.network = trusted_network(client, self._house.listener.trusted_networks)

    def _turn_away(self, refusal: Reply) -> None:
        transport = cast("asyncio.Transport", self._raw)
        if self._house.listener.tls != "implicit":
            transport.write(f"{refusal}\r\n".encode("ascii"))
        transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Gives the place back. The session's task ends; what it handed to the gate does not."""
        if not self._admitted:
            return
        self._admitted = False
        if self._goodbye is not None:
            self._goodbye.cancel()
        self._house.leave(self, self.address)
        if self._handler_coroutine is not None:
            super().connection_lost(error)

    def eof_received(self) -> bool:
        """A half-close is no end: the client still reads its replies (impossible under TLS)."""
        self._ended = True
        self._wake()
        return self._admitted and not self.tls and self._header is None

    async def _handle_client(self) -> None:
        self.dialogue = Session(self, self._house.desk)
        try:
            await self.dialogue.run()
        finally:
            self.part()

    def part(self) -> None:
        """Send what is queued and close; cut the line if it does not leave in time."""
        transport = self.transport
        if transport is None or self._goodbye is not None:
            return
        self.hold()
        if self._out:
            transport.write(bytes(self._out))
        transport.close()
        self._goodbye = self.loop.call_later(GOODBYE_SECONDS, transport.abort)

    def cut(self) -> None:
        """Close at once, whatever is going on."""
        if self._raw is not None:
            self._raw.abort()

    # -- Input and output ------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether the client has sent more than was asked for yet."""
        return self._at < len(self._in)

    def say(self, octets: bytes) -> None:
        """Queue output."""
        self._out += octets

    def _send(self) -> bool:
        """Hand over what is queued; whether the transport has enough for now."""
        if not self._out or self.transport is None:
            return False
        out, self._out = self._out, bytearray()
        self.transport.write(out)
        return bool(self._paused)  # type: ignore[attr-defined]

    async def _drain(self) -> None:
        try:
            await self._drain_helper()  # type: ignore[attr-defined]
        except OSError as error:
            raise Gone from error

    def line_at_hand(self) -> bytes | None:
        """What `line` would give, if without waiting for the client or for others' turn."""
        held, at = self._in, self._at
        if not held or self._lines >= _TURN - 1 or len(self._out) > _OUT_MAX:
            return None
        end = held.find(b"\n", at) + 1
        if not end:
            return None
        self._lines += 1
        if end == len(held):
            self._in, self._at = b"", 0
        else:
            self._at = end
        return held[at:end]

    async def line(self, wait: float) -> bytes:
        """The next octets up to and with LF."""
        self._wait_until(self.loop.time() + wait)
        if len(self._out) > _OUT_MAX and self._send():
            await self._drain()
        looked = 0
        while True:
            held, at = self._in, self._at
            end = held.find(b"\n", at + looked) + 1
            if end:
                self._in, self._at = (b"", 0) if end == len(held) else (held, end)
                self._lines += 1
                if self._lines >= _TURN:
                    self._lines = 0
                    await asyncio.sleep(0)
                return held[at:end]
            looked = len(held) - at
            if looked > _LINE_MAX:
                raise EndlessLine
            if self._out and self._send():
                await self._drain()
            if self._in is held:
                await self._more()

    async def read(self, deadline: float) -> bytes:
        """The next octets, at least one; as they came, not copied, where none came before."""
        if not self._in:
            self._wait_until(deadline)
            if self._out and self._send():
                await self._drain()
            while not self._in:
                await self._more()
        octets = self._in[self._at :]
        self._in, self._at = b"", 0
        return octets

    async def hush(self) -> None:
        """Let arrive what the client sent before it was greeted."""
        for _ in range(_HUSH):
            await asyncio.sleep(0)

    def give_back(self, octets: bytes) -> None:
        """Octets read too far; they come first next time."""
        self._in, self._at = octets + self._in[self._at :], 0

    def _take_in(self, octets: bytes) -> None:
        if self._in:
            octets = self._in[self._at :] + octets
            self._at = 0
        self._in = octets
        if len(octets) >= _IN_MAX and not self._choked and self.transport is not None:
            # Reading goes on as soon as these are taken; where more came first, it would be joined.
            self._choked = True
            self.transport.pause_reading()
        came = self._more_came
        if came is not None and not came.done():
            came.set_result(None)

    def _wake(self) -> None:
        if self._more_came is not None and not self._more_came.done():
            self._more_came.set_result(None)

    def _more(self) -> Awaitable[None]:
        """Wait for octets beyond those that are there. Raises `Gone` when none will come."""
        if self._ended:
            raise Gone
        if self._choked and self.transport is not None:
            self._choked = False
            self.transport.resume_reading()
        self._more_came = came = self.loop.create_future()
        return came

    # -- Deadlines: one timer, set back seldom ---------------------------------------------------

    def hold(self) -> None:
        """No deadline until the next read."""
        self._deadline = math.inf

    def _wait_until(self, deadline: float) -> None:
        deadline = min(deadline, self._ends_at)
        self._deadline = deadline
        if deadline < self._alarm_at:
            self._set_alarm(deadline)

    def _set_alarm(self, at: float) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        self._alarm_at = at
        self._timeout_handle = self.loop.call_at(at, self._timeout_cb)

    def _reset_timeout(self, duration: float | None = None) -> None:
        """aiosmtpd's seam, called when a connection is made."""
        self._wait_until(self.loop.time() + (duration or HANDSHAKE_SECONDS))

    def _timeout_cb(self) -> None:
        self._alarm_at = math.inf
        if self.loop.time() < self._deadline:
            if self._deadline < math.inf:
                self._set_alarm(self._deadline)
            return None
        if self.dialogue is None:
            return self.cut()
        self.dialogue.time_out(session_over=self._deadline == self._ends_at)
        return self.part()

    # -- TLS -------------------------------------------------------------------------------------

    async def start_tls(self) -> bool:
        """Change to TLS after STARTTLS was answered."""
        transport = cast("asyncio.Transport", self.transport)
        self._send()
        self.hold()
        # No await since `pending` was asked: nothing can come in between.
        waiter = self._layer_tls(transport)
        try:
            await waiter
        except OSError as error:
            self.connection_lost(error)
        # Also when the handshake was cut short without an error, `connection_made` has not come.
        return self.tls

    def _layer_tls(self, transport: asyncio.Transport) -> asyncio.Future[None]:
        context = self._house.certificate.context
        if context is None:
            raise ValueError("this listener has no certificate")
        waiter: asyncio.Future[None] = self.loop.create_future()
        layer = sslproto.SSLProtocol(
            self.loop,
            self,
            context,
            waiter,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        self._tls_protocol = layer
        self._original_transport = transport
        transport.set_protocol(layer)
        layer.connection_made(transport)
        return waiter

    def _after_implicit_handshake(self, waiter: asyncio.Future[None]) -> None:
        failed = waiter.cancelled() or waiter.exception() is not None
        if failed or not self.tls:
            self.cut()
            self.connection_lost(None)


class RunningListener:
    """An open listener. `host` and `port` are what it is bound to."""

    def __init__(self, house: House, server: asyncio.Server) -> None:
        self._house = house
        self._server = server
        self.host, self.port = server.sockets[0].getsockname()[:2]

    @property
    def certificate(self) -> Certificate:
        """What TLS is done with; connections that have it already keep what they have."""
        return self._house.certificate

    @property
    def is_serving(self) -> bool:
        """Whether new connections are accepted."""
        return self._server.is_serving()

    async def drain(self, seconds: float) -> bool:
        """Accept nobody, take leave of idle clients, finish the data and hand-overs in progress.

        True when all ended within `seconds`; clients still there after that are cut off. Hand-overs
        to the gate are not: `close` ends them.
        """
        self._server.close()
        return await self._house.drain(seconds)

    def close(self) -> None:
        """End everything now, hand-overs too."""
        self._server.close()
        self._house.close()


async def serve_listener(
    listener: Listener,
    settings: Settings,
    gate: Gate,
    counters: Counters,
    *,
    clock: Callable[[], datetime],
    admission: Admission | None = None,
    pause: Callable[[float], Awaitable[None]] | None = None,
) -> RunningListener:
    """Open one listener in the running loop.

    `counters` is the `Telemetry`. `admission` counts connections: pass one to all listeners of a
    process, so that `limits.connections` holds for them together; None counts this listener alone.
    `pause` holds back the answers to clients who fail too often; None waits.
    Raises `ConfigError` for an unusable certificate, `OSError` when the address cannot be bound.
    """
    for name in ("mail.log", "mail.debug"):
        logging.getLogger(name).disabled = True  # aiosmtpd logs peers and addresses
    house = House(
        listener,
        settings,
        gate,
        counters,
        clock=clock,
        admission=admission or Admission(settings.limits),
        pause=pause,
    )
    server = await house.loop.create_server(
        lambda: RelaySMTP(house), listener.host, listener.port, backlog=_BACKLOG
    )
    return RunningListener(house, server)
