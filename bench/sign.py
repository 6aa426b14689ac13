"""What signing costs a copy, beside what this machine's keys can do at all: ratios in one run.

    python -m bench.sign [--copies 1000] [--rounds 5] [--kilobytes 10] [--mails 100]

A mail as it leaves for one person (16 fields, a body of plain text) is signed with both keys, as
`proxy.message.sign` does it for each copy. Beside it, taking turns in every round because the
machine's speed drifts: the bare signatures of the two keys over 32 octets, the same signatures
without the loop and its threads, and dkimpy. "own" is all but the bare signatures. A ratio compares
variants of one round; the median of the rounds is shown. Not measured: DNS, reading key files.

Then the share of signing in the whole: Sluis without a key, with the RSA key and with both, each a
whole relay in this process (SMTP in, SQLite, decision, SMTP out to a recording upstream), gets the
same mails for one person over one connection, one after another, taking turns in every round. Time
is that of the clock and that of the processor, client and upstream included, the process that signs
(`proxy.signers`) not.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import smtplib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dkim as dkimpy
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from bench.acme import ACME, NEWSLETTER, key_toml, relay_toml
from policy.address import parse
from policy.events import detail_from
from proxy import log
from proxy.app import running
from proxy.clock import utc_now
from proxy.config import load
from proxy.config.signing import PrivateKey
from proxy.content import Piece
from proxy.message.canonical import BodyHash
from proxy.message.sign import Key, Signer, Signing, cover
from proxy.sink import Sink
from proxy.store.model import NewAttributes, NewEvent

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)
LINE = b"A line of text, as long as lines of text are in a newsletter.\r\n"


def head(n: int) -> bytes:
    """The header block of the n-th copy."""
    token = f"k1.{hashlib.sha512(str(n).encode()).hexdigest()}"
    return (
        "Received: from app.acme.example by gate.acme.example (sluis i7) with ESMTPSA\r\n"
        " id 01J9ZV3K7Q8M4T; Tue, 24 Nov 2026 08:00:00 +0000\r\n"
        f"Sluis-Ref: 01J9ZV3K7Q8M4T.{n}\r\n"
        'List-Id: "Acme newsletter" <newsletter.news.acme.example>\r\n'
        f"List-Unsubscribe:\r\n <https://mail.acme.example/u/{token}>,\r\n"
        f" <mailto:u@fb.acme.example?subject=unsubscribe%20{token}>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        "Feedback-ID: spring-2026:newsletter:acme:acmeshoes\r\n"
        "From: Acme <news@news.acme.example>\r\nTo: anna@example.nl\r\nSubject: Spring is here\r\n"
        "Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@news.acme.example>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\nX-Mailer: shop\r\n"
        "Reply-To: help@acme.example\r\n\r\n"
    ).encode()


@dataclass(frozen=True)
class Case:
    """What is signed in every variant."""

    rsa: RSAPrivateKey
    ed25519: Ed25519PrivateKey
    signer: Signer
    body: bytes
    copies: int

    @property
    def keys(self) -> tuple[Key, ...]:
        """Both, of one domain."""
        return Key("acme.example", "s1", self.rsa), Key("acme.example", "e1", self.ed25519)


Variant = Callable[[Case], Awaitable[None]]


async def bare_rsa(case: Case) -> None:
    """What no program can be faster than."""
    for _ in range(case.copies):
        case.rsa.sign(b"x" * 32, PKCS1v15(), SHA256())


async def bare_ed25519(case: Case) -> None:
    """The same for the small key."""
    for _ in range(case.copies):
        case.ed25519.sign(b"x" * 32)


async def ours(case: Case) -> None:
    """Copies one after another, one body."""
    signing, body = Signing(case.keys, AT), memoryview(case.body)
    for n in range(case.copies):
        await case.signer.sign(signing, head(n), [body])


async def ten_at_once(case: Case) -> None:
    """Copies over ten connections, as the pool has them."""
    signing, body = Signing(case.keys, AT), memoryview(case.body)

    async def some(first: int) -> None:
        for n in range(first, case.copies, 10):
            await case.signer.sign(signing, head(n), [body])

    await asyncio.gather(*(some(first) for first in range(10)))


async def footers(case: Case) -> None:
    """The same with another footer in each body, at its end."""
    signing, body = Signing(case.keys, AT), memoryview(case.body)
    for n in range(case.copies):
        pieces: list[Piece] = [body[:-20], b"Unsubscribe: https://x.example/%d\r\n" % n, body[-20:]]
        await case.signer.sign(signing, head(n), pieces)


async def heads(case: Case) -> None:
    """Only what is hashed of the header block."""
    for n in range(case.copies):
        hashlib.sha256(cover(head(n)).data).digest()


async def bodies(case: Case) -> None:
    """Only the hash of a body with a footer of its own, shared as copies share it."""
    hasher, body = BodyHash(), memoryview(case.body)
    for n in range(case.copies):
        hasher.digest([body[:-20], b"Unsubscribe: https://x.example/%d\r\n" % n, body[-20:]])


async def alone(case: Case) -> None:
    """Only the hash of a body, each time anew."""
    for _ in range(case.copies):
        BodyHash().digest([case.body])


async def by_dkimpy(case: Case) -> None:
    """dkimpy with the RSA key alone, over a twentieth of the copies."""
    pem = case.rsa.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    both = (b"relaxed", b"relaxed")
    for n in range(case.copies // 20):
        dkimpy.sign(head(n) + case.body, b"s1", b"acme.example", pem, canonicalize=both)


VARIANTS: dict[str, tuple[Variant, int]] = {
    "bare RSA-2048 signature": (bare_rsa, 1),
    "bare Ed25519 signature": (bare_ed25519, 1),
    "copy, both keys": (ours, 1),
    "copy, both keys, ten at once": (ten_at_once, 1),
    "copy, both keys, own footer": (footers, 1),
    "  header block to hash": (heads, 1),
    "  body hash, own footer": (bodies, 1),
    "  body hash, anew": (alone, 1),
    "dkimpy, RSA only": (by_dkimpy, 20),
}


async def run(copies: int, rounds: int, kilobytes: int) -> None:
    """Measure and print."""
    body = (LINE * (kilobytes * 1024 // len(LINE) + 1))[: kilobytes * 1024 - 2] + b"\r\n"
    case = Case(
        generate_private_key(65537, 2048), Ed25519PrivateKey.generate(), Signer(), body, copies
    )
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, (variant, fewer) in VARIANTS.items():
            started = time.perf_counter()
            await variant(case)
            times[name].append((time.perf_counter() - started) * fewer / copies * 1e6)
    bare = [
        a + b
        for a, b in zip(
            times["bare RSA-2048 signature"], times["bare Ed25519 signature"], strict=True
        )
    ]
    print(f"{copies} copies, {kilobytes} kB, {rounds} rounds; us a copy, ratio to both bare")
    for name, found in times.items():
        ratio = statistics.median(t / b for t, b in zip(found, bare, strict=True))
        print(f"{name:32}{statistics.median(found):10.1f} us{ratio:8.2f}")


LIMITS = """\
[limits]
messages_per_connection = 100000
"""
RELAYS = {"no key": (), "RSA": ("s1",), "RSA and Ed25519": ("s1", "e1")}


@asynccontextmanager
async def relay(folder: Path, keys: dict[str, PrivateKey]) -> AsyncIterator[int]:
    """A whole Sluis that knows one person; its port."""
    async with AsyncExitStack() as stack:
        sink = Sink()
        await sink.start()
        stack.push_async_callback(sink.close)
        text = relay_toml(
            folder / "data",
            listener="127.0.0.1:0",
            upstream=f"127.0.0.1:{sink.smtp_port}",
            upstream_more="messages_per_connection = 100000",
            serves=True,
        )
        text += ACME + NEWSLETTER + LIMITS
        for selector, key in keys.items():
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            (folder / f"{selector}.pem").write_bytes(pem)
            text += key_toml(selector)
        (folder / "sluis.toml").write_text(text)
        sluis = await stack.enter_async_context(running(load(folder / "sluis.toml", {})))
        now = utc_now()
        subject = sluis.keys.subject("acme", parse("anna@example.nl"))
        event = NewEvent(
            uid="1",
            subject=subject,
            detail=detail_from("opt-in", {"box": "unticked", "topics": ["newsletter"]}),
            at=now - timedelta(days=10),
            recorded_at=now,
            evidence="form:1",
            address="anna@example.nl",
        )
        person = NewAttributes(
            subject=subject,
            at=now - timedelta(days=10),
            values={"country": "NL", "kind": "consumer"},
        )
        await sluis.store.append([event], [person])
        yield sluis.smtp_ports[0]


def send(port: int, mails: list[bytes]) -> tuple[float, float]:
    """Clock and processor time of one mail, in ms."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("app.acme.example")
        started, cpu = time.perf_counter(), time.process_time()
        for mail in mails:
            client.sendmail("b@news.acme.example", ["anna@example.nl"], mail)
        clock, cpu = time.perf_counter() - started, time.process_time() - cpu
    return clock / len(mails) * 1e3, cpu / len(mails) * 1e3


