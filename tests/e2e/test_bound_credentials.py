"""What a credential is bound to holds from AUTH to the upstream: domains, stream, default."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable, Coroutine
from typing import Any

from argon2 import PasswordHasher
from running_sluis import OPT_IN, World, message

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA = "anna@example.nl"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
CREDENTIALS = f"""
[[credentials]]
username = "shop"
password_hash = "{HASH}"
from_domains = ["orders.acme.example"]
[[credentials]]
username = "forced"
password_hash = "{HASH}"
stream = "newsletter"
[[credentials]]
username = "plain"
password_hash = "{HASH}"
[[credentials]]
username = "chooser"
password_hash = "{HASH}"
may_set_stream = true
"""


def required(text: str) -> str:
    """Nobody without AUTH, and the listener itself lets nobody choose the stream."""
    return text.replace("may_set_stream = true\n[[upstreams]]", 'auth = "required"\n[[upstreams]]')


def send(port: int, user: str, mail_from: str, content: bytes) -> str:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        if user:
            client.login(user, "correct horse")
        else:
            client.ehlo()
        reply = client.docmd(f"MAIL FROM:<{mail_from}>")
        if reply[0] == 250:
            reply = client.docmd(f"RCPT TO:<{ANNA}>")
        if reply[0] == 250:
            reply = client.data(content)
    return f"{reply[0]} {reply[1].decode('ascii')}"


def order(domain: str = "orders.acme.example", *more: str) -> bytes:
    lines = [f"From: shop@{domain}", "Subject: Your order", f"Message-ID: <{len(more)}@{domain}>"]
    return "\r\n".join([*lines, *more, "", "Thank you.", ""]).encode()


async def test_what_each_credential_may(world: Make) -> None:
    w = await world(more=CREDENTIALS, edit=required)

    async def ask(user: str, mail_from: str, content: bytes) -> str:
        return await asyncio.to_thread(send, w.sluis.smtp_ports[0], user, mail_from, content)

    orders, news = "b@orders.acme.example", "b@news.acme.example"
    assert (await ask("", orders, order())).startswith("530 5.7.0 ")
    # Bound to a domain: in MAIL FROM and in From, and no other way round.
    assert (await ask("shop", orders, order())).startswith("250 ")
    assert (await ask("shop", news, order())).startswith("550 5.7.1 not-authorised")
    spoofed = await ask("shop", orders, order("news.acme.example"))
    assert spoofed.startswith("550 5.7.1 not-authorised")
    # Forced to a marketing stream: an order by its looks is judged as marketing all the same.
    assert (await ask("forced", orders, order())).startswith("550 5.7.1 ")
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert (await ask("forced", news, message())).startswith("250 ")
    # For a domain that no stream claims, the header chooses only where the credential lets it.
    for user, stream in (("plain", "unknown"), ("chooser", "orders")):
        mail = order("other.acme.example", "Sluis-Stream: orders", f"X-User: {user}")
        reply = await ask(user, "b@other.acme.example", mail.replace(b"<2@", f"<{user}@".encode()))
        [row] = await w.journal(reply)
        assert row.stream == stream
