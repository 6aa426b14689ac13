"""What the reader sees, over real sockets: footer, placeholders, signed mail, recipients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import json
import re
import sqlite3
import urllib.request
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
from running_sluis import FOOTER, OPT_IN, World, fields, message

from policy.address import parse
from proxy.store.model import NewAttributes, State
from proxy.tokens import open_

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM, HANS = "anna@example.nl", "bram@example.nl", "hans@example.nl"
PLAIN = "Acme Schoenen B.V. has news.\r\n"
PLACEHOLDER = "{{sluis.unsubscribe_url}}"


def stream(name: str, *lines: str) -> Callable[[str], str]:
    """Adds keys to one stream of the configuration."""
    head = f'id = "{name}"\n'
    return lambda text: text.replace(head, head + "".join(f"{line}\n" for line in lines))


def parts(content: bytes) -> dict[str, str]:
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    leaves = [p for p in mail.walk() if not p.is_multipart()]
    return {p.get_content_type(): p.get_content() for p in leaves}


def alternative(text: str, html: str) -> str:
    return (
        f"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
        f"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}\r\n--b--\r\n"
    )


MULTIPART = "Content-Type: multipart/alternative; boundary=b"


def link_in(text: str) -> str:
    found = re.search(r"http://mail\.acme\.example(/u/[A-Za-z0-9._-]+)", text)
    assert found is not None, text
    return found[1]


async def post(w: World, path: str) -> int:
    def act() -> int:
        url = f"http://127.0.0.1:{w.sluis.public_port}{path}"
        request = urllib.request.Request(url, data=b"List-Unsubscribe=One-Click")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)

    return await asyncio.to_thread(act)


async def test_a_newsletter_without_a_way_out_gets_a_footer_that_works(world: Make) -> None:
    w = await world()
    for address in (ANNA, BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    text, html = "News from the canal.", "<html><body><p>News</p></body></html>"
    original = message(headers=[MULTIPART], text=alternative(text, html))
    reply = await w.send([ANNA, BRAM], original)
    assert reply.startswith("250 2.0.0 relayed 2 of 2"), reply
    links = {}
    for mail in w.sink.messages:
        shown = parts(mail.content)
        assert shown["text/plain"].startswith(text)
        assert "Acme Schoenen B.V." in shown["text/plain"]
        assert re.search(r'<a href="http://mail[^"]+"[^>]*>Unsubscribe</a>', shown["text/html"])
        assert shown["text/html"].replace("\r\n", "").endswith("</div></body></html>")
        [link] = {link_in(part) for part in shown.values()}
        links[mail.recipients[0].decode()] = link
        assert f"<http://mail.acme.example{link}>" in fields(mail.content, "List-Unsubscribe")[0]
        assert open_(w.sluis.keys, link.removeprefix("/u/")).address == mail.recipients[0].decode()
    assert await post(w, links[ANNA]) == 200
    assert (await w.send(ANNA, original)).startswith("550 5.7.1 suppressed")
    assert (await w.send(BRAM, original)).startswith("250 "), "her opt-out is nobody else's"


async def test_the_footer_speaks_the_recipients_language(world: Make) -> None:
    w = await world(edit=stream("newsletter", 'lang = "de"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "opt-in", **OPT_IN)
    subject = w.sluis.keys.subject("acme", parse(BRAM))
    dutch = NewAttributes(subject=subject, at=datetime.now(UTC), values={"language": "nl"})
    await w.sluis.store.append([], [dutch])
    await w.send([ANNA, BRAM], message(text=PLAIN))
    said = {m.recipients[0].decode(): m.content for m in w.sink.messages}
    assert b"\r\nAbmelden: http" in said[ANNA]
    assert b"\r\nUitschrijven: http" in said[BRAM]


async def test_what_the_law_of_the_recipient_wants_is_what_is_added(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "opt-in", country="US", **OPT_IN)
    reply = await w.send([ANNA, BRAM], message(text=PLAIN))
    assert reply.startswith("250 2.0.0 relayed 2 of 2"), reply
    said = {m.recipients[0].decode(): m.content for m in w.sink.messages}
    assert b"Keizersgracht" not in said[ANNA]
    assert b"\r\nKeizersgracht 1, 1015 AA Amsterdam\r\n" in said[BRAM]


def noted(w: World, ref: str) -> set[str]:
    path = w.settings.store.sqlite_path(w.settings.server.data_dir)
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        [(text,)] = store.execute("SELECT marks FROM submission WHERE ref = ?", (ref,))
    return set(json.loads(text))


async def test_the_journal_tells_what_was_edited(world: Make) -> None:
    w = await world(
        edit=lambda text: text.replace("Acme Schoenen B.V.", "Caf\u00e9 Acme"),
    )
    await w.know(ANNA, "opt-in", **OPT_IN)
    marks = {}
    html = "<p>Caf&eacute; Acme</p><a href='https://x.example/'>Unsubscribe</a>"
    for case, content in {
        "ascii": message(text="News"),
        "partial": message(headers=[MULTIPART], text=alternative("News", html)),
        "both": message(headers=[MULTIPART], text=alternative("News", "<p>News</p>")),
    }.items():
        reply = await w.send(ANNA, content)
        [row] = await w.journal(reply)
        marks[case] = noted(w, row.ref) & {"footer_ascii", "partial_alternative"}
    assert marks == {"ascii": {"footer_ascii"}, "partial": {"partial_alternative"},
                     "both": {"footer_ascii"}}  # fmt: skip


async def test_a_second_pass_adds_nothing(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.send(ANNA, message(text="News", message_id="x"))
    first = w.sink.messages[0].content
    # Not our Received: a real second pass is another instance with the same keys.
    again = re.sub(rb"\AReceived: .*\r\n(?: .*\r\n)*", b"", first)
    await w.send(ANNA, again)
    second = w.sink.messages[1].content
    assert second.partition(b"\r\n\r\n")[2] == first.partition(b"\r\n\r\n")[2]
    assert fields(second, "List-Unsubscribe") == fields(first, "List-Unsubscribe")


async def test_a_footer_that_cannot_be_is_told(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    utf16 = base64.encodebytes("Acme Schoenen B.V.".encode("utf-16")).decode().strip()
    headers = ["Content-Type: text/plain; charset=utf-16", "Content-Transfer-Encoding: base64"]
    reply = await w.send(ANNA, message(headers=headers, text=f"{utf16}\r\n"))
    assert re.match(r"550 5\.7\.1 no-unsubscribe.*; no footer: charset utf-16 \(ref", reply), reply


async def test_footer_off_and_footer_required(world: Make) -> None:
    w = await world(edit=stream("newsletter", 'footer = "require"'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert (await w.send(ANNA, message())).startswith("250 ")
    for text, slug in (
        ("News", "no-identity"),
        (PLAIN, "no-postal-address"),
        (FOOTER.partition("\r\n")[0], "no-unsubscribe"),
    ):
        reply = await w.send(ANNA, message(text=text))
        assert reply.startswith(f"550 5.7.1 {slug}"), reply
    reply = await w.send(ANNA, message(text=FOOTER.partition("\r\n")[0] + PLACEHOLDER))
    assert reply.startswith("250 "), reply


async def test_a_placeholder_becomes_the_recipients_own_link(world: Make) -> None:
    w = await world(edit=stream("newsletter", 'footer = "off"'))
    for address in (ANNA, BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    html = f'<p>Acme Schoenen B.V.</p><a href="{PLACEHOLDER}">stop</a>'
    text = f"Acme Schoenen B.V.\r\nstop: [[ sluis.unsubscribe_url ]] {PLACEHOLDER}"
    reply = await w.send([ANNA, BRAM], message(headers=[MULTIPART], text=alternative(text, html)))
    assert reply.startswith("250 2.0.0 relayed 2 of 2"), reply
    for mail in w.sink.messages:
        assert b"sluis.unsubscribe" not in mail.content
        tokens = re.findall(rb"/u/([A-Za-z0-9._-]+)", mail.content.partition(b"\r\n\r\n")[2])
        assert len(tokens) == 3
        for token in tokens:
            assert open_(w.sluis.keys, token.decode()).address == mail.recipients[0].decode()
    path = link_in(w.sink.messages[0].content.decode())
    assert await post(w, path) == 200
    gone = w.sink.messages[0].recipients[0].decode()
    assert (await w.send(gone, message())).startswith("550 5.7.1 suppressed")


async def test_placeholders_are_replaced_in_observe_too_and_nothing_else(world: Make) -> None:
    w = await world()
    text = f"News\r\n{PLACEHOLDER}\r\n{{{{sluis.other}}}}\r\n"
    original = message("watched", text="News\r\n\r\n" + PLACEHOLDER + "\r\n")
    reply = await w.send([HANS, BRAM], original, stream="watched")
    assert reply.startswith("250 2.0.0 relayed 2 of 2"), reply
    assert len(w.sink.messages) == 2
    for mail in w.sink.messages:
        link = link_in(mail.content.decode())
        assert open_(w.sluis.keys, link[3:]).address == mail.recipients[0].decode()
        url = f"http://mail.acme.example{link}".encode()
        body = original.partition(b"\r\n\r\n")[2]
        assert mail.content.partition(b"\r\n\r\n")[2] == body.replace(PLACEHOLDER.encode(), url)
        assert not fields(mail.content, "List-Unsubscribe")
    reply = await w.send(HANS, message("watched", text=text), stream="watched")
    assert reply.startswith("250 "), reply
    assert PLACEHOLDER.encode() in w.sink.messages[-1].content, "never half of them"
    [row] = await w.journal(reply)
    assert row.state is State.RELAYED


async def test_an_unknown_placeholder_is_refused_by_name(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(ANNA, message(text=FOOTER + "{{ sluis.unsubscribe_ur }}"))
    assert reply.startswith("554 5.6.0 placeholder sluis.unsubscribe_ur: unknown"), reply
    reply = await w.send(ANNA, message(text=FOOTER + PLACEHOLDER * 21))
    assert reply.startswith("554 5.6.0 placeholder sluis.unsubscribe_url: more than 20"), reply
    await w.send(ANNA, message(subject=PLACEHOLDER))
    assert PLACEHOLDER.encode() in w.sink.messages[-1].content, "never in a header"


SIGNED = "DKIM-Signature: v=1; a=rsa-sha256; d=esp.example; s=s; h=from:subject; bh=YQ==; b=YQ=="


async def test_a_foreign_signature_is_not_broken_by_a_footer(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(ANNA, message(headers=[SIGNED], text=PLAIN))
    assert re.match(r"550 5\.7\.1 no-unsubscribe.*no footer: d=esp\.example signs", reply), reply
    reply = await w.send(ANNA, message(headers=[SIGNED], text=PLAIN + PLACEHOLDER))
    assert re.match(r"550 5\.7\.1 no-unsubscribe.*d=esp\.example signs the body", reply), reply
    assert w.sink.messages == []
    assert (await w.send(ANNA, message(headers=[SIGNED]))).startswith("250 ")
    assert FOOTER.encode() in w.sink.messages[0].content


async def test_each_copy_names_its_own_recipient(world: Make) -> None:
    w = await world(edit=stream("newsletter", 'visible_recipients = "rewrite"'))
    for address in (ANNA, BRAM, "x@example.nl"):
        await w.know(address, "opt-in", **OPT_IN)
    to = f'"Vos, Anna" <{ANNA}>, friends: {HANS};'
    original = message(to=to, headers=[f"Cc: Bram <{BRAM}>", f"Resent-To: {HANS}"])
    reply = await w.send([ANNA, BRAM, "x@example.nl"], original)
    assert reply.startswith("250 2.0.0 relayed 3 of 3"), reply
    seen = {m.recipients[0].decode(): fields(m.content, "To") for m in w.sink.messages}
    assert seen == {
        ANNA: [f'"Vos, Anna" <{ANNA}>'],
        BRAM: [f"Bram <{BRAM}>"],
        "x@example.nl": ["x@example.nl"],
    }
    for mail in w.sink.messages:
        assert not fields(mail.content, "Cc")
        assert not fields(mail.content, "Resent-To")
        assert HANS.encode() not in mail.content
    covered = SIGNED.replace("from:subject", "from:to")
    reply = await w.send(ANNA, message(to=to, headers=[covered]))
    assert reply.startswith("550 5.7.1 dkim-covered d=esp.example field to: removes"), reply


PAIR = [
    "List-Unsubscribe: <https://click.esp.example/u/1>, <mailto:u@esp.example>",
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
]


async def test_the_modes_of_an_unsubscribe_header_that_is_there(world: Make) -> None:
    keep = ('list_unsubscribe = "keep"', 'list_unsubscribe_hosts = ["click.esp.example"]')

    def edit(text: str) -> str:
        text = stream("newsletter", *keep)(text)
        return stream("offers", 'topics = ["newsletter"]', 'list_unsubscribe = "refuse"')(text)

    w = await world(edit=edit)
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.send(ANNA, message(headers=PAIR))
    assert fields(w.sink.messages[-1].content, "List-Unsubscribe") == [PAIR[0].partition(": ")[2]]
    other = [PAIR[0].replace("click.", "evil."), PAIR[1]]
    await w.send(ANNA, message(headers=other))
    assert "esp.example" not in fields(w.sink.messages[-1].content, "List-Unsubscribe")[0]
    reply = await w.send(ANNA, message("offers", headers=PAIR), stream="offers")
    assert reply.startswith("550 5.7.1 no-unsubscribe"), reply
    reply = await w.send(ANNA, message("offers", headers=[PAIR[1]]), stream="offers")
    assert reply.startswith("554 5.6.0 header-malformed List-Unsubscribe"), reply
    assert (await w.send(ANNA, message("offers"), stream="offers")).startswith("250 ")


SHOP = "20% korting met kortingscode LENTE. Shop nu!\r\n"


def promotions(port: int) -> dict[str, float]:
    """How many receipts were counted as promotional, by sign."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    series = r'^sluis_promotions_total\{sign="(\w+)",stream="orders"\} (\S+)'
    found = {sign: float(number) for sign, number in re.findall(series, text, re.MULTILINE)}
    return {sign: number for sign, number in found.items() if number}


