"""The front door on a real socket in a thread of its own, with a gate that records."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import trustme
import uvloop
from argon2 import PasswordHasher
from pydantic import SecretStr

from policy.address import Address
from proxy.config import Credential, Http, Limits, Listener, PolicyConfig, Server, Settings
from proxy.content import Content
from proxy.envelope import Envelope
from proxy.replies import Reply
from proxy.smtp.limits import Admission
from proxy.smtp.server import RunningListener, serve_listener

T = TypeVar("T")
Loop = Literal["asyncio", "uvloop"]
Tls = Literal["none", "starttls", "implicit"]
Auth = Literal["none", "optional", "required"]

HOSTNAME = "gate.acme.example"
PATIENCE = 20.0  # seconds before a test gives up waiting for a condition
QUICK_HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")


@dataclass(frozen=True)
class Submitted:
    """One end of data as the gate saw it."""

    envelope: Envelope
    content: bytes


@dataclass
class RecordingGate:
    """Implements `proxy.smtp.Gate`. `on_*` decide; by default everything is accepted."""

    mails: list[Envelope] = field(default_factory=list)
    admitted: list[Address] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)
    finished: int = 0
    on_mail: Callable[[Envelope], Reply | None] = lambda _: None
    on_admit: Callable[[Address], Reply | None] = lambda _: None
    on_submit: Callable[[Submitted], Coroutine[Any, Any, Reply]] | None = None
    strangers: frozenset[str] = frozenset()
    notices: bool = True

    async def mail(self, envelope: Envelope) -> Reply | None:
        self.mails.append(envelope)
        return self.on_mail(envelope)

    def relays_notices(self) -> bool:
        return self.notices

    def accepts_from_strangers(self, recipient: Address) -> bool:
        return recipient.exact in self.strangers

    async def admit(self, envelope: Envelope, recipient: Address) -> Reply | None:
        assert envelope is self.mails[-1]
        self.admitted.append(recipient)
        return self.on_admit(recipient)

    async def submit(self, envelope: Envelope, content: Content) -> Reply:
        kept = replace(envelope, recipients=list(envelope.recipients), room=None)
        got = Submitted(kept, bytes(content))
        self.submitted.append(got)
        answer = (
            Reply(250, "2.0.0", f"relayed (ref {envelope.ref})")
            if self.on_submit is None
            else await self.on_submit(got)
        )
        self.finished += 1
        envelope.room = None  # `mails` keeps the envelope itself
        return answer


@dataclass
class RecordingCounters:
    """Implements `proxy.smtp.wire.Counters`."""

    opened: int = 0
    closed: int = 0
    replies: list[tuple[str, int]] = field(default_factory=list)

    def connection_opened(self, listener: str) -> None:
        self.opened += 1

    def connection_closed(self, listener: str) -> None:
        self.closed += 1

    def reply(self, command: str, code: int) -> None:
        self.replies.append((command, code))


@dataclass
class Door:
    """A running listener and the ways to look at it."""

    port: int
    gate: RecordingGate
    counters: RecordingCounters
    listener: RunningListener
    loop: asyncio.AbstractEventLoop
    client_tls: ssl.SSLContext
    pauses: list[float] = field(default_factory=list)  # answers held back, without waiting

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the listener's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the listener's loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    def connect(self, *, greet: bool = True, source: str = "127.0.0.1") -> Client:
        """A raw client; with `greet` the greeting has been read."""
        plug = socket.create_connection(
            ("127.0.0.1", self.port), timeout=PATIENCE, source_address=(source, 0)
        )
        client = Client(plug)
        if greet:
            assert client.reply().startswith(f"220 {HOSTNAME} ESMTP")
        return client

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds in the listener's loop; fails after a deadline."""

        async def poll() -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # noqa: ASYNC110 - whatever a test wants to see
                    await asyncio.sleep(0.002)

        self.run(poll())


