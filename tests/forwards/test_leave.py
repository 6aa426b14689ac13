"""What a mailto asks to be sent, and the mail that is made of it."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policy.address import parse
from proxy.message.leave import Asked, asked_by, leave

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("uri", "to", "subject", "body"),
    [
        ("mailto:leave@esp.example", "leave@esp.example", "unsubscribe", "unsubscribe"),
        ("MAILTO:leave@ESP.example?SUBJECT=x", "leave@esp.example", "x", "unsubscribe"),
        ("mailto:l+a@esp.example?subject=a%20b&body=c%2Bd", "l+a@esp.example", "a b", "c+d"),
        ("mailto:l%2Ba@esp.example?subject=a+b", "l+a@esp.example", "a+b", "unsubscribe"),
        ("mailto:l@esp.example?body=a%0D%0Ab%0Ac", "l@esp.example", "unsubscribe", "a\r\nb\r\nc"),
        ("mailto:l@esp.example?subject=%C3%A9", "l@esp.example", "\u00e9", "unsubscribe"),
        ("mailto:l@esp.example?subject=1&subject=2", "l@esp.example", "1", "unsubscribe"),
        ("mailto:l@esp.example?subject=", "l@esp.example", "unsubscribe", "unsubscribe"),
        ("mailto:l@esp.example?subject=s#f", "l@esp.example", "s", "unsubscribe"),
        ("mailto:l@esp.example?&&=&subject=s&", "l@esp.example", "s", "unsubscribe"),
    ],
)
def test_what_it_asks(uri: str, to: str, subject: str, body: str) -> None:
    assert asked_by(uri) == Asked(parse(to), subject, body)


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "from", "reply-to", "sender", "x-spam"])
def test_no_other_field_is_written(field: str) -> None:
    asked = asked_by(f"mailto:l@esp.example?{field}=other@victim.example&subject=s")
    assert asked == Asked(parse("l@esp.example"), "s", "unsubscribe")
    assert b"victim" not in leave(asked, hostname="gate.example", message_id="<1@x>", at=AT)


@pytest.mark.parametrize(
    "uri",
    [
        "https://esp.example/", "mailto:", "mailto:?to=a@esp.example", "mailto:nobody",
        "mailto:a@esp.example,b@esp.example", "mailto:a@esp.example%2Cb@esp.example",
        "mailto:a@esp.example?subject=x%0D%0ABcc:%20b@victim.example",
        "mailto:a@esp.example?subject=x%0Ay", "mailto:a@esp.example?subject=x%00",
        "mailto:a@esp.example?body=x%00", "mailto:a%0D%0Ab@esp.example",
        "mailto:a@esp.example?subject=%FF", "mailto:a@esp.example?subject=%zz",
        "mailto:a@esp.example?subject=50%", "mailto:%3Ca@esp.example%3E",
        "mailto:Anna%20%3Ca@esp.example%3E", "mailto:\u00e9@esp.example",
    ],
)  # fmt: skip
def test_what_is_not_sent(uri: str) -> None:
    assert asked_by(uri) is None


def test_the_mail_byte_by_byte() -> None:
    asked = asked_by("mailto:leave@esp.example?subject=leave%20k7.AbC-9&body=list%3Dshoes")
    assert asked is not None
    made = leave(asked, hostname="gate.acme.example", message_id="<R@gate.acme.example>", at=AT)
    assert made == (
        b"Date: Tue, 24 Nov 2026 09:00:00 +0000\r\n"
        b"From: <postmaster@gate.acme.example>\r\n"
        b"To: <leave@esp.example>\r\n"
        b"Subject: leave k7.AbC-9\r\n"
        b"Message-ID: <R@gate.acme.example>\r\n"
        b"Auto-Submitted: auto-generated\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"list=shoes\r\n"
    )


SAID = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029"),
    max_size=120,
)


@given(SAID, st.lists(SAID, max_size=4))
def test_what_it_asks_arrives(subject: str, lines: list[str]) -> None:
    body = "\r\n".join(lines)
    asked = asked_by(f"mailto:l@esp.example?subject={quote(subject)}&body={quote(body)}")
    assert asked is not None
    made = leave(asked, hostname="gate.example", message_id="<1@gate.example>", at=AT)
    assert made.isascii()
    assert all(len(line) <= 998 for line in made.split(b"\r\n"))
    read = message_from_bytes(made, policy=policy.SMTP)
    assume("=?" not in subject)
    wanted = subject.strip()
    got = str(read["Subject"]).strip()
    if subject.isascii():
        wanted, got = " ".join(wanted.split()), " ".join(got.split())
    assert got == (wanted or "unsubscribe")
    text = read.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert text.decode() == (body or "unsubscribe") + "\r\n"


@given(st.text(max_size=100))
def test_no_text_raises(text: str) -> None:
    asked_by(text)
    asked = asked_by(f"mailto:a@esp.example?subject={text}")
    if asked is not None:
        assert leave(asked, hostname="g.example", message_id="<1@g.example>", at=AT).isascii()
