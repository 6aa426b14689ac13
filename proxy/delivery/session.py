"""One SMTP session after its handshake: mail transactions, one at a time (RFC 5321, RFC 2920).

The instant that matters is `_Transaction.dot`: it is set in the statement before the final
CRLF.CRLF is handed to the transport. A failure before it means certainly not delivered, after it
unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.content import STRETCH, Piece, Spooled
from proxy.delivery import wire
from proxy.delivery.channel import BrokenError, Channel, GarbledError, LostError
from proxy.delivery.handshake import UpstreamLike
from proxy.envelope import Notices
from proxy.replies import printable
from proxy.store.model import Result

#: Content is stuffed and written in blocks of this many octets; less goes out at once with the dot.
_BLOCK = STRETCH

_KINDS = {2: Result.ACCEPTED, 4: Result.TEMPORARY, 5: Result.PERMANENT}


class Copy(NamedTuple):
    """One mail as it goes to one or several recipients.

    `mail_from` (b"" is the null reverse-path) and `recipients` are written verbatim between `<` and
    `>`. `size` is the content in octets, `body_8bit` asks for 8BITMIME (RFC 6152), `smtputf8` for
    RFC 6531. `ret` and `envid` are as in `proxy.envelope.Envelope`, `notices` empty or one per
    recipient; an upstream without DSN is not told them (RFC 3461 section 5.2.2).
    """

    mail_from: bytes
    recipients: tuple[bytes, ...]
    size: int
    body_8bit: bool
    smtputf8: bool
    ret: str = ""
    envid: str = ""
    notices: tuple[Notices, ...] = ()

    def only(self, wanted: Callable[[bytes], bool]) -> Copy:
        """The copy for those of its recipients that `wanted` holds for."""
        kept = [n for n, recipient in enumerate(self.recipients) if wanted(recipient)]
        if len(kept) == len(self.recipients):
            return self
        return self._replace(
            recipients=tuple(self.recipients[n] for n in kept),
            notices=tuple(self.notices[n] for n in kept) if self.notices else (),
        )


@dataclass(slots=True, unsafe_hash=True)  # frozen it would take three times as long to make
class Given:
    """What became of one recipient. Not to be changed.

    `reply` is one line of printable ASCII with its code: the upstream's own verbatim (several lines
    joined by ` / `), or ours (`451 4.4.x`, `55x`) where the upstream gave none. `stage` is local,
    connect, tls, greeting, ehlo, starttls, auth, rset, mail, rcpt, data, content or dot. `remote`
    is the host (name or address) of the upstream whose reply it is, "" where none answered;
    `upstream` the configured name of the one that was tried, "" for none.
    """

    result: Result
    code: int
    reply: str
    stage: str
    remote: str = field(default="", compare=False)
    upstream: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """`reply` without code and enhanced status code."""
        rest = self.reply[4:]
        return rest.removeprefix(wire.enhanced(rest)).lstrip()

    @property
    def enhanced(self) -> str:
        """The enhanced status code in `reply`, or ""."""
        return wire.enhanced(self.reply[4:])


#: Whether the dot may follow the content.
Ready = Callable[[], Awaitable[bool]]


class StaleError(Exception):
    """The connection was dead before it answered anything of this transaction: nothing was sent."""


class _ClosingError(Exception):
    """The upstream ends the session with this reply (421), or spoke before the final dot."""

    def __init__(self, answer: wire.Answer) -> None:
        super().__init__(answer.code)
        self.answer = answer


@dataclass(slots=True)
class _Transaction:
    given: list[Given | None]
    commands: list[bytes]  # MAIL, and one RCPT per recipient
    reset: bool           # RSET goes first
    written: bool         # the whole envelope is on the wire (PIPELINING)
    answered: int = 0
    stage: str = "mail"
    over: bool = False    # the envelope has been answered, or has failed
    ready: bool = False   # 354, and somebody to send it to
    dot: bool = False     # the final CRLF.CRLF was handed to the transport


class Session:
    """A live session. Every method leaves it usable for a next mail, or closed."""

    def __init__(
        self, channel: Channel, offered: Mapping[str, str], upstream: UpstreamLike
    ) -> None:
        self._channel = channel
        self._command = upstream.command_timeout.total_seconds()
        self._rcpt = upstream.rcpt_timeout.total_seconds()
        self._data = upstream.data_timeout.total_seconds()
        self._block = upstream.block_timeout.total_seconds()
        self._final = upstream.final_timeout.total_seconds()
        self._limit = upstream.messages_per_connection
        self._host = upstream.host
        self._name = upstream.name
        self._dirty = False  # a transaction may be open at the server
        self._tx: _Transaction | None = None
        self._after: _Transaction | None = None  # leaves with the dot of `_tx`
        self.offered = dict(offered)
        self._pipelines = "PIPELINING" in self.offered
        self.max_size = wire.max_size(self.offered)
        self.served = 0
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """A new transaction may begin."""
        return self._tx is None and self.served < self._limit and self._channel.quiet

    @property
    def channel(self) -> Channel:
        """The connection itself."""
        return self._channel

    def begin(self, copy: Copy) -> None:
        """Write the whole envelope if PIPELINING is offered. Raises `ValueError` (`wire.path`)."""
        tx = self._tx = _Transaction(
            given=[None] * len(copy.recipients),
            commands=[self._mail(copy), *self._rcpts(copy)],
            reset=self._dirty,
            written=self._pipelines,
        )
        self.served += 1
        if tx.written:
            reset = [b"RSET\r\n"] if tx.reset else []
            commands = [*reset, *tx.commands, b"DATA\r\n"]
            self._channel.send(b"".join(commands), replies=len(commands))

    @property
    def begun(self) -> bool:
        """A transaction was begun that is not finished yet."""
        return self._tx is not None

    def follow(self, copy: Copy) -> bool:
        """Write the envelope of `copy` in one go with the dot of the current transaction (RFC 2920
        3.1: content may be followed by commands); False where that cannot be done.

        Once the current one is finished, `begun` tells whether it was. Raises `ValueError`.
        """
        if not self._pipelines or self.served >= self._limit:
            return False
        self._after = _Transaction(
            given=[None] * len(copy.recipients),
            commands=[self._mail(copy), *self._rcpts(copy)],
            reset=False,  # the dot ends the one before, whatever its answer
            written=False,
        )
        return True

    async def envelope(self) -> None:
        """Await the replies to the envelope; nothing of the content leaves. Raises `StaleError`."""
        tx = self._tx or self._current()
        if tx.over:
            return
        try:
            await self._envelope(tx)
        except _ClosingError as closing:
            if tx.answered == 0 and self.served > 1:
                self._channel.abort()
                raise StaleError(closing.answer.line) from None
            self._decide(tx, closing.answer)
            self._channel.abort()
        except BrokenError as broken:
            self._channel.abort()
            if tx.answered == 0 and isinstance(broken, LostError):
                raise StaleError(str(broken)) from None
            self._give_up(tx, broken)
        except BaseException:
            self._channel.abort()
            raise
        tx.over = True

    async def finish(
        self, parts: Sequence[Piece], ready: Ready | None = None
    ) -> list[Given]:
        """Send the content; one `Given` per recipient. Raises `StaleError`, as `envelope` does."""
        tx = self._tx or self._current()
        if not tx.over:
            await self.envelope()
        if tx.ready:
            try:
                await self._content(tx, parts, ready)
            except _ClosingError as closing:
                self._decide(tx, closing.answer)
                self._channel.abort()
            except BrokenError as broken:
                self._give_up(tx, broken)
                self._channel.abort()
            except BaseException:
                self._channel.abort()
                raise
        after, self._after = self._after, None
        if after is None or not after.written:
            self._tx = None
        elif self._channel.failure is None and not self._channel.closing:
            self._tx = after
        else:  # it will not be answered
            self._tx = None
            self._channel.abort()
        return [given for given in tx.given if given is not None]

    def abandon(self) -> None:
        """End without sending: RSET with the next mail, or close where DATA may be answered 354."""
        tx, self._tx, self._after = self._tx, None, None
        if tx is not None and (tx.ready or not tx.over) and (tx.written or tx.answered):
            self._channel.abort()

    # -- the envelope ----------------------------------------------------------------------------

    async def _envelope(self, tx: _Transaction) -> None:
        if tx.reset:
            answer = await self._next(tx, b"RSET\r\n", "rset", self._command)
            if answer.kind != 2:
                raise GarbledError("RSET refused")
        self._dirty = True
        mail = await self._next(tx, tx.commands[0], "mail", self._command)
        if mail.code // 100 != 2:
            self._refuse_all(tx, mail)
            if not tx.written:
                return
        taken = False
        for n in range(len(tx.given)):
            rcpt = await self._next(tx, tx.commands[n + 1], "rcpt", self._rcpt)
            kind = rcpt.code // 100
            if kind == 2:
                taken = taken or mail.code // 100 == 2
            elif kind in _KINDS:
                tx.given[n] = tx.given[n] or self._said(rcpt, tx.stage)
            else:
                raise GarbledError(f"{rcpt.code} in reply to RCPT")
        if not taken and not tx.written:
            return
        data = await self._next(tx, b"DATA\r\n", "data", self._data)
        if data.code == 354 and taken:
            tx.ready = True
        elif data.code == 354:
            # RFC 2920 3.1 would end this by a lone dot; but a server that goes on to 354 after it
            # refused everybody may count otherwise, and would then deliver an empty mail.
            self._channel.abort()
        elif data.kind in (4, 5):
            self._decide(tx, data)
        else:
            raise GarbledError(f"{data.code} in reply to DATA")

    def _refuse_all(self, tx: _Transaction, mail: wire.Answer) -> None:
        if mail.kind not in (4, 5):
            raise GarbledError(f"{mail.code} in reply to MAIL")
        if mail.code in (503, 530):
            # A session without AUTH or TLS, or out of step: our trouble, never this mail's.
            given = Given(Result.TEMPORARY, 451, f"451 4.3.5 upstream: {mail.line}", tx.stage)
            tx.given = [given] * len(tx.given)
            self._channel.closing = True
        self._decide(tx, mail)
        self._dirty = False

    async def _next(
        self, tx: _Transaction, command: bytes, stage: str, timeout: float  # noqa: ASYNC109
    ) -> wire.Answer:
        tx.stage = stage
        if not tx.written:
            self._channel.send(command, replies=1)
        answer = self._channel.arrived() or await self._channel.reply(timeout)
        if answer.code == 421:
            raise _ClosingError(answer)
        tx.answered += 1
        return answer

    def _mail(self, copy: Copy) -> bytes:
        words = [b"MAIL FROM:", wire.path(copy.mail_from)]
        if "SIZE" in self.offered:
            words.append(b" SIZE=%d" % copy.size)
        if copy.body_8bit and "8BITMIME" in self.offered:
            words.append(b" BODY=8BITMIME")
        if copy.smtputf8 and "SMTPUTF8" in self.offered:
            words.append(b" SMTPUTF8")
        if copy.ret and "DSN" in self.offered:
            words.append(wire.parameter("RET", copy.ret))
        if copy.envid and "DSN" in self.offered:
            words.append(wire.parameter("ENVID", copy.envid))
        return b"".join((*words, b"\r\n"))

    def _rcpts(self, copy: Copy) -> list[bytes]:
        if not copy.notices or "DSN" not in self.offered:
            return [b"RCPT TO:%b\r\n" % wire.path(recipient) for recipient in copy.recipients]
        lines = []
        for recipient, said in zip(copy.recipients, copy.notices, strict=True):
            words = [b"RCPT TO:", wire.path(recipient)]
            if said.notify:
                words.append(wire.parameter("NOTIFY", said.notify))
            if said.orcpt:
                words.append(wire.parameter("ORCPT", said.orcpt))
            lines.append(b"".join((*words, b"\r\n")))
        return lines

    # -- the content -----------------------------------------------------------------------------

    async def _content(
        self, tx: _Transaction, parts: Sequence[Piece], ready: Ready | None
    ) -> None:
        tx.stage = "content"
        stuffer = wire.Stuffer()
        last: list[bytes | bytearray | memoryview] = []
        if sum(map(len, parts)) <= _BLOCK:
            last = [stuffer.feed(part) for part in parts]
        else:
            for part in parts:
                for start in range(0, len(part), _BLOCK):
                    if last:
                        self._listen()
                        self._channel.send_all(last, replies=0)
                        if self._channel.full:
                            await self._channel.drain(self._block)
                    if isinstance(part, Spooled):
                        read = part.at_once(start, _BLOCK) or await _read(part, start)
                        last = [stuffer.feed(piece, dots=part.dots) for piece in read]
                    else:
                        last = [stuffer.feed(part[start : start + _BLOCK])]
        last.append(stuffer.end())
        if ready is not None and not await ready():
            raise BrokenError("withheld")
        self._listen()
        tx.stage = "dot"
        tx.dot = True
        after, replies = self._after, 1
        if after is not None:
            last += [*after.commands, b"DATA\r\n"]
            replies += len(after.commands) + 1
            after.written = True
            self.served += 1
        self._channel.send_all(last, replies=replies)
        answer = await self._channel.reply(self._final)
        if answer.kind not in _KINDS:
            raise GarbledError(f"{answer.code} in reply to the message")
        self._decide(tx, answer)
        self._dirty = False

    def _listen(self) -> None:
        """Raise if the upstream is gone, or spoke before the dot: 4xx and 5xx are its answer."""
        self._channel.check()
        early = self._channel.early
        if early is not None:
            if early.kind in (4, 5):
                raise _ClosingError(early)
            raise GarbledError(f"unexpected {early.code}")

    # -- results ---------------------------------------------------------------------------------

    def _decide(self, tx: _Transaction, answer: wire.Answer) -> None:
        """`answer` is the result of every recipient that has none yet."""
        given = self._said(answer, tx.stage)
        tx.given = [one or given for one in tx.given]

    def _said(self, answer: wire.Answer, stage: str) -> Given:
        code = answer.code
        return Given(_KINDS[code // 100], code, answer.line, stage, self._host, self._name)

    def _give_up(self, tx: _Transaction, broken: BrokenError) -> None:
        result = Result.UNKNOWN if tx.dot else Result.UNSENT
        given = unanswered(result, str(broken), tx.stage)
        tx.given = [one or given for one in tx.given]
        tx.ready = False

    def _current(self) -> _Transaction:
        if self._tx is None:
            raise RuntimeError("no transaction was begun")
        return self._tx


async def _read(part: Spooled, start: int) -> Sequence[bytes | bytearray]:
    try:
        return await part.read(start, _BLOCK)
    except OSError as error:
        raise BrokenError(f"the message cannot be read: {error.strerror}") from error


def unanswered(result: Result, why: str, stage: str) -> Given:
    """A result without a reply of the upstream, worded as the reply that we would give."""
    return Given(result, 451, printable(f"451 4.4.2 upstream at {stage}: {why}"), stage)
