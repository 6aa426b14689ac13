"""Work of the relay that is no mail: opt-outs over HTTP, and bare signatures to compare with."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from bench.race.process import BenchError
from bench.race.sluis import Relay, post_all
from proxy.keys import load_keys
from proxy.tokens import OptOut, seal

_ROUNDS = 2000


def optouts(relay: Relay, people: int, first: int = 0) -> float:
    """One-click POSTs per second, one per person, from that of number `first` on."""
    keys = load_keys(relay.folder / "data" / "keys", create=False)
    requests = []
    for n in range(first, first + people):
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


def signing_rate(processes: int = 1) -> float:
    """Pairs of signatures (RSA-2048 and Ed25519) per second, of one thread in each process."""
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        return sum(pool.map(_sign, range(processes)))


def _sign(_: int) -> float:
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ed_key = ed25519.Ed25519PrivateKey.generate()
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        rsa_key.sign(b"x" * 600, padding.PKCS1v15(), hashes.SHA256())
        ed_key.sign(b"x" * 32)
    return _ROUNDS / (time.perf_counter() - began)


@contextlib.contextmanager
def idle_sessions(port: int, count: int) -> Iterator[None]:
    """Connections that said EHLO and nothing more, until the block ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            said = b""
            for line, last in ((b"", b"220 "), (b"EHLO idle.example\r\n", b"250 ")):
                sock.sendall(line)
                while last not in said:
                    if not (piece := sock.recv(4096)):
                        raise BenchError(f"the relay closed an idle session: {said!r}")
                    said += piece
        yield
