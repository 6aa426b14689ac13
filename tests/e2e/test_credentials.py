"""What a credential that is bound to From domains may send."""

from __future__ import annotations

import asyncio
import re
import smtplib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from running_sluis import CLIENTS, World, message

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

PASSWORD = "correct horse battery"
GOOD = "bounces@orders.acme.example"


def _send(port: int, mail_from: str, content: bytes) -> str:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("app.acme.example")
        client.login("app", PASSWORD)
        reply = client.mail(mail_from)
        if reply[0] == 250:
            client.rcpt("hans@example.nl")
            reply = client.data(content)
        client.rset()
    return f"{reply[0]} {reply[1].decode('ascii')}"


FROM = re.compile(rb"From: [^\r]*")
BOUNCE = ["Auto-Submitted: auto-generated"]


@pytest.mark.parametrize(
    ("mail_from", "author", "headers", "code"),
    [
        (GOOD, b"From: hello@orders.acme.example", [], "250"),
        ("x@bank.example", b"From: hello@orders.acme.example", [], "550 5.7.1"),
        (GOOD, b"From: ceo@bank.example", [], "550 5.7.1"),
        (GOOD, b"From: hello@orders.acme.example, ceo@bank.example", [], "550 5.7.1"),
        (GOOD, b"X-From: nobody", [], "550 5.7.1"),
        ("", b"From: hello@orders.acme.example", BOUNCE, "250"),
        ("", b"From: ceo@bank.example", BOUNCE, "550 5.7.1"),
    ],
)
async def test_only_its_own_domains_in_envelope_and_from(
    world: Make, tmp_path: Path, mail_from: str, author: bytes, headers: list[str], code: str
) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    w = await world(
        more=(
            f'[[credentials]]\nusername = "app"\npassword_file = "{secret}"\n'
            'from_domains = ["orders.acme.example"]\n'
        ),
        edit=lambda t: t.replace("may_set_stream = true", 'auth = "optional"'),
    )
    content = FROM.sub(author, message("orders", headers=headers), count=1)
    reply = await asyncio.get_running_loop().run_in_executor(
        CLIENTS, _send, w.sluis.smtp_ports[0], mail_from, content
    )
    assert reply.startswith(code), reply
    assert len(w.sink.messages) == (code == "250")
