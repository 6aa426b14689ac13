"""The process that signs for the relay: `Signers` starts it (`proxy.signers`), and it ends with the
socket that is its standard input.

It loads cryptography and nothing of Sluis. Keys come through the socket and are in its memory only.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key

#: What it says first: it can be used.
READY = b"\1"
#: What a request begins with: a key, of two octets for its length and its PKCS #8 form; or a number
#: of two octets of the key, in the order in which they came, and the SHA-256 to sign. The answer is
#: two octets for the length, and the signature.
KEY, SIGN = b"K", b"S"
SIGN_LENGTH = 1 + 2 + 32

_AT_ONCE = 65_536


def main() -> None:
    """Sign until the other end is gone."""
    # A terminal and a service manager send these to all processes; the relay drains, and so do we.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity") and len(sys.argv) > 1:
        os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
    with socket.socket(fileno=0) as channel:
        try:
            channel.sendall(READY)
            _serve(channel)
        except (BrokenPipeError, ConnectionResetError):
            return


def _serve(channel: socket.socket) -> None:
    keys: list[RSAPrivateKey | Ed25519PrivateKey] = []
    padding, prehashed = PKCS1v15(), Prehashed(SHA256())
    waiting = bytearray()
    while got := channel.recv(_AT_ONCE):
        waiting += got
        while len(waiting) >= 3:
            what, number = waiting[:1], int.from_bytes(waiting[1:3], "big")
            length = SIGN_LENGTH if what == SIGN else 3 + number
            if len(waiting) < length:
                break
            rest = bytes(waiting[3:length])
            del waiting[:length]
            if what == SIGN:
                key = keys[number]
                if isinstance(key, Ed25519PrivateKey):
                    made = key.sign(rest)
                else:
                    made = key.sign(rest, padding, prehashed)
                channel.sendall(len(made).to_bytes(2, "big") + made)
            else:
                loaded = load_der_private_key(rest, None)
                if not isinstance(loaded, (RSAPrivateKey, Ed25519PrivateKey)):
                    raise TypeError(type(loaded).__name__)
                keys.append(loaded)
