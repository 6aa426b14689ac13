"""`sluis sink` as people run it."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest
from aiosmtplib import SMTP

RUN = "from proxy.cli.main import main; main()"


async def sluis(*args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        "sink",
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_until_told_to_stop(stop: signal.Signals) -> None:
    process = await sluis("--smtp", "127.0.0.1:0", "--http", "127.0.0.1:0")
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            smtp = (await process.stderr.readline()).decode().split()
            http = (await process.stderr.readline()).decode().split()
            assert (smtp[0], http[0]) == ("SMTP", "inbox")
            async with SMTP(hostname="127.0.0.1", port=int(smtp[1].rpartition(":")[2])) as client:
                await client.sendmail("a@x.example", ["b@x.example"], "Subject: seen\r\n\r\n")
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(http[1].rstrip("/").rpartition(":")[2])
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert b">seen</a>" in await reader.read()
            writer.close()
            process.send_signal(stop)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--smtp", "1025"), 64, "write host:port"),
        (("--http", "127.0.0.1:70000"), 64, "write host:port"),
        (("--smtp", "192.0.2.1:1025"), 69, "choose other ports"),
    ],
)
async def test_what_cannot_be_is_said(args: tuple[str, ...], code: int, words: str) -> None:
    process = await sluis(*args)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out) == (code, b"")
    assert words in err.decode()
