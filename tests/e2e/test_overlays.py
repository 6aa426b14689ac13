"""Caps, quiet hours, own terms and blocked products over real SMTP, with a recording upstream."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from running_sluis import OPT_IN, World, fields, message

from policy.address import parse
from proxy.cli.explaining import decide_now
from proxy.cli.ledger import Ledger
from proxy.store.model import NewAttributes, State

if TYPE_CHECKING:
    from running_sluis import Make

pytest_plugins = ("running_sluis",)

ANNA, BRAM = "anna@example.nl", "bram@example.nl"
AMSTERDAM = ZoneInfo("Europe/Amsterdam")


def stream_with(
    *lines: str, stream: str = "newsletter", sender: tuple[str, ...] = ()
) -> Callable[[str], str]:
    """More keys in the table of a stream, and of the sender."""

    def edit(text: str) -> str:
        text = text.replace(f'id = "{stream}"', "\n".join((f'id = "{stream}"', *lines)), 1)
        return text.replace('id = "acme"', "\n".join(('id = "acme"', *sender)), 1)

    return edit


@dataclass
class Clock:
    """Stands still until it is moved. It starts after all that the tests record."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at


def tomorrow(wall: str, zone: ZoneInfo = AMSTERDAM) -> datetime:
    day = (datetime.now(UTC) + timedelta(days=2)).date()
    return datetime.combine(day, time.fromisoformat(wall), zone).astimezone(UTC)


async def send(world: World, to: str = ANNA, stream: str = "newsletter", **more: Any) -> str:
    return await world.send(to, message(stream, **more), stream=stream)


# -- frequency caps --------------------------------------------------------------------------------


async def test_the_mail_after_the_last_that_the_cap_allows_waits_and_passes_later(
    world: Make,
) -> None:
    clock = Clock(tomorrow("12:00"))
    w = await world(edit=stream_with('max_per_person = "2/7d"'), clock=clock)
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "opt-in", **OPT_IN)
    start = clock.at
    assert (await send(w)).startswith("250")
    clock.at += timedelta(hours=1)
    assert (await send(w)).startswith("250")
    reply = await send(w, message_id="third")
    until = start + timedelta(days=7)
    assert reply.startswith("451 4.7.1 frequency-cap: the recipient had enough mail for now; ")
    assert f"not before {until:%Y-%m-%d %H:%M:%S} UTC" in reply
    [entry] = await w.journal(reply)
    assert (entry.state, entry.verdict, entry.reason) == (State.RETURNED, "defer", "frequency-cap")
    assert (await send(w, BRAM)).startswith("250")
    assert len(w.sink.messages) == 3
    clock.at = until - timedelta(seconds=1)
    assert (await send(w, message_id="third")).startswith("451 4.7.1")
    clock.at = until
    assert (await send(w, message_id="third")).startswith("250")


