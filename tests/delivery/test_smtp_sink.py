"""Against a server that is not ours: Postfix's smtp-sink, which can fail in many ways too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from upstream_peers import BODY, Events, Settings, impatient, results, send, until

from proxy.delivery.upstream import Pool
from proxy.errors import UpstreamUnavailable
from proxy.store.model import Result

PROGRAM = shutil.which("smtp-sink", path="/usr/sbin:/usr/lib/postfix/sbin:/usr/local/sbin:/usr/bin")


@contextlib.asynccontextmanager
async def smtp_sink(*options: str) -> AsyncIterator[int]:
    """smtp-sink on a free port; the port."""
    if PROGRAM is None:
        pytest.fail("smtp-sink is missing: install the Debian package postfix (scripts/setup test)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    user = ("-u", "nobody") if os.geteuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *user, *options, f"127.0.0.1:{port}", "64"
    )

    def listens() -> bool:
        assert process.returncode is None, "smtp-sink ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        await until(listens)
        yield port
    finally:
        process.kill()
        await process.wait()


def pool_at(port: int, *, patience: float = 5.0) -> Pool:
    settings = Settings(port=port, **impatient(patience))  # type: ignore[arg-type]
    return Pool([settings], hostname="gate.example", telemetry=Events())


def contents(directory: Path) -> list[bytes]:
    return [file.read_bytes() for file in directory.iterdir()]


@pytest.fixture
def dump() -> Iterator[Path]:
    """A directory that smtp-sink can write as another user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.parametrize("options", [(), ("-p",)], ids=["pipelined", "stepwise"])
async def test_it_gets_the_bytes_that_we_were_given(
    options: tuple[str, ...], dump: Path
) -> None:
    async with smtp_sink(*options, "-d", f"{dump}/mail.") as port:
        pool = pool_at(port)
        for _ in range(20):
            assert results(await send(pool)) == [Result.ACCEPTED]
        await pool.close()
    texts = contents(dump)
    assert len(texts) == 20
    for text in texts:
        assert b"X-Rcpt-Args: <anna@example.nl>\n" in text
        # It adds fields of its own on top and writes lines ended by LF.
        assert BODY.replace(b"\r\n", b"\n") in re.sub(rb"^Received:.*?\n(?!\s)", b"", text)


@pytest.mark.parametrize(
    ("options", "result"),
    [
        (("-r", "MAIL"), Result.TEMPORARY),
        (("-r", "RCPT"), Result.TEMPORARY),
        (("-r", "DATA"), Result.TEMPORARY),
        (("-r", "."), Result.TEMPORARY),
        (("-f", "MAIL"), Result.PERMANENT),
        (("-f", "RCPT"), Result.PERMANENT),
        (("-f", "DATA"), Result.PERMANENT),
        (("-f", "."), Result.PERMANENT),
        (("-Q", "MAIL"), Result.TEMPORARY),
        (("-Q", "RCPT"), Result.TEMPORARY),
        (("-Q", "DATA"), Result.TEMPORARY),
        (("-Q", "."), Result.TEMPORARY),
        (("-q", "MAIL"), Result.UNSENT),
        (("-q", "RCPT"), Result.UNSENT),
        (("-q", "DATA"), Result.UNSENT),
        (("-q", "."), Result.UNKNOWN),
        (("-A", "0"), Result.PERMANENT),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else str(value),
)
async def test_its_faults(options: tuple[str, ...], result: Result) -> None:
    async with smtp_sink(*options) as port:
        pool = pool_at(port)
        for _ in range(2):
            assert results(await send(pool)) == [result]
        await pool.close()


@pytest.mark.parametrize("options", [("-r", "CONNECT"), ("-f", "CONNECT"), ("-q", "CONNECT")])
async def test_its_faults_before_a_mail(options: tuple[str, ...]) -> None:
    async with smtp_sink(*options) as port:
        with pytest.raises(UpstreamUnavailable):
            await send(pool_at(port))


async def test_it_sleeps_longer_than_we_wait() -> None:
    async with smtp_sink("-p", "-W", "DATA:60") as port:
        pool = pool_at(port, patience=0.5)
        (given,) = await send(pool)
        assert (given.result, given.stage) == (Result.UNSENT, "data")
        await pool.close()
