"""Mail that is in a file while it is relayed: the same answers, records and octets as in memory."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running_sluis import CONFIG, OPT_IN, World, fields, message, until

from proxy import content
from proxy.app import running
from proxy.config import Limits, load
from proxy.delivery import session
from proxy.sink import Sink, Step
from proxy.smtp.limits import Admission
from proxy.store.model import State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM, CARA = "anna@example.nl", "bram@example.nl", "cara@example.nl"
FOOTER = "Acme Schoenen B.V., Keizersgracht 1, 1015 AA Amsterdam"


@contextmanager
def in_files() -> Iterator[None]:
    """Every message is a file that is read in blocks of a few octets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "SPOOL_AT", 0)
        patch.setattr(content, "BLOCK", 50)
        patch.setattr(session, "_BLOCK", 50)
        yield


texts = st.lists(
    st.sampled_from(
        [
            *("Acme Schoenen B.V. has news.", FOOTER, "{{sluis.unsubscribe_url}}", ".", "..dot"),
            *("[[sluis.unsubscribe_url]]", "{{sluis.nothing}}", "-- ", "--b", "caf\u00e9 \u20ac"),
            *("Unsubscribe: mailto:privacy@acme.example?subject=unsubscribe", "x" * 200, "", " "),
            *("20% korting, alleen vandaag", "http://mail.acme.example/u/none", "a\tb  c "),
        ]
    ),
    max_size=8,
).map("\r\n".join)
codes = st.sampled_from(["7bit", "8bit", "quoted-printable", "base64", "base64-cut", "uuencode"])
kinds = st.sampled_from(["plain; charset=utf-8", "plain", "html; charset=utf-8", "x-amp-html"])


def coded(text: str, code: str) -> bytes:
    octets = text.encode()
    if code == "quoted-printable":
        return binascii.b2a_qp(octets, istext=False)
    if code.startswith("base64"):
        lines = base64.encodebytes(octets).replace(b"\n", b"\r\n")
        return lines[: -5 if code == "base64-cut" else None]
    return octets


def part(kind: str, code: str, text: str) -> bytes:
    shown = f"<html><body><p>{text}</p></body></html>" if "html" in kind else text
    head = f"Content-Type: text/{kind}\r\n"
    head += f"Content-Transfer-Encoding: {code.removesuffix('-cut')}\r\n\r\n"
    return head.encode() + coded(shown, code)


parts = st.builds(part, kinds, codes, texts)
ends = st.sampled_from([b"\r\n--b--\r\n", b"\r\n--b--", b"", b"\r\n--b--\r\n.\r\n--b\r\n"])


SIGNED = "DKIM-Signature: v=1; a=rsa-sha256; d=shop.example; s=x; h=from; bh=eA==; b=eA=="
TRACE = "Received: from a by b; Tue, 24 Nov 2026 08:00:00 +0000"
UNSUBSCRIBE = "List-Unsubscribe: <https://shop.example/u>"
headers = st.lists(
    st.sampled_from(
        [
            *("Precedence: bulk", "List-Id: <x.acme.example>", "Sluis-Campaign: c", "X: y"),
            *("Subject: Re: twice", "no field", "Sluis-Topics: newsletter"),
            *(SIGNED, TRACE, UNSUBSCRIBE),
        ]
    ),
    max_size=3,
)


@st.composite
def mails(draw: st.DrawFn) -> bytes:
    more = draw(headers)
    stream = draw(st.sampled_from(["newsletter", "watched", "orders"]))
    head = message(stream, headers=more, text="").removesuffix(b"\r\n")
    if draw(st.booleans()):
        return head + draw(parts)
    kind = draw(st.sampled_from(["mixed", "alternative", "related", "signed"]))
    body = b"".join(b"\r\n--b\r\n" + p for p in draw(st.lists(parts, max_size=3)))
    return head + f"Content-Type: multipart/{kind}; boundary=b\r\n".encode() + body + draw(ends)


def plain(octets: bytes, ref: str) -> bytes:
    """Without what differs from one mail to the next: reference, token, time and boundary."""
    octets = octets.replace(ref.encode(), b"REF")
    octets = re.sub(rb"(?<=/u/)[A-Za-z0-9._~=\r\n-]{40,}", b"TOKEN", octets)
    octets = re.sub(rb"mailto:u\+?[^>]*>", b"mailto:>", octets)
    octets = re.sub(rb"\d\d:\d\d:\d\d", b"TIME", octets)
    if b"base64" in octets:
        octets = re.sub(
            rb"(?:[A-Za-z0-9+/=]{1,76}\r\n)+[A-Za-z0-9+/=]*",
            lambda found: _opened(found[0]),
            octets,
        )
    return octets


def _opened(lines: bytes) -> bytes:
    try:
        text = base64.b64decode(lines, validate=False)
    except binascii.Error:
        return lines
    return re.sub(rb"(?<=/u/)[A-Za-z0-9._~-]{40,}", b"TOKEN", text) if b"/u/" in text else lines


async def outcome(w: World, mail: bytes, to: list[str]) -> object:
    """All that can be seen of one mail: the reply, what was recorded, what left."""
    del w.sink.messages[:]
    sender = mail.partition(b"hello@")[2].partition(b">")[0].decode()
    reply = await w.send(to, mail, mail_from=f"bounces@{sender}")
    ref = reply.rpartition("(ref ")[2].rstrip(")").partition(".")[0]
    rows = await w.journal(reply) if "(ref " in reply else []
    # A notice about the mail before may come in between.
    left = [m for m in w.sink.messages if {r.decode() for r in m.recipients} <= set(to)]
    sent = sorted((m.recipients, plain(m.content, ref)) for m in left)
    facts = [(r.state, r.verdict, r.reason, r.rule, r.stream) for r in rows]
    return re.sub(r"\(ref .*\)|kept as \d+", "", reply), facts, sent


