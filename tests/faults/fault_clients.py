"""Applications that send, people who say no, and what both are told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fault_records import LAST_LINE, Arrived, Mail, OptOut, Records, Told, now
from fault_site import MARKETING, PEOPLE, domain

_TOKEN = re.compile(rb"<http://mail\.acme\.example/u/([^>]+)>")
_PATIENCE = 30.0

#: How long clients ask again at the end, in seconds: longer than a lease.
_SETTLING = 30.0

_CONTENT = """\
From: Acme <hello@{domain}>
To: undisclosed-recipients:;
Subject: Number {id}
Date: Tue, 24 Nov 2026 08:00:00 +0000
Message-ID: {id}

Acme Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam
Unsubscribe: mailto:privacy@acme.example?subject=unsubscribe
{padding}
"""


def make_mail(
    id_: str, stream: str, recipients: Sequence[str], *, point: int, lines: int = 1
) -> Mail:
    """A mail of this stream, with `lines` lines of padding; its Message-ID is made of `id_`."""
    message_id = f"<{id_}@{domain(stream)}>"
    text = _CONTENT.format(
        domain=domain(stream), id=message_id, padding="\n".join(["x" * 70] * lines)
    )
    return Mail(
        id=message_id,
        stream=stream,
        mail_from=f"bounces@{domain(stream)}",
        recipients=tuple(recipients),
        content=text.replace("\n", "\r\n").encode() + LAST_LINE,
        marketing=stream in MARKETING,
        point=point,
    )


class LostError(Exception):
    """The connection to the relay ended."""


@dataclass
class Line:
    """A client's connection to the relay, opened when it is needed and kept while it lasts."""

    host: str
    port: int
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect and greet, unless that is done."""
        if self.writer is not None:
            return
        try:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        except OSError as error:
            raise LostError from error
        code, _ = await self._reply()
        if code == 220:
            code, _ = await self.command(b"EHLO app.acme.example")
        if code != 250:
            self.close()
            raise LostError

    async def command(self, line: bytes) -> tuple[int, str]:
        """One command and its reply. Raises `LostError`."""
        self.write(line + b"\r\n")
        return await self._reply()

    def write(self, octets: bytes) -> None:
        """Send."""
        if self.writer is None:
            raise LostError
        self.writer.write(octets)

    async def _reply(self) -> tuple[int, str]:
        if self.reader is None:
            raise LostError
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    line = await self.reader.readuntil(b"\r\n")
                    if line[3:4] != b"-":
                        return int(line[:3]), line[4:-2].decode("ascii")
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise LostError from error

    def close(self) -> None:
        """Drop the connection."""
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


async def offer(line: Line, mail: Mail, records: Records, *, leave: bool = False) -> Told:
    """One transaction. With `leave` the client goes after its dot and hears no reply."""
    records.mails.setdefault(mail.id, mail)
    begun = now()
    code, text = 0, ""
    taken: list[str] = []
    try:
        await line.open()
        code, text = await line.command(f"MAIL FROM:<{mail.mail_from}>".encode())
        if code == 250:
            for recipient in mail.recipients:
                code, text = await line.command(f"RCPT TO:<{recipient}>".encode())
                if code == 250:
                    taken.append(recipient)
        if taken:
            code, text = await line.command(b"DATA")
            if code == 354:
                code, text = 0, ""
                line.write(mail.content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
                if leave:
                    await asyncio.sleep(0)
                    raise LostError
                code, text = await line._reply()
        if not 200 <= code < 300:
            await line.command(b"RSET")
    except LostError:
        line.close()
        if code < 400:
            code, text = 0, ""
    told = Told(mail.id, begun, now(), code, text, tuple(taken))
    records.told.append(told)
    return told


@dataclass
class Crowd:
    """The load of one data directory: who was told what, and what they do next."""

    records: Records
    chance: random.Random
    host: str
    number: int = 0
    objected: list[str] = field(default_factory=list)
    """People whose request to stop is under way or answered, the newest last."""
    unsettled: dict[str, Mail] = field(default_factory=dict)
    """Mails whose client was not told an end yet."""

    def person(self) -> str:
        """Somebody; often one who has just said no."""
        if self.objected and self.chance.random() < 0.35:
            return self.chance.choice(self.objected[-6:])
        return self.chance.choice(PEOPLE)

    def recipients(self, count: int, marketing: bool) -> list[str]:
        """Distinct people; for several, one may have given no consent at all."""
        chosen = {self.person() for _ in range(count)}
        if count > 1 and marketing and self.chance.random() < 0.4:
            chosen.add(f"nobody{self.chance.randrange(9)}@example.nl")
        return sorted(chosen)

    async def client(self, port: int, streams: Sequence[str], several: bool, point: int) -> None:
        """Send until the connection cannot be made any more."""
        line = Line(self.host, port)
        chance = self.chance
        try:
            while True:
                if self.unsettled and chance.random() < 0.3:
                    mail = self.unsettled.pop(chance.choice(list(self.unsettled)))
                else:
                    stream = chance.choice(streams)
                    count = chance.randint(2, 4) if several else 1
                    self.number += 1
                    mail = make_mail(
                        f"m{self.number}",
                        stream,
                        self.recipients(count, stream in MARKETING),
                        point=point,
                        lines=chance.choice((1, 1, 1, 40, 2000)),
                    )
                if not await self.send(line, mail):
                    return
                if chance.random() < 0.08 and not await self.send(line, mail):
                    return  # again, as if the reply had been lost
        finally:
            line.close()

    async def send(self, line: Line, mail: Mail) -> bool:
        """Offer once; False where the relay is gone. What has no end yet is kept for later."""
        leave = self.chance.random() < 0.04
        told = await offer(line, mail, self.records, leave=leave)
        if told.code < 200 or 400 <= told.code < 500:
            self.unsettled[mail.id] = mail
        if told.code == 0 and not leave:
            with contextlib.suppress(LostError):
                await line.open()
            return line.writer is not None
        return True

    async def settle(self, port: int) -> list[Mail]:
        """Every client asks again until it hears an end; the mails for which none came."""
        line = Line(self.host, port)
        deadline = now() + _SETTLING
        while self.unsettled and now() < deadline:
            for id_ in list(self.unsettled):
                told = await offer(line, self.unsettled[id_], self.records)
                if 200 <= told.code < 300 or told.code >= 500:
                    del self.unsettled[id_]
            await asyncio.sleep(0.05)
        line.close()
        return list(self.unsettled.values())

    async def objector(self, port: int, pause: Callable[[], float]) -> None:
        """People click on unsubscribe in what they got, while the rest goes on."""
        seen = 0
        while True:
            await asyncio.sleep(pause())
            letters = [a for a in self.records.arrived[seen:] if b"List-Unsubscribe:" in a.content]
            seen = len(self.records.arrived)
            for letter in self.chance.sample(letters, min(1, len(letters))):
                if letter.recipients[0] not in self.objected:
                    await self.click(port, letter)

    async def click(self, port: int, letter: Arrived) -> OptOut:
        """One-click, by the link in this mail (RFC 8058)."""
        person = letter.recipients[0]
        found = _TOKEN.search(re.sub(rb"\r\n[ \t]+", b" ", letter.content))
        assert found is not None, letter.mail
        self.objected.append(person)
        begun = now()
        path = f"/u/{found[1].decode()}"
        status = await _post(self.host, port, path, b"List-Unsubscribe=One-Click")
        optout = OptOut(person, begun, now(), status, "one-click")
        self.records.optouts.append(optout)
        if not optout.answered:
            self.objected.remove(person)  # asks again, later
        return optout


async def _post(host: str, port: int, path: str, body: bytes) -> int:
    """The status of one POST of a form; 0 where no answer came."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: mail.acme.example\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(head.encode() + body)
                return int((await reader.readuntil(b"\r\n")).split()[1])
            finally:
                writer.transport.abort()
    except (OSError, EOFError, TimeoutError):
        return 0
