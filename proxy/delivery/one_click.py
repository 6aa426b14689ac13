"""The one-click POST of RFC 8058 to somebody else's server: bounded, and to public addresses only.

The URI came in a mail, so it is not trusted. Its host is resolved once, *every* address found must
be a public one, and the connection goes to one of these very addresses, so that a second answer of
the name server changes nothing. No redirect is followed, no proxy asked, no cookie kept; of the
answer only the head is read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from urllib.parse import SplitResult, urlsplit

import httptools

#: Seconds for everything: name, connection, handshake, request and the head of the answer.
SECONDS = 20.0

#: Octets of an answer's head at most, interim answers (1xx) included.
_HEAD = 32_768
_READ = 4_096
_ADDRESSES = 3  # tried in turn

_BODY = b"List-Unsubscribe=One-Click"
_AUTHORITY = re.compile(r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?")
_TARGET = re.compile(r"[!-~]*")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All that IANA gave out of IPv6 for the Internet. What lies beyond is local, or stands for an
# IPv4 address (RFC 8215, RFC 4291 2.5.5.1), and not every Python knows all of it.
_INTERNET_6 = ipaddress.ip_network("2000::/3")

#: HTTP answers after which the same request may well be taken later.
_LATER = frozenset({408, 425, 429})

Resolve = Callable[[str, int], Awaitable[list[str]]]

# Threads of its own: a name out of a mail whose servers never answer holds one for as long as the
# system's resolver is patient, and the others are needed to read and relay mail.
_RESOLVERS = ThreadPoolExecutor(4, thread_name_prefix="resolve")


class Outcome(Enum):
    """What an answer means for the opt-out."""

    TAKEN = auto()
    LATER = auto()
    NEVER = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one POST, and the reason in a few words, without the URI."""

    outcome: Outcome
    words: str


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order. Raises `OSError`."""
    found = await asyncio.get_running_loop().run_in_executor(
        _RESOLVERS, partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address is of the public Internet, and so is every address within it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False  # with a zone: link-local
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    if ip.ipv4_mapped is not None or ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
    inner = ip.sixtofour or (ip.teredo or (None, None))[1]
    if inner is not None and not is_public(str(inner)):
        return False
    return ip in _INTERNET_6 and ip.is_global


class OneClick:
    """Posts opt-outs. With `loopback` (development, tests) addresses of this machine are fine."""

    def __init__(
        self, *, loopback: bool = False, seconds: float = SECONDS, resolve: Resolve = resolve
    ) -> None:
        self._loopback = loopback
        self._seconds = seconds
        self._resolve = resolve
        self._tls: ssl.SSLContext | None = None

    async def post(self, uri: str) -> Answer:
        """One try. Never raises for what the other side, its name or its certificate do."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(uri)
        except TimeoutError:
            return Answer(Outcome.LATER, "no answer in time")

    async def _post(self, uri: str) -> Answer:
        try:
            parts = urlsplit(uri)
            port = parts.port or 443
        except ValueError:
            return Answer(Outcome.NEVER, "not a usable URI")
        host = parts.hostname or ""
        sound = _AUTHORITY.fullmatch(parts.netloc) and _TARGET.fullmatch(uri)
        if parts.scheme.lower() != "https" or not sound or not host:
            return Answer(Outcome.NEVER, "not a usable URI")
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            addresses = []
        if not addresses:
            return Answer(Outcome.LATER, "its host has no address now")
        if not all(self._allowed(address) for address in addresses):
            return Answer(Outcome.NEVER, "not a public address")
        failed = Answer(Outcome.LATER, "no connection")
        for address in addresses[:_ADDRESSES]:
            try:
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=self._context(), server_hostname=host, limit=_READ
                )
            except ssl.SSLCertVerificationError:
                failed = Answer(Outcome.LATER, "its certificate is not valid")
                continue
            except (OSError, ssl.SSLError) as error:
                failed = Answer(Outcome.LATER, f"no connection: {type(error).__name__}")
                continue
            try:
                writer.write(_request(parts))
                await writer.drain()
                return await _answer(reader)
            except (OSError, ssl.SSLError) as error:
                return Answer(Outcome.LATER, f"connection lost: {type(error).__name__}")
            finally:
                writer.transport.abort()  # nothing more is wanted, not even a goodbye
        return failed

    def _allowed(self, address: str) -> bool:
        if is_public(address):
            return True
        return self._loopback and ipaddress.ip_address(address.partition("%")[0]).is_loopback

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()  # the system's authorities, or $SSL_CERT_FILE
        return self._tls


def _request(parts: SplitResult) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"POST {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: sluis",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(_BODY)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("ascii") + _BODY


class _Head:
    """What the parser tells: the status of the first answer that is not an interim one."""

    def __init__(self) -> None:
        self.status = 0
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        """Called for each answer's head."""
        status = self.parser.get_status_code()
        if not self.status and status >= 200:
            self.status = status


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = _Head()
    size = 0
    while not head.status:
        octets = await reader.read(_READ)
        size += len(octets)
        if not octets or size > _HEAD:
            break
        try:
            head.parser.feed_data(octets)
        except httptools.HttpParserUpgrade:
            break
        except httptools.HttpParserError:
            if not head.status:
                break
    status = head.status
    if not status:
        return Answer(Outcome.LATER, "no HTTP answer")
    if 200 <= status < 300:
        return Answer(Outcome.TAKEN, f"HTTP {status}")
    if status >= 500 or status in _LATER:
        return Answer(Outcome.LATER, f"HTTP {status}")
    if 300 <= status < 400:
        return Answer(Outcome.NEVER, f"HTTP {status}: a redirect is not followed")
    return Answer(Outcome.NEVER, f"HTTP {status}")
