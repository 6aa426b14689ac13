"""What the message, decision and gate layers cost a mail: stage by stage, with nothing to wait for.

    python -m bench.hot_path [--mails 300] [--rounds 5] [--case NAME] [--profile]

No socket, no database, no upstream: the store answers from memory and the upstream takes all, so
what is left is our own work between the end of DATA and the reply. Each figure is processor time in
microseconds a mail, the median of the rounds, and in multiples of the SHA-256 of 4 KB in the same
round, for the machine's speed drifts. All mails have a Message-ID and a recipient of their own:

* receipt: transactional, one text, other words in each mail;
* page: the same in HTML, with its tables and styles;
* repeated: `receipt` with the same words in each mail (what load generators send);
* newsletter: consented marketing, text and HTML, which shows all that is owed itself;
* personal: the same with the recipient's name in the body, so no two bodies are equal;
* footer: marketing that shows nothing, and gets a footer;
* signed: `newsletter`, signed with RSA-2048 and Ed25519; signed-footer: `footer`, likewise.

Stages: take (addresses, reference), read (index, classify, inspect, plan), decide (pseudonyms,
facts, decision, intake), copy (the bytes of each copy, signed), book (results, endings, reply),
count (metrics and log). `--profile` prints where the time goes instead.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import hashlib
import io
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from bench.acme import ACME, NEWSLETTER, ORDERS, key_toml, relay_toml
from policy.address import parse
from policy.events import detail_from
from policy.model import Event
from proxy import log
from proxy.answer import answer
from proxy.clock import utc_now
from proxy.config import load
from proxy.copies import copies_of
from proxy.delivery.upstream import Given
from proxy.envelope import Envelope, Submitter
from proxy.judge import Judge, Ruling
from proxy.keys import load_keys
from proxy.mail import Mail, Reader
from proxy.message.sign import Signer
from proxy.packs import load_packs
from proxy.ref import new_ref
from proxy.store.model import Fate, Known, Result, RowFate, Snapshot, Store, Subject
from proxy.telemetry import Telemetry
from proxy.turn import Turn

STAGES = ("take", "read", "decide", "copy", "book", "count")
LISTENER = "127.0.0.1:2525"
CONFIG = relay_toml(listener=LISTENER) + ACME + NEWSLETTER + ORDERS
DKIM = key_toml("r1") + key_toml("e1")
PARAGRAPH = (
    "In the spring we walk more, and this week our workshop in Haarlem shows how a shoe is made:"
    " sole by sole, and by hand. Whoever comes by sees the leather cut and asks what it takes.\r\n"
)
SHOWN = "Acme Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam"


def receipt(n: int) -> bytes:
    return _text("orders", n, "".join(f"{n}.{i} {PARAGRAPH}" for i in range(20)))


def page(n: int) -> bytes:
    rows = "".join(
        f'<tr><td style="padding:4px" class="x">{n}.{i} boots</td><td>{n + i}.95</td></tr>\r\n'
        for i in range(30)
    )
    style = "<style>.x{color:#333;font:14px/20px sans-serif}td{padding:4px}</style>" * 4
    text = f"<html><head>{style}</head><body><p>{PARAGRAPH}</p><table>{rows}</table>"
    return _text("orders", n, f"{text}<p>{PARAGRAPH * 4}</p></body></html>", kind="html")


def repeated(n: int) -> bytes:
    return _text("orders", n, PARAGRAPH * 20)


def newsletter(n: int) -> bytes:
    return _both(n, "Dear reader")


def personal(n: int) -> bytes:
    return _both(n, f"Dear reader {n}")


def footer(n: int) -> bytes:
    return _both(n, "Dear reader", ends=False)


def _text(stream: str, n: int, text: str, kind: str = "plain") -> bytes:
    return (
        f"From: Acme <shop@{stream}.acme.example>\r\nTo: person{n}@example.nl\r\n"
        f"Subject: Your order {n}\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
        f"Message-ID: <{n}@{stream}.acme.example>\r\nMIME-Version: 1.0\r\n"
        f"Content-Type: text/{kind}; charset=utf-8\r\nX-Mailer: shop\r\n\r\n{text}"
    ).encode()


def _both(n: int, hello: str, *, ends: bool = True) -> bytes:
    link = "https://acme.example/stop?x=1"
    text = f"{hello},\r\n\r\n{PARAGRAPH * 8}"
    page = f"<html><body><p>{hello},</p>" + f"<p class=\"x\">{PARAGRAPH}</p>\r\n" * 9
    if ends:
        text += f"\r\n{SHOWN}\r\nUnsubscribe: {link}\r\n"
        page += f'<p>{SHOWN}</p>\r\n<a href="{link}">Unsubscribe</a>'
    page += "</body></html>\r\n"
    return (
        f"From: Acme <shop@news.acme.example>\r\nTo: person{n}@example.nl\r\n"
        f"Subject: Spring in Haarlem\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\n"
        f"Message-ID: <{n}@news.acme.example>\r\nMIME-Version: 1.0\r\n"
        f'Content-Type: multipart/alternative; boundary="=_b"\r\nX-Mailer: shop\r\n\r\n'
        f"--=_b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}"
        f"\r\n--=_b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}\r\n--=_b--\r\n"
    ).encode()


CASES: dict[str, tuple[Callable[[int], bytes], str, bool]] = {
    "receipt": (receipt, "orders", False),
    "page": (page, "orders", False),
    "repeated": (repeated, "orders", False),
    "newsletter": (newsletter, "news", False),
    "personal": (personal, "news", False),
    "footer": (footer, "news", False),
    "signed": (newsletter, "news", True),
    "signed-footer": (footer, "news", True),
}


class Memory:
    """A store that knows the same of everybody: an opt-in by form."""

    def __init__(self, at: datetime) -> None:
        detail = detail_from("opt-in", {"box": "unticked", "topics": ["newsletter"]})
        event = Event(
            at=at, recorded_at=at, sender="acme", detail=detail, evidence="form:1", uid="a" * 32
        )
        self._known = Known(events=(event,), attributes={"country": "NL", "kind": "consumer"})

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        return Snapshot(1, dict.fromkeys(subjects, self._known))


@dataclass
class Relay:
    """The parts of one relay, without its ends."""

    reader: Reader
    judge: Judge
    memory: Memory
    telemetry: Telemetry
    signer: Signer
    settings: Any
    keys: Any

    def envelope(self, domain: str, n: int) -> Envelope:
        now = utc_now()
        return Envelope(
            submitter=Submitter(
                listener=LISTENER, peer="127.0.0.1", network="127.0.0.0/8", helo="app"
            ),
            ref=new_ref(now),
            received_at=now,
            mail_from=parse(f"shop@{domain}.acme.example"),
            recipients=[parse(f"person{n}@example.nl")],
        )

    async def mails(self, domain: str, contents: Mapping[int, bytes]) -> dict[str, float]:
        """Seconds of each stage for all of these; a stage is done with all before the next begins,
        since to ask what time was spent costs more than many of them."""
        stages = _Stages()
        envelopes = [self.envelope(domain, n) for n in contents]
        stages.ends("take")
        read = [
            await self.reader.read(envelope, content)
            for envelope, content in zip(envelopes, contents.values(), strict=True)
        ]
        stages.ends("read")
        mails = [mail for mail in read if isinstance(mail, Mail)]
        if len(mails) < len(read):
            raise SystemExit(f"refused: {next(r for r in read if not isinstance(r, Mail))}")
        rulings = [await self.judge.rule(mail, cast(Store, self.memory)) for mail in mails]
        stages.ends("decide")
        turns = []
        for mail, ruling in zip(mails, rulings, strict=True):
            fates = [
                RowFate(n=row.n, fate=Fate.CLAIMED, row=1, attempt=1, ref=mail.ref)
                for row in ruling.intake.rows
            ]
            turn = Turn()
            turn.begin(mail, ruling, fates)
            (one,) = copies_of(mail, ruling, self.keys)
            send = one.only(turn.fates)
            if send is None:
                raise SystemExit("not claimed")
            turns.append((turn, send))
        stages.ends("book")
        for _, send in turns:
            send.copy  # noqa: B018 - made for the wire
            await send.parts(self.signer, self.settings.upstreams[0])
        stages.ends("copy")
        given = [Given(Result.ACCEPTED, 250, "250 2.0.0 Ok: queued as 4XyZ1", "dot")]
        replies = []
        for mail, (turn, send) in zip(mails, turns, strict=True):
            at = utc_now()
            turn.known(send, given, at, lambda fate, one: None)
            turn.written(send)
            replies.append(answer(mail.ref, turn.endings()))
        stages.ends("book")
        if any(reply.code != 250 for reply in replies):
            raise SystemExit("not relayed")
        for mail, ruling in zip(mails, rulings, strict=True):
            self._count(mail, ruling)
        stages.ends("count")
        return stages.spent

    def _count(self, mail: Mail, ruling: Ruling) -> None:
        """What the gate and the front door count and log of one relayed mail."""
        self.judge.count(ruling)
        for command in ("mail", "rcpt", "data", "data"):
            self.telemetry.reply(command, 250)
        log.message_received(ref=mail.ref, listener=LISTENER, size=4096, recipients=1)
        log.message_attempted(ref=mail.ref, n=1, result="accepted", stage="dot")
        self.telemetry.relayed(0.01)
        self.telemetry.message(mail.stream.id, "relayed")


class _Stages:
    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0.0)
        self._at = time.process_time()

    def ends(self, stage: str) -> None:
        """What was spent since the last stage ended belongs to this one."""
        now = time.process_time()
        self.spent[stage] += now - self._at
        self._at = now


def make(folder: Path, *, dkim: bool) -> Relay:
    text = CONFIG + (DKIM if dkim else "")
    (folder / "r1.pem").write_bytes(_pem(generate_private_key(65537, 2048)))
    (folder / "e1.pem").write_bytes(_pem(Ed25519PrivateKey.generate()))
    for name in ("r1.pem", "e1.pem"):
        (folder / name).chmod(0o600)
    (folder / "sluis.toml").write_text(text)
    settings = load(folder / "sluis.toml", {})
    keys = load_keys(folder / "keys", create=True)
    telemetry = Telemetry(settings)
    packs = load_packs(None)
    telemetry.packs(packs)
    return Relay(
        reader=Reader(settings, keys=keys, instance="i123456", clock=utc_now),
        judge=Judge(settings, keys=keys, packs=packs, telemetry=telemetry, clock=utc_now),
        memory=Memory(datetime.now(UTC) - timedelta(days=100)),
        telemetry=telemetry,
        signer=Signer(),
        settings=settings,
        keys=keys,
    )


def _pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def reference(times: int = 2000) -> float:
    """Seconds for the SHA-256 of 4 KB."""
    block = os.urandom(4096)
    begun = time.process_time()
    for _ in range(times):
        hashlib.sha256(block).digest()
    return (time.process_time() - begun) / times


async def run(path: Relay, name: str, mails: int, first: int) -> dict[str, float]:
    """Seconds a mail for each stage."""
    build, domain, _ = CASES[name]
    contents = {n: build(n) for n in range(first, first + mails)}
    gc.collect()
    gc.disable()  # a batch that is kept alive would be looked through at one stage's expense
    spent = await path.mails(domain, contents)
    gc.enable()
    return {stage: seconds / mails for stage, seconds in spent.items()}


def profile(work: Callable[[], Awaitable[object]], mails: int) -> None:
    """Where the time goes, by time in the function itself, in microseconds a mail."""
    recorder = cProfile.Profile()
    recorder.enable()
    asyncio.run(cast(Any, work()))
    recorder.disable()
    rows = []
    for (file, line, function), (_, calls, own, total, _) in cast(
        Any, pstats.Stats(recorder)
    ).stats.items():
        rows.append((own, total, calls, f"{Path(file).name}:{line} {function}"))
    print(f"{'own us':>8}{'all us':>9}{'calls':>8}  function")
    for own, total, calls, where in sorted(rows, reverse=True)[:45]:
        print(f"{own / mails * 1e6:8.1f}{total / mails * 1e6:9.1f}{calls / mails:8.1f}  {where}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mails", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    names = options.case or list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        log.configure("info", stream=io.BytesIO())
        paths = {}
        for dkim in (False, True):
            (Path(folder) / str(dkim)).mkdir()
            paths[dkim] = make(Path(folder) / str(dkim), dkim=dkim)
        if options.profile:
            for name in names:
                asyncio.run(run(paths[CASES[name][2]], name, 50, 1))
                print(f"== {name}")
                work = paths[CASES[name][2]], name, options.mails, 1000
                profile(lambda work=work: run(*work), options.mails)  # type: ignore[misc]
            return
        table: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in names}
        for round_ in range(options.rounds + 1):  # the first one warms up
            for name in names:
                unit = reference()
                got = asyncio.run(run(paths[CASES[name][2]], name, options.mails, round_ * 100_000))
                if round_:
                    table[name].append((unit, got))
    units = [unit for rounds in table.values() for unit, _ in rounds]
    print(f"SHA-256 of 4 KB: {statistics.median(units) * 1e6:.1f} us")
    print(f"{'us a mail':14}" + "".join(f"{stage:>9}" for stage in STAGES) + f"{'all':>9}{'x':>8}")
    for name, rounds in table.items():
        shown = {s: statistics.median(got[s] for _, got in rounds) for s in STAGES}
        whole = statistics.median(sum(got.values()) for _, got in rounds)
        ratio = statistics.median(sum(got.values()) / unit for unit, got in rounds)
        print(
            f"{name:14}"
            + "".join(f"{shown[s] * 1e6:9.1f}" for s in STAGES)
            + f"{whole * 1e6:9.1f}{ratio:8.1f}"
        )


if __name__ == "__main__":
    main()
