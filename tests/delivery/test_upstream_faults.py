"""The upstream fails at every stage in every way: what each recipient's result is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from upstream_peers import (
    BODY,
    STEPWISE,
    Tap,
    copy_of,
    impatient,
    pool_to,
    results,
    send,
    send_on,
    sink,
    until,
)

from proxy.errors import UpstreamUnavailable
from proxy.sink import EXTENSIONS, Scripted, Step
from proxy.store.model import Result

BOTH = pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])

TEMPORARY = "451 4.3.0 try again later"
PERMANENT = "550 5.7.1 never"
CLOSING = "421 4.3.2 shutting down"
GARBAGE = {
    "garbage": b"\x00\xffwhat is this\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "invalid-code": b"299x ok\r\n",
    "code-beyond": b"650 5.0.0 ok\r\n",
    "two-digits": b"25 ok\r\n",
    "code-changes": b"250-one\r\n550 two\r\n",
    "bare-lf": b"250 2.0.0 ok\n",
    "bare-cr": b"250 2.0\r.0 ok\r\n",
    "endless-line": b"250 " + b"x" * 1_000_000,
    "endless-reply": b"250-more and more and more\r\n" * 400_000,  # 10 MB
}
DEATHS: dict[str, Scripted] = {"close": Step.CLOSE, "silence": Step.SILENT, **GARBAGE}


def patience(fault: str) -> dict[str, timedelta]:
    """Short time-outs only where they are what ends the attempt."""
    return impatient(0.4) if fault == "silence" else {}


@pytest.mark.parametrize("fault", [TEMPORARY, PERMANENT, CLOSING, *DEATHS])
@pytest.mark.parametrize("stage", ["CONNECT", "EHLO"])
async def test_before_a_mail_it_is_the_upstream_that_is_unavailable(stage: str, fault: str) -> None:
    async with sink() as server, pool_to(server, **patience(fault)) as pool:
        server.always(stage, DEATHS.get(fault, fault))
        server.always("HELO", DEATHS.get(fault, fault))
        with pytest.raises(UpstreamUnavailable) as caught:
            await send(pool)
        assert f"{'greeting' if stage == 'CONNECT' else 'ehlo'}: " in str(caught.value)
        assert str(caught.value).isascii()
        assert pool.up() == {f"127.0.0.1:{server.smtp_port}": False}
        assert not server.messages


@BOTH
@pytest.mark.parametrize(
    ("fault", "before", "after"),
    [
        (TEMPORARY, Result.TEMPORARY, Result.TEMPORARY),
        (PERMANENT, Result.PERMANENT, Result.PERMANENT),
        (CLOSING, Result.TEMPORARY, Result.TEMPORARY),
        ("334 continue", Result.UNSENT, Result.UNKNOWN),
        *((death, Result.UNSENT, Result.UNKNOWN) for death in DEATHS),
    ],
)
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
async def test_stage_by_fault(
    stage: str, fault: str, before: Result, after: Result, extensions: Any
) -> None:
    async with (
        sink(extensions=extensions) as server,
        pool_to(server, connections=1, **patience(fault)) as pool,
    ):
        server.always(stage, DEATHS.get(fault, fault))
        (given,) = await send(pool)
        assert given.result is (after if stage == "." else before)
        assert given.stage == ("dot" if stage == "." else stage.lower())
        if fault in DEATHS or fault.startswith("334"):
            assert given.code == 451
            assert given.reply.startswith("451 4.4.2 upstream at ")
        else:
            assert given.reply == fault
        assert given.reply.isascii()
        assert given.reply.isprintable()
        assert given.result is Result.UNKNOWN or not server.messages
        server.clear()
        # The slot is free again, and nothing of this mail is left for the next one.
        server.always(stage, None)
        assert results(await send(pool, copy_of(b"next@example.nl"))) == [Result.ACCEPTED]
        assert [mail.recipients for mail in server.messages] == [(b"next@example.nl",)]


@BOTH
async def test_a_lost_reply_after_the_dot_is_unknown_and_never_sent_again(extensions: Any) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        server.once(".", Step.LOSE)
        (given,) = await send(pool)
        assert given.result is Result.UNKNOWN
        assert len(server.messages) == 1
        assert server.connections == 1


@BOTH
@pytest.mark.parametrize("reply", [TEMPORARY, PERMANENT])
async def test_a_refused_recipient_is_refused_alone(reply: str, extensions: Any) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        server.once("RCPT", None, reply, None)
        given = await send(pool, copy_of(b"a@example.nl", b"b@example.nl", b"c@example.nl"))
        assert [one.reply for one in given] == [given[0].reply, reply, given[0].reply]
        assert given[0].result is Result.ACCEPTED
        assert server.messages[0].recipients == (b"a@example.nl", b"c@example.nl")


@BOTH
async def test_all_recipients_refused_sends_no_content(extensions: Any) -> None:
    tap = Tap()
    async with sink(extensions=extensions, tap=tap) as server, pool_to(server) as pool:
        server.once("RCPT", PERMANENT, TEMPORARY)
        given = await send(pool, copy_of(b"a@example.nl", b"b@example.nl"))
        assert [one.reply for one in given] == [PERMANENT, TEMPORARY]
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert server.connections == 1
        assert tap.wire().count(b"Subject:") == 1
        assert b"RSET\r\n" in tap.wire()


async def test_354_without_recipients_closes_and_delivers_nothing() -> None:
    """A lone dot would end it (RFC 2920), and be an empty mail where the server counts on."""
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        server.once("RCPT", PERMANENT)
        server.once("DATA", "354 go on though nobody is there")
        (given,) = await send(pool)
        assert given.reply == PERMANENT
        assert tap.wire().endswith(b"DATA\r\n")
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert [mail.content for mail in server.messages] == [BODY]
        assert server.connections == 2


async def test_mail_refused_but_data_accepted_sends_no_content() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        server.once("MAIL", PERMANENT)
        server.once("DATA", "354 go on")
        (given,) = await send(pool)
        assert (given.reply, given.stage) == (PERMANENT, "mail")
        assert b"Subject" not in tap.wire()


@BOTH
async def test_421_leaves_what_was_decided_and_defers_the_rest(extensions: Any) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        server.once("RCPT", PERMANENT, CLOSING)
        given = await send(pool, copy_of(b"a@example.nl", b"b@example.nl", b"c@example.nl"))
        assert [one.reply for one in given] == [PERMANENT, CLOSING, CLOSING]
        assert not server.messages
        await until(lambda: server.open == 0)


async def test_a_connection_that_said_421_after_the_dot_is_not_used_again() -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once(".", "250 2.0.0 ok", "421 4.7.0 enough for today")
        assert results(await send(pool) + await send(pool)) == [Result.ACCEPTED, Result.TEMPORARY]
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert server.connections == 2


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (b"354 go on\r\n552 5.3.4 too large, stop\r\n", Result.PERMANENT),
        (b"354 go on\r\n452 4.3.1 disk full\r\n", Result.TEMPORARY),
        (b"354 go on\r\n421 4.4.2 too slow\r\n", Result.TEMPORARY),
        (b"354 go on\r\n250 2.0.0 accepted already?\r\n", Result.UNSENT),
        (b"354 go on\r\n354 go on\r\n", Result.UNSENT),
    ],
)
@BOTH
async def test_a_reply_before_the_dot_is_never_taken_for_its_answer(
    reply: bytes, result: Result, extensions: Any
) -> None:
    tap = Tap()
    async with sink(extensions=extensions, tap=tap) as server, pool_to(server) as pool:
        server.once("DATA", reply)
        (given,) = await send(pool)
        assert given.result is result
        assert b"Subject" not in tap.wire()
        assert not server.messages


async def test_an_unsolicited_reply_on_an_idle_connection_ends_it() -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once(".", b"250 2.0.0 ok\r\n250 2.0.0 this one is nobody's\r\n")
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert server.connections == 2


@pytest.mark.parametrize("code", ["530 5.7.0 authentication required", "503 5.5.1 nested MAIL"])
async def test_a_session_at_fault_is_not_the_mails_fault(code: str) -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once("MAIL", code)
        (given,) = await send(pool)
        assert given.result is Result.TEMPORARY
        assert given.reply == f"451 4.3.5 upstream: {code}"
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert server.connections == 2


async def test_an_upstream_that_stops_reading_costs_the_slot_no_longer_than_the_timeout() -> None:
    big = BODY + b"x" * 70 + b"\r\n" * 8_000_000
    async with sink() as server, pool_to(server, **impatient(0.3)) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(size=len(big)))
            await connection.envelope()
            server.pause()
            (given,) = await connection.finish([big])
        assert given.result is Result.UNSENT
        assert "no progress" in given.reply
        assert not server.messages


async def test_an_early_refusal_of_a_big_mail_ends_it_before_the_dot() -> None:
    big = BODY + (b"x" * 70 + b"\r\n") * 200_000
    async with sink() as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(size=len(big)))
            await connection.envelope()
            server.pause()
            server.say(b"552 5.3.4 I have seen enough\r\n")
            (given,) = await connection.finish([big])
        assert (given.result, given.code) == (Result.PERMANENT, 552)
        assert not server.messages


async def test_cancelling_finish_closes_the_connection_and_frees_the_slot() -> None:
    async with sink() as server, pool_to(server, connections=1) as pool:
        server.once(".", Step.SILENT)
        task = asyncio.create_task(send(pool))
        await until(lambda: server.total == 0 and server.deaf == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert results(await send(pool)) == [Result.ACCEPTED]


async def test_replies_are_kept_as_one_printable_line() -> None:
    async with sink() as server, pool_to(server) as pool:
        server.once(".", "550-5.7.26 régle\x07 one\r\n550 5.7.26 two")
        (given,) = await send(pool)
        assert given.reply == "550 5.7.26 r?gle? one / 5.7.26 two"
        server.once(".", "550 5.7.1 " + "x" * 1990)
        (given,) = await send(pool)
        assert len(given.reply) == 1004


async def test_misuse_is_an_error_not_a_mail() -> None:
    async with sink() as server, pool_to(server) as pool, pool.connection() as connection:
        with pytest.raises(RuntimeError):
            await connection.finish([BODY])
        connection.begin(copy_of())
        with pytest.raises(RuntimeError):
            connection.begin(copy_of())
        assert results(await connection.finish([BODY])) == [Result.ACCEPTED]
        assert results(await send_on(connection)) == [Result.ACCEPTED]
        assert server.total == 2
        connection.release()
        with pytest.raises(RuntimeError):
            connection.begin(copy_of())
        assert results(await send(pool)) == [Result.ACCEPTED]
