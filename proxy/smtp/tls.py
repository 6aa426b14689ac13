"""The server side of TLS, from a listener's certificate and key."""

from __future__ import annotations

import ssl

from proxy.config import Listener
from proxy.errors import ConfigError


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