def test_every_mail_is_treated_alike(tmp_path: Path) -> None:
    async def start(stack: AsyncExitStack) -> World:
        sink = Sink()
        await sink.start()
        stack.push_async_callback(sink.close)
        path = tmp_path / "sluis.toml"
        where = tmp_path / "data"
        text = CONFIG.format(data_dir=where, upstream=sink.smtp_port, more="", upstream_more="")
        path.write_text(text, "utf-8")
        loaded = load(path, {})
        w = World(await stack.enter_async_context(running(loaded)), sink, loaded, path)
        for person in (ANNA, CARA):
            await w.know(person, "opt-in", **OPT_IN)
        return w

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        w = runner.run(start(stack))

        @settings(max_examples=120, deadline=None)
        @given(mails(), st.sampled_from([[ANNA], [BRAM], [ANNA, BRAM, CARA]]))
        def alike(mail: bytes, to: list[str]) -> None:
            in_memory = runner.run(outcome(w, mail, to))
            with in_files():
                assert runner.run(outcome(w, mail, to)) == in_memory

        try:
            alike()
        finally:
            runner.run(stack.aclose())


BIG = (b"y" * 76 + b"\r\n") * 20_000  # 1.5 MB


def big(stream: str, text: str) -> bytes:
    """A text, and an attachment that makes it a large mail."""
    head = message(
        stream,
        headers=['Content-Type: multipart/mixed; boundary="b"', "MIME-Version: 1.0"],
        text=f"--b\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--b\r\n"
        "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    )
    return head + BIG + b"--b--\r\n"


async def test_a_footer_for_each_of_many(world: Make) -> None:
    w = await world(upstream_more="connections = 4")
    people = [f"person{n}@example.nl" for n in range(12)]
    for person in people:
        await w.know(person, "opt-in", **OPT_IN)
    mail = big("newsletter", "Acme Schoenen B.V. has news.")
    reply = await w.send(people, mail)
    assert reply.startswith("250 2.0.0 relayed 12 of 12"), reply
    assert len(w.sink.messages) == 12
    body = mail.partition(b"\r\n\r\n")[2]
    tokens = set()
    for got in w.sink.messages:
        own = got.content.partition(b"\r\n\r\n")[2]
        (link,) = re.findall(rb"Unsubscribe: http://mail\.acme\.example/u/([^\s]+)", own)
        tokens.add(link)
        lines = own.split(b"\r\n")
        where = lines.index(b"Unsubscribe: http://mail.acme.example/u/" + link)
        assert b"\r\n".join(lines[: where - 1] + lines[where + 1 :]) == body
        assert fields(got.content, "List-Unsubscribe-Post")
    assert len(tokens) == 12


async def test_a_large_mail_that_waits_goes_out_later_as_it_came(world: Make) -> None:
    w = await world(more='[delivery]\nmode = "queued"\nretry_first = "50ms"')
    mail = big("orders", "Your order.")
    w.sink.once("DATA", "451 4.3.0 later", "451 4.3.0 later")
    reply = await w.send(ANNA, mail, stream="orders")
    assert reply.startswith("250 2.0.0 queued"), reply

    async def relayed() -> bool:
        [row] = await w.journal(reply)
        return row.state is State.RELAYED and row.attempts == 3

    await until(relayed)
    [got] = w.sink.messages
    assert got.content.endswith(mail.partition(b"\r\n\r\n")[2])


async def test_a_large_mail_keeps_its_room_until_its_attempt_has_ended(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `inline_wait` the answer is given, and the mail is still held."""
    kept: list[Admission] = []

    class Kept(Admission):
        def __init__(self, limits: Limits) -> None:
            super().__init__(limits)
            kept.append(self)

    monkeypatch.setattr("proxy.app.Admission", Kept)
    w = await world(more='[delivery]\ninline_wait = "2s"')
    [admission] = kept
    w.sink.once(".", Step.SILENT)
    reply = await w.send(ANNA, big("orders", "Your order."), stream="orders")
    assert reply.startswith("250 2.0.0 queued"), reply
    assert admission.memory.taken > 0
    assert admission.disk.taken > len(BIG)
    w.sink.say(b"250 2.0.0 taken\r\n")

    async def given_back() -> bool:
        return admission.memory.taken == admission.disk.taken == 0

    await until(given_back)
    [row] = await w.journal(reply)
    assert row.state is State.RELAYED


async def test_a_long_text_takes_its_room(world: Make) -> None:
    w = await world(more='[limits]\nmemory = "3MiB"')
    await w.know(ANNA, "opt-in", **OPT_IN)
    longer = "Acme Schoenen B.V. has news.\r\n" + ("word " * 15 + "\r\n") * 26_000  # 2 MB
    reply = await w.send(ANNA, big("newsletter", longer))
    assert reply.startswith("452 4.3.1 "), reply
    reply = await w.send(ANNA, big("newsletter", longer[:900_000]))
    assert reply.startswith("250 "), reply
    reply = await w.send(ANNA, big("orders", longer), stream="orders")
    assert reply.startswith("250 "), reply
