"""The server side of TLS, from a listener's certificate and key."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from pathlib import Path

from proxy.config import Listener
from proxy.errors import ConfigError


class Certificate:
    """The TLS context of a listener, renewed when its files are. Raises `ConfigError`.

    `ends` is the Unix time of its last second, NaN where there is none.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.context = server_context(listener)
        self.ends = _ends(listener)
        self._seen = self._stamp()

    @property
    def changed(self) -> bool:
        """Whether the files are others than those in use (two calls of stat)."""
        return self._stamp() != self._seen

    def read(self) -> Callable[[], None]:
        """Read the files anew; what comes back puts them to use, for the handshakes to come.

        Raises `ConfigError`, and nothing has changed.
        """
        stamp = self._stamp()  # before reading: what is written meanwhile is seen next time
        context = server_context(self._listener)
        ends = _ends(self._listener)

        def use() -> None:
            self.context, self._seen, self.ends = context, stamp, ends

        return use

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stat(p) for p in (self._listener.certificate, self._listener.key) if p)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _ends(listener: Listener) -> float:
    """The end of the certificate that clients are shown; its authorities' are not looked at."""
    if listener.tls == "none" or listener.certificate is None:
        return math.nan
    from cryptography import x509  # memory that only TLS needs

    try:
        # The first of the file is the listener's own: OpenSSL took it, so it is one.
        leaf = x509.load_pem_x509_certificate(listener.certificate.read_bytes())
    except (OSError, ValueError):
        return math.nan
    return leaf.not_valid_after_utc.timestamp()


def server_context(listener: Listener) -> ssl.SSLContext | None:
    """TLS 1.2 or later (RFC 8996), no renegotiation; None where the listener has no TLS.

    Reads the certificate and key. Raises `ConfigError` naming the listener when they cannot be
    used.
    """
    if listener.tls == "none":
        return None
    if listener.certificate is None or listener.key is None:
        raise ConfigError([f"listener {listener.address}: certificate and key are needed for TLS"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        # An empty password: an encrypted key is an error, never a prompt on the terminal.
        context.load_cert_chain(listener.certificate, listener.key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(
            [f"listener {listener.address}: certificate and key cannot be loaded ({reason})"]
        ) from error
    return context
