"""A connection that is there is had without waiting; one timer serves all replies."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from upstream_peers import copy_of, pool_to, results, send, send_on, sink, until

from proxy.delivery.channel import Channel, TimedOutError
from proxy.sink import Step
from proxy.store.model import Result

ACCEPTED = [Result.ACCEPTED]


async def test_an_idle_connection_is_had_at_once_and_given_back() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:
        assert pool.at_hand() is None  # none is open yet
        assert results(await send(pool)) == ACCEPTED
        for _ in range(3):
            connection = pool.at_hand()
            assert connection is not None
            assert pool.at_hand() is None  # it is lent
            assert results(await send_on(connection)) == ACCEPTED
            connection.release()
        assert server.connections == 1


async def test_nobody_is_served_before_those_who_wait() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:
        async with pool.connection() as connection:
            await send_on(connection)
            waiting = [asyncio.create_task(send(pool, copy_of(b"w%d@example.nl" % n)))
                       for n in range(3)]
            await asyncio.sleep(0)
            assert pool.at_hand() is None
        assert pool.at_hand() is None  # promised to the first of them
        assert [results(given) for given in await asyncio.gather(*waiting)] == [ACCEPTED] * 3
        connection_now = pool.at_hand()
        assert connection_now is not None
        connection_now.release()


async def test_a_closed_pool_has_none_at_once() -> None:
    async with sink() as server, pool_to(server) as pool:
        await send(pool)
        await pool.close()
        assert pool.at_hand() is None


async def test_a_dead_idle_connection_is_not_had_at_once() -> None:
    async with sink() as server, pool_to(server) as pool:
        await send(pool)
        server.drop()
        await until(lambda: server.open == 0)
        connection = pool.at_hand()
        if connection is not None:  # the end was not read yet: the mail moves to another
            assert results(await send_on(connection)) == ACCEPTED
            connection.release()
        assert results(await send(pool)) == ACCEPTED


async def _connected(port: int) -> Channel:
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_connection(Channel, "127.0.0.1", port)
    return channel


async def test_silence_between_mails_is_no_fault_and_silence_after_it_is() -> None:
    """The timer of an earlier reply goes off while nothing is due, or while a later one is."""
    async with sink() as server:
        channel = await _connected(server.smtp_port)
        await channel.reply(5.0)
        await channel.ask(b"EHLO gate.example\r\n", 5.0)
        channel._wait_for("no reply", 0.01)  # as a reply that has come since
        await until(lambda: channel._timer is None)  # it went off, nobody waited
        assert channel.quiet
        await channel.ask(b"RSET\r\n", 5.0)
        server.always("NOOP", Step.SILENT)
        with pytest.raises(TimedOutError, match=r"^no reply within 0\.05 s$"):
            await channel.ask(b"NOOP\r\n", 0.05)  # shorter than the timer that is set
        channel.abort()


async def test_a_timer_that_goes_off_too_early_is_set_again() -> None:
    async with sink() as server:
        channel = await _connected(server.smtp_port)
        await channel.reply(5.0)
        channel._wait_for("no reply", 0.05)
        first = channel._timer
        assert first is not None
        server.always("NOOP", Step.SILENT)
        waiting = asyncio.create_task(channel.ask(b"NOOP\r\n", 30.0))
        await until(lambda: channel._timer is not first)
        assert channel._timer is not None
        assert channel._timer.when() > first.when() + 20
        assert not waiting.done()
        assert channel.failure is None
        channel.abort()
        await asyncio.wait({waiting})
        assert waiting.exception() is not None


async def test_a_closed_connection_leaves_no_timer() -> None:
    patience = timedelta(seconds=300)
    async with sink() as server, pool_to(server, command_timeout=patience) as pool:
        async with pool.connection() as connection:
            await send_on(connection)
            channel = connection._session.channel
        timer = channel._timer
        assert timer is not None
        channel.abort()
        await channel.closed
        assert timer.cancelled()
