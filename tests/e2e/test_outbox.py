"""Mail that is ours to finish, over real sockets: nothing lost, nothing twice, nothing after a
no."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flufl.bounce import all_failures
from running_sluis import OPT_IN, World, fields, message, until

from proxy.sink import Received, Step
from proxy.store.model import JournalEntry, State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM, HANS = "anna@example.nl", "bram@example.nl", "hans@example.nl"
SOON = 'retry_first = "50ms"\nretry_longest = "50ms"\n'
QUEUED = f'[delivery]\nmode = "queued"\n{SOON}'


async def settled(w: World, reply: str) -> list[JournalEntry]:
    """The rows of a mail once each is at its end."""

    async def over() -> bool:
        rows = await w.journal(reply)
        return bool(rows) and not any(
            r.state in (State.WAITING, State.ATTEMPTING) for r in rows
        )

    await until(over, 40)
    return await w.journal(reply)


def failures(capfd: pytest.CaptureFixture[str]) -> list[tuple[str, ...]]:
    """The events `message.failed` since the last look."""
    lines = [line for line in capfd.readouterr().err.splitlines() if "message.failed" in line]
    assert not any("@" in line for line in lines)
    events = [json.loads(line) for line in lines]
    return [(e["level"], f"{e['ref']}.{e['n']}", e["stream"], e["why"]) for e in events]


def counted(w: World, stream: str) -> tuple[float, float]:
    """How many mails of a stream count as `failed` and as `lost`."""
    text = w.sluis.telemetry.render()[0].decode()
    failed, lost = (
        re.search(
            rf'^sluis_messages_total{{outcome="{outcome}",stream="{stream}"}} (\S+)$', text, re.M
        )
        for outcome in ("failed", "lost")
    )
    assert failed is not None
    assert lost is not None
    return float(failed[1]), float(lost[1])


async def finished(w: World) -> None:
    """Wait until the outbox owes nothing."""

    async def empty() -> bool:
        return not (await w.sluis.store.unfinished()).counts

    await until(empty, 40)


def mails(w: World) -> list[Received]:
    """What upstream took, without notices of ours."""
    return [m for m in w.sink.messages if m.mail_from]


def reported(w: World) -> set[str]:
    """The recipients of whom notices tell, as a program reads them."""
    import email

    told = set()
    for notice in w.sink.messages:
        if not notice.mail_from:
            assert fields(notice.content, "Auto-Submitted") == ["auto-replied"]
            _, permanent = all_failures(email.message_from_bytes(notice.content))
            told |= {address.decode() for address in permanent}
    return told


async def test_queued_mail_is_answered_at_once_and_delivered(world: Make) -> None:
    w = await world(more=QUEUED)
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(ANNA, message(message_id="q"))
    assert re.match(r"250 2\.0\.0 queued \(ref \w{16}\)$", reply), reply
    [row] = await settled(w, reply)
    assert (row.state, row.attempts) == (State.RELAYED, 1)
    [mail] = mails(w)
    assert fields(mail.content, "Sluis-Ref") == [f"{row.ref}.1"]
    assert fields(mail.content, "List-Unsubscribe-Post") == ["List-Unsubscribe=One-Click"]
    again = await w.send(ANNA, message(message_id="q"))
    assert again.startswith("250 "), again
    assert len(mails(w)) == 1


async def test_an_opt_out_between_acceptance_and_retry_stops_the_mail(world: Make) -> None:
    w = await world(more=QUEUED)
    await w.know(ANNA, "opt-in", **OPT_IN)
    w.sink.once(".", "451 4.3.2 later")
    reply = await w.send(ANNA, message(message_id="stop"))

    async def tried() -> bool:
        [row] = await w.journal(reply)
        return row.attempts == 1 and row.state is State.WAITING

    await until(tried)
    await w.know(ANNA, "objection", days=0, scope="marketing", via="one-click")
    [row] = await settled(w, reply)
    assert (row.state, row.reason, row.attempts) == (State.BLOCKED, "suppressed", 1)
    await finished(w)
    assert mails(w) == []
    assert reported(w) == {ANNA}
    [notice] = w.sink.messages
    assert notice.recipients == (b"bounces@news.acme.example",)
    assert b"GDPR" in notice.content or b"11.7" in notice.content


async def test_a_stopped_mail_is_only_recorded_where_no_notice_is_due(world: Make) -> None:
    w = await world(more=QUEUED)
    await w.know(ANNA, "opt-in", **OPT_IN)
    for sender, more in (
        ("someone@elsewhere.example", ["Sluis-Stream: newsletter"]),
        ("bounces@news.acme.example", ["Auto-Submitted: auto-generated"]),
    ):
        content = message(message_id=sender, headers=more)
        reply = await w.send([ANNA, HANS], content, mail_from=sender)
        assert reply.startswith("250 2.0.0 relayed 0 of 2, 1 queued, 1 blocked"), reply
        assert [r.state for r in await settled(w, reply)] == [State.RELAYED, State.BLOCKED]
    await finished(w)
    assert reported(w) == set()


async def test_some_blocked_is_250_and_one_notice(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    content = message(message_id="part")
    reply = await w.send([ANNA, HANS, BRAM], content)
    assert reply.startswith("250 2.0.0 relayed 1 of 3, 2 blocked"), reply
    await finished(w)
    assert reported(w) == {HANS, BRAM}
    assert len(w.sink.messages) == 2
    # The reply was lost, say: the same again is answered, and nothing is told twice.
    again = await w.send([ANNA, HANS, BRAM], content)
    assert again.startswith("250 2.0.0 relayed 1 of 3, 2 blocked"), again
    await finished(w)
    assert len(w.sink.messages) == 2


async def test_accept_and_drop_tells_nobody(world: Make) -> None:
    w = await world(more='[delivery]\npartial = "accept-and-drop"')
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send([ANNA, HANS], message())
    assert reply.startswith("250 2.0.0 relayed 1 of 2, 1 blocked"), reply
    await finished(w)
    assert len(w.sink.messages) == 1


async def test_a_slow_upstream_is_answered_250_once_the_mail_is_ours(world: Make) -> None:
    w = await world(more=f'[delivery]\ninline_wait = "2s"\n{SOON}')
    w.sink.once(".", Step.SILENT)
    content = message("orders", message_id="slow")
    reply = await w.send(ANNA, content, stream="orders")
    assert re.match(r"250 2\.0\.0 queued \(ref \w{16}\)$", reply), reply
    assert await w.send(ANNA, content, stream="orders") == reply
    w.sink.drop()  # no reply ever: unknown, and ours to try again
    [row] = await settled(w, reply)
    assert (row.state, row.attempts, row.maybe_sent) == (State.RELAYED, 2, True)
    assert len(w.sink.messages) == 1


async def test_a_late_acceptance_of_a_slow_upstream_ends_it(world: Make) -> None:
    w = await world(more=f'[delivery]\ninline_wait = "2s"\n{SOON}')
    w.sink.once(".", Step.SILENT)
    reply = await w.send(ANNA, message("orders", message_id="slow"), stream="orders")
    assert reply.startswith("250 2.0.0 queued"), reply
    w.sink.say(b"250 2.0.0 taken\r\n")
    [row] = await settled(w, reply)
    assert (row.state, row.attempts, row.reply) == (State.RELAYED, 1, "250 2.0.0 taken")


async def test_a_slow_5xx_after_250_is_reported(
    world: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    w = await world(more=f'[delivery]\ninline_wait = "2s"\n{SOON}')
    w.sink.once(".", Step.SILENT)
    reply = await w.send(ANNA, message("orders", message_id="slow"), stream="orders")
    assert reply.startswith("250 2.0.0 queued"), reply
    w.sink.say(b"554 5.6.0 no\r\n")
    [row] = await settled(w, reply)
    assert row.state is State.FAILED
    w.sink.drop()  # this connection answers nothing more, and the notice may have met it
    await finished(w)
    assert reported(w) == {ANNA}
    assert failures(capfd) == [("warning", f"{row.ref}.1", "orders", "refused")]
    assert counted(w, "orders") == (0, 1)


async def test_only_a_5xx_after_250_is_logged_as_lost(
    world: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    w = await world(more=f"[delivery]\n{SOON}")
    w.sink.once("RCPT", "550 5.1.1 no such user")
    reply = await w.send(ANNA, message("orders", message_id="heard"), stream="orders")
    assert reply.startswith("550 5.1.1"), reply
    assert failures(capfd) == []
    assert counted(w, "orders") == (1, 0)
    w.sink.once("RCPT", None, "550 5.1.1 no such user")
    reply = await w.send([ANNA, BRAM], message("orders", message_id="some"), stream="orders")
    assert reply.startswith("250 2.0.0 relayed 1 of 2, 1 failed"), reply
    [row] = [r for r in await w.journal(reply) if r.state is State.FAILED]
    assert failures(capfd) == [("warning", f"{row.ref}.{row.n}", "orders", "refused")]
    assert counted(w, "orders") == (1, 1)


async def test_a_5xx_to_a_later_attempt_is_logged_as_lost(
    world: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    w = await world(more=QUEUED)
    w.sink.once("RCPT", "451 4.3.2 later", "550 5.1.1 no such user")
    reply = await w.send(ANNA, message("orders", message_id="late"), stream="orders")
    [row] = await settled(w, reply)
    assert (row.state, row.attempts) == (State.FAILED, 2)

    async def told() -> bool:
        return counted(w, "orders") == (0, 1)

    await until(told)
    assert failures(capfd) == [("warning", f"{row.ref}.1", "orders", "refused")]


async def test_a_slow_upstream_with_all_kinds_of_recipients(world: Make) -> None:
    """At `inline_wait` one is taken, one refused, one blocked and one open: all in one commit."""
    more = f'[delivery]\ninline_wait = "2s"\n{SOON}'
    w = await world(more=more, upstream_more="connections = 3")
    people = {"taken": ANNA, "failed": "cees@example.nl", "open": BRAM}
    for person in people.values():
        await w.know(person, "opt-in", **OPT_IN)
    w.sink.once(".", None, "554 5.6.0 no", Step.SILENT)
    reply = await w.send([*people.values(), HANS], message(message_id="mix"))
    # On a slow machine more than one is still open then.
    assert re.match(r"250 2\.0\.0 relayed [01] of 4, [1-3] queued, 1 blocked", reply), reply

    async def deaf() -> bool:
        return w.sink.deaf == 1

    await until(deaf)
    w.sink.drop()
    states = sorted(r.state for r in await settled(w, reply))
    assert states == [State.BLOCKED, State.FAILED, State.RELAYED, State.RELAYED]
    await finished(w)
    lost = {r.address for r in await w.journal(reply) if r.state is not State.RELAYED}
    assert HANS in lost
    assert reported(w) == lost
    assert len([m for m in w.sink.messages if not m.mail_from]) <= 2


async def test_upstream_down_for_a_while_delays_and_loses_nothing(world: Make) -> None:
    w = await world(more=QUEUED, upstream_more="connections = 4")
    port = w.sink.smtp_port
    await w.sink.close()
    replies = [
        await w.send(f"p{i}@example.nl", message("orders", message_id=f"m{i}"), stream="orders")
        for i in range(20)
    ]
    assert all(r.startswith("250 2.0.0 queued") for r in replies), replies
    assert (await w.sluis.store.unfinished()).counts == {"waiting": 20}
    await w.sink.start(smtp_port=port)
    await finished(w)
    assert sorted(m.recipients for m in w.sink.messages) == sorted(
        (f"p{i}@example.nl".encode(),) for i in range(20)
    )
    for reply in replies:
        assert [r.state for r in await w.journal(reply)] == [State.RELAYED]


async def test_mail_that_cannot_be_delivered_expires_with_a_notice(
    world: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [datetime(2026, 11, 24, 9, tzinfo=UTC)]
    w = await world(more=QUEUED, clock=lambda: now[0])
    w.sink.once("RCPT", "451 4.3.2 later")
    reply = await w.send(ANNA, message("orders", message_id="old"), stream="orders")

    async def tried() -> bool:
        [row] = await w.journal(reply)
        return row.attempts == 1 and row.state is State.WAITING

    await until(tried)
    now[0] += timedelta(days=5)
    [row] = await settled(w, reply)
    assert row.state is State.FAILED
    assert row.reply.startswith("451 4.4.7 not delivered in time; the last answer was: 451 4.3.2")
    await finished(w)
    assert reported(w) == {ANNA}
    [notice] = w.sink.messages
    assert b"Status: 5.4.7" in notice.content
    assert failures(capfd) == [("warning", f"{row.ref}.1", "orders", "expired")]
    assert counted(w, "orders") == (0, 1)


async def test_a_notice_that_cannot_be_delivered_causes_no_other(world: Make) -> None:
    w = await world(more=QUEUED)
    w.sink.once("RCPT", "550 5.1.1 no such user", "550 5.1.1 nor you")
    reply = await w.send(ANNA, message("orders"), stream="orders")
    assert [r.state for r in await settled(w, reply)] == [State.FAILED]
    await finished(w)
    assert w.sink.messages == []
    exact = w.sluis.keys.pseudonym("bounces@orders.acme.example")
    [notice] = await w.sluis.store.journal(exact=exact)
    assert (notice.state, notice.reply) == (State.FAILED, "550 5.1.1 nor you")


async def test_a_full_outbox_takes_no_mail_for_now(world: Make) -> None:
    w = await world(more=f"{QUEUED}outbox_messages = 1")
    w.sink.once(".", Step.SILENT)
    assert (await w.send(ANNA, message("orders"), stream="orders")).startswith("250 ")

    async def full() -> bool:
        reply = await w.send(BRAM, message("orders"), stream="orders")
        return reply.startswith("452 4.3.1 the outbox is full")

    await until(full)

    async def told() -> bool:
        return "outbox" in w.sluis.health.degraded

    await until(told)
    w.sink.say(b"250 2.0.0 taken\r\n")

    async def taken() -> bool:
        return (await w.send(BRAM, message("orders"), stream="orders")).startswith("250 ")

    await until(taken)
    w.sink.drop()  # the deaf connection is used again, and would be waited for at the end


# -- all combinations of partial results -----------------------------------------------------------

STEPS = {
    "accepted": None,
    "temporary": "451 4.3.2 later",
    "permanent": "554 5.6.0 no",
    "lost": Step.LOSE,  # kept, and its reply lost: sent twice, and said to be
    "cut": Step.CLOSE,  # not kept, and nobody knows
    "blocked": None,
}
COMBINATIONS = [
    *itertools.combinations_with_replacement(STEPS, 2),
    *itertools.combinations_with_replacement(STEPS, 3),
]


PAIRS = COMBINATIONS[:21]
GROUPS = [
    *(("accept-and-dsn", COMBINATIONS[group::5]) for group in range(5)),
    ("accept-and-drop", PAIRS),
    ("all-or-nothing", PAIRS),
]


@pytest.mark.parametrize(
    ("partial", "combinations"), GROUPS, ids=[f"{p}-{n}" for n, (p, _) in enumerate(GROUPS)]
)
async def test_every_combination_is_answered_honestly_and_finished(
    world: Make, partial: str, combinations: list[tuple[str, ...]]
) -> None:
    """Against three witnesses: what the client was told, what upstream has, what the journal says.

    Marketing: one copy a person; one connection, so that the script meets them in order.
    """
    w = await world(
        more=f'[delivery]\npartial = "{partial}"\n{SOON}', upstream_more="connections = 1"
    )
    for i, kinds in enumerate(combinations):
        people = [f"{kind}{n}.{i}@example.nl" for n, kind in enumerate(kinds)]
        for person, kind in zip(people, kinds, strict=True):
            if kind != "blocked":
                await w.know(person, "opt-in", **OPT_IN)
        nothing = partial == "all-or-nothing" and "blocked" in kinds
        w.sink.clear()
        if not nothing:
            w.sink.once(".", *(STEPS[kind] for kind in kinds if kind != "blocked"))
        reply = await w.send(people, message(message_id=f"c{i}"))
        await finished(w)
        rows = await w.journal(reply)
        states = [row.state for row in rows]
        sent = [m.recipients[0].decode() for m in mails(w)]
        told = reported(w)
        if nothing:
            assert reply.startswith("550 5.7.1 "), (kinds, reply)
            ends = {"blocked": State.BLOCKED}
            assert states == [ends.get(kind, State.RETURNED) for kind in kinds], (kinds, reply)
            assert (sent, told) == ([], set()), (kinds, reply)
        elif reply.startswith("250 "):
            assert "accepted" in kinds, (kinds, reply)
            expected = {
                "accepted": State.RELAYED,
                "temporary": State.RELAYED,
                "lost": State.RELAYED,
                "cut": State.RELAYED,
                "permanent": State.FAILED,
                "blocked": State.BLOCKED,
            }
            assert states == [expected[kind] for kind in kinds], (kinds, reply)
            lost = {p for p, k in zip(people, kinds, strict=True) if k in ("permanent", "blocked")}
            silent = {p for p in lost if partial == "accept-and-drop" and p.startswith("blocked")}
            assert told == lost - silent, (kinds, reply)
            twice = [p for p, k in zip(people, kinds, strict=True) if k == "lost"]
            assert sorted(sent) == sorted([*(set(people) - lost), *twice]), (kinds, reply)
            for row, kind in zip(rows, kinds, strict=True):
                assert row.maybe_sent is (kind in ("lost", "cut"))
                assert row.attempts == {"blocked": 0, "accepted": 1, "permanent": 1}.get(kind, 2)
        else:
            assert "accepted" not in kinds, (kinds, reply)
            open_ = {"temporary", "lost", "cut"} & set(kinds)
            assert reply.startswith("451 " if open_ else "55"), (kinds, reply)
            assert (len(sent), told) == (kinds.count("lost"), set()), (kinds, reply)
            expected = {
                "temporary": State.RETURNED,
                "lost": State.UNKNOWN,
                "cut": State.UNKNOWN,
                "permanent": State.FAILED,
                "blocked": State.BLOCKED,
            }
            assert states == [expected[kind] for kind in kinds], (kinds, reply)


# -- one copy for several, and the other partial modes ---------------------------------------------


async def test_one_copy_that_upstream_takes_for_some_of_its_people(world: Make) -> None:
    w = await world(more=f"[delivery]\n{SOON}")
    w.sink.once("RCPT", None, "451 4.2.1 busy", "550 5.1.1 no such user")
    people = [ANNA, BRAM, HANS]
    reply = await w.send(people, message("orders", message_id="some"), stream="orders")
    assert reply.startswith("250 2.0.0 relayed 1 of 3, 1 queued, 1 failed"), reply
    rows = await settled(w, reply)
    assert [r.state for r in rows] == [State.RELAYED, State.RELAYED, State.FAILED]
    assert [r.attempts for r in rows] == [1, 2, 1]
    await finished(w)
    assert [m.recipients for m in mails(w)] == [(ANNA.encode(),), (BRAM.encode(),)]
    assert reported(w) == {HANS}


async def test_all_or_nothing_queues_nothing_where_one_is_blocked(world: Make) -> None:
    w = await world(more=f'{QUEUED}partial = "all-or-nothing"')
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send([ANNA, HANS], message())
    assert reply.startswith("550 5.7.1"), reply
    assert [r.state for r in await w.journal(reply)] == [State.RETURNED, State.BLOCKED]
    assert (await w.sluis.store.unfinished()).counts == {}


async def test_what_may_not_leave_now_waits_in_queued_mode(world: Make) -> None:
    night = datetime(2026, 11, 24, 23, tzinfo=UTC)
    now = [night]
    news = 'id = "newsletter"\n'
    hours = 'quiet_hours = "21:00-08:00"\ntimezone = "Europe/Amsterdam"\n'
    w = await world(
        more=QUEUED, clock=lambda: now[0], edit=lambda t: t.replace(news, f"{news}{hours}")
    )
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(ANNA, message(message_id="late"))
    assert reply.startswith("250 2.0.0 queued"), reply
    [row] = await w.sluis.store.outbox()
    assert row.next_try == datetime(2026, 11, 25, 7, tzinfo=UTC)
    assert w.sink.messages == []
    now[0] = datetime(2026, 11, 25, 7, 1, tzinfo=UTC)
    [entry] = await settled(w, reply)
    assert (entry.state, entry.attempts) == (State.RELAYED, 1)


async def test_a_stream_may_queue_while_others_do_not(world: Make) -> None:
    orders = 'id = "orders"\n'
    w = await world(edit=lambda t: t.replace(orders, f'{orders}delivery = "queued"\n'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert (await w.send(ANNA, message())).startswith("250 2.0.0 kept")
    reply = await w.send(ANNA, message("orders"), stream="orders")
    assert reply.startswith("250 2.0.0 queued"), reply
    assert [r.state for r in await settled(w, reply)] == [State.RELAYED]


async def test_the_metrics_of_the_outbox(world: Make) -> None:
    w = await world(more='[delivery]\nmode = "queued"\nretry_first = "1h"')
    w.sink.once("RCPT", "451 4.3.2 later")
    await w.send(ANNA, message("orders"), stream="orders")

    async def shown() -> bool:
        text = w.sluis.telemetry.render()[0].decode()
        waits = 'sluis_outbox_messages{state="waiting"} 1.0' in text
        return waits and re.search(r"sluis_outbox_oldest_seconds [1-9]", text) is not None

    await until(shown)


async def test_opt_outs_during_the_load_win_over_every_later_attempt(world: Make) -> None:
    """Attempts that were durable when the opt-out was answered may go on; none begins after it."""
    w = await world(more=QUEUED, upstream_more="connections = 2")
    people = [f"p{i}@example.nl" for i in range(10)]
    for person in people:
        await w.know(person, "opt-in", **OPT_IN)
    begun: dict[str, set[str]] = {}

    async def mails_to(person: str) -> list[str]:
        return [await w.send(person, message(message_id=f"{person}.{i}")) for i in range(6)]

    async def opt_out(person: str, after: int) -> None:
        async def some() -> bool:
            return w.sink.total >= after

        await until(some)
        await w.know(person, "objection", days=0, scope="marketing", via="one-click")
        rows = await w.sluis.store.journal(exact=w.sluis.keys.pseudonym(person))
        begun[person] = {row.ref for row in rows if row.attempts}

    sending = [asyncio.create_task(mails_to(person)) for person in people]
    await asyncio.gather(*(opt_out(person, 2 * i) for i, person in enumerate(people[:8])))
    replies = [reply for done in await asyncio.gather(*sending) for reply in done]
    await finished(w)
    for person in people[:8]:
        rows = await w.sluis.store.journal(exact=w.sluis.keys.pseudonym(person))
        relayed = {row.ref for row in rows if row.state is State.RELAYED}
        assert relayed <= begun[person], "an attempt began after the opt-out was answered"
        assert {row.reason for row in rows if row.ref not in relayed} <= {"suppressed"}
    assert sum(reply.startswith("250 ") for reply in replies) >= 12
    assert sum(m.recipients[0].decode() in people[8:] for m in mails(w)) == 12
