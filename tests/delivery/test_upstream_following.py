"""The envelope of the next mail leaves in one write with the dot of the one before."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstream_peers import BODY, STEPWISE, Tap, copy_of, impatient, pool_to, results, sink, until

from proxy.delivery.upstream import Connection, Copy, Given
from proxy.sink import Scripted, Step
from proxy.store.model import Result

ACCEPTED = [Result.ACCEPTED]
NAMES = [b"n%d@example.nl" % n for n in range(6)]


async def follow(connection: Connection, copies: list[Copy]) -> list[list[Given]]:
    """All copies over one connection, each begun with the dot of the one before where it can be."""
    said = []
    for copy, after in zip(copies, [*copies[1:], None], strict=True):
        if not connection.begun:
            connection.begin(copy)
        await connection.envelope()
        said.append(await connection.finish((BODY,), None, after))
    return said


def mails(count: int) -> list[Copy]:
    return [copy_of(name) for name in NAMES[:count]]


async def test_a_dot_and_the_next_envelope_are_one_write() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            said = await follow(connection, mails(4))
        assert [results(one) for one in said] == [ACCEPTED] * 4
        assert [mail.recipients for mail in server.messages] == [(name,) for name in NAMES[:4]]
        assert len({mail.content for mail in server.messages}) == 1
        together = [
            read for read in tap.reads[1] if b"\r\n.\r\nMAIL FROM" in read and b"DATA\r\n" in read
        ]
        assert len(together) == 3
        assert b"RSET" not in tap.wire()


@pytest.mark.parametrize("reply", ["452 4.3.1 full", "554 5.7.1 not that one"])
async def test_the_answer_to_a_dot_says_nothing_of_the_next(reply: str) -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once(".", None, reply)
        async with pool.connection() as connection:
            said = await follow(connection, mails(4))
        assert [one[0].code for one in said] == [250, int(reply[:3]), 250, 250]
        assert [mail.recipients[0] for mail in server.messages] == [NAMES[0], *NAMES[2:4]]
        assert server.connections == 1


@pytest.mark.parametrize(
    "step", ["421 4.3.2 closing", Step.LOSE, Step.CLOSE], ids=["421", "lose", "close"]
)
async def test_a_connection_that_ends_at_a_dot_takes_nothing_else_with_it(step: Scripted) -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once(".", None, step)
        async with pool.connection() as connection:
            said = await follow(connection, mails(4))
        assert [one[0].result for one in (said[0], *said[2:])] == ACCEPTED * 3
        assert said[1][0].result is not Result.ACCEPTED
        kept = [mail.recipients[0] for mail in server.messages]
        assert [name for name in kept if name != NAMES[1]] == [NAMES[0], *NAMES[2:4]]
        assert server.connections == 2


async def test_a_dot_without_answer_leaves_the_next_untouched() -> None:
    quick = {**impatient(), "connect_timeout": timedelta(seconds=5)}
    quick |= dict.fromkeys(("greeting_timeout", "command_timeout"), timedelta(seconds=5))
    async with sink() as server, pool_to(server, **quick) as pool:
        server.once(".", Step.SILENT)
        async with pool.connection() as connection:
            said = await follow(connection, mails(2))
        assert [one[0].result for one in said] == [Result.UNKNOWN, Result.ACCEPTED]
        assert [mail.recipients[0] for mail in server.messages] == [NAMES[1]]


async def test_a_refused_recipient_is_its_own_affair() -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once("RCPT", None, "550 5.1.1 nobody", None)
        async with pool.connection() as connection:
            said = await follow(connection, mails(3))
        assert [one[0].code for one in said] == [250, 550, 250]
        assert [mail.recipients[0] for mail in server.messages] == [NAMES[0], NAMES[2]]


async def test_without_pipelining_nothing_goes_ahead() -> None:
    tap = Tap()
    async with sink(tap=tap, extensions=STEPWISE) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            said = await follow(connection, mails(3))
        assert [results(one) for one in said] == [ACCEPTED] * 3
        assert not any(b".\r\nMAIL" in read for read in tap.reads[1])


async def test_no_more_mails_than_a_connection_may_carry() -> None:
    async with sink() as server, pool_to(server, messages_per_connection=2) as pool:
        async with pool.connection() as connection:
            said = await follow(connection, mails(5))
        assert [results(one) for one in said] == [ACCEPTED] * 5
        assert server.connections == 3


async def test_what_the_upstream_cannot_take_does_not_go_ahead() -> None:
    too_big = copy_of(NAMES[1], size=10**12)
    async with sink(extensions=("PIPELINING", "SIZE 1000000")) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            said = await follow(connection, [copy_of(NAMES[0]), too_big, copy_of(NAMES[2])])
        assert [one[0].code for one in said] == [250, 552, 250]
        assert [mail.recipients[0] for mail in server.messages] == [NAMES[0], NAMES[2]]


async def test_a_mail_held_back_before_its_dot_holds_nothing_else_back() -> None:
    async def no() -> bool:
        return False

    async with sink() as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(NAMES[0]))
            held = await connection.finish((BODY,), no, copy_of(NAMES[1]))
            assert results(held) == [Result.UNSENT]
            assert not connection.begun
            said = await follow(connection, [copy_of(NAMES[1])])
        assert [results(one) for one in said] == [ACCEPTED]
        assert [mail.recipients[0] for mail in server.messages] == [NAMES[1]]


async def test_a_connection_given_back_with_an_envelope_on_it_is_not_used_again() -> None:
    async with sink() as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(NAMES[0]))
            await connection.finish((BODY,), None, copy_of(NAMES[1]))
            assert connection.begun
        async with pool.connection() as connection:
            said = await follow(connection, [copy_of(NAMES[2])])
        assert [results(one) for one in said] == [ACCEPTED]
        assert [mail.recipients[0] for mail in server.messages] == [NAMES[0], NAMES[2]]
        await until(lambda: server.open <= 1)


STEPS: list[Scripted] = [
    *(None, None, None, None, "451 4.3.0 later", "550 5.7.1 no", "421 4.3.2 closing"),
    *(b"what?\r\n", Step.LOSE, Step.CLOSE),
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.dictionaries(
        st.sampled_from(["MAIL", "RCPT", "DATA", "."]),
        st.lists(st.sampled_from(STEPS), max_size=6),
    )
)
def test_whatever_the_upstream_does_each_mail_has_its_own_end(
    script: dict[str, list[Scripted]],
) -> None:
    async def run() -> None:
        async with sink() as server, pool_to(server) as pool:
            for verb, steps in script.items():
                server.once(verb, *steps)
            async with pool.connection() as connection:
                said = await follow(connection, mails(6))
            kept = [mail.recipients[0] for mail in server.messages]
            assert len(kept) == len(set(kept))  # nothing twice
            for name, [one] in zip(NAMES, said, strict=True):
                if one.result is Result.ACCEPTED:
                    assert name in kept
                elif one.result is not Result.UNKNOWN:
                    assert name not in kept

    asyncio.run(run())
