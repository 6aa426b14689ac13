"""What a running Sluis looks like from outside: may strangers relay, is TLS in order, is upstream?

Every check is done against what runs, by the means of those who will meet it. What cannot be tried
from this machine is said to be untried, never taken for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509

from proxy.config import Listener, Settings
from proxy.delivery.upstream import Pool
from proxy.errors import ConfigError, UpstreamUnavailable
from proxy.smtp.limits import read_peer, trusted_network

_PATIENCE = 10.0  # seconds for each answer
_SOON = timedelta(days=14)


class Verdict(StrEnum):
    """Of one check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, and what was seen."""

    verdict: Verdict
    subject: str
    words: str


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """All checks, one after the other. Raises nothing for what is wrong outside."""
    for listener in settings.listeners:
        async for finding in _listener(listener):
            yield finding
        yield await _relay(listener)
    async for finding in _upstreams(settings):
        yield finding


# -- Listeners -----------------------------------------------------------------------------------


async def _listener(listener: Listener) -> AsyncIterator[Finding]:
    subject = f"listener {listener.address}"
    try:
        async with _Dialogue.open(listener) as dialogue:
            offered = await dialogue.hello()
            if listener.tls == "starttls" and "STARTTLS" not in offered:
                yield Finding(Verdict.FAILED, subject, "does not offer STARTTLS")
            elif listener.tls == "starttls":
                await dialogue.start_tls()
            yield Finding(Verdict.OK, subject, "answers")
            if listener.tls != "none":
                yield _certificate(subject, dialogue.certificate)
    except (OSError, ValueError) as error:
        yield Finding(Verdict.FAILED, subject, f"does not answer ({_why(error)}): is it running?")


def _certificate(subject: str, der: bytes | None) -> Finding:
    if der is None:
        return Finding(Verdict.FAILED, subject, "shows no certificate")
    until = x509.load_der_x509_certificate(der).not_valid_after_utc
    words = f"certificate valid until {until:%Y-%m-%d}"
    left = until - datetime.now(UTC)
    if left < timedelta(0):
        return Finding(Verdict.FAILED, subject, f"{words}: it has expired")
    return Finding(Verdict.WARNING if left < _SOON else Verdict.OK, subject, words)


def attempts(hostname: str) -> Iterator[tuple[str, str]]:
    """Sender and recipient paths by which open relays have been found."""
    there = "relay-test@example.org"
    for sender in ("doctor@example.org", f"postmaster@{hostname}", ""):
        yield sender, there
    for recipient in (
        f"@{hostname}:{there}",
        f"relay-test%example.org@{hostname}",
        f"example.org!relay-test@{hostname}",
        f'"{there}"@{hostname}',
        f"{there}@{hostname}",
        "relay-test@[127.0.0.1]",
    ):
        yield "doctor@example.org", recipient


async def _relay(listener: Listener) -> Finding:
    """Try to relay through our own listener from an address that it does not trust."""
    subject = f"relay through {listener.address}"
    tried: list[str] = []
    busy = ""
    for source in own_addresses():
        if not _is_stranger(source, listener):
            continue
        try:
            async with _Dialogue.open(listener, source=source) as dialogue:
                await dialogue.hello()
                taken = await _taken(dialogue)
        except (OSError, ValueError):
            continue  # not the way to this listener
        if taken:
            words = f"OPEN RELAY: from {source}, without AUTH, it takes mail to {taken}"
            return Finding(Verdict.FAILED, subject, words)
        if taken is None:
            busy = source
        else:
            tried.append(source)
    if busy and not tried:
        words = f"no recipient could be tried from {busy}: every MAIL was refused for now"
        return Finding(Verdict.UNTRIED, subject, words)
    if tried:
        words = f"refused to strangers ({', '.join(tried)}) in every way tried"
        return Finding(Verdict.OK, subject, words)
    words = "no address of this machine reaches it that is not in trusted_networks: try elsewhere"
    return Finding(Verdict.UNTRIED, subject, words)


async def _taken(dialogue: _Dialogue) -> str | None:
    """The first recipient that was accepted; "" for none, None where every `MAIL` was put off.

    No message is ever sent.
    """
    answered = False
    for sender, recipient in attempts(dialogue.hostname):
        code, _ = await dialogue.say(f"MAIL FROM:<{sender}>")
        answered |= not 400 <= code < 500
        if code == 250:
            code, _ = await dialogue.say(f"RCPT TO:<{recipient}>")
            if 200 <= code < 300:
                return recipient
        await dialogue.say("RSET")
    return "" if answered else None


def _is_stranger(source: str, listener: Listener) -> bool:
    peer = read_peer((source, 0))
    trusted = (*listener.trusted_networks, *listener.proxy_protocol, *listener.xclient_networks)
    return not trusted_network(peer, trusted)


def own_addresses() -> list[str]:
    """Addresses of this machine from which it might reach a listener, unlikely ones last."""
    found: list[str] = []
    for family, beyond in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((beyond, 9))  # sends nothing: asks which address would be used
            found.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    found += ["127.0.0.1", "127.0.0.2", "::1"]
    return list(dict.fromkeys(address.partition("%")[0] for address in found))


class _Dialogue:
    """As much SMTP as a check needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.hostname = "localhost"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, listener: Listener, *, source: str = "") -> AsyncIterator[_Dialogue]:
        """Raises `OSError`, `ValueError`."""
        host = listener.host
        if source:  # a listener on all addresses is met at ours
            same = ipaddress.ip_address(source).version == (6 if ":" in host else 4)
            if not same:
                raise ValueError("another family")
        if host in ("0.0.0.0", "::"):  # noqa: S104  to find it, not to bind
            host = source or ("127.0.0.1" if host == "0.0.0.0" else "::1")  # noqa: S104
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(
                host,
                listener.port,
                local_addr=(source, 0) if source else None,
                ssl=_any_certificate() if listener.tls == "implicit" else None,
            )
        try:
            dialogue = cls(reader, writer)
            code, words = await dialogue._reply()
            if code != 220:
                raise ValueError(f"greets with {code}")
            dialogue.hostname = words[0].split(" ")[0]
            yield dialogue
            with contextlib.suppress(OSError, ValueError):
                await dialogue.say("QUIT")
        finally:
            writer.close()

    @property
    def certificate(self) -> bytes | None:
        """What TLS showed, DER."""
        layer = self._writer.get_extra_info("ssl_object")
        return layer.getpeercert(binary_form=True) if layer is not None else None

    async def hello(self) -> frozenset[str]:
        code, lines = await self.say("EHLO doctor.invalid")
        if code != 250:
            raise ValueError(f"answers {code} to EHLO")
        return frozenset(line.split(" ")[0].upper() for line in lines[1:])

    async def start_tls(self) -> None:
        code, _ = await self.say("STARTTLS")
        if code != 220:
            raise ValueError(f"answers {code} to STARTTLS")
        await self._writer.start_tls(_any_certificate(), server_hostname="localhost")

    async def say(self, line: str) -> tuple[int, list[str]]:
        """One command; code and lines of its reply."""
        self._writer.write(f"{line}\r\n".encode("ascii"))
        return await self._reply()

    async def _reply(self) -> tuple[int, list[str]]:
        lines: list[str] = []
        while True:
            async with asyncio.timeout(_PATIENCE):
                line = (await self._reader.readline()).decode("ascii", "replace").rstrip("\r\n")
            if not line[:3].isdigit():
                raise ValueError("is no SMTP server")
            lines.append(line[4:])
            if line[3:4] != "-":
                return int(line[:3]), lines


