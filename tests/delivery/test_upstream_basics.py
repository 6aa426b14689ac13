"""One mail over one connection: what the wire shows and what the caller gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from upstream_peers import (
    BODY,
    STEPWISE,
    Tap,
    copy_of,
    pool_to,
    results,
    send,
    send_on,
    sink,
)

from proxy.config import Upstream
from proxy.delivery.upstream import UpstreamLike
from proxy.sink import EXTENSIONS
from proxy.store.model import Result

BOTH = pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])


def test_the_configuration_is_what_the_client_reads() -> None:
    settings: UpstreamLike = Upstream(address="relay.example:587")
    assert (settings.host, settings.port, settings.tls) == ("relay.example", 587, "starttls")


@BOTH
async def test_a_mail_arrives_octet_by_octet_with_the_upstreams_own_reply(extensions: Any) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        server.once(".", "250 2.0.0 Ok: queued as 4C9D2")
        given = await send(pool, copy_of(b"Anna+x@example.nl", b'"odd..one"@example.nl'))
        assert results(given) == [Result.ACCEPTED, Result.ACCEPTED]
        one = given[0]
        assert (one.code, one.reply, one.stage) == (250, "250 2.0.0 Ok: queued as 4C9D2", "dot")
        assert (one.enhanced, one.text) == ("2.0.0", "Ok: queued as 4C9D2")
        mail = server.messages[0]
        assert mail.mail_from == b"bounce@acme.example"
        assert mail.recipients == (b"Anna+x@example.nl", b'"odd..one"@example.nl')
        assert mail.content == BODY


async def test_uvloop_carries_the_same_bytes() -> None:
    async def over() -> tuple[list[Result], bytes]:
        async with sink() as server, pool_to(server) as pool:
            return results(await send(pool)), server.messages[0].content

    def run() -> tuple[list[Result], bytes]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(over())

    assert await asyncio.to_thread(run) == ([Result.ACCEPTED], BODY)


async def test_pipelining_is_one_read_for_the_envelope_and_one_for_the_content() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            tap.reads.clear()
            await send_on(connection, copy_of(b"a@example.nl", b"b@example.nl"))
        assert len(tap.reads[1]) == 2
        assert tap.reads[1][0] == (
            b"MAIL FROM:<bounce@acme.example> SIZE=%d\r\nRCPT TO:<a@example.nl>\r\n"
            b"RCPT TO:<b@example.nl>\r\nDATA\r\n" % len(BODY)
        )
        assert server.messages[0].recipients == (b"a@example.nl", b"b@example.nl")


async def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    tap = Tap()
    async with sink(tap=tap, extensions=STEPWISE) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            tap.reads.clear()
            await send_on(connection, copy_of(b"a@example.nl", b"b@example.nl"))
        assert [read.split(b" ")[0].split(b"\r")[0] for read in tap.reads[1][:4]] == [
            b"MAIL", b"RCPT", b"RCPT", b"DATA",
        ]
        assert len(tap.reads[1]) == 5


async def test_nothing_of_the_content_leaves_before_finish() -> None:
    tap = Tap()
    async with (
        sink(tap=tap) as server,
        pool_to(server) as pool,
        pool.connection() as connection,
    ):
        connection.begin(copy_of())
        await connection.envelope()
        assert tap.wire().endswith(b"DATA\r\n")
        assert not server.messages
        assert results(await connection.finish([BODY])) == [Result.ACCEPTED]


@BOTH
async def test_parameters_only_where_they_are_offered(extensions: Any) -> None:
    wanted = copy_of("jürgen@example.de".encode(), size=77, body_8bit=True, smtputf8=True)
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        assert results(await send(pool, wanted)) == [Result.ACCEPTED]
        assert server.messages[0].parameters == b"SIZE=77 BODY=8BITMIME SMTPUTF8"
        assert server.messages[0].recipients == ("jürgen@example.de".encode(),)
    async with sink(extensions=("PIPELINING",)) as server, pool_to(server) as pool:
        assert results(await send(pool)) == [Result.ACCEPTED]
        assert server.messages[0].parameters == b""


@pytest.mark.parametrize(
    ("offers", "copy", "reply"),
    [
        (("8BITMIME",), copy_of(smtputf8=True), "550 5.6.7"),
        (("SMTPUTF8",), copy_of(body_8bit=True), "554 5.6.3"),
        (("SIZE 100",), copy_of(size=101), "552 5.3.4"),
        ((), copy_of(b'"a b"@example.nl'), "553 5.1.3"),
        ((), copy_of(mail_from=b'"a>b"@acme.example'), "553 5.1.3"),
    ],
    ids=["smtputf8", "8bitmime", "size", "recipient", "sender"],
)
async def test_what_the_upstream_cannot_take_is_refused_here_and_not_sent(
    offers: Any, copy: Any, reply: str
) -> None:
    tap = Tap()
    async with sink(extensions=("PIPELINING", *offers), tap=tap) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            (given,) = await send_on(connection, copy)
            assert given.result is Result.PERMANENT
            assert given.reply.startswith(reply)
            assert given.stage == "local"
            assert connection.max_size == (100 if "SIZE 100" in offers else 0)
            assert connection.supports("smtputf8") == ("SMTPUTF8" in offers)
            assert results(await send_on(connection)) == [Result.ACCEPTED]  # the next is not hurt
        assert tap.wire().count(b"MAIL FROM") == 1


async def test_an_ambiguous_recipient_does_not_hurt_the_others() -> None:
    async with sink() as server, pool_to(server) as pool:
        given = await send(pool, copy_of(b"a@example.nl", b'"x> y"@example.nl', b"c@example.nl"))
        assert [one.code for one in given] == [250, 553, 250]
        assert server.messages[0].recipients == (b"a@example.nl", b"c@example.nl")


@pytest.mark.parametrize("bad", [b"a\r\nRCPT TO:<b@x.example>", b"a\x00b@x.example", b"\x7f@x.nl"])
async def test_a_control_character_never_reaches_the_wire(bad: bytes) -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            with pytest.raises(ValueError, match="address"):
                connection.begin(copy_of(bad))
            with pytest.raises(ValueError, match="address"):
                connection.begin(copy_of(mail_from=bad))
            assert results(await send_on(connection)) == [Result.ACCEPTED]
        assert bad not in tap.wire()


async def test_the_null_sender_goes_out_as_it_is() -> None:
    async with sink() as server, pool_to(server) as pool:
        assert results(await send(pool, copy_of(mail_from=b""))) == [Result.ACCEPTED]
        assert server.messages[0].mail_from == b""


async def test_helo_where_ehlo_is_not_known() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        server.always("EHLO", "502 5.5.1 no such command")
        async with pool.connection() as connection:
            assert results(await send_on(connection)) == [Result.ACCEPTED]
            assert not connection.supports("PIPELINING")
        assert b"HELO gate.example\r\n" in tap.wire()
        assert server.messages[0].parameters == b""


async def test_abandon_sends_nothing_and_the_connection_object_stays_usable() -> None:
    async with sink() as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(b"blocked@example.nl"))
            await connection.envelope()
            await connection.abandon()
            given = await send_on(connection, copy_of(b"ok@example.nl"))
            assert results(given) == [Result.ACCEPTED]
        assert [mail.recipients for mail in server.messages] == [(b"ok@example.nl",)]


async def test_abandon_before_data_keeps_the_connection_and_resets() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            server.once("RCPT", "550 5.1.1 no such user")
            connection.begin(copy_of(b"nobody@example.nl"))
            await connection.envelope()
            await connection.abandon()
            assert results(await send_on(connection)) == [Result.ACCEPTED]
        assert server.connections == 1
        assert tap.wire().count(b"RSET\r\n") == 1


async def test_a_healthy_connection_is_not_reset_between_mails() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        for _ in range(3):
            assert results(await send(pool)) == [Result.ACCEPTED]
        assert server.connections == 1
        assert b"RSET" not in tap.wire()