class Client:
    """A socket that speaks exactly the octets it is told to."""

    def __init__(self, plug: socket.socket) -> None:
        self.plug = plug
        self._in = b""

    def send(self, octets: bytes) -> None:
        self.plug.sendall(octets)

    def line(self) -> str | None:
        """The next line, without CRLF; None when the server has closed instead."""
        while b"\n" not in self._in:
            try:
                more = self.plug.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self._in, "half a reply line before the end"
                return None
            self._in += more
        line, _, self._in = self._in.partition(b"\n")
        assert line.endswith(b"\r")
        assert re.fullmatch(rb"[ -~]{3,510}", line[:-1]), f"not one line of ASCII: {line!r}"
        return line[:-1].decode()

    def lines(self) -> list[str]:
        """The lines of the next reply; [] when the server has closed instead."""
        found: list[str] = []
        while True:
            line = self.line()
            if line is None:
                assert not found, "half a reply before the end"
                return []
            assert re.match(r"[2-5][0-9][0-9][ -]", line), line
            found.append(line)
            if line[3] == " ":
                return found

    def reply(self) -> str:
        """The next reply, lines joined by LF; "" when the server has closed instead."""
        return "\n".join(self.lines())

    def say(self, text: str | bytes) -> str:
        """One command and its reply."""
        self.send((text.encode() if isinstance(text, str) else text) + b"\r\n")
        return self.reply()

    def code(self, text: str | bytes) -> int:
        """One command and the code of its reply; 0 for a closed connection."""
        return int(self.say(text)[:3] or "0")

    def hello(self) -> str:
        return self.say("EHLO client.example")

    def start_tls(self, context: ssl.SSLContext) -> None:
        assert not self._in
        self.plug = context.wrap_socket(self.plug, server_hostname="localhost")

    def open(self, *recipients: str) -> None:
        """EHLO, MAIL and RCPT, all accepted."""
        self.hello()
        assert self.code("MAIL FROM:<app@acme.example>") == 250
        for recipient in recipients or ("anna@example.nl",):
            assert self.code(f"RCPT TO:<{recipient}>") == 250

    def at_end(self) -> bool:
        """Whether the server closed without another word."""
        return self.line() is None

    def close(self) -> None:
        self.plug.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def credential(username: str = "app") -> Credential:
    """A user whose password is `correct horse`, with a hash that costs little."""
    return Credential(username=username, password_hash=SecretStr(QUICK_HASH))


def settings_for(listener: Listener, limits: Limits, *credentials: Credential) -> Settings:
    """Settings with nothing but what the front door reads."""
    return Settings(
        server=Server(hostname=HOSTNAME, data_dir=Path(tempfile.gettempdir())),
        listeners=(listener,),
        upstreams=(),
        http=Http(public_url="https://mail.acme.example"),
        senders=(),
        streams=(),
        credentials=credentials,
        policy=PolicyConfig(),
        limits=limits,
    )


def authority_file(tmp_path: Path) -> Path:
    """The certificate of whoever signed the listeners' ones."""
    path = tmp_path / "ca.pem"
    _AUTHORITY.cert_pem.write_to_path(str(path))
    return path


_AUTHORITY = trustme.CA()
_ISSUED = _AUTHORITY.issue_cert("localhost", "127.0.0.1")


@contextlib.contextmanager
def front_door(
    tmp_path: Path | None = None,
    *,
    trusted: bool | tuple[str, ...] = True,
    loop: Loop = "asyncio",
    gate: RecordingGate | None = None,
    tls: Tls = "none",
    auth: Auth = "none",
    admission: Callable[[Limits], Admission] | None = None,
    more: Mapping[str, Any] | None = None,
    waits: bool = False,
    **limits: Any,
) -> Iterator[Door]:
    """A listener on a free loopback port; `limits` as in `[limits]`, `more` other keys of the
    listener. TLS needs `tmp_path`."""
    files: dict[str, Path] = {}
    context = ssl.create_default_context()
    if tls != "none":
        assert tmp_path is not None
        _AUTHORITY.configure_trust(context)
        files = {"certificate": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
        files["certificate"].write_bytes(b"".join(p.bytes() for p in _ISSUED.cert_chain_pems))
        files["key"].write_bytes(_ISSUED.private_key_pem.bytes())
    limits.setdefault("command_timeout", timedelta(seconds=PATIENCE))
    listener = Listener(
        address="127.0.0.1:0",
        tls=tls,
        auth=auth,
        trusted_networks=("127.0.0.0/8",) if trusted is True else trusted or (),
        **files,
        **(more or {}),
    )
    settings = settings_for(listener, Limits(**limits), credential())
    gate = gate or RecordingGate()
    counters = RecordingCounters()
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    started: list[Door | BaseException] = []
    ready = threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        running = await serve_listener(
            listener,
            settings,
            gate,
            counters,
            clock=lambda: datetime.now(UTC),
            admission=admission(settings.limits) if admission else None,
            pause=None if waits else pause,
        )
        here = asyncio.get_running_loop()
        started.append(Door(running.port, gate, counters, running, here, context, pauses))
        ready.set()
        await stop.wait()
        running.close()
        assert await running.drain(PATIENCE), "a connection or hand-over outlives its listener"

    def work() -> None:
        try:
            factory = uvloop.new_event_loop if loop == "uvloop" else None
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        except BaseException as error:
            started.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=work, name="front-door")
    thread.start()
    assert ready.wait(PATIENCE)
    door = started[0]
    if isinstance(door, BaseException):
        thread.join()
        raise door
    try:
        yield door
    finally:
        door.loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        assert not thread.is_alive()
