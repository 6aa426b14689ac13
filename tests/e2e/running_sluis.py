"""A whole Sluis in this process, on free ports, with a recording upstream: real SMTP, HTTP and
SQLite."""

from __future__ import annotations

import asyncio
import re
import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.address import parse
from policy.events import detail_from
from proxy.app import Running, running
from proxy.clock import utc_now
from proxy.config import Settings, load
from proxy.imports import event_uid
from proxy.sink import EXTENSIONS, Sink
from proxy.store.model import JournalEntry, NewAttributes, NewEvent, State

CONFIG = """\
[server]
hostname = "gate.acme.example"
data_dir = "{data_dir}"
development = true
[[listeners]]
address = "127.0.0.1:0"
trusted_networks = ["127.0.0.0/8"]
may_set_stream = true
[[upstreams]]
address = "127.0.0.1:{upstream}"
tls = "none"
{upstream_more}
[http]
public = "127.0.0.1:0"
public_url = "http://mail.acme.example"
admin = "127.0.0.1:0"
[[senders]]
id = "acme"
name = "Acme Schoenen B.V."
country = "NL"
postal_address = "Keizersgracht 1, 1015 AA Amsterdam"
contact = "privacy@acme.example"
candidate_countries = ["NL"]
similar = [["running-shoes", "running-socks"]]
[[streams]]
id = "newsletter"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
from_domains = ["news.acme.example"]
[[streams]]
id = "offers"
sender = "acme"
category = "marketing"
from_domains = ["offers.acme.example"]
[[streams]]
id = "watched"
sender = "acme"
category = "marketing"
mode = "observe"
topics = ["newsletter"]
from_domains = ["watched.acme.example"]
[[streams]]
id = "orders"
sender = "acme"
category = "transactional"
from_domains = ["orders.acme.example"]
[feedback]
domain = "fb.acme.example"
{more}
"""

# Threads of their own: the relay under test shares this loop and needs the loop's own threads.
CLIENTS = ThreadPoolExecutor(64, "client")

DOMAINS = {
    "newsletter": "news.acme.example",
    "offers": "offers.acme.example",
    "watched": "watched.acme.example",
    "orders": "orders.acme.example",
}

OPT_IN: dict[str, Any] = {"box": "unticked", "topics": ["newsletter"]}
SALE: dict[str, Any] = {
    "stage": "purchase",
    "paid": True,
    "products": ["running-shoes"],
    "address_from_customer": True,
    "informed": True,
    "objection_offered": "box",
}

FOOTER = (
    "Acme Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam\r\n"
    "Unsubscribe: mailto:privacy@acme.example?subject=unsubscribe\r\n"
)


def message(
    stream: str = "newsletter",
    *,
    subject: str = "News",
    text: str = FOOTER,
    message_id: str = "",
    headers: Sequence[str] = (),
    to: str = "undisclosed-recipients:;",
) -> bytes:
    """A small mail with CRLF lines; without `message_id` it is never a duplicate."""
    lines = [
        f"From: Acme <hello@{DOMAINS[stream]}>",
        f"To: {to}",
        f"Subject: {subject}",
        "Date: Tue, 24 Nov 2026 08:00:00 +0000",
        *([f"Message-ID: <{message_id}@{DOMAINS[stream]}>"] if message_id else []),
        *headers,
        "",
        text,
    ]
    return "\r\n".join(lines).encode()


def fields(content: bytes, name: str) -> list[str]:
    """Unfolded values of a header field, from the top."""
    head = re.sub(rb"\r\n[ \t]+", b" ", content.partition(b"\r\n\r\n")[0]).decode("utf-8")
    wanted = name.lower() + ":"
    return [
        line.partition(":")[2].strip()
        for line in head.split("\r\n")
        if line.lower().startswith(wanted)
    ]


