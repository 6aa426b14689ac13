"""The main job over real sockets: what is sent, what is blocked, what is answered, what is
recorded."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from running_sluis import FOOTER, OPT_IN, SALE, World, fields, message, send_once

from proxy.sink import Step
from proxy.store.model import State
from proxy.tokens import OptOut, seal

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM, HANS = "anna@example.nl", "bram@example.nl", "hans@example.nl"


def body(content: bytes) -> bytes:
    return content.partition(b"\r\n\r\n")[2]


async def test_allowed_marketing_is_relayed_with_its_own_opt_out(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    original = message(headers=["Sluis-Campaign: spring", "Bcc: secret@example.nl"])
    reply = await w.send(ANNA, original)
    assert reply.startswith("250 ")
    [mail] = w.sink.messages
    assert mail.recipients == (ANNA.encode(),)
    assert body(mail.content) == body(original)
    [link] = fields(mail.content, "List-Unsubscribe")
    https, mailto = re.fullmatch(r"<([^>]+)>, <([^>]+)>", link).groups()  # type: ignore[union-attr]
    assert https.startswith("http://mail.acme.example/u/")
    assert mailto.startswith("mailto:u@fb.acme.example?subject=unsubscribe%20")
    assert fields(mail.content, "List-Unsubscribe-Post") == ["List-Unsubscribe=One-Click"]
    assert fields(mail.content, "List-Id") == [
        '"Acme Schoenen B.V. newsletter" <newsletter.news.acme.example>'
    ]
    [feedback] = fields(mail.content, "Feedback-ID")
    assert feedback.startswith("spring:newsletter:acme:")
    assert len(fields(mail.content, "Received")) == 1
    assert fields(mail.content, "Bcc") == []
    assert fields(mail.content, "Sluis-Campaign") == []
    [row] = await w.journal(reply)
    assert (row.state, row.verdict, row.reason) == (State.RELAYED, "allow", "consent")
    assert row.cite
    assert row.pack.startswith("nl@")
    assert fields(mail.content, "Sluis-Ref") == [f"{row.ref}.1"]
    assert ANNA not in row.facts


async def test_a_block_names_reason_article_and_reference(world: Make) -> None:
    w = await world()
    reply = await w.send(HANS, message())
    assert re.match(r"550 5\.7\.1 no-basis.* Tw 11\.7.*\(ref [0-9A-Z]{16}\)$", reply), reply
    [row] = await w.journal(reply)
    assert (row.state, row.verdict, row.reason) == (State.BLOCKED, "block", "no-basis")
    assert w.sink.messages == []


async def test_mail_that_no_stream_claims_is_marketing_and_the_reply_names_the_domain(
    world: Make,
) -> None:
    w = await world()
    mail = message().replace(b"news.acme.example", b"shop.acme.example")
    reply = await w.send(HANS, mail, mail_from="b@shop.acme.example")
    assert reply.startswith("550 5.7.1 no-basis"), reply
    assert "no stream has shop.acme.example in from_domains" in reply


async def test_several_recipients_each_get_their_own_fate_and_copy(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(BRAM, "opt-in", **OPT_IN)
    reply = await w.send([ANNA, HANS, BRAM], message())
    assert re.match(r"250 2\.0\.0 relayed 2 of 3, 1 blocked \(ref \w{16}\)$", reply), reply
    assert {m.recipients for m in w.sink.messages} == {(ANNA.encode(),), (BRAM.encode(),)}
    links = {fields(m.content, "List-Unsubscribe")[0] for m in w.sink.messages}
    assert len(links) == 2
    assert [r.state for r in await w.journal(reply)] == [
        State.RELAYED,
        State.BLOCKED,
        State.RELAYED,
    ]


async def test_all_blocked_is_550(world: Make) -> None:
    w = await world()
    reply = await w.send([HANS, "x@example.nl"], message())
    assert re.match(r"550 5\.7\.1 no-basis.*none of 2 relayed", reply), reply


async def test_all_or_nothing_sends_nothing_when_one_is_blocked(world: Make) -> None:
    w = await world(more='[delivery]\npartial = "all-or-nothing"')
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send([ANNA, HANS], message())
    assert reply.startswith("550 5.7.1"), reply
    assert w.sink.messages == []
    assert [r.state for r in await w.journal(reply)] == [State.RETURNED, State.BLOCKED]


async def test_transactional_mail_is_one_copy_unchanged_but_for_the_trace(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "objection", scope="marketing", via="form")
    original = message(
        "orders", headers=["Bcc: secret@example.nl", "List-Unsubscribe: <https://x.example/u>"]
    )
    reply = await w.send([ANNA, HANS], original, stream="orders")
    assert reply.startswith("250 2.0.0 relayed 2 of 2"), reply
    [mail] = w.sink.messages
    assert mail.recipients == (ANNA.encode(), HANS.encode())
    rest = mail.content.split(b"\r\nSluis-Ref: ", 1)[1].partition(b"\r\n")[2]
    assert rest == original.replace(b"Bcc: secret@example.nl\r\n", b"")


async def test_the_senders_own_unsubscribe_fields_are_replaced_by_one_pair(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.send(
        ANNA,
        message(
            headers=[
                "List-Unsubscribe: <https://esp.example/u/1>, <mailto:u@esp.example>",
                "List-Unsubscribe: <https://esp.example/u/2>",
                "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
            ]
        ),
    )
    [mail] = w.sink.messages
    [link] = fields(mail.content, "List-Unsubscribe")
    assert "esp.example" not in link
    assert len(fields(mail.content, "List-Unsubscribe-Post")) == 1


async def test_one_click_blocks_the_next_mail_and_only_marketing(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    await w.know(ANNA, "relationship", **SALE)
    await w.send(ANNA, message())
    [link] = fields(w.sink.messages[0].content, "List-Unsubscribe")
    path = re.match(r"<http://mail\.acme\.example(/u/[^>]+)>", link)[1]  # type: ignore[index]
    url = f"http://127.0.0.1:{w.sluis.public_port}{path}"

    def get() -> int:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)

    def post() -> int:
        request = urllib.request.Request(url, data=b"List-Unsubscribe=One-Click")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)

    assert await asyncio.to_thread(get) == 200
    assert (await w.send(ANNA, message())).startswith("250 "), "GET must change nothing"
    assert await asyncio.to_thread(post) == 200
    reply = await w.send(ANNA, message())
    assert re.match(r"550 5\.7\.1 suppressed", reply), reply
    offer = message("offers", headers=["Sluis-Products: running-socks"])
    reply = await w.send(ANNA, offer, stream="offers")
    assert re.match(r"550 5\.7\.1 suppressed", reply), reply
    assert (await w.send(ANNA, message("orders"), stream="orders")).startswith("250 ")


async def test_the_mailto_opts_out_also_from_a_stranger(world: Make) -> None:
    w = await world(edit=lambda t: t.replace('["127.0.0.0/8"]', '["192.0.2.0/24", "127.0.0.1/32"]'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    assert (await w.send(ANNA, message())).startswith("250 ")
    [link] = fields(w.sink.messages[0].content, "List-Unsubscribe")
    token = re.search(r"unsubscribe%20([^>]+)>", link)[1]  # type: ignore[index]
    mail = (
        f"From: Anna <anna@example.nl>\r\nTo: u@fb.acme.example\r\nSubject: unsubscribe {token}\r\n"
        "\r\n\r\n"
    ).encode()
    reply = await w.send("u@fb.acme.example", mail, mail_from="anna@example.nl")
    assert reply.startswith("250 2.0.0 opt-out recorded"), reply
    assert re.match(r"550 5\.7\.1 suppressed", await w.send(ANNA, message()))
    bad = mail.replace(token.encode(), token[:-2].encode())
    reply = await w.send("u@fb.acme.example", bad, mail_from="anna@example.nl")
    assert reply.startswith("550 5.6.0"), reply


async def test_a_retry_is_answered_from_the_journal_and_not_sent_again(world: Make) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    same = message(message_id="a1")
    first = await w.send(ANNA, same)
    await w.know(ANNA, "objection", scope="marketing", via="form", days=0)
    again = await w.send(ANNA, same)
    assert again == first
    assert len(w.sink.messages) == 1
    fresh = await w.send(ANNA, message(message_id="a2"))
    assert fresh.startswith("550 5.7.1 suppressed"), "a new Message-ID is a new mail"


async def test_without_a_message_id_nothing_is_a_duplicate(world: Make) -> None:
    w = await world()
    for _ in range(2):
        assert (await w.send(ANNA, message("orders"), stream="orders")).startswith("250 ")
    assert len(w.sink.messages) == 2


@pytest.mark.parametrize(
    ("verb", "line", "code", "state"),
    [
        (".", "451 4.3.2 later", "451 4.3.2", State.RETURNED),
        (".", "554 5.7.1 spam", "554 5.7.1", State.FAILED),
        ("RCPT", "550 5.1.1 no such user", "550 5.1.1", State.FAILED),
        ("RCPT", "450 4.2.1 busy", "450 4.2.1", State.RETURNED),
        ("MAIL", "451 4.3.0 no", "451 4.3.0", State.RETURNED),
        (".", Step.LOSE, "451 4.4.2", State.UNKNOWN),
    ],
)
async def test_the_upstreams_own_words_reach_the_client(
    world: Make, verb: str, line: Any, code: str, state: State
) -> None:
    w = await world()
    w.sink.once(verb, line)
    reply = await w.send(ANNA, message("orders", message_id="m"), stream="orders")
    assert reply.startswith(code), reply
    assert "(ref " in reply
    row = await w.ended(reply)
    assert row.state is state
    again = await w.send(ANNA, message("orders", message_id="m"), stream="orders")
    assert again.startswith("250 "), "what was not relayed is tried anew"
    [row] = await w.journal(again)
    assert row.maybe_sent is (state is State.UNKNOWN)


async def test_a_partly_failed_mail_is_250_and_its_retry_repeats_nothing(world: Make) -> None:
    w = await world(upstream_more="connections = 1", more='[delivery]\nretry_first = "50ms"')
    for address in (ANNA, BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    w.sink.once(".", None, "451 4.3.2 later")
    same = message(message_id="p1")
    reply = await w.send([ANNA, BRAM, HANS], same)
    assert re.match(r"250 2\.0\.0 relayed 1 of 3, 1 queued, 1 blocked", reply), reply
    again = await w.send([ANNA, BRAM, HANS], same)
    assert again.startswith("250 2.0.0 relayed "), again
    await w.sink.received(3)  # a copy each, and one notice about the blocked recipient
    mails = [m.recipients for m in w.sink.messages if m.mail_from]
    assert sorted(mails) == [(ANNA.encode(),), (BRAM.encode(),)]


async def test_no_upstream_is_451_and_loses_nothing(world: Make) -> None:
    w = await world()
    await w.sink.close()
    reply = await w.send(ANNA, message("orders"), stream="orders")
    assert reply.startswith("451 4.4.1"), reply


async def test_observe_changes_no_reply_and_blocks_only_our_own_opt_outs(world: Make) -> None:
    w = await world()
    original = message("watched", headers=["Sluis-Campaign: x"])
    reply = await w.send([HANS, BRAM], original, stream="watched")
    assert reply.startswith("250 2.0.0 relayed 2 of 2"), reply
    [mail] = w.sink.messages
    assert not fields(mail.content, "List-Unsubscribe")
    assert not fields(mail.content, "Sluis-Ref")
    assert not fields(mail.content, "Sluis-Campaign")
    assert [(r.verdict, r.reason, r.mode) for r in await w.journal(reply)] == [
        ("block", "no-basis", "observe")
    ] * 2
    await w.know(BRAM, "objection", scope="marketing", via="form", days=0)
    assert (await w.send(BRAM, original, stream="watched")).startswith("250 ")
    await w.know(HANS, "objection", scope="marketing", via="one-click", days=0)
    reply = await w.send(HANS, original, stream="watched")
    assert reply.startswith("550 5.7.1 suppressed"), reply
    await w.know(BRAM, "objection", scope="marketing", via="staff", days=0)  # `consent object`
    reply = await w.send(BRAM, original, stream="watched")
    assert reply.startswith("550 5.7.1 suppressed"), reply


@pytest.mark.parametrize("other", [("objection", {"scope": "marketing", "via": "form"}),
                                   ("bounce", {"severity": "hard"}),
                                   ("complaint", {"via": "staff"})])  # fmt: skip
@pytest.mark.parametrize("days", [5, 0])
async def test_observe_blocks_our_own_opt_out_whatever_else_suppresses(
    world: Make, other: tuple[str, dict[str, str]], days: int
) -> None:
    w = await world()
    original = message("watched")
    await w.know(HANS, other[0], days=days, **other[1])
    assert (await w.send(HANS, original, stream="watched")).startswith("250 ")
    token = seal(w.sluis.keys, OptOut(sender="acme", stream="newsletter", address=HANS, ref="x"))
    url = f"http://127.0.0.1:{w.sluis.public_port}/u/{token}"

    def post() -> int:
        request = urllib.request.Request(url, data=b"List-Unsubscribe=One-Click")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)

    assert await asyncio.to_thread(post) == 200
    reply = await w.send(HANS, original, stream="watched")
    assert reply.startswith("550 5.7.1 suppressed"), reply


async def test_refused_at_rcpt_where_the_stream_is_certain(world: Make) -> None:
    w = await world(edit=lambda t: t.replace("may_set_stream = true", "may_set_stream = false"))
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(HANS, message())
    assert reply.startswith("550 5.7.1 no-basis"), reply
    [row] = await w.journal(reply)
    assert row.state is State.BLOCKED
    reply = await w.send([ANNA, HANS], message())
    assert reply.startswith("250 "), reply
    assert len(w.sink.messages) == 1


@pytest.mark.parametrize("may", ["true", "false"])
async def test_a_template_of_legal_duty_is_believed_of_those_who_may_choose_the_stream(
    world: Make, may: str
) -> None:
    w = await world(edit=lambda t: t.replace("may_set_stream = true", f"may_set_stream = {may}"))
    await w.know(ANNA, "objection", scope="everything", via="form")
    reply = await w.send(ANNA, message("orders"), stream="orders")
    assert reply.startswith("550 5.7.1 suppressed"), reply
    invoice = message("orders", headers=["Sluis-Template: invoice"])
    reply = await w.send(ANNA, invoice, stream="orders")
    assert reply.startswith("250 " if may == "true" else "550 5.7.1 suppressed"), reply


async def test_a_duty_that_is_not_met_blocks_and_is_named(world: Make) -> None:
    news = 'id = "newsletter"\n'
    w = await world(edit=lambda t: t.replace(news, f'{news}footer = "off"\n'))
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(ANNA, message(text="Acme Schoenen B.V. says hello\r\n"))
    assert reply.startswith("550 5.7.1 no-unsubscribe"), reply
    reply = await w.send(ANNA, message(text=FOOTER.replace("Acme Schoenen B.V.", "We")))
    assert reply.startswith("550 5.7.1 no-identity"), reply
    reply = await w.send(ANNA, message(subject="Re: your order"))
    assert reply.startswith("550 5.7.1 misleading-subject"), reply
    reply = await w.send(ANNA, message(to=f"{ANNA}, {BRAM}"))
    assert reply.startswith("550 5.7.1 visible-recipients"), reply


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["Sluis-Streem: orders"], "554 5.6.0 control header Sluis-Streem: unknown, did"),
        (["Sluis-Stream: nowhere"], "554 5.6.0 control header Sluis-Stream: no stream nowhere ("),
        (
            ["Sluis-Stream: newsleter"],
            "554 5.6.0 control header Sluis-Stream: no stream newsleter, did you mean newsletter?",
        ),
        (["Subject: again"], "554 5.6.0 header-duplicate Subject"),
        (["From: b@news.acme.example"], "554 5.6.0 header-duplicate From"),
        (["not a field"], "554 5.6.0 header-malformed line 5"),
    ],
)
async def test_bad_headers_are_refused_by_name(
    world: Make, headers: list[str], expected: str
) -> None:
    w = await world()
    await w.know(ANNA, "opt-in", **OPT_IN)
    reply = await w.send(ANNA, message(headers=headers))
    assert reply.startswith(expected), reply
    assert re.search(r" \(ref [0-9A-Z]{16}\)$", reply), reply
    assert w.sink.messages == []


async def test_a_client_that_leaves_after_the_dot_finds_its_answer_at_the_retry(
    world: Make,
) -> None:
    w = await world()
    content = message("orders", message_id="drop")
    reader, writer = await asyncio.open_connection("127.0.0.1", w.sluis.smtp_ports[0])
    await reader.readline()  # the greeting: who speaks before it is refused
    writer.write(
        b"EHLO app\r\nMAIL FROM:<a@orders.acme.example>\r\nRCPT TO:<anna@example.nl>\r\nDATA\r\n"
        + content
        + b"\r\n.\r\n"
    )
    await writer.drain()
    await w.sink.received(1)
    writer.close()
    del reader
    reply = await asyncio.to_thread(
        send_once, w.sluis.smtp_ports[0], "a@orders.acme.example", [ANNA], content + b"\r\n"
    )
    assert reply.startswith("250 "), reply
    assert len(w.sink.messages) == 1


async def test_the_same_mail_twice_at_once_is_sent_once(world: Make) -> None:
    w = await world()
    content = message("orders", message_id="twice")
    replies = await asyncio.gather(*(w.send(ANNA, content, stream="orders") for _ in range(8)))
    assert all(r.startswith("250 ") for r in replies), replies
    assert len(set(replies)) == 1
    assert len(w.sink.messages) == 1


async def test_an_address_is_sent_as_it_was_looked_up(world: Make) -> None:
    w = await world()
    await w.know("o'hara+x@example.nl", "opt-in", **OPT_IN)
    await w.know('"a..b"@example.nl', "opt-in", **OPT_IN)
    for address in ("o'hara+x@EXAMPLE.nl", '"a..b"@example.nl'):
        assert (await w.send(address, message())).startswith("250 "), address
    assert [m.recipients[0] for m in w.sink.messages] == [
        b"o'hara+x@example.nl",
        b'"a..b"@example.nl',
    ]
    reply = await w.send("O'Hara+x@example.nl", message())
    assert reply.startswith("550 5.7.1 no-basis"), "permit only on the exact key"


@pytest.mark.parametrize(
    "variant", ["ANNA@example.nl", "anna+news@example.nl", '"anna"@example.nl']
)
async def test_a_suppressed_person_is_suppressed_in_every_spelling(
    world: Make, variant: str
) -> None:
    w = await world()
    await w.know(variant, "opt-in", days=20, **OPT_IN)
    await w.know(ANNA, "objection", days=1, scope="marketing", via="one-click")
    reply = await w.send(variant, message())
    assert reply.startswith("550 5.7.1 suppressed"), reply
