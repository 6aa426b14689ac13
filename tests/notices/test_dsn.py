"""Notices of ours: read by programs as permanent for the right person, whatever the mail holds."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from flufl.bounce import all_failures
from hypothesis import given, settings
from hypothesis import strategies as st
from sisimai import by_sisimai

from policy.explain import explain
from policy.model import Decision, Reason, Verdict
from proxy.config import Stream
from proxy.message.dsn import LANGUAGES, MAX_HEADER, Failed, Returned, dsn, is_automatic
from proxy.message.header import index

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
BOUNDARY = "b0undary0b0undary0b0undary0"
BLOCK = Decision(verdict=Verdict.BLOCK, reason=Reason.SUPPRESSED, cite="GDPR 21(3)")
PLAIN = (
    b"From: a@news.acme.example\r\nSubject: News\r\nMessage-ID: <1@acme.example>\r\n\r\nsecret body"
)


def failed(address: str = "anna@example.nl", **more: Any) -> Failed:
    values: dict[str, Any] = {
        "reply": "550 5.7.1 suppressed: the recipient said no; GDPR 21(3)",
        "ref": "01J9ZV3K7Q8M4T00.1",
        "words": explain(BLOCK, at=AT),
        **more,
    }
    return Failed(address=address, **values)


def made(
    content: bytes = PLAIN, *people: Failed, envid: str = "", utf8: bool = False, **more: Any
) -> bytes:
    mail = Returned(
        mail_from="bounces@news.acme.example",
        header=index(content),
        arrived=AT,
        envid=envid,
        utf8=utf8,
    )
    return dsn(
        mail,
        people or [failed()],
        hostname="gate.acme.example",
        message_id="<n1@gate.acme.example>",
        at=AT,
        **{"boundary": BOUNDARY, **more},
    )


def parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.SMTP)
    assert message.defects == []
    return message


def parts(content: bytes) -> list[EmailMessage]:
    message = parsed(content)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    return cast("list[EmailMessage]", list(message.iter_parts()))


def permanent(content: bytes) -> tuple[set[bytes], set[bytes]]:
    temporary, hard = all_failures(email.message_from_bytes(content))
    return set(temporary), set(hard)


def test_programs_read_a_permanent_failure_for_each_recipient() -> None:
    content = made(PLAIN, failed(), failed("bram@example.nl", reply="554 5.2.2 full"))
    assert permanent(content) == (set(), {b"anna@example.nl", b"bram@example.nl"})


def test_the_fields_of_the_notice() -> None:
    message = parsed(made())
    assert message["From"].addresses[0].addr_spec == "MAILER-DAEMON@gate.acme.example"
    assert message["To"].addresses[0].addr_spec == "bounces@news.acme.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["References"] == "<1@acme.example>"
    assert message["Message-ID"] == "<n1@gate.acme.example>"
    assert message["Date"].datetime == AT
    assert is_automatic(index(made())), "no notice is ever sent about a notice"


def test_the_three_parts() -> None:
    content = made(
        PLAIN,
        failed(orcpt="rfc822;Anna+2Bx@example.nl", remote="mx.example.nl", last_attempt=AT),
        envid="order+2B1",
    )
    words, report, header = parts(content)
    text = words.get_content()
    assert "<anna@example.nl>" in text
    assert "GDPR 21(3)" in text
    assert "01J9ZV3K7Q8M4T00.1" in text
    per_message, person = cast("list[EmailMessage]", report.get_payload())
    assert dict(per_message.items()) == {
        "Original-Envelope-Id": "order+1",
        "Reporting-MTA": "dns; gate.acme.example",
        "Arrival-Date": "Tue, 24 Nov 2026 09:30:00 +0000",
    }
    assert dict(person.items()) == {
        "Original-Recipient": "rfc822; Anna+x@example.nl",
        "Final-Recipient": "rfc822; anna@example.nl",
        "Action": "failed",
        "Status": "5.7.1",
        "Remote-MTA": "dns; mx.example.nl",
        "Diagnostic-Code": "smtp; 550 5.7.1 suppressed: the recipient said no; GDPR 21(3)",
        "Last-Attempt-Date": "Tue, 24 Nov 2026 09:30:00 +0000",
    }
    assert header.get_content_type() == "text/rfc822-headers"
    assert "Subject: News" in header.get_content()
    assert b"secret body" not in content


def test_words_are_dutch_for_a_dutch_sender() -> None:
    words, _, _ = parts(made(PLAIN, failed(words=explain(BLOCK, "nl", at=AT)), language="nl"))
    assert "Uw e-mail van" in words.get_content()
    assert permanent(made(language="nl"))[1] == {b"anna@example.nl"}


def test_nobody_learns_who_else_got_it() -> None:
    content = (
        b"From: a@news.acme.example\r\nTo: bram@example.nl, anna@example.nl\r\n"
        b"Cc: cees@example.nl\r\nBcc: dirk@example.nl\r\nSluis-Campaign: spring\r\n"
        b"Resent-Bcc: e@example.nl\r\nSubject: x\r\n\r\n"
    )
    _, _, header = parts(made(content))
    assert header.get_content().splitlines()[:2] == ["From: a@news.acme.example", "Subject: x"]
    alone = content.replace(b"bram@example.nl, ", b"")
    assert "To: anna@example.nl" in parts(made(alone))[2].get_content()


def test_the_header_is_cut_at_a_field() -> None:
    content = b"".join(b"X-%d: %s\r\n" % (i, b"x" * 900) for i in range(100)) + b"\r\n"
    header = parts(made(content))[2].get_payload(decode=True)
    assert isinstance(header, bytes)
    assert 60_000 < len(header) <= MAX_HEADER
    assert header.endswith(b"x" * 900 + b"\r\n")


def test_a_header_that_was_announced_beyond_ascii_is_global() -> None:
    content = made("From: a@b.example\r\nSubject: caf\u00e9\r\n\r\n".encode(), utf8=True)
    assert b"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit" in content
    assert permanent(content)[1] == {b"anna@example.nl"}


@pytest.mark.parametrize(
    ("charset", "utf8"), [("utf-8", False), ("latin-1", False), ("latin-1", True)]
)
def test_other_octets_in_a_header_are_quoted(charset: str, utf8: bool) -> None:
    """A header that is broken returns as it came, in a notice that any upstream takes."""
    broken = "From: a@b.example\r\nSubject: caf\u00e9 = 1 \r\n".encode(charset)
    content = made(broken + b"\r\nx", utf8=utf8)
    assert content.isascii()
    returned = parts(content)[2]
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned["Content-Transfer-Encoding"] == "quoted-printable"
    assert returned.get_payload(decode=True) == broken
    assert permanent(content)[1] == {b"anna@example.nl"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_programs_read_it_in_every_language(language: str, tmp_path: Path) -> None:
    people = [
        failed(words=explain(BLOCK, language, at=AT)),
        failed("bram@example.nl", reply="552 5.2.2 mailbox full", remote="mx.example.nl"),
    ]
    content = made(PLAIN, *people, language=language)
    assert content.isascii()
    assert permanent(content) == (set(), {b"anna@example.nl", b"bram@example.nl"})
    anna, bram = by_sisimai(tmp_path, content)
    assert anna["recipient"] == "anna@example.nl"
    assert (anna["action"], anna["status"], anna["code"]) == ("failed", "5.7.1", "550")
    assert bram == {
        "recipient": "bram@example.nl",
        "action": "failed",
        "status": "5.2.2",
        "code": "552",
        "remote": "mx.example.nl",
    }


def test_each_stream_language_has_its_own_words() -> None:
    assert get_args(Stream.model_fields["lang"].annotation) == LANGUAGES
    texts = {parts(made(language=language))[0].get_content() for language in LANGUAGES}
    assert len(texts) == len(LANGUAGES)


@pytest.mark.parametrize(
    ("host", "mta"),
    [
        ("mx.example.nl", "mx.example.nl"),
        ("192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
    ],
)
def test_the_remote_mta_is_a_name_or_a_literal(host: str, mta: str) -> None:
    assert f"Remote-MTA: dns; {mta}\r\n".encode() in made(PLAIN, failed(remote=host))


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ("rfc822;Anna+2Bx@example.nl", b"rfc822; Anna+x@example.nl"),
        ("RFC822;anna@example.nl", b"rfc822; anna@example.nl"),
        ("utf-8;ren\\x{E9}@example.nl", b"utf-8; ren\\x{E9}@example.nl"),
        ("utf-8;ren\u00e9@example.nl", b"utf-8; ren\\x{E9}@example.nl"),
        ("utf-8;x\\x{D800}@", b""),
        ("utf-8;x\\x{0D}\\x{0A}y@example.nl", b""),
        ("x400;c=nl", b""),
        ("rfc822;no+20address", b""),
        ("rfc822;a+0D+0Ab@example.nl", b""),
    ],
)
def test_the_original_recipient_is_an_address_or_nothing(typed: str, field: bytes) -> None:
    content = made(PLAIN, failed(orcpt=typed))
    assert (b"Original-Recipient: " in content) is bool(field)
    assert not field or b"Original-Recipient: " + field + b"\r\n" in content


def test_an_address_beyond_ascii_is_spelt_in_ascii() -> None:
    content = made(PLAIN, failed("ren\u00e9@example.nl"))
    assert b"Final-Recipient: utf-8; ren\\x{E9}@example.nl" in content


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ("550 5.1.1 no such user", "5.1.1"),
        ("451 4.4.7 not delivered in 5d", "5.4.7"),
        ("550 no", "5.0.0"),
        ("", "5.0.0"),
    ],
)
def test_status(reply: str, status: str) -> None:
    assert failed(reply=reply).status == status


def test_a_boundary_that_occurs_is_refused() -> None:
    content = b"From: a@b.example\r\nSubject: --%s\r\n\r\n" % BOUNDARY.encode()
    with pytest.raises(ValueError, match="occurs"):
        made(content)
    with pytest.raises(ValueError, match="boundary"):
        made(boundary="x")


@pytest.mark.parametrize("mail_from", ["", "a@b.example"])
def test_nobody_is_told_of_nothing_or_at_no_address(mail_from: str) -> None:
    people = [failed()] if not mail_from else []
    with pytest.raises(ValueError, match="needs"):
        dsn(
            Returned(mail_from=mail_from, header=index(PLAIN), arrived=AT), people,
            hostname="h.example", message_id="<1@h.example>", boundary=BOUNDARY, at=AT,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "automatic"),
    [("auto-generated", True), ("auto-replied; x=y", True), ("no", False), ("No ", False)],
)
def test_automatic_mail(value: str, automatic: bool) -> None:
    assert is_automatic(index(f"Auto-Submitted: {value}\r\n\r\n".encode())) is automatic
    assert not is_automatic(index(PLAIN))


def test_a_report_is_automatic_whatever_else_it_says() -> None:
    report = b"From: a@b.example\r\nContent-Type: Multipart/Report; boundary=b\r\n\r\n"
    assert is_automatic(index(report))
    assert not is_automatic(index(report.replace(b"Report", b"Mixed")))


#: What a front door lets in: no bare line ends, no NUL, no very long lines.
HOSTILE = st.text(
    st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=150
)


@settings(max_examples=150, deadline=None)
@given(
    subject=HOSTILE,
    folded=st.lists(HOSTILE.filter(str.strip), max_size=3),
    reply=HOSTILE,
    words=HOSTILE,
    orcpt=HOSTILE.filter(lambda text: "@" not in text and "+40" not in text),
    envid=HOSTILE,
)
def test_hostile_mail_changes_nothing_of_it(
    subject: str, folded: list[str], reply: str, words: str, orcpt: str, envid: str
) -> None:
    lines = "\r\n ".join([subject, *folded])
    content = f"From: a@b.example\r\nSubject: {lines}\r\n\r\n".encode()
    person = failed(reply=reply, words=words, orcpt=f"rfc822;{orcpt}")
    notice = made(content, person, envid=envid)
    assert permanent(notice) == (set(), {b"anna@example.nl"})
    assert len(parts(notice)) == 3
    assert all(len(line) <= 998 for line in notice.split(b"\r\n"))
    assert b"\r" not in notice.replace(b"\r\n", b"")
    assert b"\n" not in notice.replace(b"\r\n", b"")
