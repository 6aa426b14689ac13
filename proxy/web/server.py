"""uvicorn inside our own loop, made safe to face the internet without a proxy in front.

The only file that knows uvicorn. What it and httptools leave open is closed here: they set no bound
to the length of a request line and header, and give a silent client all the time it wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

#: Octets of request line and header fields together.
HEADER_BYTES = 16384
#: Connections at once; one more is answered 503 and closed.
CONNECTIONS = 512
#: Seconds from the connection, or the first octet of a later request, to the end of its header.
HEADER_SECONDS = 10.0
#: Seconds that an idle connection is kept for a next request.
KEEP_ALIVE_SECONDS = 5
#: Seconds that requests in progress get when the server stops.
STOP_SECONDS = 10


class HttpServer:
    """One HTTP server on a bound socket: `start` returns when it accepts, `stop` when it ended."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        *,
        header_seconds: float = HEADER_SECONDS,
        connections: int = CONNECTIONS,
    ) -> None:
        self._bound = bound
        self._port = int(bound.getsockname()[1])
        self._server = _Embedded(_Config(app, header_seconds, connections))
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The bound port."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises what made the server end before it accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        accepting = asyncio.create_task(self._server.accepting.wait())
        await asyncio.wait({self._task, accepting}, return_when=asyncio.FIRST_COMPLETED)
        if not accepting.done():
            accepting.cancel()
            self._bound.close()
            self._task.result()

    async def stop(self) -> None:
        """Accept no more, let requests in progress end (at most 10 s), close. Twice is safe."""
        self._server.end()
        if self._task is not None:
            await self._task


class _Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, header_seconds: float, connections: int) -> None:
        super().__init__(
            app,
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="off",
            access_log=False,  # it would log every token
            log_config=None,
            log_level="critical",  # a line per malformed request would let strangers fill the log
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self.header_seconds = header_seconds
        self.connections = connections


class _Embedded(uvicorn.Server):
    """Leaves signals to the process's owner, says when it accepts, and wakes once a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # 0: the Date header is made anew
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """One connection, with a bound on its header and on the time to send it."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = cast(_Config, config)
        self._in_header = True
        self._head = 0  # octets of the header that is being read
        self._waits_since = self.loop.time()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def _idle(self) -> bool:
        """No request is being answered and none has arrived whole."""
        return self._in_header and (self.cycle is None or self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are two writes: without this the second may wait 40 ms for the first's ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._set_alarm()
        if len(self.connections) > self._limits.connections and not self._evict():
            self._refuse(503, "Too many connections")

    def _evict(self) -> bool:
        """Drop whoever waits longest without a request: silent clients cannot keep people out."""
        others = [c for c in self.connections if isinstance(c, _Protocol) and c is not self]
        silent = [c for c in others if c._idle]
        if not silent:
            return False
        oldest = min(silent, key=lambda c: c._waits_since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_alarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # In slices, so that a header is never parsed, and kept, far beyond the bound.
        view = memoryview(data)
        while view and not self.transport.is_closing():
            part, view = view[:HEADER_BYTES], view[HEADER_BYTES:]
            if self._in_header:
                self._set_alarm()
                self._head += len(part)
            super().data_received(bytes(part))
            if self._in_header and self._head > HEADER_BYTES:
                self._refuse(431, "Request header too large")

    def on_headers_complete(self) -> None:
        self._in_header = False
        self._stop_alarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_header = True
        self._head = 0
        self._waits_since = self.loop.time()

    def _set_alarm(self) -> None:
        if self._alarm is None:
            seconds = self._limits.header_seconds
            self._alarm = self.loop.call_later(seconds, self._refuse, 408, "Request too slow")

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _refuse(self, status: int, words: str) -> None:
        """Answer, unless that would look like the answer to an earlier request, and close."""
        self._stop_alarm()
        if self._idle:
            head = (
                f"HTTP/1.1 {status} {words}\r\ncontent-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(words)}\r\nretry-after: 60\r\nconnection: close\r\n\r\n"
            )
            self.transport.write((head + words).encode())
        self.transport.close()