@dataclass
class World:
    """What a test sees: the running Sluis, its upstream, and how to speak to both."""

    sluis: Running
    sink: Sink
    settings: Settings
    path: Path
    extra: dict[str, Any] = field(default_factory=dict)

    async def know(
        self,
        address: str,
        type_: str,
        *,
        days: float = 10,
        evidence: str = "form:1",
        sender: str = "acme",
        country: str | None = "NL",
        kind: str | None = "consumer",
        **fields: Any,
    ) -> None:
        """Record one event `days` ago, and who the person is."""
        now = datetime.now(UTC)
        at = now - timedelta(days=days)
        parsed = parse(address, smtputf8=True)
        subject = self.sluis.keys.subject(sender, parsed)
        event = NewEvent(
            uid=event_uid(sender, parsed.exact, type_, at, evidence),
            subject=subject,
            detail=detail_from(type_, fields),
            at=at,
            recorded_at=now,
            evidence=evidence,
            address=parsed.exact,
        )
        values = {"country": country, "kind": kind}
        attributes = NewAttributes(
            subject=subject, at=at, values={k: v for k, v in values.items() if v}
        )
        await self.sluis.store.append([event], [attributes])

    async def send(
        self,
        to: str | Sequence[str],
        content: bytes,
        *,
        stream: str = "newsletter",
        mail_from: str | None = None,
        options: str = "",
    ) -> str:
        """One SMTP transaction by Python's own client; the reply to the last command answered."""
        recipients = [to] if isinstance(to, str) else list(to)
        sender = f"bounces@{DOMAINS[stream]}" if mail_from is None else mail_from
        return await asyncio.get_running_loop().run_in_executor(
            CLIENTS, send_once, self.sluis.smtp_ports[0], sender, recipients, content, options
        )

    async def journal(self, reply: str) -> list[JournalEntry]:
        """The rows of the transaction that a reply refers to, in the order of recipients."""
        ref = reply.rpartition("(ref ")[2].rstrip(")").partition(".")[0]
        return sorted(await self.sluis.store.journal(ref=ref), key=lambda e: e.n)

    async def ended(self, reply: str) -> JournalEntry:
        """The one row of a transaction once it has an outcome (that of a 4xx comes later)."""

        async def over() -> bool:
            [row] = await self.journal(reply)
            return row.state is not State.ATTEMPTING

        await until(over)
        [row] = await self.journal(reply)
        return row


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait for a condition that nobody announces; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  the one place that polls
            await asyncio.sleep(0.01)


def send_once(
    port: int, mail_from: str, recipients: Sequence[str], content: bytes, options: str = ""
) -> str:
    """MAIL, RCPT..., DATA; stops at the first refusal that leaves no recipient."""
    client = smtplib.SMTP("127.0.0.1", port, timeout=60)
    try:
        client.ehlo("app.acme.example")
        reply = client.docmd(f"MAIL FROM:<{mail_from}> {options}".rstrip())
        taken = 0
        if reply[0] == 250:
            for recipient in recipients:
                reply = client.docmd(f"RCPT TO:<{recipient}>")
                taken += reply[0] == 250
        if taken:
            client.docmd("DATA")
            stuffed = content.replace(b"\r\n.", b"\r\n..")
            stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
            end = b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"
            client.send(stuffed + end)
            reply = client.getreply()
    finally:
        client.close()
    return f"{reply[0]} {reply[1].decode('ascii')}"


Make = Callable[..., Any]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Make]:
    """A factory: `await world(more="[delivery]...", upstream_more="connections = 1")`."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            more: str = "",
            upstream_more: str = "",
            edit: Callable[[str], str] = lambda t: t,
            clock: Callable[[], datetime] = utc_now,
            extensions: tuple[str, ...] = EXTENSIONS,
        ) -> World:
            sink = Sink(extensions=extensions)
            await sink.start()
            stack.push_async_callback(sink.close)
            path = tmp_path / "sluis.toml"
            text = CONFIG.format(
                data_dir=tmp_path / "data",
                upstream=sink.smtp_port,
                more=more,
                upstream_more=upstream_more,
            )
            path.write_text(edit(text), "utf-8")
            settings = load(path, {})
            sluis = await stack.enter_async_context(running(settings, clock=clock))
            return World(sluis, sink, settings, path)

        yield make
