"""What was handed in is what the upstream gets, octet by octet, over real sockets."""

from __future__ import annotations

import random

import pytest
from upstream_peers import STEPWISE, copy_of, pool_to, results, send_on, sink

from proxy.sink import EXTENSIONS
from proxy.store.model import Result

TRICKY = b".\r\n..\r\n.a\r\n\r\n.\r\n\r\n..b.\r\n"


@pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])
async def test_dots_at_every_split_position(extensions: tuple[str, ...]) -> None:
    async with sink(extensions=extensions) as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            for n in range(len(TRICKY) + 1):
                parts = (TRICKY[:n], memoryview(TRICKY)[n:])
                given = await send_on(connection, copy_of(size=len(TRICKY)), *parts)
                assert results(given) == [Result.ACCEPTED]
        assert {mail.content for mail in server.messages} == {TRICKY}


@pytest.mark.parametrize(
    ("content", "arrives"),
    [
        (b"", b""),
        (b".", b".\r\n"),
        (b"no end of line", b"no end of line\r\n"),
        (b"ends\r\n", b"ends\r\n"),
        (b"ends twice\r\n\r\n", b"ends twice\r\n\r\n"),
        (b"half an end\r", b"half an end\r\r\n"),
        (b"\x00\x80\xff\r\n", b"\x00\x80\xff\r\n"),
    ],
)
async def test_a_final_crlf_is_added_only_where_it_is_missing(
    content: bytes, arrives: bytes
) -> None:
    async with sink() as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(size=len(content)))
            assert results(await connection.finish([content])) == [Result.ACCEPTED]
            connection.begin(copy_of(size=len(content)))
            assert results(await connection.finish([b"", content, b""])) == [Result.ACCEPTED]
        assert [mail.content for mail in server.messages] == [arrives, arrives]


@pytest.mark.parametrize("lead", [0, 1, 2, 3])
async def test_a_big_mail_with_dots_on_every_block_boundary(lead: int) -> None:
    # Lines of four octets, shifted, so that blocks of any power of two cut CRLF and dot apart.
    content = b"x" * lead + b".\r\n." * 400_000 + b"\r\n"
    async with sink() as server, pool_to(server) as pool:
        async with pool.connection() as connection:
            copy = copy_of(size=len(content))
            assert results(await send_on(connection, copy, content)) == [Result.ACCEPTED]
            view = memoryview(content)
            parts = [view[:7], view[7:1_000_001], view[1_000_001:]]
            assert results(await send_on(connection, copy, *parts)) == [Result.ACCEPTED]
        assert [mail.content == content for mail in server.messages] == [True, True]


async def test_random_content_in_random_parts() -> None:
    rng = random.Random(8058)  # the same bodies every time
    async with sink() as server, pool_to(server) as pool, pool.connection() as connection:
        for _ in range(50):
            words = rng.choices([b".", b"\r\n", b"\r\n.", b"text", b"\x00\xff"], k=200)
            content = b"".join(words) + b"\r\n"
            cuts = sorted(rng.sample(range(len(content)), 5))
            edges = zip([0, *cuts], [*cuts, len(content)], strict=True)
            parts = [content[a:b] for a, b in edges]
            given = await send_on(connection, copy_of(size=len(content)), *parts)
            assert results(given) == [Result.ACCEPTED]
            assert server.messages[-1].content == content
