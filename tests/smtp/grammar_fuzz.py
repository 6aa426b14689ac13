"""Sessions out of a grammar of SMTP, well and badly formed, against the front door and an upstream.

    python tests/smtp/grammar_fuzz.py [--sessions 20000] [--seed N] [--at-once 40]

Held for each session: every command and every message gets exactly one well-formed reply (or the
connection ends), none comes later than five seconds, nothing unforeseen happens on our side, and no
address is on the upstream's wire that the gate was not asked about in the same transaction.
Content carries commands for `smuggled@evil.example`, behind every wrong end of data that is known.
A failure prints the seed of its session, which repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from policy.address import Address
from proxy import log
from proxy.config import Limits, Listener, Server, Settings, Upstream
from proxy.config.models import Http, PolicyConfig
from proxy.content import Content
from proxy.delivery.upstream import Copy, Pool
from proxy.envelope import Envelope
from proxy.replies import Reply
from proxy.sink import EXTENSIONS, Sink
from proxy.smtp.server import serve_listener
from proxy.store.model import Result

HANG = 5.0
_REPLY = re.compile(rb"[2-5][0-9][0-9][ -][ -~]{0,508}\r\n|334\r\n")
_ENDS = (
    *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\r.\r\n", b"\r\n.\r"),
    *(b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n..\r\n"),
    b"\r\n. \r\n",
)
_SMUGGLED = b"MAIL FROM:<a@evil.example>\r\nRCPT TO:<smuggled@evil.example>\r\nDATA\r\nx\r\n"
_LOCALS = (
    *(b"anna", b"a.b", b"a+b", b'"a b"', b'"a\\"b"', b'"a>b"', b"a..b", b".a", b"", b"a(c)"),
    b"\xc3\xa9",
    *(b"x" * 64, b"x" * 65, b"a\rb", b"a\0b", b"a\\b", b"a!b", b"a%b", b"=?x?q?a?=", b"postmaster"),
)
_DOMAINS = (
    *(b"example.nl", b"EXAMPLE.nl", b"[127.0.0.1]", b"[IPv6:::1]", b"b\xc3\xbccher.example", b""),
    *(b"xn--bcher-kva.example", b"a_b.example", b"localhost", b"example.nl.", b"-a.example"),
)
_OPTIONS = (
    *(b"SIZE=10", b"SIZE=999999999", b"SIZE=x", b"BODY=8BITMIME", b"BODY=7BIT", b"SMTPUTF8"),
    *(b"RET=HDRS", b"RET=x", b"ENVID=a+2Bb", b"ENVID=+", b"AUTH=<>", b"X=1", b"="),
    b"NOTIFY=NEVER",
    *(b"NOTIFY=SUCCESS,DELAY", b"NOTIFY=x", b"ORCPT=rfc822;a@b.example", b"ORCPT=x"),
    b"SIZE=1 SIZE=2",
)
_OTHER = (
    *(b"EHLO c.example", b"HELO c", b"EHLO", b"EHLO [1.2.3.4]", b"EHLO \xff", b"RSET", b"RSET x"),
    *(b"NOOP", b"NOOP x", b"VRFY anna", b"EXPN all", b"HELP", b"AUTH", b"AUTH PLAIN AGEAYg=="),
    *(b"AUTH PLAIN =", b"AUTH CRAM-MD5", b"STARTTLS", b"STARTTLS x", b"", b" ", b"FOO", b"ETRN x"),
    *(b"XCLIENT ADDR=127.0.0.1", b"XFORWARD x", b"MAIL", b"MAIL TO:<a@b.example>"),
    b"RCPT FROM:<a@b.example>",
    *(b"DATA x", b"TURN", b"mail from:<a@b.example>", b"MAIL FROM:a@b.example", b"RCPT TO:<"),
    b"\xff\xfe",
)  # fmt: skip
_LAST = (
    b"QUIT",
    b"BDAT 10 LAST\r\nMAIL FROM:<smuggled@evil.example>",
    b"GET / HTTP/1.0",
    b"x" * 70000 + b"\r\nQUIT",
)


class FuzzError(AssertionError):
    """A promise that did not hold."""


@dataclass
class RelayingGate:
    """Admits most recipients and sends what it is given, as the real gate does."""

    pool: Pool
    asked: dict[str, set[bytes]] = field(default_factory=dict)
    sent: dict[bytes, str] = field(default_factory=dict)

    async def mail(self, envelope: Envelope) -> Reply | None:
        self.asked[envelope.ref] = set()
        return None

    def relays_notices(self) -> bool:
        return self.pool.offers("DSN")

    def accepts_from_strangers(self, recipient: Address) -> bool:
        return False

    async def admit(self, envelope: Envelope, recipient: Address) -> Reply | None:
        self.asked[envelope.ref].add(recipient.wire)
        return Reply(550, "5.7.1", "no-basis") if recipient.local == "a.b" else None

    async def submit(self, envelope: Envelope, content: Content) -> Reply:
        copy = Copy(
            mail_from=envelope.mail_from.wire if envelope.mail_from else b"",
            recipients=tuple(address.wire for address in envelope.recipients),
            size=len(content),
            body_8bit=not content.isascii(),
            smtputf8=envelope.smtputf8 or any(a.utf8 for a in envelope.recipients),
            ret=envelope.ret,
            envid=envelope.envid,
        )
        async with self.pool.connection() as connection:
            connection.begin(copy)
            mark = f"X-Ref: {envelope.ref}\r\n".encode()
            given = await connection.finish([mark, content])
        if any(one.result is Result.ACCEPTED for one in given):
            return Reply(250, "2.0.0", "relayed")
        return Reply(554, "5.0.0", given[0].reply)


@dataclass
class Counters:
    """Nobody counts; the reply to our own faults is looked for on the wire."""

    def connection_opened(self, listener: str) -> None: ...
    def connection_closed(self, listener: str) -> None: ...
    def reply(self, command: str, code: int) -> None: ...
    def upstream(self, name: str, up: bool) -> None: ...


class Session:
    """One client, whose every choice comes from its seed."""

    def __init__(self, seed: int, port: int) -> None:
        self._random = random.Random(seed)
        self._port = port

    async def run(self) -> None:
        pick = self._random
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await self._reply()
            await self._send(b"EHLO c.example\r\n")
            await self._reply()
            for _ in range(pick.randint(1, 14)):
                if not await self._step():
                    return
            if pick.random() < 0.7:
                await self._send(pick.choice(_LAST) + b"\r\n")
                await self._until_closed()
        finally:
            self._writer.close()

    async def _step(self) -> bool:
        pick = self._random
        match pick.randrange(8):
            case 0:
                burst = [self._command() for _ in range(pick.randint(2, 6))]
                burst = [c for c in burst if c[:8].upper() not in (b"STARTTLS", b"DATA\r\n")]
                burst = [c for c in burst if not c.upper().startswith((b"AUTH", b"DATA"))]
                await self._send(b"".join(burst))
                return all([await self._answer() for _ in burst])
            case 1 | 2 | 3:
                return await self._mail()
            case _:
                await self._send(self._command())
                return await self._answer()

    async def _answer(self) -> bool:
        """One reply, and whether the session goes on; a challenge is given up."""
        reply = await self._reply()
        if reply.startswith(b"334"):
            await self._send(b"*\r\n")
            reply = await self._reply()
        if reply.startswith(b"220"):
            raise FuzzError("TLS was begun without a certificate")
        return bool(reply) and not reply.startswith(b"421")

    async def _mail(self) -> bool:
        pick = self._random
        await self._send(b"RSET\r\nMAIL FROM:<a@b.example>%b\r\n" % self._options(0.2))
        if not await self._answer() or not await self._answer():
            return False
        for _ in range(pick.randint(0, 3)):
            await self._send(self._rcpt())
            if not await self._answer():
                return False
        await self._send(b"DATA\r\n")
        reply = await self._reply()
        if not reply.startswith(b"354"):
            return bool(reply) and not reply.startswith(b"421")
        await self._send(self._content())
        if not await self._answer():
            return False
        await self._send(b"NOOP\r\n")  # in step: the next reply is the one to this
        reply = await self._reply()
        if reply and not reply.startswith((b"250 2.0.0 ok", b"421")):
            raise FuzzError(f"out of step: {reply!r}")
        return bool(reply) and not reply.startswith(b"421")

    def _content(self) -> bytes:
        pick = self._random
        pieces = [b"Subject: x\r\n\r\n"]
        for _ in range(pick.randint(0, 5)):
            kind = pick.randrange(6)
            if kind == 0:
                pieces.append(pick.choice(_ENDS) + _SMUGGLED)
            elif kind == 1:
                pieces.append(b"y" * pick.choice((997, 998, 999, 1000, 5000)) + b"\r\n")
            elif kind == 2:
                pieces.append(bytes(pick.choices(b"\r\n.\0a\xff", k=pick.randint(1, 9))))
            else:
                pieces.append(pick.choice((b"text\r\n", b"..dot\r\n", b"\xc3\xa9\r\n", b"\r\n")))
        text = b"".join(pieces)
        # Only what the grammar means to be the end is one.
        while b"\r\n.\r\n" in text:
            text = text.replace(b"\r\n.\r\n", b"\r\n..\r\n")
        while text.endswith((b"\r\n.", b"\r\n.\r")):
            text += b"x"
        return text + b"\r\n.\r\n"

    def _command(self) -> bytes:
        pick = self._random
        kind = pick.randrange(7)
        if kind == 0:
            line = b"MAIL FROM:<%b>%b" % (self._address(), self._options(0.5))
        elif kind in (1, 2):
            return self._rcpt()
        elif kind == 3:
            mutated = bytearray(pick.choice(_OTHER) + b" x")
            mutated[pick.randrange(len(mutated))] = pick.randrange(256)
            line = bytes(mutated).replace(b"\n", b"?")
        else:
            line = pick.choice(_OTHER)
        if line[:4].upper() in (b"QUIT", b"BDAT"):
            line = b"NOOP"
        if line[:4].upper() == b"DATA":
            line = b"DATA x"
        return line + (b"\n" if pick.random() < 0.03 else b"\r\n")

    def _rcpt(self) -> bytes:
        return b"RCPT TO:<%b>%b\r\n" % (self._address().replace(b"\n", b""), self._options(0.2))

    def _address(self) -> bytes:
        pick = self._random
        if pick.random() < 0.5:
            return pick.choice((b"anna@example.nl", b"bram@example.nl", b"a.b@example.nl"))
        route = b"@relay.example:" if pick.random() < 0.1 else b""
        return route + pick.choice(_LOCALS) + b"@" + pick.choice(_DOMAINS)

    def _options(self, chance: float) -> bytes:
        if self._random.random() > chance:
            return b""
        return b" " + b" ".join(self._random.sample(_OPTIONS, self._random.randint(1, 2)))

    async def _send(self, octets: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            if self._random.random() < 0.1:  # in two segments, if the kernel likes
                cut = self._random.randrange(len(octets) + 1)
                self._writer.write(octets[:cut])
                await self._writer.drain()
                await asyncio.sleep(0)
                octets = octets[cut:]
            self._writer.write(octets)
            await self._writer.drain()

    async def _reply(self) -> bytes:
        """The last line of the next reply; empty when the connection has ended instead."""
        while True:
            try:
                async with asyncio.timeout(HANG):
                    line = await self._reader.readline()
            except TimeoutError:
                raise FuzzError("no reply within five seconds") from None
            except ConnectionError:
                return b""
            if not line:
                return b""
            if _REPLY.fullmatch(line) is None:
                raise FuzzError(f"no reply: {line!r}")
            if line.startswith(b"451 4.3.0"):
                raise FuzzError(f"something unforeseen: {line!r}")
            if line[3:4] != b"-":
                return line

    async def _until_closed(self) -> None:
        while await self._reply():
            pass


async def fuzz(sessions: int, seed: int, at_once: int) -> tuple[int, int]:
    """Run so many; how many mails reached the upstream, and for how many recipients.

    Raises `FuzzError`.
    """
    unforeseen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unforeseen.append(str(context)))
    sink = Sink(keep=sessions * 20, extensions=(*EXTENSIONS, "DSN"))
    await sink.start()
    counters = Counters()
    upstream = Upstream(address=f"127.0.0.1:{sink.smtp_port}", tls="none")
    pool = Pool([upstream], hostname="gate.example", telemetry=counters)
    gate = RelayingGate(pool)
    listener = Listener(address="127.0.0.1:0", trusted_networks=("127.0.0.0/8",))
    settings = Settings(
        server=Server(hostname="gate.example", data_dir=Path(tempfile.gettempdir())),
        listeners=(listener,),
        upstreams=(),
        http=Http(public_url="https://mail.example"),
        senders=(),
        streams=(),
        policy=PolicyConfig(),
        limits=Limits(errors=8, recipients=3, messages_per_connection=4),
    )

    async def no_pause(_: float) -> None: ...

    running = await serve_listener(
        listener, settings, gate, counters, clock=lambda: datetime.now(UTC), pause=no_pause
    )
    numbers = iter(range(sessions))

    async def client() -> None:
        for number in numbers:
            try:
                await Session(seed + number, running.port).run()
            except FuzzError as error:
                raise FuzzError(f"--sessions 1 --seed {seed + number}: {error}") from None

    await asyncio.gather(*(client() for _ in range(at_once)))
    if not await running.drain(HANG):
        raise FuzzError("a session outlives its client")
    running.close()
    await pool.close()
    await sink.close()
    if unforeseen:
        raise FuzzError("; ".join(unforeseen[:3]))
    recipients = 0
    for mail in sink.messages:
        ref = mail.content.split(b"\r\n", 1)[0].removeprefix(b"X-Ref: ").decode()
        recipients += len(mail.recipients)
        if not set(mail.recipients) <= gate.asked[ref]:
            raise FuzzError(f"{mail.recipients} on the wire, asked about {gate.asked[ref]}")
        if any(b"smuggled" in address for address in mail.recipients):
            raise FuzzError("a smuggled recipient")
    if any(b"smuggled" in address for asked in gate.asked.values() for address in asked):
        raise FuzzError("a smuggled command was taken for one")
    return len(sink.messages), recipients


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 40))
    parser.add_argument("--at-once", type=int, default=40)
    asked = parser.parse_args()
    log.configure("error", "json")
    start = time.monotonic()
    sys.stdout.write(f"seed {asked.seed}\n")
    try:
        mails, recipients = asyncio.run(fuzz(asked.sessions, asked.seed, asked.at_once))
    except FuzzError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    taken = time.monotonic() - start
    sys.stdout.write(
        f"{asked.sessions} sessions in {taken:.0f} s: {mails} mails for {recipients} recipients\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
