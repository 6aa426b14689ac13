"""How long a decision takes: rows in, facts built, decided, with everything in memory.

    python bench/decide.py [--rounds N] [--calls N] [--profile]

Each figure is the median over rounds of the mean time of one call, in microseconds, and in
multiples of the first line; the rounds of all subjects take turns, so that a slow moment of the
machine falls on all of them. One recipient has 50 events in the ledger, of which one opt-in and one
purchase can carry a mail; the sender is in the Netherlands. `--profile` adds, for one jurisdiction
and for all packs, the functions in which the time of a decision goes.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import platform
import pstats
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

from policy.address import parse
from policy.engine import decide, refuse_early
from policy.events import detail_from, fields_of, type_of
from policy.explain import sentence
from policy.model import (
    Category,
    Event,
    Facts,
    Kind,
    Message,
    Purpose,
    Recipient,
    Sender,
    Unsubscribe,
    Verdict,
)
from policy.pack import Packs
from proxy import config
from proxy.facts import facts_for, recipient_facts
from proxy.packs import builtin_packs
from proxy.store.codec import detail, instant, micros, to_json
from proxy.store.ledger import read
from proxy.store.model import Subject

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVENTS = 50
Measured = tuple[str, Callable[[], object], float]


def event(days: int, type_: str, number: int, sender: str = "shoes", **fields: object) -> Event:
    at = AT - timedelta(days=days, microseconds=7919 * number)
    detail = detail_from(type_, fields)
    return Event(
        at=at, recorded_at=at, sender=sender, detail=detail, evidence=f"form:{number}",
        uid=f"{number:032x}",
    )


def ledger() -> tuple[Event, ...]:
    """What a customer of some years leaves behind: acts, old orders, and an opt-in."""
    events = [
        event(
            900, "opt-in", 0, box="unticked", topics=["newsletter", "offers"],
            confirmed_at=(AT - timedelta(days=900)).isoformat(), withdrawal_info_given=True,
        ),
        event(890, "bounce", 1, severity="soft", status="4.2.2"),
    ]
    for number in range(2, EVENTS):
        days = 880 - number * 16
        if number % 12 == 0:
            events.append(
                event(
                    days, "relationship", number, stage="purchase", paid=True,
                    products=["shoes/running"], address_from_customer=True, informed=True,
                    objection_offered="box",
                )
            )
        else:
            via = ("click", "open", "order", "login")[number % 4]
            events.append(event(days, "contact", number, via=via))
    return tuple(events)


def facts(country: str | None) -> Facts:
    return Facts(
        at=AT,
        sender=Sender(id="shoes", names=("Voorbeeld Schoenen B.V.",), country="NL"),
        recipient=Recipient(
            address="anna@example.com", country=country, kind=Kind.CONSUMER,
            last_marketing_at=AT - timedelta(days=30),
        ),
        message=Message(
            stream="news",
            category=Category.MARKETING,
            purpose=Purpose.COMMERCIAL,
            products=("shoes/running",),
            topics=("newsletter",),
            sender_identity=True,
            postal_address=True,
            unsubscribe=Unsubscribe.LINK,
            unsubscribe_valid_days=0,
            advertisement_label=True,
            fake_reply=False,
            visible_recipients=1,
        ),
        events=ledger(),
    )


class Fetched:
    """A connection that has its rows already: what is left is our own work on them."""

    def __init__(self, rows: list[tuple[object, ...]]) -> None:
        self.rows = rows

    def execute(self, *_: object) -> Fetched:
        return self

    def fetchall(self) -> list[tuple[object, ...]]:
        return self.rows


def rows_to_facts(example: Facts) -> Callable[[], Facts]:
    """The columns of 50 entries and one last mail, as the store selects them, become `Facts`."""
    subject = Subject("shoes", "e" * 32, "w" * 32)
    rows: list[tuple[object, ...]] = [
        (
            0, number, e.uid, e.sender, subject.exact, subject.wide, type_of(e.detail),
            micros(e.at), micros(e.recorded_at), e.evidence, to_json(fields_of(e.detail)),
        )
        for number, e in enumerate(example.events, 1)
    ]  # fmt: skip
    held = {"country": ["NL", 1], "kind": ["consumer", 1]}
    mailed = micros(AT - timedelta(days=30))
    nones: list[object] = [None] * 7
    rows.append((2, None, None, "shoes", subject.exact, *nones[:5], to_json(held)))
    rows.append((3, None, None, "shoes", subject.exact, None, None, mailed, None, None, None))
    rows.append((4, EVENTS, None, *nones, None))
    db = cast(sqlite3.Connection, Fetched(rows))
    stream = config.Stream(id="news", sender="shoes", category=Category.MARKETING)
    address = parse(example.recipient.address)

    def once() -> Facts:
        known = read(db, [subject]).known[subject]
        return facts_for(
            at=AT,
            sender=example.sender,
            recipient=recipient_facts(address, known, stream),
            message=example.message,
            known=known,
        )

    built = once()
    assert built.events == example.events, "the rows give other facts"
    return once


def rows_to_facts_cold(once: Callable[[], Facts], texts: bool) -> Callable[[], Facts]:
    """The same for a person who was not read lately; `texts`: nor anybody with such entries."""

    def cold() -> Facts:
        instant.cache_clear()
        if texts:
            detail.cache_clear()
        return once()

    return cold


def subjects(packs: Packs) -> list[Measured]:
    """Name, what to call, and the most microseconds that it may take (0: no target)."""
    one, everywhere = facts("NL"), facts(None)
    bought = replace(one, events=one.events[1:])
    objected = event(1, "objection", EVENTS, scope="marketing", via="one-click")
    suppressed = replace(one, events=(*one.events[:-1], objected))
    none = replace(one, events=tuple(e for e in one.events if type_of(e.detail) == "contact"))
    assert decide(one, packs).verdict is Verdict.ALLOW
    assert decide(bought, packs).reason == "soft-opt-in"
    assert decide(everywhere, packs).verdict is Verdict.ALLOW
    assert decide(suppressed, packs).reason == "suppressed"
    built = rows_to_facts(one)
    blocked = decide(none, packs)
    return [
        ("one jurisdiction, allowed by the opt-in", lambda: decide(one, packs), 60),
        ("one jurisdiction, by one of 4 purchases", lambda: decide(bought, packs), 60),
        ("one jurisdiction, suppressed", lambda: decide(suppressed, packs), 60),
        ("one jurisdiction, no basis", lambda: decide(none, packs), 60),
        ("at RCPT, one jurisdiction", lambda: refuse_early(one, packs), 60),
        ("country unknown, all packs", lambda: decide(everywhere, packs), 150),
        ("rows to facts", built, 100),
        ("rows to facts, a person not read lately", rows_to_facts_cold(built, False), 0),
        ("rows to facts, nor a text like theirs", rows_to_facts_cold(built, True), 0),
        ("the reply's text", lambda: sentence(blocked), 0),
        ("with the counterfactual, no basis", lambda: decide(none, packs, counterfactual=True), 0),
    ]


def timed(call: Callable[[], object], calls: int) -> float:
    """Mean microseconds of one call."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def profiled(call: Callable[[], object], calls: int, top: int) -> str:
    """The functions by their own time, in microseconds a call and in parts of the whole."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(calls):
        call()
    profile.disable()
    stats = pstats.Stats(profile, stream=io.StringIO())
    own = {key: (value[1], value[2]) for key, value in stats.stats.items()}  # type: ignore[attr-defined]
    total = sum(seconds for _, seconds in own.values())
    lines = []
    for (file, _, name), (count, seconds) in sorted(own.items(), key=lambda i: -i[1][1])[:top]:
        where = file.rpartition("/")[2]
        lines.append(f"  {seconds / total:6.1%}  {count / calls:6.1f} calls  {where}: {name}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true", help="one line for machines instead")
    args = parser.parse_args()
    packs = builtin_packs()
    measured = subjects(packs)
    rounds: dict[str, list[float]] = {name: [] for name, _, _ in measured}
    for _, call, _ in measured:
        timed(call, 20)
    for _ in range(args.rounds):
        for name, call, _ in measured:
            calls = max(1, args.calls // 20) if "counterfactual" in name else args.calls
            rounds[name].append(timed(call, calls))
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    base = medians[measured[0][0]]
    if args.json:
        print(json.dumps({name: round(value, 2) for name, value in medians.items()}))
    else:
        print(f"CPython {platform.python_version()}, {EVENTS} events, {len(packs)} packs,")
        print(f"median of {args.rounds} rounds of {args.calls} calls\n")
        print(f"{'':40}{'us':>8}{'ratio':>8}{'target':>8}{'best':>8}{'worst':>8}")
        for name, _, most in measured:
            target = f"< {most:.0f}" if most else ""
            low, high = min(rounds[name]), max(rounds[name])
            print(
                f"{name:40}{medians[name]:8.1f}{medians[name] / base:8.2f}{target:>8}"
                f"{low:8.1f}{high:8.1f}"
            )
    if args.profile:
        for name in (measured[0][0], "country unknown, all packs", "rows to facts"):
            call = next(call for other, call, _ in measured if other == name)
            print(f"\n{name}: own time\n{profiled(call, args.calls, 14)}")
    over = [name for name, _, most in measured if most and medians[name] >= most]
    if over:
        print("over target: " + ", ".join(over), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
