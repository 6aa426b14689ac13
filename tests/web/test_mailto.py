"""Tokens in the subject of an opt-out mail."""

from __future__ import annotations

from email.header import Header
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import TokenError
from proxy.feedback.mailto import tokens_in
from proxy.keys import Keys, load_keys
from proxy.tokens import OptOut, open_, seal

pytest_plugins = ("web_site",)

T = "k1.AbCd_-0123456789AbCd_-0123456789AbCd_-0123456789Z"


def mail(subject: bytes, *, more: bytes = b"") -> bytes:
    return b"From: Anna <anna@example.nl>\r\n" + subject + b"\r\n" + more + b"\r\nSubject: no\r\n"


@pytest.mark.parametrize(
    "subject",
    [
        f"Subject: unsubscribe {T}",
        f"subject:unsubscribe {T}",
        f"SUBJECT : Unsubscribe  {T} ",
        f"Subject: UNSUBSCRIBE\t{T}",
        f"Subject: Re: unsubscribe {T}",
        f"Subject: unsubscribe:{T}",
        f"Subject: unsubscribe%20{T}",
        f"Subject: unsubscribe+{T}",
        f"Subject: unsubscribe\r\n {T}",
        f"Subject:\r\n\tunsubscribe {T}",
        f"Subject: unsubscribe {T} (sent from my phone)",
        f"Subject: =?utf-8?Q?unsubscribe_{T.replace('_', '=5F')}?=",
        "Subject: " + Header(f"unsubscribe {T}", "utf-8").encode(linesep="\r\n"),
        f"Subject: =?utf-8?B?dW5zdWJzY3JpYmUg?= {T}",
        f"Subject: =?no-such-charset?Q?unsubscribe?= {T}",
        f"Subject: =?zip?Q?unsubscribe?= {T}",
    ],
)
def test_found(subject: str) -> None:
    assert tokens_in(mail(subject.encode()))[0] == T


@pytest.mark.parametrize(
    "subject",
    [
        "Subject: hello",
        "Subject:",
        "Subject: unsubscribe",
        "Subject: unsubscribe me please",
        f"Subject: {T}",
        f"X-Subject: unsubscribe {T}",
        f"Subject: hello\r\nX-Other: unsubscribe {T}",
        f"Subject: hello\r\nX-Other: a\r\n unsubscribe {T}",
        f"Subject: unsubscribe X{T}",
        "Subject: =?utf-8?B?!!!!?=",
        "",
    ],
)
def test_nothing_found(subject: str) -> None:
    assert tokens_in(mail(subject.encode())) == []


def test_only_the_header_counts_and_no_more_than_64_kib_of_it() -> None:
    assert tokens_in(b"From: a@example.nl\r\n\r\nSubject: unsubscribe " + T.encode()) == []
    long = b"X-Long: " + b"x" * 65536 + b"\r\n"
    assert tokens_in(long + b"Subject: unsubscribe " + T.encode() + b"\r\n") == []
    assert tokens_in(b"Subject: unsubscribe " + T.encode()) == [T]


def test_a_token_broken_by_folding_is_put_together() -> None:
    found = tokens_in(mail(f"Subject: unsubscribe {T[:20]}\r\n {T[20:]}".encode()))
    assert found == [T[:20], T]


def test_several_tokens_once_each_and_at_most_ten() -> None:
    many = b"".join(b"Subject: unsubscribe k1.%d\r\n" % n for n in range(30))
    assert tokens_in(many) == [f"k1.{n}" for n in range(10)]
    both = f"Subject: unsubscribe {T}, unsubscribe {T}".encode()
    assert tokens_in(mail(both)) == [T]


@given(st.binary(max_size=400))
def test_it_never_raises(content: bytes) -> None:
    assert isinstance(tokens_in(content), list)
    assert isinstance(tokens_in(b"Subject: unsubscribe " + content), list)
    assert isinstance(tokens_in(b"Subject: =?utf-8?" + content + b"?="), list)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return load_keys(Path(tmp_path_factory.mktemp("keys")) / "keys", create=True)


@given(st.from_regex(r"[a-z]{1,60}", fullmatch=True), st.booleans())
def test_a_mail_as_pythons_email_package_writes_it(keys: Keys, local: str, encoded: bool) -> None:
    optout = OptOut("acme", "newsletter", f"{local}@example.nl", "01J9ZV3K7Q8M4T.1")
    message = EmailMessage()
    message["Subject"] = f"unsubscribe {seal(keys, optout)}" + (" \N{EURO SIGN}" if encoded else "")
    message.set_content("Afmelden, graag.")
    opened = []
    for token in tokens_in(message.as_bytes()):
        try:
            opened.append(open_(keys, token))
        except TokenError:
            continue
    assert opened == [optout]
