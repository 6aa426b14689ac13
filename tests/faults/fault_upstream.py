"""An upstream that fails as told, records what it took, and can strike at any stage.

Its own protocol on plain streams: what a script says is what goes out, octet for octet.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from fault_records import Arrived, now

_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(<[^>\r\n]*>)", re.IGNORECASE | re.MULTILINE)
_PATH = re.compile(rb"<([^>]*)>")
_LIMIT = 4 * 1024 * 1024


class Stage(enum.Enum):
    """Where a session can be hit; the value is the SMTP verb where there is one."""

    CONNECT = "connect"
    EHLO = "ehlo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    RSET = "rset"


_USUAL = {
    Stage.CONNECT: b"220 upstream.example ESMTP\r\n",
    Stage.EHLO: b"250-upstream.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250 SIZE 10000000\r\n",
    Stage.MAIL: b"250 2.1.0 ok\r\n",
    Stage.RCPT: b"250 2.1.5 ok\r\n",
    Stage.DATA: b"354 go on\r\n",
    Stage.DOT: b"250 2.0.0 taken\r\n",
    Stage.RSET: b"250 2.0.0 ok\r\n",
}


@dataclass(frozen=True, slots=True)
class Act:
    """What to do at a stage instead of the usual.

    `reply` is raw, None the usual one, b"" none. `keep`: at the final dot, whether the mail is
    taken; None by the reply's first digit. `seconds` pass before the reply. Then the connection is
    closed (`close`), or stays and never answers again (`hang`). `strike` is called before the reply
    is written, `strike_after` once it is.
    """

    reply: bytes | None = None
    keep: bool | None = None
    seconds: float = 0.0
    close: bool = False
    hang: bool = False
    strike: Callable[[], None] | None = None
    strike_after: Callable[[], None] | None = None


@dataclass
class Session:
    """One connection's state, as a script may look at it."""

    number: int
    mail_from: str = ""
    recipients: list[str] = field(default_factory=list)
    mail: str = ""
    """Message-ID of the content, from the final dot on."""


Script = Callable[[Stage, Session], Act | None]


def as_usual(_: Stage, __: Session) -> None:
    """Take everything."""


class Upstream:
    """Listens on a free port of loopback; `script` is asked at every stage."""

    def __init__(self, arrived: list[Arrived]) -> None:
        self.arrived = arrived
        self.script: Script = as_usual
        self.port = 0
        self.sessions = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", port, limit=_LIMIT, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and end every session."""
        if self._server is not None:
            self._server.close()
        self.drop()
        await asyncio.gather(*self._open.values(), return_exceptions=True)

    def drop(self) -> None:
        """End every session at once."""
        for writer, task in self._open.items():
            writer.transport.abort()
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[writer] = task
        self.sessions += 1
        try:
            await self._talk(reader, writer, Session(self.sessions))
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the other side went, or `drop` did it
        finally:
            del self._open[writer]
            with contextlib.suppress(Exception):
                writer.close()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: Session
    ) -> None:
        goes_on = await self._answer(Stage.CONNECT, reader, writer, session)
        while goes_on:
            line = (await reader.readuntil(b"\r\n"))[:-2]
            verb = line[:4].upper()
            if verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            if verb not in _STAGES:
                writer.write(b"502 5.5.1 no such command\r\n")
                continue
            goes_on = await self._answer(_STAGES[verb], reader, writer, session, line)

    async def _answer(
        self,
        stage: Stage,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        session: Session,
        line: bytes = b"",
    ) -> bool:
        """Reply; False when the session is over."""
        found = _PATH.search(line)
        path = found[1].decode("utf-8", "replace") if found else ""
        content = b""
        if stage is Stage.MAIL:
            session.mail_from, session.recipients, session.mail = path, [], ""
        elif stage is Stage.RCPT:
            session.recipients.append(path)
        elif stage is Stage.DOT:
            raw = await reader.readuntil(b"\r\n.\r\n")
            content = raw[:-3].replace(b"\r\n..", b"\r\n.").removeprefix(b".")
            found_id = _MESSAGE_ID.search(content.partition(b"\r\n\r\n")[0])
            session.mail = found_id[1].decode() if found_id else ""
        act = self.script(stage, session) or _NOTHING
        if act.seconds:
            await asyncio.sleep(act.seconds)
        reply = _USUAL[stage] if act.reply is None else act.reply
        usual_none = stage is Stage.DATA and not session.recipients and act.reply is None
        if usual_none:
            reply = b"503 5.5.1 no valid recipients\r\n"
        good = reply[:1] in (b"2", b"3")
        if stage is Stage.RCPT and not good:
            session.recipients.pop()
        if stage is Stage.DOT and (good if act.keep is None else act.keep):
            self.arrived.append(
                Arrived(
                    mail=session.mail,
                    mail_from=session.mail_from,
                    recipients=tuple(session.recipients),
                    content=content,
                    at=now(),
                )
            )
        if act.strike is not None:
            act.strike()
        writer.write(reply)
        if act.close or act.hang or act.strike_after:
            await writer.drain()
        if act.strike_after is not None:
            act.strike_after()
        if act.hang:
            while await reader.read(65536):
                pass
        if act.close or act.hang:
            return False
        if stage is Stage.DATA and good:
            return await self._answer(Stage.DOT, reader, writer, session)
        return True


_NOTHING = Act()
_STAGES = {
    b"EHLO": Stage.EHLO,
    b"HELO": Stage.EHLO,
    b"MAIL": Stage.MAIL,
    b"RCPT": Stage.RCPT,
    b"DATA": Stage.DATA,
    b"RSET": Stage.RSET,
}
