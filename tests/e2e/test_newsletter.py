"""A real newsletter run: 2,000 people of mixed consent through one listener into the sink."""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from running_sluis import DOMAINS, World, fields, message, send_once

from policy.address import parse
from policy.events import detail_from
from proxy import log
from proxy.store.model import NewAttributes, NewEvent, State
from proxy.tokens import open_

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

PEOPLE = 2000
OPT_IN = {"box": "unticked", "topics": ["newsletter"]}

# What a person did, as events (days ago, type, evidence, fields), and the reason that must follow.
# Written down by hand from the law, not computed by the engine under test.
HABITS: list[tuple[str, list[tuple[float, str, str, dict[str, Any]]]]] = [
    ("consent", [(200, "opt-in", "form:1", OPT_IN)]),
    ("consent", [(900, "objection", "t:1", {}), (100, "opt-in", "form:2", OPT_IN)]),
    ("consent", [(30, "opt-in", "paper:1", {"box": "paper"})]),
    ("suppressed", [(200, "opt-in", "form:1", OPT_IN), (3, "objection", "t:2", {"via": "form"})]),
    ("suppressed", [(200, "opt-in", "form:1", OPT_IN), (9, "complaint", "arf:1", {})]),
    ("suppressed", [(200, "opt-in", "form:1", OPT_IN), (5, "bounce", "dsn:1", {})]),
    (
        "suppressed",
        [(90, "opt-in", "form:1", OPT_IN), (3, "objection", "t:3", {"scope": "everything"})],
    ),
    (
        "suppressed",
        [
            (90, "opt-in", "form:1", OPT_IN),
            (3, "objection", "t:3", {"scope": "topic", "topics": ["newsletter"]}),
        ],
    ),
    (
        "consent",
        [
            (90, "opt-in", "form:1", OPT_IN),
            (3, "objection", "t:3", {"scope": "topic", "topics": ["events"]}),
        ],
    ),
    ("preticked-consent", [(100, "opt-in", "form:1", {**OPT_IN, "box": "preticked"})]),
    ("proof-missing", [(100, "opt-in", "", OPT_IN)]),
    ("scope-mismatch", [(100, "opt-in", "form:1", {**OPT_IN, "topics": ["events"]})]),
    ("expired", [(100, "opt-in", "form:1", {**OPT_IN, "valid_until": "2026-01-31"})]),
    ("no-basis", []),
    ("no-basis", [(5, "contact", "click:1", {"via": "click"})]),
]


def addresses(rng: random.Random) -> list[str]:
    """Plausible addresses of several shapes, each a mailbox of its own, widened too."""
    first = ["anna", "bram", "cees", "dirk", "els", "o'neill", "j.de.vries", "marie-jose"]
    domains = ["example.nl", "mail.example.nl", "bedrijf.example", "xn--caf-dma.example"]
    return [f"{rng.choice(first)}{n}@{rng.choice(domains)}" for n in range(PEOPLE)]


@pytest.fixture
def logged() -> Iterator[io.BytesIO]:
    """All that is logged, at the most talkative level."""
    stream = io.BytesIO()
    log.configure("debug", stream=stream)
    yield stream
    log.configure()


async def test_every_verdict_token_and_row_of_a_newsletter(world: Make, logged: io.BytesIO) -> None:
    w = await world()
    rng = random.Random(20261124)
    people = addresses(rng)
    expected = dict(zip(people, (rng.choice(HABITS) for _ in people), strict=True))
    await remember(w, expected)

    # Half go one by one over twenty sessions, half in mails of a hundred recipients.
    mails = [[p] for p in people[:1000]]
    mails += [people[i : i + 100] for i in range(1000, PEOPLE, 100)]
    port = w.sluis.smtp_ports[0]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(20) as clients:
        replies = await asyncio.gather(
            *(
                loop.run_in_executor(
                    clients,
                    send_once,
                    port,
                    f"bounces@{DOMAINS['newsletter']}",
                    to,
                    message(message_id=f"n{i}"),
                )
                for i, to in enumerate(mails)
            )
        )

    reasons: Counter[str] = Counter()
    for to, reply in zip(mails, replies, strict=True):
        rows = await w.journal(reply)
        assert len(rows) == len(to), reply
        for address, row in zip(to, rows, strict=True):
            reason = expected[address][0]
            assert row.reason == reason, (expected[address], row)
            assert row.exact == w.sluis.keys.pseudonym(address)
            assert row.state is (State.RELAYED if reason == "consent" else State.BLOCKED)
            reasons[reason] += 1
        if len(to) == 1:
            assert reply.startswith("250 " if expected[to[0]][0] == "consent" else "550 5.7.1 ")
    assert sum(reasons.values()) == PEOPLE
    assert set(reasons) == {reason for reason, _ in HABITS}

    allowed = {a for a, (reason, _) in expected.items() if reason == "consent"}
    # Beside the mails upstream gets a notice for each that was taken for some of its people only.
    partly = sum({"consent"} < {expected[a][0] for a in to} for to in mails)
    assert partly > 0
    await w.sink.received(len(allowed) + partly)
    assert w.sink.total == len(allowed) + partly
    kept = [m for m in w.sink.messages if m.mail_from]
    relayed = [m.recipients for m in kept]
    assert all(len(r) == 1 for r in relayed)
    if len(allowed) <= 1000:  # the sink keeps the newest thousand
        assert {r[0].decode() for r in relayed} == allowed
    tokens = set()
    for mail in kept:
        link = fields(mail.content, "List-Unsubscribe")[0]
        token = link[1 : link.index(">")].rpartition("/u/")[2]
        assert open_(w.sluis.keys, token).address == mail.recipients[0].decode()
        tokens.add(token)
    assert len(tokens) == len(kept)

    lines = logged.getvalue().decode()
    assert "recipient.decided" in lines
    assert [a for a in people if a in lines] == []


async def remember(
    w: World, expected: dict[str, tuple[str, list[tuple[float, str, str, dict[str, Any]]]]]
) -> None:
    now = datetime.now(UTC)
    events = []
    attributes = []
    for number, (address, (_, habits)) in enumerate(expected.items()):
        subject = w.sluis.keys.subject("acme", parse(address))
        values = {"country": "NL", "kind": "consumer"}
        attributes.append(NewAttributes(subject=subject, at=now, values=values))
        for n, (days, type_, evidence, columns) in enumerate(habits):
            at = now - timedelta(days=days)
            events.append(
                NewEvent(
                    uid=f"{number}.{n}",
                    subject=subject,
                    detail=detail_from(type_, columns),
                    at=at,
                    recorded_at=at,  # on record since it happened
                    evidence=evidence,
                )
            )
    await w.sluis.store.append(events, attributes)
