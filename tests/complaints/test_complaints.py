"""From a copy that asks for complaints to the report about it: a whole Sluis, real SMTP."""

from __future__ import annotations

import asyncio
import smtplib
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import complaints_path  # noqa: F401
import pytest
import verifiers
from reports import report
from running_sluis import OPT_IN, World, fields, message, until
from signing_keys import ED25519, KEYS, RECORDS, RSA, pem

from policy.address import parse
from policy.model import Complaint, ComplaintVia, Event
from proxy.tokens import OptOut, seal

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM = "anna@example.nl", "bram@example.nl"
FBL = "fbl@fb.news.acme.example"


@pytest.fixture
async def asking(world: Make, tmp_path: Path) -> Make:
    """Like `world`, with keys of acme.example, and a feedback domain below the From domain."""
    (tmp_path / "s1.pem").write_bytes(pem(RSA))
    (tmp_path / "e1.pem").write_bytes(pem(ED25519))
    keys = "".join(
        f'[[dkim.keys]]\ndomain = "acme.example"\nselector = "{k.selector}"\n'
        f'key_file = "{k.selector}.pem"\n'
        for k in KEYS
    )

    async def make(
        domain: str = "fb.news.acme.example",
        complaints: str = "",
        more: str = keys,
        trusted: str = "127.0.0.0/8",
    ) -> World:
        def edit(text: str) -> str:
            new = f'domain = "{domain}"\n{complaints}'
            return text.replace('domain = "fb.acme.example"', new).replace("127.0.0.0/8", trusted)

        made: World = await world(more=more, edit=edit)
        for address in (ANNA, BRAM):
            await made.know(address, "opt-in", **OPT_IN)
        return made

    return make


async def copy(w: World, to: str = ANNA) -> bytes:
    """What the recipient of a newsletter gets."""
    reply = await w.send(to, message())
    assert reply.startswith("250 "), reply
    return w.sink.messages[-1].content


async def tell(w: World, content: bytes, to: str = FBL) -> str:
    return await w.send(to, content, mail_from="fbl-sender@provider.example")


async def complaints(w: World, address: str = ANNA) -> list[Event]:
    subject = w.sluis.keys.subject("acme", parse(address))
    known = (await w.sluis.store.lookup([subject])).known[subject]
    return [e for e in known.events if isinstance(e.detail, Complaint) and e.sender == "acme"]


def counted(w: World) -> int:
    [line] = [
        line
        for line in w.sluis.telemetry.render()[0].decode().splitlines()
        if line.startswith("sluis_complaints_total ")
    ]
    return int(float(line.rpartition(" ")[2]))


async def test_a_copy_asks_for_complaints_and_its_signature_covers_that(
    asking: Make, tmp_path: Path
) -> None:
    w = await asking()
    one = await copy(w)
    assert fields(one, "CFBL-Address") == [f"{FBL}; report=arf"]
    [id_] = fields(one, "CFBL-Feedback-ID")
    assert id_.replace(":", ".") in fields(one, "List-Unsubscribe")[0]
    assert "." not in id_, "RFC 9477 section 5: atext and colons"
    assert ANNA not in id_
    assert verifiers.by_dkimpy(one, RECORDS) == [True, True]
    assert verifiers.by_opendkim(tmp_path, [one], RECORDS) == [True]
    for value in (FBL, id_):
        changed = one.replace(value.encode(), b"x" + value.encode()[1:])
        assert changed != one
        assert verifiers.by_dkimpy(changed, RECORDS) == [False, False], value
    assert fields(await copy(w, BRAM), "CFBL-Feedback-ID") != [id_]


@pytest.mark.parametrize(
    ("domain", "complaints", "signed"),
    [
        ("fb.acme.example", "", True),
        ("acme.example", "", True),
        ("fb.news.acme.example", 'complaints = ""', True),
        ("fb.news.acme.example", "", False),
    ],
    ids=["beside", "above", "switched-off", "unsigned"],
)
async def test_who_may_not_ask_does_not(
    asking: Make, domain: str, complaints: str, signed: bool
) -> None:
    w = await asking(domain, complaints, **({} if signed else {"more": ""}))
    assert b"CFBL-" not in await copy(w)