async def share(count: int, rounds: int, kilobytes: int) -> None:
    """What a whole mail costs with and without keys."""
    log.configure("error", "json")
    keys: dict[str, PrivateKey] = {
        "s1": generate_private_key(65537, 2048),
        "e1": Ed25519PrivateKey.generate(),
    }
    body = LINE * (kilobytes * 1024 // len(LINE))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in RELAYS}
    async with AsyncExitStack() as stack:
        ports = {}
        for name, selectors in RELAYS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            chosen = {s: keys[s] for s in selectors}
            ports[name] = await stack.enter_async_context(relay(folder, chosen))
        for number in range(rounds + 1):
            mails = [
                b"From: Acme <news@news.acme.example>\r\nTo: anna@example.nl\r\n"
                b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nSubject: Spring\r\n"
                b"Message-ID: <%d.%d@news.acme.example>\r\n\r\n" % (number, n) + body
                for n in range(count)
            ]
            for name, port in ports.items():
                took = await asyncio.to_thread(send, port, mails)
                if number:  # the first one warms up
                    times[name].append(took)
    print(f"\n{count} mails a round, {rounds} rounds; a mail: ms of the clock, ms of the processor")
    for name, found in times.items():
        clock, cpu = (statistics.median(pair[n] for pair in found) for n in (0, 1))
        pairs = list(zip(found, times["no key"], strict=True))
        more = [statistics.median(a[n] / b[n] for a, b in pairs) for n in (0, 1)]
        print(
            f"{name:20}{clock:8.2f} ms{cpu:8.2f} ms   "
            f"share of signing {1 - 1 / more[0]:6.1%}, of the processor {1 - 1 / more[1]:6.1%}"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kilobytes", type=int, default=10)
    parser.add_argument("--mails", type=int, default=100)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.copies, arguments.rounds, arguments.kilobytes))
    asyncio.run(share(arguments.mails, arguments.rounds, arguments.kilobytes))


if __name__ == "__main__":
    main()