def _any_certificate() -> ssl.SSLContext:
    """To see a certificate, whoever signed it: that is for clients to judge."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# -- Upstreams -----------------------------------------------------------------------------------

_WISHED = {
    "8BITMIME": "8-bit mail will be refused (554 5.6.3)",
    "SMTPUTF8": "mail to addresses that are not ASCII will be refused (550 5.6.7)",
    "DSN": "clients are not offered DSN",
    "PIPELINING": "each mail takes four round trips more",
}


class _Quiet:
    def upstream(self, name: str, up: bool) -> None:
        """Part of `UpstreamEvents`."""


async def _upstreams(settings: Settings) -> AsyncIterator[Finding]:
    for upstream in settings.upstreams:
        subject = f"upstream {upstream.name}"
        if upstream.username and not upstream.password:  # which `check` tells more about
            words = f"password_file {upstream.password_file} cannot be used"
            yield Finding(Verdict.FAILED, subject, words)
            continue
        try:
            pool = Pool([upstream], hostname=settings.server.hostname, telemetry=_Quiet())
        except ConfigError as error:  # its ca_file, which the one that runs may have read before
            yield Finding(Verdict.FAILED, subject, str(error))
            continue
        try:
            async with pool.connection() as connection:
                lacks = [n for n in _WISHED if not connection.supports(n)]
                yield Finding(Verdict.OK, subject, f"can be used (tls {upstream.tls})")
                for finding in _lacking(subject, lacks, connection.max_size, settings):
                    yield finding
        except UpstreamUnavailable as error:
            yield Finding(Verdict.FAILED, subject, str(error))
        finally:
            await pool.close()


def _lacking(
    subject: str, lacks: Iterable[str], max_size: int, settings: Settings
) -> Iterator[Finding]:
    for name in lacks:
        yield Finding(Verdict.WARNING, subject, f"does not offer {name}: {_WISHED[name]}")
    if 0 < max_size < settings.limits.message_size:
        words = f"takes {max_size} octets, limits.message_size is {settings.limits.message_size}"
        yield Finding(Verdict.WARNING, subject, words)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
