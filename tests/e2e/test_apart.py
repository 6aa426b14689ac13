"""What is remembered of one mail never answers for another: campaigns, senders, people, cuts."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

from running_sluis import FOOTER, OPT_IN, World

from proxy.store.model import State

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM = "anna@people.example", "bram@people.example"
OTHER = """
[[senders]]
id = "beta"
name = "Beta Fietsen B.V."
country = "NL"
postal_address = "Stationsplein 9, 3511 ED Utrecht"
contact = "privacy@beta.example"
candidate_countries = ["NL"]
[[streams]]
id = "beta-news"
sender = "beta"
category = "marketing"
topics = ["newsletter"]
from_domains = ["news.beta.example"]
[[streams]]
id = "bare"
sender = "acme"
category = "marketing"
topics = ["newsletter"]
from_domains = ["bare.acme.example"]
footer = "require"
"""


def mail(domain: str, text: bytes, *lines: str, number: str = "") -> bytes:
    head = [f"From: <hello@{domain}>", "Subject: News", "MIME-Version: 1.0", *lines]
    head += [f"Message-ID: <{number}@{domain}>"] * bool(number)
    return "\r\n".join(head).encode() + b"\r\n\r\n" + text


async def test_a_text_of_two_senders_is_each_ones_own(world: Make) -> None:
    w = await world(more=OTHER)
    for sender in ("acme", "beta"):
        for person in (ANNA, BRAM):
            await w.know(person, "opt-in", sender=sender, **OPT_IN)
    text = FOOTER.encode()
    for _ in range(2):
        for domain, own in (("news.acme.example", True), ("news.beta.example", False)):
            reply = await w.send(ANNA, mail(domain, text), mail_from=f"b@{domain}")
            assert reply.startswith("250"), reply
            content = w.sink.messages[-1].content
            # The text names Acme only: copies of Beta get what is missing.
            assert (b"Beta Fietsen" in content) is not own
    # An objection at one of them, in the middle of both campaigns.
    await w.know(ANNA, "objection", sender="beta", via="one-click", days=0)
    seen = len(w.sink.messages)
    reply = await w.send(ANNA, mail("news.beta.example", text), mail_from="b@news.beta.example")
    assert reply.startswith("550"), reply
    assert len(w.sink.messages) == seen
    for to, domain in (
        (ANNA, "news.acme.example"), (BRAM, "news.beta.example"), (BRAM, "news.acme.example"),
    ):  # fmt: skip
        reply = await w.send(to, mail(domain, text), mail_from=f"b@{domain}")
        assert reply.startswith("250"), reply
    reply = await w.send(
        [BRAM, ANNA], mail("news.beta.example", text), mail_from="b@news.beta.example"
    )
    assert [row.state for row in await w.journal(reply)] == [State.RELAYED, State.BLOCKED]
    assert [m.recipients for m in w.sink.messages[seen:]] == [
        *[(person.encode(),) for person in (ANNA, BRAM, BRAM, BRAM)]
    ]


async def test_bodies_that_differ_in_what_the_law_asks(world: Make) -> None:
    w = await world(more=OTHER)
    await w.know(ANNA, "opt-in", **OPT_IN)
    good = (
        b"Acme Schoenen B.V.\r\nKeizersgracht 1, 1015 AA Amsterdam\r\n"
        b"Unsubscribe: https://acme.example/opt-out/1\r\n"
    )
    bad = {
        "no-postal-address": good.replace(b"Keizersgracht 1", b"Keizersgracht 2"),
        "no-identity": good.replace(b"Acme", b"Acne"),
        "no-unsubscribe": good.replace(b"https:", b"xttps:"),
    }
    plain = "Content-Type: text/plain; charset=us-ascii"
    for _ in range(2):
        for why, text in bad.items():
            for content, take in ((good, True), (text, False)):
                reply = await w.send(
                    ANNA, mail("bare.acme.example", content, plain), mail_from="b@bare.acme.example"
                )
                assert reply.startswith("250") is take, (why, reply)
                assert take or why in reply, (why, reply)
        # The same octets, told to be something else.
        for lines in (
            ("Content-Type: text/plain; charset=us-ascii", "Content-Transfer-Encoding: base64"),
            ('Content-Type: multipart/mixed; boundary="b"',),
            ("Content-Type: application/octet-stream",),
            ("Content-Type: text/plain; charset=us-ascii", "Content-Disposition: attachment"),
            ("Content-Type: text/plain; charset=utf-7",),
        ):
            reply = await w.send(
                ANNA, mail("bare.acme.example", good, *lines), mail_from="b@bare.acme.example"
            )
            assert reply.startswith("550"), (lines, reply)
        wrapped = base64.encodebytes(good).replace(b"\n", b"\r\n")
        reply = await w.send(
            ANNA,
            mail("bare.acme.example", wrapped, plain, "Content-Transfer-Encoding: base64"),
            mail_from="b@bare.acme.example",
        )
        assert reply.startswith("250"), reply


def stuffed(content: bytes) -> bytes:
    return content.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n"


async def talk(port: int, octets: bytes, cuts: list[int], stops: list[int]) -> bytes:
    """All that the other side says to `octets` that come in these pieces; at `stops` the client
    waits for its 354."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray(await asyncio.wait_for(reader.readline(), 20))
    edges = sorted({0, len(octets), *cuts, *stops})
    for start, stop in pairwise(edges):
        while start in stops and said.count(b"354 ") < stops.index(start) + 1:
            piece = await asyncio.wait_for(reader.read(65536), 20)
            assert piece, said
            said += piece
        writer.write(octets[start:stop])
        await writer.drain()
        await asyncio.sleep(0)
    while piece := await asyncio.wait_for(reader.read(65536), 20):
        said += piece
    writer.close()
    return bytes(said)


