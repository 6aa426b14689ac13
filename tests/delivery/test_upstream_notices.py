"""DSN (RFC 3461) on the way to the upstream: passed on as given, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from upstream_peers import STEPWISE, Tap, copy_of, pool_to, results, send, sink

from proxy.delivery import wire
from proxy.envelope import Notices
from proxy.sink import EXTENSIONS
from proxy.store.model import Result

ANNA, BRAM, CC = b"anna@example.nl", b"bram@example.nl", b'"c c"@example.nl'
COPY = copy_of(
    CC,
    ANNA,
    BRAM,
    ret="HDRS",
    envid="QQ+2B1",
    notices=(
        Notices("DELAY", ""),
        Notices("SUCCESS,FAILURE", "rfc822;anna+2Bx@example.nl"),
        Notices("NEVER", ""),
    ),
)


@pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])
async def test_each_recipient_keeps_its_own_words(extensions: tuple[str, ...]) -> None:
    tap = Tap()
    async with sink(extensions=(*extensions, "DSN"), tap=tap) as server, pool_to(server) as pool:
        assert not pool.offers("DSN")
        given = await send(pool, COPY)
        assert pool.offers("DSN")
    # The first recipient is never sent (its quoted space), and takes its words along.
    assert results(given) == [Result.PERMANENT, Result.ACCEPTED, Result.ACCEPTED]
    lines = tap.wire().split(b"\r\n")
    [mail] = [line for line in lines if line.startswith(b"MAIL")]
    assert mail.endswith(b" RET=HDRS ENVID=QQ+2B1")
    assert [line for line in lines if line.startswith(b"RCPT")] == [
        b"RCPT TO:<anna@example.nl> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;anna+2Bx@example.nl",
        b"RCPT TO:<bram@example.nl> NOTIFY=NEVER",
    ]


async def test_an_upstream_without_it_hears_nothing() -> None:
    tap = Tap()
    async with sink(tap=tap) as server, pool_to(server) as pool:
        given = await send(pool, COPY)
        assert not pool.offers("DSN")
    assert results(given)[1:] == [Result.ACCEPTED, Result.ACCEPTED]
    assert b"NOTIFY" not in tap.wire()
    assert b"ORCPT" not in tap.wire()
    assert b"RET=" not in tap.wire()
    assert b"ENVID" not in tap.wire()


async def test_it_is_offered_only_while_all_upstreams_have_it() -> None:
    async with (
        sink(extensions=(*EXTENSIONS, "DSN")) as first,
        sink() as second,
        pool_to(first, second) as pool,
    ):
        await send(pool)
        assert pool.offers("DSN")
        await first.close()
        await send(pool)
        assert len(second.messages) == 1
        assert not pool.offers("DSN")


async def test_it_is_asked_for_before_the_first_mail() -> None:
    tap = Tap()
    offered = (*EXTENSIONS, "DSN")
    async with sink(extensions=offered, tap=tap) as first, sink(extensions=offered) as second:
        first.once("CONNECT", "421 4.3.2 still starting")
        async with pool_to(first, second, connections=1) as pool:
            assert not await pool.hear()
            assert pool.up() == dict(zip(pool.up(), (False, True), strict=True))
            assert pool.offers("DSN"), "as far as is known"
            assert await pool.hear(), "no pause after a failure that cost no mail"
            assert pool.up() == dict.fromkeys(pool.up(), True)
            before = first.connections, second.connections
            assert before == (2, 1)
            assert await pool.hear(), "what is known is not asked again"
            assert (first.connections, second.connections) == before
            assert results(await send(pool)) == [Result.ACCEPTED]
        assert first.total == 1
    assert tap.wire(2).splitlines() == [b"EHLO gate.example", b"QUIT"]


@for_all(st.text(max_size=40))
def test_a_parameter_never_ends_or_alters_its_command(value: str) -> None:
    try:
        octets = wire.parameter("ENVID", value)
    except ValueError:
        return
    assert octets.startswith(b" ENVID=")
    assert not set(b"\r\n\0 =") & set(octets[len(b" ENVID=") :])
