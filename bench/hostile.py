"""What hostile mail costs, end to end: time, and the memory that is held at the worst.

    python -m bench.hostile [--rounds 5]

Each mail is read as the flow reads it for marketing with a key of its From domain: header, class,
promotion, inspection, footer, plan, and one signed copy (`proxy.mail.Reader`, `proxy.copies`).
Beside each, an ordinary newsletter, taking turns. Time is the processor's (all threads), the median
of the rounds on this machine, and its ratio to the newsletter's; memory is the peak of what Python
holds beyond the mail itself, and that in multiples of the mail. Not measured: SMTP, store,
decision, upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from bench.acme import ACME, ORDERS, key_toml, relay_toml, stream_toml
from policy.address import parse
from proxy.config import Settings, load
from proxy.envelope import Envelope, Submitter
from proxy.keys import load_keys
from proxy.mail import Mail, Reader
from proxy.message.edit import copy_head, signed
from proxy.message.sign import Signer
from proxy.replies import Reply

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)
CONFIG = (
    relay_toml(listener="127.0.0.1:0", upstream="127.0.0.1:25", development=True)
    + ACME
    + stream_toml("newsletter", "news.acme.example", 'visible_recipients = "allow"')
    + ORDERS
    + key_toml("s1")
)


def mail(body: bytes, fields: bytes = b"", kind: bytes = b"text/plain; charset=utf-8") -> bytes:
    """A mail of our sender."""
    return (
        b"From: Acme <hello@news.acme.example>\r\nSubject: News\r\nMIME-Version: 1.0\r\n"
        b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@news.acme.example>\r\n"
        + (b"" if b"\r\nTo:" in b"\r\n" + fields else b"To: anna@example.nl\r\n")
        + fields
        + b"Content-Type: "
        + kind
        + b"\r\n\r\n"
        + body
    )


def nested(depth: int) -> bytes:
    """Multiparts inside each other."""
    inner = b"".join(
        b'--%d\r\nContent-Type: multipart/mixed; boundary="%d"\r\n\r\n' % (n, n + 1)
        for n in range(depth)
    )
    ends = b"".join(b"--%d--\r\n" % n for n in reversed(range(depth + 1)))
    return mail(inner + b"--%d\r\n\r\nx\r\n" % depth + ends, kind=b'multipart/mixed; boundary="0"')


def parts(count: int) -> bytes:
    """Many leaves side by side."""
    body = b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" * count + b"--b--\r\n"
    return mail(body, kind=b"multipart/alternative; boundary=b")


def alternatives(bodies: list[bytes]) -> bytes:
    """HTML parts of which a reader chooses."""
    head = b"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    body = b"".join(head + one + b"\r\n" for one in bodies) + b"--b--\r\n"
    return mail(body, kind=b"multipart/alternative; boundary=b")


def people(count: int, *, folded: bool = True) -> bytes:
    """Many mailboxes in To."""
    comma = b",\r\n " if folded else b", "
    return mail(b"Hello\r\n", b"To: " + comma.join(b"a%d@x.nl" % n for n in range(count)) + b"\r\n")


HTML = b"text/html; charset=utf-8"
LINE = b"A line of text, as long as lines of text are in a newsletter.\r\n"
NEWSLETTER = mail(b"<p>" + LINE * 800 + b"</p></body>\r\n", kind=HTML)

MAILS: dict[str, bytes] = {
    "10,000 parts": parts(10_000),
    "500 parts, the bound": parts(500),
    "depth 1,000": nested(1_000),
    "depth 20, the bound": nested(20),
    "header of 1 MB, one field": mail(b"", b"X: " + b"a" * 1_000_000 + b"\r\n"),
    "header of 1 MB, folded": mail(b"", b"X: a" + b"\r\n a" * 250_000 + b"\r\n"),
    "header of 256 KiB, folded": mail(b"", b"X: a" + b"\r\n a" * 65_000 + b"\r\n"),
    "1,000 fields": mail(b"Hello\r\n", b"X: a\r\n" * 990),
    "50,000 addresses in To": people(50_000),
    "the same, 1 MiB allowed": people(50_000),
    "18,000 addresses in To": people(18_000),
    "comments in To, 200 kB": mail(
        b"Hello\r\n", b"To: " + b"\r\n ".join([b"(a" * 400] * 250) + b"\r\n"
    ),
    "500,000 tags": mail(b"<b>\r\n" * 500_000, kind=HTML),
    "380,000 tags with values": mail(b"<b a=''>" * 380_000 + b"</p>\r\n", kind=HTML),
    "1 tag of 600,000 values": mail(b"<b " + b"a='' " * 600_000 + b">\r\n", kind=HTML),
    "80,000 links": mail(b"<a href='https:x'>x</a>\r\n" * 80_000, kind=HTML),
    "40 alternatives of tags": alternatives([b"<p>\r\n" * 100_000] * 40),
    "2 alternatives of 1.5 MB": alternatives([b"<p>\r\n" * 300_000] * 2),
    "2 of ligatures, 0.5 MB each": alternatives(["\ufdfa \r\n".encode() * 85_000] * 2),
    "open comments, 2 MB": mail(b"<!--\r\n" * 330_000, kind=HTML),
    "placeholders left open": mail(b"{{sluis.\r\n" * 50_000),
    "base64 of 3 MB": mail(
        (b"QUJD" * 19 + b"\r\n") * 40_000,
        b"Content-Transfer-Encoding: base64\r\n",
    ),
    "10 MB of boundaries": mail(b"--\r\n" * 2_500_000, kind=b"multipart/mixed; boundary=b"),
    "20 MB of text": mail(LINE * 320_000),
}


class Flow:
    """What reads mail and makes a copy of it."""

    def __init__(self, folder: Path, more: str = "") -> None:
        """`more` is added to the configuration."""
        key = generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / "s1.pem").write_bytes(key)
        (folder / "sluis.toml").write_text(CONFIG + more)
        self._settings: Settings = load(folder / "sluis.toml", {})
        self._reader = Reader(
            self._settings,
            keys=load_keys(folder / "keys.json", create=True),
            instance="i7",
            clock=lambda: AT,
        )
        self._signer = Signer()

    async def run(self, content: bytes) -> str:
        """What became of it, in short."""
        envelope = Envelope(
            submitter=Submitter(
                listener=self._settings.listeners[0].address, peer="", network="127.0.0.0/8"
            ),
            ref="01J9ZV3K7Q8M4T",
            received_at=AT,
            mail_from=parse("b@news.acme.example"),
            recipients=[parse("anna@example.nl")],
        )
        read = await self._reader.read(envelope, content)
        if isinstance(read, Reply):
            return str(read)[:34]
        await self._copy(read)
        opaque = read.shown.opaque if read.shown else ""
        return opaque or "footer, signed" if read.body.can_inject else opaque or read.body.stopped

    async def _copy(self, read: Mail) -> None:
        duties = frozenset(read.body.can_inject)
        plan = read.edited if read.body.edits(duties) else read.plan
        token = "k1." + "A" * 107
        head = copy_head(plan, number=1, recipient="anna@example.nl", token=token)
        body = read.body.pieces(
            url=f"{read.opt_out_url}{token}",
            duties=duties,
            language="nl",
            footer=True,
            own_tokens=[],
        )
        if read.signing is not None:
            signed(plan, head, await self._signer.sign(read.signing, head, body))


async def timed(what: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of processor time, of all threads, that one call takes."""
    started = time.process_time()
    await what()
    return (time.process_time() - started) * 1e3


async def run(rounds: int, folder: Path) -> None:
    """Measure and print."""
    usual = Flow(folder)
    wide = Flow(folder, '[limits]\nheader_bytes = "1MiB"\n')
    await usual.run(NEWSLETTER)
    print(f"{'':28}{'kB':>8}{'ms':>9}{'x newsletter':>14}{'peak kB':>9}{'x mail':>8}  outcome")
    for name, content in {"a newsletter of 50 kB": NEWSLETTER, **MAILS}.items():
        times, ratios = [], []
        flow = wide if "allowed" in name else usual
        for _ in range(rounds):
            base = await timed(partial(usual.run, NEWSLETTER))
            took = await timed(partial(flow.run, content))
            times.append(took)
            ratios.append(took / base)
        gc.collect()
        tracemalloc.start()
        outcome = await flow.run(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(
            f"{name:28}{len(content) / 1e3:8.0f}{statistics.median(times):9.1f}"
            f"{statistics.median(ratios):14.1f}{peak / 1e3:9.0f}{peak / len(content):8.1f}"
            f"  {outcome[:44]}"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
