"""A development upstream: takes every mail, keeps the newest as received, shows them in a browser.

Also the recording upstream of tests: it answers as scripted, and what it keeps is what was on the
wire. Its own protocol rather than a library's, because a library that tidies addresses or line ends
would hide exactly what is to be seen.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from proxy.inbox import InboxServer

#: What EHLO offers by default.
EXTENSIONS = ("PIPELINING", "SIZE 67108864", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")

_COMMAND = 8192      # octets of a command line
_MESSAGE = 67108864  # octets of one mail


class Step(enum.Enum):
    """What a script can do instead of replying."""

    CLOSE = "close"    # close without a word; at the final dot the mail is not kept
    LOSE = "lose"      # the same, but the mail is kept: the reply was lost
    SILENT = "silent"  # never answer again on this connection


Scripted = bytes | str | Step | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One mail. `content` is what came between DATA and the final dot, without stuffing.

    `mail_from` and `recipients` are the octets between `<` and `>`; `parameters` what follows in
    MAIL.
    """

    id: int
    at: datetime
    mail_from: bytes
    recipients: tuple[bytes, ...]
    content: bytes
    parameters: bytes = b""


class Sink:
    """An SMTP server on one port and its inbox on another.

    Keeps the newest `keep` mails of at most `keep_bytes` octets in all. `extensions` is what EHLO
    offers. `tls` adds STARTTLS, or TLS from the first octet if `implicit`. `public_url` is the
    origin, besides loopback, to which the inbox may send one-click opt-outs. `tap` is called with
    the number of the connection and the octets of every read.
    """

    def __init__(
        self,
        *,
        keep: int = 1000,
        keep_bytes: int = 256 * 1024 * 1024,
        extensions: tuple[str, ...] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        public_url: str = "",
        tap: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.messages: list[Received] = []
        self.total = 0
        self.connections = 0
        self.extensions = extensions
        self.tls = tls
        self.implicit = implicit
        self.public_url = public_url
        self.smtp_port = 0
        self.http_port = 0
        self.tap = tap
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._bytes = 0
        self._once: dict[str, deque[Scripted]] = {}
        self._always: dict[str, Scripted] = {}
        self._server: asyncio.Server | None = None
        self._inbox: InboxServer | None = None
        self._peers: set[_Peer] = set()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._peers)

    def once(self, verb: str, *steps: Scripted) -> None:
        """Answer the next uses of `verb`: each by a line, raw octets, a `Step`, or None (as usual).

        Verbs are upper case; CONNECT is the greeting, "." the end of data, "*" any unknown command.
        """
        self._once.setdefault(verb, deque()).extend(steps)

    def always(self, verb: str, step: Scripted) -> None:
        """Answer every use of `verb` so, from now on; None as usual."""
        self._always[verb] = step

    async def received(self, total: int) -> None:
        """Wait until `total` mails have come since the start."""
        if self.total < total:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((total, future))
            await future

    async def start(
        self, host: str = "127.0.0.1", smtp_port: int = 0, http_port: int | None = None
    ) -> None:
        """Listen; port 0 picks a free one (see `smtp_port`, `http_port`), None means no inbox."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Peer(self),
            host,
            smtp_port,
            ssl=self.tls if self.implicit else None,
            backlog=1024,
        )
        self.smtp_port = self._server.sockets[0].getsockname()[1]
        if http_port is not None:
            await self.open_inbox(host, http_port)

    async def open_inbox(self, host: str, port: int) -> None:
        """Serve the inbox; port 0 picks a free one (see `http_port`)."""
        self._inbox = InboxServer(self, public_url=self.public_url)
        self.http_port = await self._inbox.start(host, port)

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._inbox is not None:
            await self._inbox.close()
        if self._server is not None:
            self._server.close()
        self.drop()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """Close every connection at once."""
        for peer in list(self._peers):
            peer.drop()

    def pause(self) -> None:
        """Stop reading from every connection open now."""
        for peer in self._peers:
            peer.pause()

    def resume(self) -> None:
        """Read again from every connection that was paused."""
        for peer in self._peers:
            peer.resume()

    def say(self, raw: bytes) -> None:
        """Write `raw` on every connection open now."""
        for peer in self._peers:
            peer.say(raw)

    @property
    def deaf(self) -> int:
        """Open connections that answer no more (`Step.SILENT`)."""
        return sum(peer.deaf for peer in self._peers)

    def clear(self) -> None:
        """Forget all mails."""
        self.messages.clear()
        self._bytes = 0

    # -- for connections -------------------------------------------------------------------------

    def joined(self, peer: _Peer) -> int:
        """A connection was made; its number."""
        self._peers.add(peer)
        self.connections += 1
        return self.connections

    def left(self, peer: _Peer) -> None:
        """A connection has ended."""
        self._peers.discard(peer)

    def step(self, verb: str) -> Scripted:
        """What the script says to this use of `verb`."""
        queue = self._once.get(verb)
        return queue.popleft() if queue else self._always.get(verb)

    def add(
        self, mail_from: bytes, recipients: list[bytes], content: bytes, parameters: bytes
    ) -> None:
        """Keep a mail, and forget the oldest beyond the limits."""
        self.total += 1
        mail = Received(
            id=self.total,
            at=datetime.now(UTC),
            mail_from=mail_from,
            recipients=tuple(recipients),
            content=content,
            parameters=parameters,
        )
        self.messages.append(mail)
        self._bytes += len(content)
        while self.messages and (
            len(self.messages) > self._keep or self._bytes > self._keep_bytes
        ):
            self._bytes -= len(self.messages.pop(0).content)
        for total, future in self._waiters:
            if self.total >= total and not future.done():
                future.set_result(None)
        self._waiters = [w for w in self._waiters if not w[1].done()]


class _Peer(asyncio.Protocol):
    """One connection to the sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._transport: asyncio.Transport | None = None
        self._upgrade: asyncio.Task[None] | None = None
        self._number = 0
        self._buffer = bytearray()
        self._scanned = 0
        self._in_data = False
        self._too_big = False
        self._deaf = False
        self._upgrading = False
        self._out: list[bytes] = []
        self._mail_from: bytes | None = None
        self._parameters = b""
        self._recipients: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._number = self._sink.joined(self)
        self._answer("CONNECT", "220 sink.example ESMTP")
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._sink.left(self)

    def data_received(self, data: bytes) -> None:
        if self._sink.tap is not None:
            self._sink.tap(self._number, data)
        if self._deaf:
            return
        self._buffer += data
        self._work()

    def _work(self) -> None:
        while not (self._deaf or self._upgrading):
            if not (self._data() if self._in_data else self._line()):
                break
        self._flush()

    @property
    def deaf(self) -> bool:
        return self._deaf

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def say(self, raw: bytes) -> None:
        self._out.append(raw)
        self._flush()

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _answer(self, verb: str, usual: str) -> bool:
        """Reply as scripted, else as usual; whether the reply is positive."""
        step = self._sink.step(verb)
        if isinstance(step, Step):
            self._deaf = True
            self._flush()
            if step is not Step.SILENT and self._transport is not None:
                self._transport.close()
            return step is Step.LOSE
        reply = usual if step is None else step
        raw = reply.encode() + b"\r\n" if isinstance(reply, str) else reply
        self._out.append(raw)
        return raw[:1] in (b"2", b"3")

    def _line(self) -> bool:
        """Take one command from the buffer; False if there is none."""
        end = self._buffer.find(b"\r\n")
        if end < 0 and len(self._buffer) <= _COMMAND:
            return False
        if end < 0 or end > _COMMAND:
            self._out.append(b"500 5.5.2 line too long\r\n")
            self._flush()
            self._deaf = True
            self.drop()
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._command(line)
        return True

    def _command(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        verb = word.decode("latin-1").upper()
        if verb == "EHLO":
            offered = list(self._sink.extensions)
            if self._sink.tls is not None and not self._encrypted:
                offered.append("STARTTLS")
            lines = ["sink.example", *offered]
            usual = "\r\n".join([f"250-{text}" for text in lines[:-1]] + [f"250 {lines[-1]}"])
            if self._answer(verb, usual):
                self._reset()
        elif verb == "HELO":
            self._answer(verb, "250 sink.example")
        elif verb == "MAIL":
            self._mail(rest)
        elif verb == "RCPT":
            self._rcpt(rest)
        elif verb == "DATA":
            usual = "354 go on" if self._recipients else "503 5.5.1 no valid recipients"
            if self._answer(verb, usual):
                self._in_data, self._too_big, self._scanned = True, False, 0
                self._buffer[:0] = b"\r\n"
        elif verb == "STARTTLS" and self._sink.tls is not None and not self._encrypted:
            if self._answer(verb, "220 2.0.0 go on") and not self._deaf:
                self._start_tls(self._sink.tls)
        elif verb in ("RSET", "NOOP"):
            if self._answer(verb, "250 2.0.0 ok") and verb == "RSET":
                self._reset()
        elif verb == "QUIT":
            self._answer(verb, "221 2.0.0 bye")
            self._flush()
            self._deaf = True
            if self._transport is not None:
                self._transport.close()
        else:
            known = verb in ("AUTH", "STARTTLS")
            self._answer(verb if known else "*", "502 5.5.1 no such command")

    def _mail(self, rest: bytes) -> None:
        if self._mail_from is not None:
            usual = "503 5.5.1 nested MAIL"
        else:
            usual = "250 2.1.0 ok" if _path(rest, b"FROM:") else "501 5.5.4 MAIL FROM:<address>"
        found = _path(rest, b"FROM:")
        if self._answer("MAIL", usual) and found:
            self._mail_from, self._parameters = found

    def _rcpt(self, rest: bytes) -> None:
        found = _path(rest, b"TO:")
        if self._mail_from is None:
            usual = "503 5.5.1 MAIL first"
        else:
            usual = "250 2.1.5 ok" if found and found[0] else "501 5.5.4 RCPT TO:<address>"
        if self._answer("RCPT", usual) and found:
            self._recipients.append(found[0])

    def _data(self) -> bool:
        """Take the content from the buffer, which starts with the CRLF before it."""
        end = self._buffer.find(b"\r\n.\r\n", self._scanned)
        if end < 0:
            if len(self._buffer) > _MESSAGE:
                self._too_big = True
                del self._buffer[:-4]
            self._scanned = max(0, len(self._buffer) - 4)
            return False
        content = bytes(self._buffer[: end + 2]).replace(b"\r\n.", b"\r\n")[2:]
        del self._buffer[: end + 5]
        self._in_data = False
        usual = f"250 2.0.0 kept as {self._sink.total + 1}"
        if self._too_big:
            usual = "552 5.3.4 larger than 64 MiB"
        if self._answer(".", usual) and not self._too_big:
            self._sink.add(self._mail_from or b"", self._recipients, content, self._parameters)
        self._reset()
        return True

    def _reset(self) -> None:
        self._mail_from, self._parameters, self._recipients = None, b"", []

    @property
    def _encrypted(self) -> bool:
        return (
            self._transport is not None
            and self._transport.get_extra_info("ssl_object") is not None
        )

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._flush()
        self._upgrading = True
        self._upgrade = asyncio.ensure_future(self._encrypt(context))

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        transport = self._transport
        if transport is None:
            return
        loop = asyncio.get_running_loop()
        self._buffer.clear()  # what came before TLS counts for nothing
        try:
            self._transport = await loop.start_tls(transport, self, context, server_side=True)
        except OSError:
            transport.abort()
            return
        self._upgrading = False
        self._reset()
        self._work()


def _path(rest: bytes, keyword: bytes) -> tuple[bytes, bytes] | None:
    """Address and parameters of `FROM:<address> parameters`; None if it has another form."""
    if rest[: len(keyword)].upper() != keyword:
        return None
    text = rest[len(keyword) :].lstrip(b" ")
    end = text.rfind(b">")
    if not text.startswith(b"<") or end < 0:
        return None
    return text[1:end], text[end + 1 :].strip()