@pytest.mark.parametrize(("setting", "verdict"), [("observe", "250 "), ("enforce", "550 5.7.1 ")])
async def test_promotion_in_a_receipt_is_scored(world: Make, setting: str, verdict: str) -> None:
    w = await world(edit=stream("orders", f'promotion = "{setting}"'))
    reply = await w.send(HANS, message("orders", text=SHOP), stream="orders")
    assert reply.startswith(verdict), reply
    [row] = await w.journal(reply)
    assert row.reason == ("not-marketing" if setting == "observe" else "mixed-purpose")
    reply = await w.send(HANS, message("orders", text="Your order: 20 socks"), stream="orders")
    assert reply.startswith("250 "), reply
    declared = message("orders", headers=["Solicitation: org.example:ADV"])
    assert (await w.send(HANS, declared, stream="orders")).startswith("550 5.7.1 mixed-purpose")
    said = "SOLICIT=org.example:ADV"
    reply = await w.send(HANS, message("orders"), stream="orders", options=said)
    assert reply.startswith("550 5.7.1 mixed-purpose"), reply
    counted = await asyncio.to_thread(promotions, w.sluis.admin_port)
    assert counted == {
        "any": 3, "discount": 1, "voucher": 1, "shopping": 1, "solicitation": 2
    }  # fmt: skip
