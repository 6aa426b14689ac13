"""Work of the relay that is no mail: opt-outs over HTTP, and bare signatures to compare with."""

from __future__ import annotations

import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from bench.race.sluis import Relay, post_all
from proxy.keys import load_keys
from proxy.tokens import OptOut, seal

_ROUNDS = 300


def optouts(relay: Relay, people: int) -> float:
    """One-click POSTs per second, one per person."""
    keys = load_keys(relay.folder / "data" / "keys", create=False)
    requests = []
    for n in range(people):
        optout = OptOut(
            sender="shop", stream="news", address=f"{n}person@people.example", ref=f"bench.{n}"
        )
        body = b"List-Unsubscribe=One-Click"
        head = (
            f"POST /u/{seal(keys, optout)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    return post_all(relay.public, requests)


def signing_rate() -> float:
    """Pairs of signatures (RSA-2048 and Ed25519) per second of one thread."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ed_key = ed25519.Ed25519PrivateKey.generate()
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        rsa_key.sign(b"x" * 600, padding.PKCS1v15(), hashes.SHA256())
        ed_key.sign(b"x" * 32)
    return _ROUNDS / (time.perf_counter() - began)