async def test_other_mail_and_mail_that_names_a_mailbox_is_left_alone(asking: Make) -> None:
    w = await asking()
    await w.send(ANNA, message("orders"), stream="orders")
    assert b"CFBL-" not in w.sink.messages[-1].content
    for theirs in ("CFBL-Address: x@news.acme.example; report=arf", "CFBL-Feedback-ID: 7"):
        await w.send(ANNA, message(headers=[theirs]))
        content = w.sink.messages[-1].content
        assert content.count(theirs.encode()) == 1
        assert len(fields(content, theirs.partition(":")[0])) == 1


@pytest.mark.parametrize("part", ["message/rfc822", "text/rfc822-headers"])
async def test_a_complaint_stops_marketing_and_is_counted_once(asking: Make, part: str) -> None:
    w = await asking()
    content = report(await copy(w), part=part)
    reply = await tell(w, content)
    assert reply.startswith("250 2.0.0 complaint recorded (ref "), reply
    [event] = await complaints(w)
    assert event.detail == Complaint(via=ComplaintVia.ARF)
    assert event.evidence.startswith("arf:")
    assert (await tell(w, content)).startswith("250 "), "a repeated report is fine"
    assert len(await complaints(w)) == 1
    assert counted(w) == 1
    refused = await w.send(ANNA, message())
    assert refused.startswith("550 5.7.1 suppressed"), refused
    assert (await w.send(ANNA, message("orders"), stream="orders")).startswith("250 ")
    assert await complaints(w, BRAM) == []


async def test_the_least_that_rfc_9477_lets_a_report_return(asking: Make) -> None:
    w = await asking()
    one = await copy(w)
    least = (
        f"Message-ID: {(fields(one, 'Message-ID') or ['<x@y.example>'])[0]}\r\n"
        f"CFBL-Feedback-ID: {fields(one, 'CFBL-Feedback-ID')[0]}\r\n"
    )
    reply = await tell(w, report(least.encode(), part="text/rfc822-headers"))
    assert reply.startswith("250 2.0.0 complaint recorded"), reply
    assert len(await complaints(w)) == 1


async def test_a_complaint_after_a_new_opt_in_counts_again(asking: Make) -> None:
    w = await asking()
    content = report(await copy(w))
    await tell(w, content)
    await w.know(ANNA, "opt-in", days=0, evidence="form:2", **OPT_IN)
    await tell(w, content)
    assert len(await complaints(w)) == 2
    assert counted(w) == 2


async def test_what_is_forged_or_no_complaint_does_nothing(asking: Make) -> None:
    w = await asking()
    one = await copy(w)
    token = fields(one, "CFBL-Feedback-ID")[0]
    forged = {
        "no token": f"Sluis-Ref: {fields(one, 'Sluis-Ref')[0]}\r\n".encode(),
        "changed": one.replace(token.encode(), b"k1:" + b"A" * 100).replace(
            token.replace(":", ".").encode(), b"k1." + b"A" * 100
        ),
        "of another key": one.replace(token.encode(), b"k9:" + token.encode()[3:]).replace(
            token.replace(":", ".").encode(), b"k9.AAAA"
        ),
    }
    for name, returned in forged.items():
        reply = await tell(w, report(returned))
        assert reply.startswith("550 5.6.0 no valid reference to a mail of ours in the "), name
    reply = await tell(w, one)
    assert reply.startswith("550 5.6.0 no feedback report (RFC 5965) (ref "), reply
    bare = f"Subject: unsubscribe {token.replace(':', '.')}\r\n\r\n".encode()
    assert (await tell(w, bare)).startswith("550 5.6.0 "), "that is for the other mailbox"
    reply = await tell(w, report(one, kind="not-spam"))
    assert reply.startswith("250 2.0.0 no complaint, nothing recorded"), reply
    assert await complaints(w) == []
    assert counted(w) == 0
    assert (await tell(w, report(one), "u@fb.news.acme.example")).startswith("550 5.6.0 ")
    assert (await w.send(ANNA, message())).startswith("250 ")