async def test_twenty_sessions_at_once_to_one_person_are_one_mail(world: Make) -> None:
    w = await world(edit=stream_with('max_per_person = "1/1d"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    replies = await asyncio.gather(*(send(w, subject=f"News {n}") for n in range(20)))
    assert Counter(reply[:9] for reply in replies) == {"250 2.0.0": 1, "451 4.7.1": 19}
    assert len(w.sink.messages) == 1
    rows = [row for reply in replies for row in await w.journal(reply)]
    assert Counter(row.state for row in rows) == {State.RELAYED: 1, State.RETURNED: 19}
    assert {row.reason for row in rows if row.state is State.RETURNED} == {"frequency-cap"}


async def test_a_mail_that_upstream_refuses_for_now_leaves_its_place_to_another(
    world: Make,
) -> None:
    w = await world(edit=stream_with('max_per_person = "1/1d"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    w.sink.once(".", "451 4.3.2 later")
    first = await send(w, message_id="a")
    assert first.startswith("451 4.3.2")
    await w.ended(first)
    assert (await send(w, message_id="b")).startswith("250")
    assert (await send(w, message_id="a")).startswith("451 4.7.1 frequency-cap")


async def test_a_retry_of_a_relayed_mail_is_answered_and_counts_once(world: Make) -> None:
    w = await world(edit=stream_with('max_per_person = "2/1d"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    first = await send(w, message_id="a")
    assert await send(w, message_id="a") == first
    assert (await send(w, message_id="b")).startswith("250")
    assert (await send(w, message_id="c")).startswith("451 4.7.1")
    assert await send(w, message_id="a") == first
    assert len(w.sink.messages) == 2


async def test_two_spellings_of_one_address_share_the_cap_in_one_mail_and_in_two(
    world: Make,
) -> None:
    w = await world(edit=stream_with('max_per_person = "1/1d"'))
    for address in (ANNA, "anna+shop@example.nl", BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    content = message(message_id="a")
    reply = await w.send([ANNA, "anna+shop@example.nl", BRAM], content)
    assert reply.startswith("250 2.0.0 relayed 2 of 3, 1 queued"), "the third one's waits here"
    rows = await w.journal(reply)
    assert [row.state for row in rows] == [State.RELAYED, State.WAITING, State.RELAYED]
    sent = sorted(to.decode() for m in w.sink.messages for to in m.recipients)
    assert sent == [ANNA, BRAM]
    assert (await send(w, "anna+shop@example.nl")).startswith("451 4.7.1 frequency-cap")


async def test_a_senders_cap_counts_all_its_streams_and_no_service_mail(world: Make) -> None:
    w = await world(edit=stream_with(sender=('max_per_person = "2/1d"',)))
    await w.know(ANNA, "opt-in", box="unticked")
    for _ in range(3):
        assert (await send(w, stream="orders")).startswith("250")
    assert (await send(w)).startswith("250")
    assert (await send(w, stream="offers", headers=["Sluis-Topics: newsletter"])).startswith("250")
    assert (await send(w)).startswith("451 4.7.1 frequency-cap")
    assert (await send(w, stream="orders")).startswith("250")


async def test_observe_counts_and_changes_no_reply(world: Make) -> None:
    w = await world(
        edit=stream_with('max_per_person = "1/1d"', 'quiet_hours = "00:00-23:59"',
                         'timezone = "Europe/Amsterdam"', stream="watched",
                         sender=('max_per_person = "3/1d"',)),
        clock=Clock(tomorrow("12:00")),
    )  # fmt: skip
    await w.know(ANNA, "opt-in", **OPT_IN)
    replies = [await send(w, stream="watched") for _ in range(4)]
    assert [reply[:3] for reply in replies] == ["250"] * 4
    reasons = [(await w.journal(reply))[0].reason for reply in replies]
    assert reasons == ["quiet-hours", *["frequency-cap"] * 3]
    # What left under observe is mail that the person had.
    assert (await send(w)).startswith("451 4.7.1 frequency-cap")


async def test_many_at_once_in_observe_all_leave(world: Make) -> None:
    w = await world(edit=stream_with('max_per_person = "1/1d"', stream="watched"))
    await w.know(ANNA, "opt-in", **OPT_IN)
    replies = await asyncio.gather(*(send(w, stream="watched") for _ in range(10)))
    assert {reply[:3] for reply in replies} == {"250"}
    assert len(w.sink.messages) == 10
    reasons = Counter([(await w.journal(reply))[0].reason for reply in replies])
    assert reasons == {"consent": 1, "frequency-cap": 9}


async def test_an_objection_is_heard_before_any_cap(world: Make) -> None:
    w = await world(edit=stream_with('max_per_person = "1/1d"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert (await send(w)).startswith("250")
    assert (await send(w)).startswith("451")
    await w.know(ANNA, "objection", days=1, via="page")
    assert (await send(w)).startswith("550 5.7.1 suppressed")


# -- quiet hours -----------------------------------------------------------------------------------

QUIET = ('quiet_hours = "21:00-08:00"', 'timezone = "Europe/Amsterdam"')


async def test_quiet_hours_hold_marketing_until_they_end(world: Make) -> None:
    clock = Clock(tomorrow("20:59:59"))
    w = await world(edit=stream_with(*QUIET), clock=clock)
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert (await send(w)).startswith("250")
    clock.at = tomorrow("21:00")
    end = tomorrow("08:00") + timedelta(days=1)
    reply = await send(w, message_id="night")
    assert reply.startswith("451 4.7.1 quiet-hours: it is the recipient's quiet hours; ")
    assert f"not before {end:%Y-%m-%d %H:%M:%S} UTC" in reply
    assert (await send(w, stream="orders")).startswith("250")
    assert (await send(w, stream="offers", headers=["Sluis-Topics: newsletter"])).startswith("250")
    clock.at = end
    assert (await send(w, message_id="night")).startswith("250")


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/Los_Angeles"])
async def test_the_hours_are_those_of_the_recipient(world: Make, zone: str) -> None:
    there = ZoneInfo(zone)
    clock = Clock(tomorrow("12:00", there))
    w = await world(edit=stream_with(*QUIET), clock=clock)
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "opt-in", **OPT_IN)
    subject = w.sluis.keys.subject("acme", parse(ANNA))
    lives = NewAttributes(subject=subject, at=datetime.now(UTC), values={"timezone": zone})
    await w.sluis.store.append([], [lives])
    assert (await send(w, ANNA)).startswith("250")
    clock.at = tomorrow("20:59", there)
    assert (await send(w, ANNA)).startswith("250")
    clock.at = tomorrow("21:00", there)
    assert (await send(w, ANNA)).startswith("451 4.7.1 quiet-hours")
    home = clock.at.astimezone(AMSTERDAM).time()
    expected = "250" if time(8) <= home < time(21) else "451"
    assert (await send(w, BRAM)).startswith(expected)


# -- own terms and blocked products ----------------------------------------------------------------


async def test_an_own_term_blocks_at_rcpt(world: Make) -> None:
    w = await world(edit=stream_with(sender=("valid_months = { consent = 2 }",)))
    await w.know(ANNA, "opt-in", days=100, **OPT_IN)
    await w.know(BRAM, "opt-in", days=50, **OPT_IN)
    assert (await send(w, ANNA)).startswith("550 5.7.1 expired")
    assert (await send(w, BRAM)).startswith("250")


async def test_a_blocked_product_is_refused_with_its_remedy(world: Make) -> None:
    w = await world(edit=stream_with('blocked_products = ["wine"]'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    wine = await send(w, headers=["Sluis-Products: shoes, wine/red"])
    assert wine.startswith("550 5.7.1 not-authorised")
    assert (await send(w)).startswith("550 5.7.1 not-authorised")  # about what, it does not say
    assert (await send(w, headers=["Sluis-Products: shoes"])).startswith("250")


async def test_a_permission_request_leaves_only_while_the_old_basis_lives(world: Make) -> None:
    w = await world(edit=stream_with(sender=("valid_months = { consent = 2 }",)))
    await w.know(ANNA, "opt-in", days=100, box="unticked")
    await w.know(BRAM, "opt-in", days=50, box="unticked")
    asking = ["Sluis-Template: permission-request"]
    for stream in ("newsletter", "orders"):
        assert (await send(w, "carl@example.nl", stream, headers=asking)).startswith("550 5.7.1")
        assert (await send(w, ANNA, stream, headers=asking)).startswith("550 5.7.1")
    reply = await send(w, ANNA, "orders", headers=asking)
    assert reply.startswith("550 5.7.1 permission-request")
    for n, stream in enumerate(("newsletter", "orders"), start=1):
        assert (await send(w, BRAM, stream, headers=asking)).startswith("250")
        assert len(w.sink.messages) == n
        assert fields(w.sink.messages[-1].content, "List-Unsubscribe-Post")


# -- the same in other places ----------------------------------------------------------------------


def deferrals(world: World) -> dict[str, float]:
    """What `/metrics` counts of deferrals by the cap, per stream."""
    text = world.sluis.telemetry.render()[0].decode()
    found = re.findall(
        r'^sluis_decisions_total\{(.*?reason="frequency-cap".*?)\} (\S+)$', text, re.MULTILINE
    )
    return {re.search(r'stream="(.*?)"', labels)[1]: float(n) for labels, n in found}  # type: ignore[index]


async def test_explain_and_metrics_know_the_cap(world: Make) -> None:
    w = await world(edit=stream_with('max_per_person = "1/1d"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert deferrals(w) == {"newsletter": 0}  # the only stream that can defer
    assert (await send(w)).startswith("250")
    assert (await send(w)).startswith("451")
    assert deferrals(w) == {"newsletter": 1}
    ledger = Ledger(w.settings, w.sluis.keys, w.sluis.store)
    stream = w.settings.stream("newsletter")
    decision = await decide_now(ledger, stream, parse(ANNA))
    assert (decision.verdict, decision.reason) == ("defer", "frequency-cap")
    assert [change.fact for change in decision.counterfactual] == ["moment of sending"]
    assert (await decide_now(ledger, w.settings.stream("offers"), parse(ANNA))).reason != (
        "frequency-cap"
    )
