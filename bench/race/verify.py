"""What a relay delivers, compared with what was sent: before anything is timed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from bench.race.load import PERSON, SENDER, SOURCE
from bench.race.process import BenchError, run
from proxy.sink import Sink

_MAILS = 5
_UNSUBSCRIBE = re.compile(rb"^List-Unsubscribe:", re.MULTILINE | re.IGNORECASE)


def verify(port: int, upstream: int, mail: Path, name: str) -> None:
    """Send a few mails to `port` and take them at `upstream`; raises `BenchError` on a difference.

    Each must have one List-Unsubscribe more than the original, and the same body.
    """
    sent = mail.read_bytes().replace(b"\n", b"\r\n")
    sent += b"\r\n\r\n"  # which smtp-source adds
    body = sent.partition(b"\r\n\r\n")[2]

    async def play() -> list[bytes]:
        sink = Sink()
        await sink.start(smtp_port=upstream)
        try:
            words = [
                *(str(SOURCE), "-d", "-N", "-s", "1", "-m", str(_MAILS), "-F", str(mail)),
                *("-f", SENDER, "-t", PERSON, f"127.0.0.1:{port}"),
            ]
            await asyncio.to_thread(run, words)
            await asyncio.wait_for(sink.received(_MAILS), 60)
            return [received.content for received in sink.messages]
        finally:
            await sink.close()

    for content in asyncio.run(play()):
        header, _, got = content.partition(b"\r\n\r\n")
        if got != body:
            raise BenchError(f"{name} changed the body")
        if len(_UNSUBSCRIBE.findall(header + b"\r\n")) != 1:
            raise BenchError(f"{name} added no List-Unsubscribe, or more than one")