async def test_a_token_of_a_sender_who_is_gone_still_counts_for_that_sender(asking: Make) -> None:
    w = await asking()
    token = seal(w.sluis.keys, OptOut("old", "gone", ANNA, "REF0000000000000.1"))
    returned = f"CFBL-Feedback-ID: {token.replace('.', ':')}\r\n".encode()
    assert (await tell(w, report(returned))).startswith("250 ")
    assert await complaints(w) == []
    subject = w.sluis.keys.subject("old", parse(ANNA))
    known = (await w.sluis.store.lookup([subject])).known[subject]
    assert "old" in [event.sender for event in known.events]


async def test_a_stranger_may_report_and_may_not_relay(asking: Make) -> None:
    w = await asking(trusted="192.0.2.0/24")
    token = seal(w.sluis.keys, OptOut("acme", "newsletter", ANNA, "REF0000000000000.1"))
    content = report(f"CFBL-Feedback-ID: {token.replace('.', ':')}\r\n".encode())

    def session() -> list[int]:
        with smtplib.SMTP("127.0.0.1", w.sluis.smtp_ports[0], timeout=60) as client:
            client.ehlo("provider.example")
            codes = [client.mail("")[0], client.rcpt(FBL)[0]]
            codes += [client.rcpt("u@fb.news.acme.example")[0], client.rcpt(BRAM)[0]]
            codes.append(client.data(content)[0])
            client.mail("x@provider.example")
            codes += [client.rcpt(BRAM)[0], client.rcpt("fbl@news.acme.example")[0]]
            return codes

    assert await asyncio.to_thread(session) == [250, 250, 452, 550, 250, 550, 550]
    assert len(await complaints(w)) == 1


async def test_our_mailboxes_are_the_same_in_capitals(asking: Make) -> None:
    w = await asking(trusted="192.0.2.0/24")
    token = seal(w.sluis.keys, OptOut("acme", "newsletter", ANNA, "REF0000000000000.1"))
    content = report(f"CFBL-Feedback-ID: {token.replace('.', ':')}\r\n".encode())
    assert (await tell(w, content, "FBL@FB.News.Acme.Example")).startswith("250 ")
    assert len(await complaints(w)) == 1
    asked = f"Subject: unsubscribe {token}\r\n\r\n".encode()
    assert "opt-out recorded" in await tell(w, asked, "U@fb.news.acme.example")


async def test_a_report_shares_its_transaction_with_nobody(asking: Make) -> None:
    w = await asking()

    def session() -> list[int]:
        with smtplib.SMTP("127.0.0.1", w.sluis.smtp_ports[0], timeout=60) as client:
            client.ehlo("app.acme.example")
            client.mail("x@orders.acme.example")
            return [client.rcpt(to)[0] for to in (BRAM, FBL, "u@fb.news.acme.example", ANNA)]

    assert await asyncio.to_thread(session) == [250, 452, 452, 250]


async def test_a_store_in_trouble_loses_no_complaint(asking: Make) -> None:
    w = await asking()
    one = await copy(w)
    path = w.settings.server.data_dir / "sluis.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")  # held longer than the store waits
        reply = await tell(w, report(one))
        assert reply.startswith("250 2.0.0 complaint recorded"), reply
        reply = await w.send(ANNA, message("newsletter"), stream="newsletter")
        assert reply.startswith("451 "), reply

    async def merged() -> bool:
        with closing(sqlite3.connect(path)) as db:
            query = "SELECT count(*) FROM event WHERE type = 'complaint'"
            return bool(db.execute(query).fetchone() == (1,))

    await until(merged)
    assert (await tell(w, report(one))).startswith("250 2.0.0 complaint recorded")
    assert await merged()
