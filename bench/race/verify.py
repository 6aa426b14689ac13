"""What a relay delivers, compared with what was sent: before anything is timed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import dkim

from bench.race.load import PERSON, SENDER, SOURCE
from bench.race.process import BenchError, run
from proxy.sink import Sink

_MAILS = 5
_UNSUBSCRIBE = re.compile(rb"^List-Unsubscribe:((?:.*\r\n)(?:[ \t].*\r\n)*)", re.MULTILINE | re.I)


def verify(
    port: int,
    upstream: int,
    mail: Path,
    name: str,
    *,
    copies: int = 1,
    recipients: int = 1,
    records: Mapping[str, str] | None = None,
) -> None:
    """Send a few mails to `port` and take them at `upstream`; raises `BenchError` on a difference.

    Each is to arrive in so many `copies`. `records` are those of the keys that sign each.
    """
    expected = _MAILS * copies

    async def play() -> list[bytes]:
        sink = Sink()
        await sink.start(smtp_port=upstream)
        try:
            words = [
                *(str(SOURCE), "-d", "-N", "-s", "1", "-m", str(_MAILS), "-F", str(mail)),
                *(["-r", str(recipients)] * (recipients > 1)),
                *("-f", SENDER, "-t", PERSON, f"127.0.0.1:{port}"),
            ]
            await asyncio.to_thread(run, words)
            await asyncio.wait_for(sink.received(expected), 60)
            return [received.content for received in sink.messages]
        finally:
            await sink.close()

    # smtp-source adds an empty line.
    sent = mail.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n"
    got = asyncio.run(play())
    check(sent, got, name, expected, own_links=name == "sluis")
    for content in got if records else ():
        signed(content, records or {})


def check(sent: bytes, got: Sequence[bytes], name: str, expected: int, *, own_links: bool) -> None:
    """Each copy has one List-Unsubscribe more than `sent` and the same body; `BenchError` if not.

    `own_links`: no two may be alike.
    """
    if len(got) != expected:
        raise BenchError(f"{name} delivered {len(got)} mails for {expected}")
    body = sent.partition(b"\r\n\r\n")[2]
    links = set()
    for content in got:
        header, _, its = content.partition(b"\r\n\r\n")
        if its != body:
            raise BenchError(f"{name} changed the body")
        found = _UNSUBSCRIBE.findall(header + b"\r\n")
        if len(found) != 1:
            raise BenchError(f"{name} added no List-Unsubscribe, or more than one")
        links.add(found[0])
    if own_links and len(links) != len(got):
        raise BenchError(f"{name} gave two copies the same link")


def signed(content: bytes, records: Mapping[str, str]) -> None:
    """Every key's signature is there and holds; raises `BenchError` otherwise."""

    def answer(name: bytes, timeout: float = 5) -> bytes | None:
        text = records.get(name.decode().rstrip("."))
        return text.encode() if text else None

    message = dkim.DKIM(content)
    held = sum(bool(message.verify(idx=n, dnsfunc=answer)) for n in range(len(records)))
    if held != len(records):
        raise BenchError(f"sluis signed with {len(records)} keys, {held} signatures hold")
