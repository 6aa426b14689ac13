"""The pool: limits, order, reuse, stale and idle connections, failover, cancellation."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest
from upstream_peers import (
    STEPWISE,
    Events,
    Settings,
    Tap,
    copy_of,
    pool_to,
    results,
    send,
    send_on,
    sink,
    until,
)

from proxy.delivery import endpoint
from proxy.delivery.upstream import Pool
from proxy.errors import UpstreamUnavailable
from proxy.sink import EXTENSIONS, Sink, Step
from proxy.store.model import Result

BOTH = pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])
ACCEPTED = [Result.ACCEPTED]


async def test_never_more_connections_than_configured_and_every_mail_arrives() -> None:
    most = 0

    def tap(_: int, __: bytes) -> None:
        nonlocal most
        most = max(most, server.open)

    async with sink(tap=tap) as server, pool_to(server, connections=3) as pool:
        mails = [send(pool, copy_of(b"n%d@example.nl" % n)) for n in range(200)]
        assert [results(given) for given in await asyncio.gather(*mails)] == [ACCEPTED] * 200
        assert {mail.recipients[0] for mail in server.messages} == {
            b"n%d@example.nl" % n for n in range(200)
        }
        assert most == 3
        assert server.connections == 3


async def test_the_connection_used_last_is_used_first() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        async with pool.connection() as first, pool.connection() as second:
            await send_on(first)
            await send_on(second)
        # `second` was given back first, `first` last.
        for _ in range(3):
            assert results(await send(pool)) == ACCEPTED
        assert [tap.wire(n).count(b"MAIL") for n in (1, 2)] == [4, 1]


async def test_a_connection_at_hand_is_one_that_nobody_waits_for() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:
        assert pool.at_hand() is None  # none was opened yet
        assert results(await send(pool)) == ACCEPTED
        taken = pool.at_hand()
        assert taken is not None
        assert pool.at_hand() is None
        waiting = asyncio.ensure_future(send(pool))
        await asyncio.sleep(0)
        assert await send_on(taken)
        taken.release()
        assert pool.at_hand() is None  # it went to who was in line
        assert results(await waiting) == ACCEPTED
        assert server.connections == 1
        await pool.close()
        assert pool.at_hand() is None


async def test_a_connection_ends_after_its_share_of_mails() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server, messages_per_connection=2) as pool:
        for _ in range(4):
            assert results(await send(pool)) == ACCEPTED
        async with pool.connection() as connection:  # also within one loan
            for _ in range(3):
                assert results(await send_on(connection)) == ACCEPTED
        assert server.connections == 4
        assert [tap.wire(n).count(b"MAIL") for n in (1, 2, 3, 4)] == [2, 2, 2, 1]
        await until(lambda: server.open == 1)
        assert tap.wire(1).endswith(b"QUIT\r\n")


async def test_an_idle_connection_ends_by_itself() -> None:
    tap = Tap()
    idle = timedelta(seconds=0.05)
    async with sink(tap=tap) as server, pool_to(server, idle_timeout=idle) as pool:
        async with pool.connection() as one, pool.connection() as two:
            await send_on(one)
            await send_on(two)
        await until(lambda: server.open == 0)
        assert [tap.wire(n).endswith(b"QUIT\r\n") for n in (1, 2)] == [True, True]
        assert results(await send(pool)) == ACCEPTED


@BOTH
async def test_a_connection_that_died_while_idle_costs_no_mail(extensions: Any) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        assert results(await send(pool)) == ACCEPTED
        server.drop()
        await until(lambda: server.open == 0)
        assert results(await send(pool)) == ACCEPTED
        assert server.total == server.connections == 2


@BOTH
@pytest.mark.parametrize("word", [Step.CLOSE, "421 4.4.2 idle too long"])
async def test_a_connection_that_dies_as_it_is_used_costs_no_mail(
    word: Any, extensions: Any
) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        assert results(await send(pool)) == ACCEPTED
        server.once("MAIL", word)
        assert results(await send(pool)) == ACCEPTED
        assert server.total == server.connections == 2


@BOTH
async def test_a_connection_that_dies_between_begin_and_finish_costs_no_mail(
    extensions: Any,
) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            if extensions is EXTENSIONS:
                server.once("MAIL", Step.SILENT)
            connection.begin(copy_of())
            if extensions is EXTENSIONS:
                await until(lambda: server.deaf == 1)
            server.drop()
            await until(lambda: server.open == 0)
            assert results(await connection.finish([b"a\r\n"])) == ACCEPTED
        assert server.total == 1


async def test_a_fresh_connection_is_asked_again_what_it_offers() -> None:
    async with sink() as server, pool_to(server) as pool:
        assert results(await send(pool)) == ACCEPTED
        server.extensions = ("PIPELINING",)
        server.once("MAIL", Step.CLOSE)
        (given,) = await send(pool, copy_of(body_8bit=True))
        assert (given.result, given.stage, given.code) == (Result.PERMANENT, "local", 554)
        assert server.total == 1


async def test_the_second_connection_to_die_is_the_last() -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once("MAIL", Step.CLOSE, Step.CLOSE)
        (given,) = await send(pool)
        assert given.result is Result.UNSENT
        assert server.connections == 2
        assert not server.messages


async def test_a_dead_upstream_found_on_reuse_fails_over() -> None:
    async with sink() as second:
        first = Sink()
        await first.start()
        async with pool_to(first, second) as pool:
            async with pool.connection() as connection:
                assert results(await send_on(connection)) == ACCEPTED
                await first.close()
                await until(lambda: first.open == 0)
                assert results(await send_on(connection)) == ACCEPTED
                assert connection.name == f"127.0.0.1:{second.smtp_port}"
            assert (first.total, second.total) == (1, 1)


async def test_a_dead_upstream_found_on_reuse_without_another_is_unsent() -> None:
    first = Sink()
    await first.start()
    async with pool_to(first) as pool, pool.connection() as connection:
        assert results(await send_on(connection)) == ACCEPTED
        await first.close()
        await until(lambda: first.open == 0)
        (given,) = await send_on(connection)
        assert (given.result, given.stage) == (Result.UNSENT, "connect")
        assert given.reply.startswith("451 4.4.2 upstream at connect: ")


async def test_waiters_are_served_in_order_and_a_cancelled_one_loses_nothing() -> None:
    order: list[int] = []
    async with sink() as server, pool_to(server, connections=1) as pool:

        async def use(n: int) -> None:
            async with pool.connection() as connection:
                order.append(n)
                assert results(await send_on(connection)) == ACCEPTED

        async with pool.connection():
            tasks = [asyncio.create_task(use(n)) for n in range(6)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            tasks[4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 2, 3, 5]
        assert server.connections == 1


async def test_a_waiter_cancelled_in_the_instant_it_is_served_passes_it_on() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:
        loan = pool.connection()
        await loan.__aenter__()
        first, second = (asyncio.create_task(send(pool)) for _ in range(2))
        await asyncio.sleep(0)
        await loan.__aexit__(None, None, None)  # `first` has it, and does not know yet
        first.cancel()
        assert results(await second) == ACCEPTED
        with pytest.raises(asyncio.CancelledError):
            await first
        assert results(await send(pool)) == ACCEPTED
        assert server.connections == 1


async def test_cancelling_while_connecting_frees_the_slot() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:
        server.once("CONNECT", Step.SILENT)
        task = asyncio.create_task(send(pool))
        await until(lambda: server.deaf == 1)
        waiter = asyncio.create_task(send(pool))
        await asyncio.sleep(0)
        task.cancel()
        assert results(await waiter) == ACCEPTED
        await until(lambda: server.open == 1)


async def test_an_error_in_the_callers_block_gives_the_connection_back_clean() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:

        async def fail() -> None:
            async with pool.connection() as connection:
                connection.begin(copy_of(b"half@example.nl"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert results(await send(pool, copy_of(b"whole@example.nl"))) == ACCEPTED
        assert [mail.recipients for mail in server.messages] == [(b"whole@example.nl",)]


# -- several upstreams -----------------------------------------------------------------------------


def pool_with(events: Events, *ports: int, **settings: Any) -> Pool:
    upstreams = [Settings(port=port, **settings) for port in ports]
    return Pool(upstreams, hostname="gate.example", telemetry=events)


@pytest.mark.parametrize(
    ("verb", "step"),
    [("CONNECT", "554 5.3.2 no service"), ("CONNECT", Step.CLOSE), ("EHLO", "421 4.3.2 busy")],
)
async def test_the_next_upstream_takes_over_and_the_first_comes_back(
    verb: str, step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.05)
    events = Events()
    async with sink() as first, sink() as second:
        first.always(verb, step)
        pool = pool_with(events, first.smtp_port, second.smtp_port)
        names = [f"127.0.0.1:{server.smtp_port}" for server in (first, second)]
        for _ in range(3):
            assert results(await send(pool)) == ACCEPTED
        assert (first.total, second.total) == (0, 3)
        assert pool.up() == {names[0]: False, names[1]: True}
        assert events.seen == [(names[0], False), (names[1], True)]
        first.always(verb, None)
        while first.total == 0:  # as soon as the pause is over
            assert results(await send(pool)) == ACCEPTED
        assert pool.up() == {names[0]: True, names[1]: True}
        assert events.seen[2:] == [(names[0], True)]
        await pool.close()


async def test_a_failing_upstream_is_left_alone_for_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    async with sink() as server, pool_to(server, messages_per_connection=1) as pool:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        server.always("CONNECT", Step.CLOSE)
        tries: list[float] = []
        for _ in range(4000):
            before = server.connections
            with pytest.raises(UpstreamUnavailable):
                await send(pool)
            if server.connections > before:
                tries.append(now)
            now += 0.05
        gaps = [b - a for a, b in itertools.pairwise(tries)]
        assert 0.3 < gaps[0] < 0.8
        assert all(22 < gap < 39 for gap in gaps[7:])
        assert len(gaps) < 20
        server.always("CONNECT", None)
        now += 60
        assert results(await send(pool)) == ACCEPTED
        # Once it works, the next failure is a first one again.
        server.always("CONNECT", Step.CLOSE)
        for pause in (0.0, 0.8):
            now += pause
            before = server.connections
            with pytest.raises(UpstreamUnavailable):
                await send(pool)
            assert server.connections == before + 1


async def test_many_at_once_on_a_failing_upstream_count_as_one_failure() -> None:
    async with sink() as first, sink() as second, pool_to(first, second) as pool:
        first.always("CONNECT", Step.CLOSE)
        given = await asyncio.gather(*(send(pool) for _ in range(20)))
        assert [results(one) for one in given] == [ACCEPTED] * 20
        assert second.total == 20
        assert first.connections <= 4
        (upstream, _) = pool._endpoints
        assert upstream._failures == 1


async def test_an_upstream_that_refuses_more_connections_is_used_by_those_it_has() -> None:
    async with sink() as server, pool_to(server, connections=4) as pool:
        server.once("CONNECT", None)
        server.always("CONNECT", "421 4.7.0 too many connections")
        given = await asyncio.gather(*(send_when_possible(pool) for _ in range(12)))
        assert [results(one) for one in given] == [ACCEPTED] * 12
        assert server.open == 1


async def send_when_possible(pool: Pool) -> Any:
    while True:
        try:
            return await send(pool)
        except UpstreamUnavailable:  # before the first connection stands
            await asyncio.sleep(0)


async def test_close_turns_waiters_away_and_says_goodbye() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server, connections=1) as pool:
        async with pool.connection() as connection:
            waiter = asyncio.create_task(send(pool))
            await asyncio.sleep(0)
            await pool.close()
            with pytest.raises(UpstreamUnavailable, match="shutting down"):
                await waiter
            assert results(await send_on(connection)) == ACCEPTED  # what is in hand is finished
        await until(lambda: server.open == 0)
        assert tap.wire().endswith(b"QUIT\r\n")
        with pytest.raises(UpstreamUnavailable, match="shutting down"):
            await send(pool)


async def test_close_ends_idle_connections() -> None:
    async with sink() as server, pool_to(server) as pool:
        assert results(await send(pool)) == ACCEPTED
        await pool.close()
        await until(lambda: server.open == 0)