async def test_a_session_is_the_same_however_it_is_cut(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "opt-in", **OPT_IN)
    await w.know(BRAM, "objection", via="one-click", days=0)
    rnd = random.Random(4)
    for size in (1, 262_144 - 60, 262_144, 300_000):
        lines = [rnd.choice([b".", b"..x", b"", b"y" * 990, b"\xe9z"]) for _ in range(4)]
        while sum(map(len, lines)) + 2 * len(lines) < size:
            lines.append(rnd.choice([b".", b"..", b"x" * 900, b"." + b"y" * 700]))
        text = b"\r\n".join([*lines, FOOTER.encode().rstrip(), b"."])
        one = mail("news.acme.example", text, "Content-Type: text/plain; charset=iso-8859-1",
                   "Content-Transfer-Encoding: 8bit", number=str(size))  # fmt: skip
        begun = (
            b"EHLO app.example\r\nMAIL FROM:<b@news.acme.example> BODY=8BITMIME\r\n"
            b"RCPT TO:<anna@people.example>\r\nRCPT TO:<bram@people.example>\r\nDATA\r\n"
        )
        again = (
            b"MAIL FROM:<b@news.acme.example> BODY=8BITMIME\r\n"
            b"RCPT TO:<anna@people.example>\r\nDATA\r\n"
        )
        whole = begun + stuffed(one) + again
        stops = [len(begun), len(whole)]
        whole += stuffed(one) + b"NOOP\r\nQUIT\r\n"
        answers = set()
        before = len(w.sink.messages)
        for how in range(4):
            spots = [*range(len(whole) - 40, len(whole)), *range(stops[1] - 120, stops[1] + 30)]
            cuts = [
                [], spots, [rnd.randrange(len(whole)) for _ in range(30)],
                list(range(0, len(whole), 65_537)),
            ][how]  # fmt: skip
            said = await talk(w.sluis.smtp_ports[0], whole, cuts, stops)
            codes = [line[:4] for line in said.split(b"\r\n") if line]
            answers.add(b" ".join(codes))
        assert len(answers) == 1, answers
        # Once: all later ones are the same mail. Who wrote it may be told of bram besides.
        got = [m for m in w.sink.messages[before:] if m.recipients != (b"b@news.acme.example",)]
        assert [m.recipients for m in got] == [(ANNA.encode(),)]
        assert text in got[0].content
