"""Notices of ours from end to end: who is told of what, how it is signed, and who never is."""

from __future__ import annotations

import asyncio
import email
import email.policy
import smtplib
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from flufl.bounce import all_failures
from running_sluis import CLIENTS, OPT_IN, World, fields, message, until

from proxy.sink import EXTENSIONS, Received
from proxy.store.model import State

sys.path.insert(0, str(Path(__file__).parents[1] / "signing"))
import verifiers
from signing_keys import ED25519, RECORDS, RSA, pem

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

ANNA, BRAM, CEES, HANS = (f"{name}@example.nl" for name in ("anna", "bram", "cees", "hans"))
SOON = 'retry_first = "50ms"\nretry_longest = "50ms"\n'
QUEUED = f'[delivery]\nmode = "queued"\n{SOON}'
#: In the words of RFC 3461, typed as xtext, and what it stands for.
ENVID, ENVID_PLAIN = "QQ+2B1+3D", "QQ+1="
ORCPT, ORCPT_PLAIN = "rfc822;Hans+2Bold@example.nl", "Hans+old@example.nl"


def talk(port: int, recipients: dict[str, str], content: bytes, sender: str, options: str) -> str:
    """One transaction; `recipients` maps each to its RCPT parameters."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("app.acme.example")
        assert client.has_extn("dsn")
        reply = client.docmd(f"MAIL FROM:<{sender}> {options}".rstrip())
        assert reply[0] == 250, reply
        for recipient, words in recipients.items():
            reply = client.docmd(f"RCPT TO:<{recipient}> {words}".rstrip())
            assert reply[0] == 250, reply
        code, text = client.data(content)
        return f"{code} {text.decode()}"


async def ready(world: Make, **options: Any) -> World:
    """A Sluis whose upstream is known to have DSN, so that clients may say what they want."""
    w = await world(**options)
    w.sink.extensions = (*EXTENSIONS, "DSN")
    for address in (ANNA, BRAM):
        await w.know(address, "opt-in", **OPT_IN)
    reply = await w.send("first@example.nl", message("orders"), stream="orders")
    assert reply.startswith("250 ")
    await finished(w)
    w.sink.messages.clear()
    return w


async def submit(
    w: World,
    recipients: dict[str, str],
    content: bytes,
    *,
    sender: str = "bounces@news.acme.example",
    options: str = f"RET=FULL ENVID={ENVID}",
) -> str:
    return await asyncio.get_running_loop().run_in_executor(
        CLIENTS, talk, w.sluis.smtp_ports[0], recipients, content, sender, options
    )


async def finished(w: World) -> None:
    """Wait until the outbox owes nothing."""

    async def empty() -> bool:
        return not (await w.sluis.store.unfinished()).counts

    await until(empty, 40)


def notices(w: World) -> list[Received]:
    return [m for m in w.sink.messages if not m.mail_from]


def read(notice: Received) -> tuple[str, dict[str, str], list[dict[str, str]], str]:
    """Words, the fields about the mail, those about each recipient, and the returned header."""
    mail = email.message_from_bytes(notice.content, policy=email.policy.SMTP)
    assert mail.defects == []
    words, report, returned = cast("list[EmailMessage]", list(mail.iter_parts()))
    about, *people = cast("list[EmailMessage]", report.get_payload())
    header = cast("bytes", returned.get_payload(decode=True))
    return (
        words.get_content(),
        {name: str(value) for name, value in about.items()},
        [{name: str(value) for name, value in person.items()} for person in people],
        header.decode("utf-8"),
    )


async def test_a_block_at_data_is_told_as_the_client_asked(world: Make, tmp_path: Path) -> None:
    """Signed, in the sender's language, with the client's own names, and only about whom to."""
    (tmp_path / "s1.pem").write_bytes(pem(RSA))
    (tmp_path / "e1.pem").write_bytes(pem(ED25519))
    keys = "".join(
        f'[[dkim.keys]]\ndomain = "acme.example"\nselector = "{name}"\nkey_file = "{name}.pem"\n'
        for name in ("s1", "e1")
    )
    dutch = 'id = "newsletter"\nlang = "nl"'
    w = await ready(world, more=keys, edit=lambda t: t.replace('id = "newsletter"', dutch))
    content = message(message_id="asked", text="the secret body\r\n", headers=["Sluis-Campaign: c"])
    reply = await submit(
        w,
        {ANNA: "", HANS: f"NOTIFY=FAILURE,DELAY ORCPT={ORCPT}", CEES: "NOTIFY=NEVER"},
        content,
    )
    assert reply.startswith("250 2.0.0 relayed 1 of 3, 2 blocked"), reply
    await finished(w)
    [notice] = notices(w)
    assert notice.recipients == (b"bounces@news.acme.example",)
    words, about, [hans], returned = read(notice)
    assert about["Original-Envelope-Id"] == ENVID_PLAIN
    assert about["Reporting-MTA"] == "dns; gate.acme.example"
    assert hans["Original-Recipient"] == f"rfc822; {ORCPT_PLAIN}"
    assert hans["Final-Recipient"] == f"rfc822; {HANS}"
    assert (hans["Action"], hans["Status"]) == ("failed", "5.7.1")
    assert hans["Diagnostic-Code"].startswith("smtp; 550 5.7.1 no-basis")
    assert "Remote-MTA" not in hans, "no upstream was asked"
    assert "Niet bezorgd" in fields(notice.content, "Subject")[0]
    assert "Tegengehouden (no-basis)" in words
    assert "Artikel:" in words
    assert "Oplossing:" in words
    assert f"{reply.rpartition('(ref ')[2].rstrip(')')}.2" in words
    assert "Subject: News" in returned
    for hidden in (b"secret body", b"Sluis-Campaign", ANNA.encode(), CEES.encode()):
        assert hidden not in notice.content
    assert verifiers.by_dkimpy(notice.content, RECORDS) == [True, True]
    assert "d=acme.example" in fields(notice.content, "DKIM-Signature")[0]
    # A program believes the name that the client knows the recipient by.
    assert all_failures(email.message_from_bytes(notice.content))[1] == {ORCPT_PLAIN.encode()}


async def test_a_notice_leaves_out_what_upstreams_replace_or_goes_unsigned(
    world: Make, tmp_path: Path
) -> None:
    """A signature that the upstream would break, or a key that is gone, costs no notice."""
    (tmp_path / "s1.pem").write_bytes(pem(RSA))
    more = '[[dkim.keys]]\ndomain = "acme.example"\nselector = "s1"\nkey_file = "s1.pem"\n'
    upstream = 'dkim_keys = ["rsa"]\ndkim_omit = ["message-id", "date"]\n'
    w = await ready(world, more=more, upstream_more=upstream)
    assert (await submit(w, {ANNA: "", HANS: ""}, message())).startswith("250 ")
    await finished(w)
    [notice] = notices(w)
    replaced = notice.content.replace(b"Message-ID: <", b"Message-ID: <new")
    assert replaced != notice.content
    assert verifiers.by_dkimpy(replaced, RECORDS) == [True]
    w.sink.messages.clear()
    # What is signed waits for its key, so this is mail that nobody signs.
    (tmp_path / "s1.pem").write_bytes(b"no key")
    w.sink.once("RCPT", "250 2.1.5 ok", "550 5.1.1 no such user")
    orders = message("orders", message_id="two")
    sender = "bounces@orders.acme.example"
    assert (await submit(w, {ANNA: "", HANS: ""}, orders, sender=sender)).startswith("250 ")
    await finished(w)
    [notice] = notices(w)
    assert fields(notice.content, "DKIM-Signature") == []
    assert read(notice)[2][0]["Status"] == "5.1.1"


async def test_a_refusal_by_the_upstream_names_it(world: Make) -> None:
    """Of several recipients at DATA, and of queued mail later."""
    w = await ready(world, more=f"[delivery]\n{SOON}")
    w.sink.once("RCPT", "250 2.1.5 ok", "552 5.2.2 full")
    reply = await submit(w, {ANNA: "", BRAM: "NOTIFY=FAILURE"}, message(message_id="inline"))
    assert reply.startswith("250 2.0.0 relayed 1 of 2, 1 failed"), reply
    await finished(w)
    [notice] = notices(w)
    _, _, [one], _ = read(notice)
    assert one["Final-Recipient"] in {f"rfc822; {ANNA}", f"rfc822; {BRAM}"}
    assert one["Remote-MTA"] == "dns; [127.0.0.1]"
    assert one["Diagnostic-Code"] == "smtp; 552 5.2.2 full"
    assert one["Status"] == "5.2.2"
    assert "Last-Attempt-Date" in one


HERE = "dns; [127.0.0.1]"

#: How queued mail ends without being delivered: the words after RCPT, and what the notice says.
ENDS = {
    "refused": ("5.1.1", "smtp; 550 5.1.1 no such user", HERE),
    "expired": ("5.4.7", "smtp; 451 4.4.7 not delivered in time; the last answer was: 451", HERE),
    "dropped": ("5.4.0", "smtp; 550 5.4.0 given up by its operator", HERE),
    "stopped": ("5.7.1", "smtp; 550 5.7.1 suppressed", ""),
}


async def end(w: World, how: str, now: list[datetime], words: str) -> None:
    """Hand a mail in that waits in the outbox, and let it end in this way."""
    refusal = "550 5.1.1 no such user" if how == "refused" else "451 4.3.2 later"
    w.sink.once("RCPT", refusal)
    content = message(message_id="waits", text="the secret body\r\n")
    reply = await submit(w, {ANNA: f"{words} ORCPT={ORCPT}".strip()}, content)
    assert reply.startswith("250 2.0.0 queued"), reply

    async def tried() -> bool:
        [row] = await w.journal(reply)
        return row.attempts == 1 and row.state is not State.ATTEMPTING

    await until(tried)
    if how == "expired":
        now[0] += timedelta(days=6)
    elif how == "dropped":
        [row] = await w.sluis.store.outbox(ref=reply.partition("(ref ")[2][:16])
        command = ["sluis", "outbox", "drop", "--config", str(w.path), row.ref]
        ran = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / command[0], *command[1:]
        )
        assert await ran.wait() == 0
    elif how == "stopped":
        await w.know(ANNA, "objection", days=0, scope="marketing", via="one-click")
        now[0] += timedelta(hours=1)

    async def over() -> bool:
        [row] = await w.journal(reply)
        return row.state is (State.BLOCKED if how == "stopped" else State.FAILED)

    await until(over)
    now[0] += timedelta(minutes=5)
    await finished(w)


@pytest.mark.parametrize("how", ENDS)
async def test_mail_that_ends_in_the_outbox_is_told_as_the_client_asked(
    world: Make, how: str
) -> None:
    now = [datetime.now(UTC) + timedelta(hours=1)]
    w = await ready(world, more=QUEUED, clock=lambda: now[0])
    await end(w, how, now, "NOTIFY=SUCCESS,FAILURE")
    [notice] = notices(w)
    assert len(w.sink.messages) == 1
    _, about, [anna], returned = read(notice)
    assert about["Original-Envelope-Id"] == ENVID_PLAIN
    assert anna["Original-Recipient"] == f"rfc822; {ORCPT_PLAIN}"
    assert anna["Final-Recipient"] == f"rfc822; {ANNA}"
    status, diagnostic, remote = ENDS[how]
    assert anna["Status"] == status
    assert anna["Diagnostic-Code"].startswith(diagnostic)
    assert anna.get("Remote-MTA", "") == remote
    assert ("Last-Attempt-Date" in anna) is (how != "stopped")
    if how == "expired":
        last = parsedate_to_datetime(anna["Last-Attempt-Date"])
        assert now[0] - timedelta(days=7) < last < now[0] - timedelta(days=6), "not the end of it"
    assert "Subject: News" in returned
    assert b"secret body" not in notice.content, "not even with RET=FULL"


@pytest.mark.parametrize("how", ENDS)
async def test_nothing_is_told_of_whom_the_client_never_asks(world: Make, how: str) -> None:
    now = [datetime.now(UTC) + timedelta(hours=1)]
    w = await ready(world, more=QUEUED, clock=lambda: now[0])
    await end(w, how, now, "NOTIFY=NEVER")
    assert w.sink.messages == []


SILENT = {
    "null sender": ("", []),
    "automatic": ("bounces@news.acme.example", ["Auto-Submitted: auto-generated"]),
    "a report": (
        "bounces@orders.acme.example",
        ["Content-Type: multipart/report; report-type=delivery-status; boundary=b"],
    ),
    "a stranger's domain": ("someone@elsewhere.example", ["Sluis-Stream: newsletter"]),
}


@pytest.mark.parametrize("case", SILENT)
async def test_no_notice_answers_a_machine_or_a_stranger(world: Make, case: str) -> None:
    """Blocked at DATA, and refused by the upstream later: recorded, and nobody is written to."""
    sender, more = SILENT[case]
    stream = "newsletter" if "news" in f"{sender}{more}" else "orders"
    w = await ready(world, more=f"[delivery]\nmode = \"queued\"\n{SOON}")
    w.sink.once("RCPT", "550 5.1.1 no such user")
    recipients = {ANNA: "", HANS: ""} if stream == "newsletter" else {ANNA: ""}
    content = message(stream, headers=more or ["Auto-Submitted: auto-replied"])
    reply = await submit(w, recipients, content, sender=sender, options="")
    assert reply.startswith("250 "), reply
    await finished(w)
    states = [row.state for row in await w.journal(reply)]
    assert states == [State.FAILED, State.BLOCKED][: len(recipients)]
    assert w.sink.messages == []
