"""Signed mail through a whole Sluis: what the upstream gets verifies, or nothing leaves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import aiosqlite
import dkim
import e2e_path  # noqa: F401  before running_sluis
import pytest
import verifiers
from running_sluis import OPT_IN, Make, World, fields, message, world  # noqa: F401
from signing_keys import ED25519, KEYS, RECORDS, RSA, pem, record

from proxy import signers
from proxy.config.signing import PrivateKey
from proxy.message.header import index

ANNA, BRAM = "anna@example.nl", "bram@example.nl"


@pytest.fixture
async def signing(world: Make, tmp_path: Path) -> Callable[..., object]:  # noqa: F811
    """Like `world`, with an RSA and an Ed25519 key of acme.example."""
    (tmp_path / "s1.pem").write_bytes(pem(RSA))
    (tmp_path / "e1.pem").write_bytes(pem(ED25519))
    keys = "".join(
        f'[[dkim.keys]]\ndomain = "acme.example"\nselector = "{k.selector}"\n'
        f'key_file = "{k.selector}.pem"\n'
        for k in KEYS
    )

    async def make(**options: str) -> World:
        made: World = await world(more=keys, **options)
        for address in (ANNA, BRAM):
            await made.know(address, "opt-in", **OPT_IN)
        return made

    return make


def by_esp(content: bytes, *names: bytes) -> bytes:
    mail = dkim.DKIM(content)
    mail.should_not_sign = set()
    made: bytes = mail.sign(b"x", b"esp.example", pem(RSA), include_headers=[b"From", *names])
    return made + content


def contents(sluis: World) -> list[bytes]:
    return [m.content for m in sluis.sink.messages]


async def test_every_copy_is_signed_over_what_its_recipient_gets(
    signing: Make, tmp_path: Path
) -> None:
    sluis = await signing()
    reply = await sluis.send([ANNA, BRAM], message(message_id="1"))
    assert reply.startswith("250")
    both = contents(sluis)
    assert len(both) == 2
    assert len({fields(content, "List-Unsubscribe")[0] for content in both}) == 2
    for content in both:
        names = [f.name for f in index(content).fields]
        assert names[:5] == [
            *(b"received", b"dkim-signature", b"dkim-signature", b"sluis-ref", b"list-id")
        ]
        assert verifiers.by_dkimpy(content, RECORDS) == [True, True]
        other = content.replace(b"Subject: News", b"Subject: Nexs")
        assert verifiers.by_dkimpy(other, RECORDS) == [False, False]
        h = re.sub(r"\s", "", fields(content, "DKIM-Signature")[1]).partition("h=")[2]
        assert "list-unsubscribe:list-unsubscribe:list-unsubscribe-post" in h
    assert verifiers.by_opendkim(tmp_path, both, RECORDS) == [True, True]
    assert [v[1] for v in verifiers.by_mail_dkim(tmp_path, both, RECORDS)] == [
        "rsa-sha256=pass"
    ] * 2
    row, _ = await sluis.journal(reply)
    assert "one_click_unsigned" not in str(row)


async def test_a_footer_is_signed_with_the_rest(signing: Make) -> None:
    sluis = await signing()
    content = message(message_id="1", text="Hello\r\n\r\n  all  \r\n")
    reply = await sluis.send([ANNA, BRAM], by_esp(content, b"Subject"))
    assert reply.startswith("250"), reply
    async with aiosqlite.connect(sluis.sluis.settings.server.data_dir / "sluis.db") as store:
        rows = await store.execute_fetchall("SELECT marks FROM submission")
    assert "resigned: esp.example" in str(rows)
    for left in contents(sluis):
        assert b"Acme Schoenen B.V." in left.partition(b"\r\n\r\n")[2]
        assert b"d=esp.example" not in left
        assert verifiers.by_dkimpy(left, RECORDS) == [True, True]


async def test_a_large_mail_is_signed_from_its_file(signing: Make) -> None:
    sluis = await signing()
    lines = b"".join(b"line  %d \t of it \r\n" % n for n in range(60_000))
    mail = message(
        message_id="1",
        headers=['Content-Type: multipart/mixed; boundary="b"'],
        text="--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n--b\r\n"
        "Content-Type: application/x-list\r\n\r\n",
    )
    reply = await sluis.send([ANNA, BRAM], mail + lines + b"\r\n\r\n--b--\r\n\r\n \r\n")
    assert reply.startswith("250 "), reply
    both = contents(sluis)
    assert len(both) == 2
    for content in both:
        assert b"Acme Schoenen B.V." in content.partition(b"Hello")[2][:200]
        assert verifiers.by_dkimpy(content, RECORDS) == [True, True]


async def test_a_foreign_signature_stays_or_goes(signing: Make) -> None:
    sluis = await signing()
    await sluis.send(ANNA, by_esp(message(message_id="1"), b"Subject"))
    theirs = message(message_id="2", headers=["List-Unsubscribe: <https://esp.example/u>"])
    await sluis.send(ANNA, by_esp(theirs, b"Subject", b"List-Unsubscribe"))
    kept, gone = contents(sluis)
    records = {**RECORDS, "x._domainkey.esp.example": record(RSA)}
    assert verifiers.by_dkimpy(kept, records) == [True, True, True]
    assert verifiers.by_dkimpy(gone, records) == [True, True]


@pytest.mark.parametrize("footer", ["header", "footer"])
async def test_no_mail_is_refused_for_a_signature_that_fails(
    world: Make,  # noqa: F811
    tmp_path: Path,
    footer: str,
) -> None:
    records = tmp_path / "records"
    records.mkdir()
    sluis = await world(more=f'[dkim]\nverify = "files"\nrecords_dir = "{records}"\n')
    await sluis.know(ANNA, "opt-in", **OPT_IN)
    text = {"text": "Hello\r\n"} if footer == "footer" else {}
    theirs = message(headers=["List-Unsubscribe: <https://esp.example/u>"], **text)
    content = by_esp(theirs, b"Subject", b"List-Unsubscribe")
    assert (await sluis.send(ANNA, content)).startswith("550 5.7.1 ")
    (records / "x._domainkey.esp.example").write_text(record(RSA))
    assert (await sluis.send(ANNA, content)).startswith("550 5.7.1 ")
    reply = await sluis.send(ANNA, content.replace(b"Subject: News", b"Subject: Nexs"))
    assert reply.startswith("250"), reply
    (left,) = contents(sluis)
    assert b"esp.example" not in left
    assert b"Acme Schoenen B.V." in left.partition(b"\r\n\r\n")[2]
    async with aiosqlite.connect(sluis.sluis.settings.server.data_dir / "sluis.db") as store:
        rows = await store.execute_fetchall("SELECT marks FROM submission")
    assert "failed_signature: esp.example" in str(rows)


async def test_without_a_key_a_covered_field_is_refused(world: Make) -> None:  # noqa: F811
    sluis = await world()
    await sluis.know(ANNA, "opt-in", **OPT_IN)
    theirs = message(headers=["List-Unsubscribe: <https://esp.example/u>"])
    reply = await sluis.send(ANNA, by_esp(theirs, b"List-Unsubscribe"))
    words = "550 5.7.1 dkim-covered d=esp.example field list-unsubscribe: removes (ref "
    assert reply.startswith(words)


async def test_a_mail_that_passes_twice_keeps_its_signatures(signing: Make) -> None:
    sluis = await signing()
    await sluis.send(ANNA, message(message_id="1"))
    (first,) = contents(sluis)
    await sluis.send(ANNA, first)
    second = contents(sluis)[1]
    assert fields(second, "DKIM-Signature") == fields(first, "DKIM-Signature")
    assert verifiers.by_dkimpy(second, RECORDS) == [True, True]
    await sluis.send(ANNA, first.replace(b"Subject: News", b"Subject: Fake"))
    third = contents(sluis)[2]
    assert fields(third, "DKIM-Signature") != fields(first, "DKIM-Signature")
    assert verifiers.by_dkimpy(third, RECORDS) == [True, True]


async def test_other_mail_is_left_as_it_is(signing: Make) -> None:
    sluis = await signing()
    for n, stream in enumerate(("orders", "watched")):
        await sluis.send(ANNA, message(stream, message_id=str(n)), stream=stream)
    blind = by_esp(message("orders", message_id="3", headers=[f"Bcc: {BRAM}"]), b"Bcc")
    await sluis.send(ANNA, blind, stream="orders")
    orders, watched, resigned = contents(sluis)
    assert b"DKIM-Signature" not in orders + watched
    assert verifiers.by_dkimpy(resigned, RECORDS) == [True, True]


async def test_an_upstream_that_takes_one_signature(signing: Make) -> None:
    rules = 'dkim_keys = ["rsa"]\ndkim_omit = ["message-id", "date"]'
    sluis = await signing(upstream_more=rules)
    await sluis.send(ANNA, message(message_id="1"))
    (content,) = contents(sluis)
    (field,) = fields(content, "DKIM-Signature")
    assert "a=rsa-sha256" in field
    rewritten = content.replace(
        b"08:00:00 +0000\r\nMessage-ID: <1@", b"09:00:00 +0000\r\nMessage-ID: <2@"
    )
    assert rewritten != content
    assert verifiers.by_dkimpy(rewritten, RECORDS) == [True]


async def test_without_a_readable_key_nothing_leaves(signing: Make, tmp_path: Path) -> None:
    sluis = await signing()
    (tmp_path / "s1.pem").rename(tmp_path / "away")
    reply = await sluis.send(ANNA, message(message_id="1"))
    assert reply.startswith("451 4.3.0 temporary local problem (ref ")
    assert (await sluis.send(ANNA, message("orders"), stream="orders")).startswith("250")
    (tmp_path / "away").rename(tmp_path / "s1.pem")
    assert (await sluis.send(ANNA, message(message_id="1"))).startswith("250")
    assert [b"DKIM-Signature" in content for content in contents(sluis)] == [False, True]


async def test_a_key_that_no_upstream_may_use_now(signing: Make, tmp_path: Path) -> None:
    """The one key that the upstream takes is not in force yet: the mail waits, unsent."""
    rules = 'dkim_keys = ["rsa"]'

    def later(text: str) -> str:
        at = text.index('selector = "s1"')
        return text[:at] + "active_from = 2999-01-01T00:00:00Z\n" + text[at:]

    sluis = await signing(upstream_more=rules, edit=later)
    reply = await sluis.send(ANNA, message(message_id="1"))
    assert reply.startswith("451 4.3.0")
    assert contents(sluis) == []
    row = await sluis.ended(reply)
    assert row.state.value == "returned"


async def test_a_process_of_its_own_signs(
    signing: Make,
    world: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signers, "_cores", lambda: [0, *range(os.cpu_count() or 1)])
    unsigned = await world(edit=lambda text: text.replace("/data", "/other"))
    assert unsigned.sluis.gate._dispatch._signer._helper is None
    sluis = await signing()
    helper = sluis.sluis.gate._dispatch._signer._helper
    assert isinstance(helper, signers.Signers)
    await sluis.send(ANNA, message(message_id="0"))  # the first starts it
    async with asyncio.timeout(30):
        while not helper.pid:  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.005)
    begun = []
    begin = helper.begin

    def noted(digests: Sequence[tuple[PrivateKey, bytes]]) -> asyncio.Future[list[bytes]] | None:
        begun.append(begin(digests))
        return begun[-1]

    monkeypatch.setattr(helper, "begin", noted)
    for n in range(1, 4):
        assert (await sluis.send(ANNA, message(message_id=str(n)))).startswith("250")
        if n == 2:
            os.kill(helper.pid, signal.SIGKILL)
    assert all(made is not None for made in begun[:2])
    for content in contents(sluis):
        assert verifiers.by_dkimpy(content, RECORDS) == [True, True]
    assert len(contents(sluis)) == 4


async def test_many_copies_at_once(signing: Make) -> None:
    sluis = await signing()
    people = [f"p{n}@example.nl" for n in range(25)]
    await asyncio.gather(*(sluis.know(person, "opt-in", **OPT_IN) for person in people))
    large = message(message_id="1", text="A line of text of a usual length.  \r\n" * 9_000)
    assert (await sluis.send(people, large)).startswith("250")
    copies = contents(sluis)
    assert len(copies) == 25
    for content in copies:
        assert verifiers.by_dkimpy(content, RECORDS) == [True, True]
