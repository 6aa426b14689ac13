"""Rows that carry mail: smtp-source through each relay to smtp-sink, in rounds."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from bench.race import load, mails, postfix
from bench.race.judge import Aim, Row, judged
from bench.race.load import Counter, Load, Rate, drive
from bench.race.people import BLOCK, person
from bench.race.process import free_port
from bench.race.sluis import sluis
from bench.race.verify import verify
from bench.race.work import signing_rate

#: What a peer does not do that Sluis does, by kind (bench.race.postfix).
LACKS = {
    "direct": "smtp-source -> smtp-sink: no relay at all; nothing is read, decided or kept",
    "proxy": "Postfix `smtpd_proxy_filter`: keeps no record and syncs nothing, adds a constant"
    " header, cannot split recipients into copies, and loses no mail only because it hands on the"
    " upstream's answer",
    "milter": "Postfix + Python milter: one look-up and one constant header; the queue is synced,"
    " no decision is recorded",
    "queue": "Postfix queue, one recipient a delivery: synced as ours, but each copy gets the same"
    " header, and no decision is recorded",
    "refuse": "Postfix `check_recipient_access`: no reference in the refusal, nothing recorded",
}
#: What hands a mail to many on in copies.
_SPLITS = ("sluis", "queue")
_PROBE = 1.0  # seconds of the run that only finds out how fast a relay is


@dataclass(frozen=True, slots=True)
class Bench:
    """What the rows share. `seconds`: of one run, about. `people`: who may get mail."""

    folder: Path
    rounds: int
    seconds: float
    people: int

    def count(self, rate: float, least: int = 100, recipients: int = 1) -> int:
        """How many messages last about so long as a run should, and reach nobody twice."""
        return max(least, min(self.people // recipients, int(rate * self.seconds)))


@dataclass(frozen=True, slots=True)
class Direct:
    """smtp-source -> smtp-sink without a relay: how steady the machine is.

    The rate is the median of three runs, so that one disturbance does not decide.
    """

    port: int
    counter: Counter
    what: Load

    runs: ClassVar[int] = 3

    @classmethod
    def lasting(cls, seconds: float, port: int, counter: Counter, what: Load) -> Direct:
        """One whose runs together take about so long, of mails as `what` is."""
        for _ in range(2):  # the first is too short to tell
            rate = cls(port, counter, what)()
            messages = max(what.sessions, 20, int(rate * seconds / cls.runs))
            what = replace(what, messages=messages)
        return cls(port, counter, what)

    def __call__(self) -> float:
        return statistics.median(
            drive(self.what, self.port, self.counter, None, self.what.messages).per_second
            for _ in range(self.runs)
        )


def refusing(*rows: Row) -> Callable[[float, float], None]:
    """Note a round that is not judged in each of `rows`."""

    def refuse(before: float, after: float) -> None:
        print(f"  direct {before:.0f} and {after:.0f}/s: not judged")
        for row in rows:
            row.refused += 1

    return refuse


def rates(
    bench: Bench,
    mail: Path,
    kinds: Sequence[str],
    rows: Sequence[Row],
    *,
    sessions: int = 20,
    recipients: int = 1,
    dkim: bool = False,
    span: float = 0.5,
) -> Iterator[dict[str, Rate]]:
    """Rounds of direct, each of `kinds`, Sluis, direct; those not judged are noted in `rows`.

    A direct rate is taken for `span` times as long as that of a relay.
    """
    port = free_port()
    with contextlib.ExitStack() as stack:
        relays: dict[str, tuple[int, Sequence[int]]] = {}
        for kind in kinds:
            relays[kind] = stack.enter_context(postfix.postfix(kind, port, bench.people))
        ours = stack.enter_context(sluis(port, bench.people, dkim=dkim))
        relays["sluis"] = (ours.port, (ours.pid,))
        for name, (at, _) in relays.items():
            verify(
                at,
                port,
                mail,
                name,
                recipients=recipients,
                copies=recipients if name in _SPLITS else 1,
                records=ours.records if name == "sluis" else None,
            )
        counter = stack.enter_context(load.sink(port))

        def once(name: str, messages: int) -> Rate:
            at, pids = relays[name]
            each = recipients if name in _SPLITS else 1
            what = Load(mail=mail, messages=messages, sessions=sessions, recipients=recipients)
            return drive(what, at, counter, pids, messages * each)

        sizes = {}
        for name in relays:
            each = recipients if name in _SPLITS else 1
            rate = once(name, max(sessions, 200 // recipients)).per_second / each
            probe = replace(bench, seconds=min(_PROBE, bench.seconds))
            rate = once(name, probe.count(rate, sessions, recipients)).per_second / each
            sizes[name] = bench.count(rate, sessions, recipients)
        what = Load(mail=mail, messages=200, sessions=sessions)
        direct = Direct.lasting(bench.seconds * span, port, counter, what)

        def between() -> dict[str, Rate]:
            return {name: once(name, sizes[name]) for name in relays}

        for rate, measured in judged(bench.rounds, direct, between, refusing(*rows)):
            got = {"direct": Rate(rate, 0.0), **measured}
            print("  " + ", ".join(f"{n} {r.per_second:.0f}/s" for n, r in got.items()))
            yield got


def yardstick(bench: Bench, stack: contextlib.ExitStack, port: int) -> tuple[Counter, Direct]:
    """A sink, and the direct rate of mails of 4 KB to it: how steady the machine is."""
    counter = stack.enter_context(load.sink(port))
    what = Load(mail=mails.newsletter(bench.folder, 4096), messages=1000)
    return counter, Direct.lasting(bench.seconds / 2, port, counter, what)


def against(row: Row, ours: Rate, theirs: Rate, unit: str = "/s") -> None:
    """A round of rates, with the CPU that each took per mail."""
    row.add(ours.per_second / theirs.per_second, f"{said(ours, unit)} to {said(theirs, unit)}")


def said(rate: Rate, unit: str = "/s") -> str:
    """A rate in words; without its CPU where there is no relay."""
    return f"{rate.per_second:.0f}{unit}" + (f" at {rate.cpu:.2f} ms" if rate.cpu else "")


def spent(row: Row, ours: float, theirs: float) -> None:
    """A round of CPU per mail, in milliseconds."""
    row.add(ours / theirs, f"{ours:.2f} ms to {theirs:.2f} ms")


def small(bench: Bench) -> list[Row]:
    """4 KB to one recipient, 20 sessions: against all peers."""
    words = "rate against Postfix `smtpd_proxy_filter` + sqlite map + PREPEND"
    proxy = Row("proxy.rate", words, Aim(2, 2.7))
    cpu = Row("proxy.cpu", "CPU per mail against the same", Aim(0.5, 0.3, below=True))
    milter = Row("milter.rate", "rate against Postfix + Python milter (unix socket)", Aim(6, 8))
    cost = Row(
        "milter.cpu", "CPU per mail against the same, its milter included", less_is_better=True
    )
    direct = Row("direct.4k", "rate against smtp-source -> smtp-sink, 4 KB", Aim(0.30, 0.45))
    rows = [proxy, cpu, milter, cost, direct]
    mail = mails.newsletter(bench.folder, 4096)
    for got in rates(bench, mail, ("proxy", "milter"), rows):
        ours = got["sluis"]
        against(proxy, ours, got["proxy"])
        spent(cpu, ours.cpu, got["proxy"].cpu)
        against(milter, ours, got["milter"])
        spent(cost, ours.cpu, got["milter"].cpu)
        against(direct, ours, got["direct"])
    return rows


def large(bench: Bench) -> list[Row]:
    """100 KB and 1 MB against no relay, which is run for longer: large mails need it."""
    rows = []
    for octets, words, key, aim in (
        (100_000, "100 KB", "direct.100k", Aim(0.5, 0.6)),
        (1_000_000, "1 MB", "direct.1m", Aim(0.75, 0.9)),
    ):
        for make, kind, tail in (
            (mails.newsletter, f"{words}, all of it text to be read", ""),
            (mails.attached, f"{words}, all but 4 KB an attachment", ".attached"),
        ):
            row = Row(f"{key}{tail}", f"rate against smtp-source -> smtp-sink, {kind}", aim)
            for got in rates(bench, make(bench.folder, octets), (), [row], span=2):
                against(row, got["sluis"], got["direct"])
            rows.append(row)
    return rows


def copies(bench: Bench) -> list[Row]:
    """100 recipients per mail: each a copy of its own."""
    mail = mails.newsletter(bench.folder, 4096)
    row = Row(
        "copies.rate",
        "copies/s at 100 recipients, each with its own token, against Postfix's queue with"
        " `destination_recipient_limit=1`",
        Aim(5, 8),
    )
    cpu = Row("copies.cpu", "CPU per copy against the same", less_is_better=True)
    for got in rates(bench, mail, ("queue",), [row, cpu], sessions=5, recipients=100):
        against(row, got["sluis"], got["queue"], " copies/s")
        spent(cpu, got["sluis"].cpu, got["queue"].cpu)
    return [row, cpu]


def dkim(bench: Bench) -> list[Row]:
    """Both keys on each copy, against how often this machine signs with both, and does no more."""
    row = Row(
        "dkim.rate",
        "rate with DKIM (RSA-2048 + Ed25519) against the raw signing rate of all CPUs",
        Aim(0.8, 0.8),
    )
    one = Row("dkim.thread", "the same against the raw signing rate of one thread")
    rows = [row, one]
    for got in rates(bench, mails.newsletter(bench.folder, 4096), (), rows, dkim=True):
        against(row, got["sluis"], Rate(signing_rate(os.cpu_count() or 1), 0.0))
        against(one, got["sluis"], Rate(signing_rate(), 0.0))
    return rows


def table(bench: Bench) -> list[Row]:
    """10^4, 10^6 and 10^7 people in turns, each run to others, who are spread over the table."""
    sizes = {"ten": 10_000, "million": 1_000_000, "many": 10_000_000}
    words = "rate with 10^7 people in the consent table against 10^4"
    many = Row("table.1e7", words, Aim(0.8, 0.9))
    million = Row("table.1e6", "the same with 10^6")
    rows = [many, million]
    mail = mails.newsletter(bench.folder, 4096)
    port = free_port()
    with contextlib.ExitStack() as stack:
        relays = {}
        for name, people in sizes.items():
            print(f"  a ledger of {people:,} people", flush=True)
            relays[name] = stack.enter_context(sluis(port, people))
            verify(relays[name].port, port, mail, "sluis")
        counter, direct = yardstick(bench, stack, port)
        turn = 0

        def once(name: str, messages: int, block: int) -> Rate:
            what = Load(mail=mail, messages=messages, person=person(block))
            return drive(what, relays[name].port, counter, (relays[name].pid,), messages)

        def between() -> dict[str, Rate]:
            nonlocal turn
            turn += 1
            # The order turns round, as who comes first finds another machine than who comes last.
            order = list(sizes) if turn % 2 else list(sizes)[::-1]
            return {
                name: once(name, size, turn * 7 % max(1, sizes[name] // BLOCK)) for name in order
            }

        rate = min(once(name, 1000, 0).per_second for name in sizes)
        size = min(10_000, bench.count(rate))
        for _, got in judged(bench.rounds, direct, between, refusing(*rows)):
            against(many, got["many"], got["ten"])
            against(million, got["million"], got["ten"])
            print(f"  {many.figures[-1]}; 10^6: {got['million'].per_second:.0f}/s")
    return rows
