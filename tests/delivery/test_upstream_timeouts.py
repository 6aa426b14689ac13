"""RFC 5321 section 4.5.3.2: each stage has a time-out of its own, and ends by that one alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from upstream_peers import STEPWISE, copy_of, pool_to, send, sink

from proxy.config import Upstream
from proxy.errors import UpstreamUnavailable
from proxy.sink import EXTENSIONS, Step
from proxy.store.model import Result

#: What the RFC asks for at least, in minutes: greeting, MAIL, RCPT, DATA, a block, the dot.
LEAST = {"greeting": 5, "command": 5, "rcpt": 5, "data": 2, "block": 3, "final": 10}

QUICK = timedelta(seconds=0.2)


def test_the_defaults_are_those_of_the_rfc() -> None:
    upstream = Upstream(address="127.0.0.1:25")
    for stage, minutes in LEAST.items():
        assert getattr(upstream, f"{stage}_timeout") == timedelta(minutes=minutes), stage


@pytest.mark.parametrize("extensions", [EXTENSIONS, STEPWISE], ids=["pipelined", "stepwise"])
@pytest.mark.parametrize(
    ("verb", "stage", "key", "result"),
    [
        ("MAIL", "mail", "command_timeout", Result.UNSENT),
        ("RCPT", "rcpt", "rcpt_timeout", Result.UNSENT),
        ("DATA", "data", "data_timeout", Result.UNSENT),
        (".", "dot", "final_timeout", Result.UNKNOWN),
    ],
)
async def test_a_silent_stage_ends_by_its_own_time_out(
    verb: str, stage: str, key: str, result: Result, extensions: tuple[str, ...]
) -> None:
    """All others are 5 s, and the reply names the one that ended it."""
    async with sink(extensions=extensions) as server, pool_to(server, **{key: QUICK}) as pool:
        server.always(verb, Step.SILENT)
        (given,) = await send(pool)
        assert (given.result, given.stage) == (result, stage)
        assert given.reply.endswith(f"upstream at {stage}: no reply within 0.2 s"), given.reply


@pytest.mark.parametrize(
    ("verb", "key"), [("CONNECT", "greeting_timeout"), ("EHLO", "command_timeout")]
)
async def test_before_a_mail_it_is_the_upstream_that_is_silent(verb: str, key: str) -> None:
    async with sink() as server, pool_to(server, **{key: QUICK}) as pool:
        server.always(verb, Step.SILENT)
        with pytest.raises(UpstreamUnavailable, match=r"no reply within 0\.2 s"):
            await send(pool)


async def test_a_block_that_is_not_read_ends_by_its_own_time_out() -> None:
    big = b"Subject: x\r\n\r\n" + (b"x" * 76 + b"\r\n") * 200_000
    async with sink() as server, pool_to(server, block_timeout=QUICK) as pool:
        async with pool.connection() as connection:
            connection.begin(copy_of(size=len(big)))
            await connection.envelope()
            server.pause()
            async with asyncio.timeout(10):
                (given,) = await connection.finish([big])
        assert (given.result, given.stage) == (Result.UNSENT, "content")
        assert given.reply.endswith("no progress within 0.2 s"), given.reply
        server.resume()
