"""Who a client is: SASL PLAIN and LOGIN (RFC 4616, RFC 4954) against Argon2 hashes.

The work for an unknown user is the same as for a wrong password, and runs in threads of its own,
few, because each verification takes tens of megabytes on purpose. A password that was right once in
this process is known again by a keyed digest, so that clients with a connection per mail do not pay
each time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from proxy.config import Credential
from proxy.replies import Reply
from proxy.smtp import replies

MECHANISMS = ("PLAIN", "LOGIN")
RESPONSE_MAX = 12288  # octets of one response line (RFC 4954 section 4)
_THREADS = 2
_PASSWORD_MAX = 1024  # more is no password, and would make our work the client's choice


class AuthError(ValueError):
    """The exchange cannot be read; `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class Authenticator:
    """Verifies user names and passwords. One per listener; `close` ends its threads."""

    def __init__(self, credentials: Iterable[Credential]) -> None:
        self._hashes = {
            c.username: c.password_hash.get_secret_value() for c in credentials if c.password_hash
        }
        self._key = secrets.token_bytes(32)
        self._known: dict[str, bytes] = {}
        self._decoy = ""
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="auth")

    @property
    def usable(self) -> bool:
        """Whether anybody could authenticate."""
        return bool(self._hashes)

    async def verify(self, username: str, password: str) -> bool:
        """Whether the password is this user's. The same work whether or not the user exists."""
        if len(password) > _PASSWORD_MAX or not password:
            password, username = "-", ""
        digest = hmac.digest(self._key, f"{username}\0{password}".encode(), hashlib.sha256)
        known = self._known.get(username)
        if known is not None and hmac.compare_digest(known, digest):
            return True
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._threads, self._compare, username, password)
        if right:
            self._known[username] = digest
        return right

    def close(self) -> None:
        """End the threads; a verification in progress is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compare(self, username: str, password: str) -> bool:
        stored = self._hashes.get(username)
        stand_in = self._stand_in()  # made by whoever comes first, not by the first unknown user
        try:
            PasswordHasher().verify(stored or stand_in, password)
        except (Argon2Error, InvalidHashError):
            return False
        return stored is not None

    def _stand_in(self) -> str:
        """A hash of nothing anyone knows, with the cost of the real ones."""
        with self._lock:
            if not self._decoy:
                hasher = PasswordHasher()
                for stored in self._hashes.values():
                    hasher = PasswordHasher.from_parameters(extract_parameters(stored))
                    break
                self._decoy = hasher.hash(secrets.token_urlsafe(32))
            return self._decoy


async def converse(
    mechanism: bytes, initial: bytes, ask: Callable[[bytes], Awaitable[bytes]]
) -> tuple[str, str]:
    """User name and password from one exchange; `ask` takes a challenge, gives the base64 answer.

    A PLAIN message that wants to act for somebody else names nobody here, and so fails like a wrong
    password. Raises `AuthError`.
    """
    if mechanism == b"PLAIN":
        parts = _decode(initial or await ask(b"")).split(b"\0")
        if len(parts) != 3:
            raise AuthError(replies.AUTH_BASE64)
        user = parts[1] if parts[0] in (b"", parts[1]) else b""
        return _text(user), _text(parts[2])
    if mechanism == b"LOGIN":
        user = _decode(initial or await ask(b"Username:"))
        return _text(user), _text(_decode(await ask(b"Password:")))
    raise AuthError(replies.AUTH_MECHANISM)


def _decode(response: bytes) -> bytes:
    if response == b"*":  # RFC 4954 section 4: the client gives up
        raise AuthError(replies.AUTH_CANCELLED)
    if response == b"=":  # the empty initial response
        return b""
    try:
        return base64.b64decode(response, validate=True)
    except binascii.Error:
        raise AuthError(replies.AUTH_BASE64) from None


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise AuthError(replies.AUTH_BASE64) from None
