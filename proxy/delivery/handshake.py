"""From an address to a session that may send mail: connect, greeting, EHLO, STARTTLS, AUTH."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import itertools
import socket
import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from proxy.delivery import wire
from proxy.delivery.channel import BrokenError, Channel
from proxy.errors import SluisError

#: Addresses of one host that are tried, both families in turn.
_ADDRESSES = 6


class Secret(Protocol):
    """A value that does not show itself (pydantic's `SecretStr`)."""

    def get_secret_value(self) -> str:
        """The text."""
        ...


class UpstreamLike(Protocol):
    """The settings of one upstream (`proxy.config.Upstream`); time-outs as RFC 5321 4.5.3.2."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def tls(self) -> str: ...
    @property
    def verify(self) -> bool: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def username(self) -> str | None: ...
    @property
    def password(self) -> Secret | None: ...
    @property
    def connections(self) -> int: ...
    @property
    def messages_per_connection(self) -> int: ...
    @property
    def idle_timeout(self) -> timedelta: ...
    @property
    def connect_timeout(self) -> timedelta: ...
    @property
    def greeting_timeout(self) -> timedelta: ...
    @property
    def command_timeout(self) -> timedelta: ...
    @property
    def rcpt_timeout(self) -> timedelta: ...
    @property
    def data_timeout(self) -> timedelta: ...
    @property
    def block_timeout(self) -> timedelta: ...
    @property
    def final_timeout(self) -> timedelta: ...


class HandshakeError(SluisError):
    """No session: the upstream's fault or our settings', never the mail's.

    `stage` is connect, tls, greeting, ehlo, starttls or auth; `str()` names it and why.
    """

    def __init__(self, stage: str, why: str) -> None:
        super().__init__(f"{stage}: {why}")
        self.stage = stage


def tls_context(upstream: UpstreamLike) -> ssl.SSLContext | None:
    """The TLS settings of `upstream`: TLS 1.2 or later; `verify` asks for a valid chain and name.

    Raises `OSError` if `ca_file` cannot be read.
    """
    if upstream.tls == "none":
        return None
    context = ssl.create_default_context(cafile=upstream.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not upstream.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def handshake(
    upstream: UpstreamLike, hostname: str, context: ssl.SSLContext | None
) -> tuple[Channel, dict[str, str]]:
    """A channel ready for MAIL and the extensions offered on it. Raises `HandshakeError`."""
    channel = await _reach(upstream, context if upstream.tls == "implicit" else None)
    talk = _Talk(upstream, hostname, channel)
    try:
        await talk.greeting()
        offered = await talk.ehlo()
        if upstream.tls == "starttls":
            await talk.starttls(offered, context)
            offered = await talk.ehlo()  # what was offered in clear counts for nothing
        if upstream.username is not None:
            await talk.auth(offered)
    except BrokenError as error:
        channel.abort()
        raise HandshakeError(talk.stage, str(error)) from None
    except BaseException:
        channel.abort()
        raise
    return channel, offered


class _Talk:
    """The dialogue before the first mail; `stage` is where it stands."""

    def __init__(self, upstream: UpstreamLike, hostname: str, channel: Channel) -> None:
        self._upstream = upstream
        self._hostname = hostname.encode("ascii")
        self._channel = channel
        self._timeout = upstream.command_timeout.total_seconds()
        self.stage = "greeting"

    async def greeting(self) -> None:
        limit = self._upstream.greeting_timeout.total_seconds()
        answer = await self._channel.reply(limit)
        if answer.code != 220:
            raise self._refused(answer)

    async def ehlo(self) -> dict[str, str]:
        self.stage = "ehlo"
        answer = await self._channel.ask(b"EHLO %b\r\n" % self._hostname, self._timeout)
        if answer.kind == 2:
            return wire.extensions(answer)
        if answer.kind == 5:
            answer = await self._channel.ask(b"HELO %b\r\n" % self._hostname, self._timeout)
        if answer.kind != 2:
            raise self._refused(answer)
        return {}

    async def starttls(self, offered: dict[str, str], context: ssl.SSLContext | None) -> None:
        self.stage = "starttls"
        if context is None or "STARTTLS" not in offered:
            raise HandshakeError(self.stage, "not offered, and mail is not sent in clear")
        answer = await self._channel.ask(b"STARTTLS\r\n", self._timeout)
        if answer.code != 220:
            raise self._refused(answer)
        limit = self._upstream.connect_timeout.total_seconds()
        try:
            await self._channel.start_tls(context, self._upstream.host, limit)
        except (OSError, TimeoutError) as error:
            raise HandshakeError("tls", _words(error)) from None

    async def auth(self, offered: dict[str, str]) -> None:
        self.stage = "auth"
        user = (self._upstream.username or "").encode()
        secret = self._upstream.password
        password = secret.get_secret_value().encode() if secret is not None else b""
        private = self._upstream.tls == "none" and _is_loopback(self._channel.peer)
        if not (self._channel.encrypted or private):
            raise HandshakeError(self.stage, "credentials are not sent in clear")
        mechanisms = offered.get("AUTH", "").upper().split()
        if "PLAIN" in mechanisms:
            token = base64.b64encode(b"\0%b\0%b" % (user, password))
            answer = await self._channel.ask(b"AUTH PLAIN %b\r\n" % token, self._timeout)
        elif "LOGIN" in mechanisms:
            answer = await self._channel.ask(b"AUTH LOGIN\r\n", self._timeout)
            for word in (user, password):
                if answer.code == 334:
                    line = base64.b64encode(word) + b"\r\n"
                    answer = await self._channel.ask(line, self._timeout)
        else:
            raise HandshakeError(self.stage, "neither PLAIN nor LOGIN is offered")
        if answer.code != 235:
            raise self._refused(answer)

    def _refused(self, answer: wire.Answer) -> HandshakeError:
        """For the log: without the text where it may repeat a user name or address."""
        if self.stage == "auth" or "@" in answer.text:
            return HandshakeError(
                self.stage, f"{answer.code} {wire.enhanced(answer.text)}".rstrip()
            )
        return HandshakeError(self.stage, answer.line)


async def _reach(upstream: UpstreamLike, context: ssl.SSLContext | None) -> Channel:
    """Connect to the first address that answers, all within `connect_timeout`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + upstream.connect_timeout.total_seconds()
    failure: Exception = OSError("no address")
    try:
        async with asyncio.timeout_at(deadline):
            found = await loop.getaddrinfo(upstream.host, upstream.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        raise HandshakeError("connect", _words(error)) from None
    addresses = _in_turn(found)
    for n, address in enumerate(addresses):
        share = max(0.0, deadline - loop.time()) / (len(addresses) - n)
        try:
            async with asyncio.timeout(share):
                _, channel = await loop.create_connection(
                    Channel,
                    address,
                    upstream.port,
                    ssl=context,
                    server_hostname=upstream.host if context else None,
                )
        except (OSError, TimeoutError) as error:
            failure = error
        else:
            return channel
    stage = "tls" if isinstance(failure, ssl.SSLError) else "connect"
    raise HandshakeError(stage, _words(failure)) from None


def _in_turn(found: Sequence[tuple[int, int, int, str, Sequence[object]]]) -> list[str]:
    """Addresses with the families in turn, so that one broken family costs one attempt in two."""
    families: dict[int, list[str]] = {}
    for family, _, _, _, sockaddr in found:
        families.setdefault(family, []).append(str(sockaddr[0]))
    rounds = itertools.zip_longest(*families.values())
    return [a for a in itertools.chain.from_iterable(rounds) if a is not None][:_ADDRESSES]


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    if isinstance(error, TimeoutError) and not error.args:
        return "timed out"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or "failed"
