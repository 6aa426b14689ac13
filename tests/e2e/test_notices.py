"""What a client asks to be told (DSN) goes through the whole of Sluis, recipient by recipient."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable, Coroutine
from typing import Any

from running_sluis import OPT_IN, World, fields, message

from proxy.sink import EXTENSIONS

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM = "anna@example.nl", "bram@example.nl"
WORDS = {ANNA: ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;anna@example.nl"], BRAM: ["NOTIFY=NEVER"]}


def send(port: int, content: bytes) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("app.acme.example")
        assert client.has_extn("dsn")
        assert client.mail("bounces@news.acme.example", ["RET=HDRS", "ENVID=QQ1"])[0] == 250
        for recipient, words in WORDS.items():
            assert client.rcpt(recipient, words)[0] == 250
        return client.data(content)


async def test_notices_reach_the_upstream_with_the_recipient_they_are_for(world: Make) -> None:
    w = await world(extensions=(*EXTENSIONS, "DSN"))
    for address in (ANNA, BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    # The first client that comes is offered it already: the upstream was asked at the start.
    assert w.sink.messages == []
    taps: list[bytes] = []
    w.sink.tap = lambda _, octets: taps.append(octets)
    content = message(headers=["Message-ID: <another@news.acme.example>"])
    assert fields(content, "Message-ID") == ["<another@news.acme.example>"]
    reply = await asyncio.to_thread(send, w.sluis.smtp_ports[0], content)
    assert reply[0] == 250, reply
    lines = b"".join(taps).split(b"\r\n")
    # Marketing goes as one copy per person: each transaction has one recipient with its own words.
    assert sorted(line for line in lines if line.startswith(b"RCPT")) == [
        b"RCPT TO:<anna@example.nl> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;anna@example.nl",
        b"RCPT TO:<bram@example.nl> NOTIFY=NEVER",
    ]
    mails = [line for line in lines if line.startswith(b"MAIL")]
    assert len(mails) == 2
    assert all(line.endswith(b" RET=HDRS ENVID=QQ1") for line in mails)
