"""Signatures that come in: which verify, and what becomes of an edit that would break one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import dkim
import pytest
import verifiers
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import ED25519, RSA, pem, record, sign
from test_resign import ANNA, BASE, BODY, ESP, aligned, by, by_esp, copy, planned

from proxy.dkim_keys import Records
from proxy.message.dkim import DKIM, signatures
from proxy.message.header import Field, body_of, index
from proxy.message.verify import MOST, Verdict, failed, verdict

NAME = "x._domainkey.esp.example"
CONTENT = BASE + b"\r\n" + BODY


def lookup(records: dict[str, str]) -> Callable[[str, str], str | None]:
    return lambda selector, domain: records.get(f"{selector}._domainkey.{domain}")


def first(content: bytes, records: dict[str, str]) -> Verdict:
    """That on the topmost signature."""
    header = index(content)
    found = signatures(header)[0]
    return verdict(header, found, body_of(content, header), lookup(records))


def by_other(content: bytes, **how: object) -> bytes:
    """Signed by dkimpy, with the given options."""
    options = {"canonicalize": (b"relaxed", b"relaxed"), **how}
    return bytes(dkim.sign(content, b"x", b"esp.example", pem(RSA), **options)) + content


@pytest.mark.parametrize("head", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body", [b"simple", b"relaxed"])
@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize(
    "text",
    [b"", b"\r\n", b"Hello\r\n", b"a  b\t c \r\n\r\n \r\n\r\n", b"no end of line", b" \r\n"],
)
def test_what_others_sign_holds_in_every_canonical_form(
    head: bytes, body: bytes, length: bool, text: bytes
) -> None:
    fields = BASE.replace(b"Subject: Spring", b"Subject:  Spring\r\n\t is   here ")
    content = by_other(fields + b"\r\n" + text, canonicalize=(head, body), length=length)
    assert first(content, ESP) is Verdict.HOLDS
    assert first(content.replace(b"is   here", b"was   here"), ESP) is Verdict.FAILS
    assert first(content.replace(b"From: Acme", b"From: Acm3"), ESP) is Verdict.FAILS
    more = content + b"More\r\n"
    assert first(more, ESP) is (Verdict.HOLDS if _dkimpy(more, ESP) else Verdict.FAILS)


def _dkimpy(content: bytes, records: dict[str, str]) -> bool:
    return verifiers.by_dkimpy(content, records)[0]


def test_our_own_signatures_hold() -> None:
    content = sign(CONTENT)
    assert failed(index(content), BODY, lookup(ESP)) == frozenset()
    header = index(content)
    found = [verdict(header, s, BODY, lookup(ESP)) for s in signatures(header)]
    assert found == [Verdict.HOLDS, Verdict.HOLDS]


OTHER = record(rsa.generate_private_key(65537, 2048))
_KEY = record(RSA).partition("p=")[2]
_PKCS1 = base64.b64encode(
    RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
).decode()


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (None, Verdict.UNKNOWN),
        (record(RSA), Verdict.HOLDS),
        (f"p={_KEY}", Verdict.HOLDS),
        (f"v=DKIM1; p={_PKCS1}", Verdict.HOLDS),
        (f'{NAME}. IN TXT ( "v=DKIM1; k=rsa; p={_KEY[:99]}" "{_KEY[99:]}" )', Verdict.HOLDS),
        (f"v=DKIM1; h=sha1:sha256; s=*; t=y; p={_KEY}", Verdict.HOLDS),
        (OTHER, Verdict.FAILS),
        ("v=DKIM1; p=", Verdict.FAILS),
        (f"v=DKIM1; k=ed25519; p={_KEY}", Verdict.FAILS),
        (f"v=DKIM2; p={_KEY}", Verdict.FAILS),
        (f"h=sha1; p={_KEY}", Verdict.FAILS),
        (f"s=tlsrpt; p={_KEY}", Verdict.FAILS),
        (record(ED25519).replace("k=ed25519", "k=rsa"), Verdict.UNKNOWN),
        ("p=!!!", Verdict.UNKNOWN),
        ("", Verdict.UNKNOWN),
        ("v=DKIM1", Verdict.UNKNOWN),
        ("no record at all", Verdict.UNKNOWN),
        (
            record(rsa.generate_private_key(65537, 1024)),
            Verdict.FAILS,
        ),
    ],
    ids=[f"record{n}" for n in range(18)],  # keys are new each run, names are not
)
def test_by_the_record(published: str | None, expected: Verdict) -> None:
    records = {} if published is None else {NAME: published}
    assert first(by_esp(b""), records) is expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"v=1;", b"v=2;", Verdict.FAILS),
        (b"a=rsa-sha256;", b"a=rsa-sha1;", Verdict.FAILS),
        (b"a=rsa-sha256;", b"a=ed25519-sha256;", Verdict.FAILS),
        (b"a=rsa-sha256;", b"a=other-sha256;", Verdict.UNKNOWN),
        (b"a=rsa-sha256;", b"a=rsa-sha512;", Verdict.UNKNOWN),
        (b"c=relaxed/relaxed;", b"c=other;", Verdict.FAILS),
        (b"c=relaxed/relaxed;", b"c=relaxed/relaxed/simple;", Verdict.FAILS),
        (b"d=esp.example;", b"d=other.example;", Verdict.UNKNOWN),
        (b"d=esp.example;", b"d=esp;", Verdict.FAILS),
        (b"s=x;", b"s=../x;", Verdict.UNKNOWN),
        (b"bh=", b"bh=x", Verdict.FAILS),
        (b"v=1;", b"v=1; l=99;", Verdict.FAILS),
        (b"v=1;", b"v=1; l=-1;", Verdict.FAILS),
        (b"i=@esp.example;", b"i=a@evil.example;", Verdict.FAILS),
        (b"v=1;", b"v=1; b=x;", Verdict.FAILS),
        (b"h=from", b"h=x-from", Verdict.FAILS),
        (b"h=from", b"h=from" + b" : x" * 200, Verdict.UNKNOWN),
    ],
)
def test_by_the_signature(old: bytes, new: bytes, expected: Verdict) -> None:
    content = by_other(CONTENT)
    assert old in content
    assert first(content.replace(old, new, 1), ESP) is expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([b"To", b"Cc", b"Subject", b"X-A", b"Received"]), max_size=6),
    st.lists(st.sampled_from([b"from", b"to", b"subject", b"x-a", b"received", b"cc"]), max_size=8),
    st.sampled_from([b"simple", b"relaxed"]),
    st.sampled_from([b"simple", b"relaxed"]),
    st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r\n"]), max_size=8).map(b"".join),
    st.booleans(),
    st.sampled_from([None, b"To", b"X-A", b"Subject"]),
)
def test_equal_to_dkimpy(
    fields: list[bytes],
    names: list[bytes],
    head: bytes,
    body: bytes,
    text: bytes,
    empty: bool,
    added: bytes | None,
) -> None:
    text = b"" if empty else text + b"\r\n"  # SMTP knows no other
    raw = b"From: a@esp.example\r\n" + b"".join(
        name + b":  v%d \r\n\t w\r\n" % n for n, name in enumerate(fields)
    )
    mail = dkim.DKIM(raw + b"\r\n" + text)
    mail.should_not_sign = set()
    made = mail.sign(
        b"x", b"esp.example", pem(RSA), canonicalize=(head, body), include_headers=[b"from", *names]
    )
    content = bytes(made) + raw + b"\r\n" + text
    if added is not None:
        content = added + b": more\r\n" + content
    theirs = _dkimpy(content, ESP)
    assert first(content, ESP) is (Verdict.HOLDS if theirs else Verdict.FAILS)


def test_only_so_many_are_looked_at() -> None:
    asked = 0

    def find(selector: str, domain: str) -> str | None:
        nonlocal asked
        asked += 1
        return OTHER

    one = by_esp(b"").partition(b"From:")[0]
    content = one * (MOST + 5) + CONTENT
    header = index(content)
    assert failed(header, BODY, find) == frozenset(header.named(DKIM)[:MOST])
    assert asked == MOST


# -- what becomes of an edit ----------------------------------------------------------------------

LIST = b"List-Unsubscribe: <https://esp.example/u>\r\n"


def fields_failed(content: bytes, records: dict[str, str]) -> frozenset[Field]:
    header = index(content)
    return failed(header, body_of(content, header), lookup(records))


@pytest.mark.parametrize("body_edited", [False, True], ids=["header", "footer"])
@pytest.mark.parametrize("keys", [False, True], ids=["no key", "key"])
@pytest.mark.parametrize(
    ("published", "holds"), [(record(RSA), True), (OTHER, False), (None, True)]
)
def test_a_covered_field_is_replaced_where_the_signature_fails(
    published: str | None, holds: bool, keys: bool, body_edited: bool
) -> None:
    content = by_esp(LIST)
    records = {} if published is None else {NAME: published}
    own = aligned() if keys else None
    made = planned(content, own, body_edited=body_edited, failed=fields_failed(content, records))
    if holds and not keys:
        assert "dkim-covered d=esp.example" in str(made.refusal(ANNA))
        return
    assert made.refusal(ANNA) is None
    if holds:
        assert made.marks == ("resigned: esp.example",)
    else:
        marks = ("failed_signature: esp.example",)
        assert made.marks == (marks if keys else (*marks, "one_click_unsigned"))
    out = copy(content, made)
    assert b"d=esp.example" not in out
    assert verifiers.by_dkimpy(out, ESP) == ([True, True] if keys else [])


def test_a_valid_signature_is_refused_for_beside_one_that_fails() -> None:
    content = by(b"bad.example", by_esp(LIST), [b"from"])
    bad = {"x._domainkey.bad.example": OTHER, **ESP}
    made = planned(content, None, failed=fields_failed(content, bad))
    assert "dkim-covered d=esp.example" in str(made.refusal(ANNA))


def test_a_failing_one_stays_where_a_valid_one_covers_it() -> None:
    bad = by(b"bad.example", CONTENT, [b"from"])
    content = by(b"esp.example", bad, [b"from", b"dkim-signature"])
    records = {"x._domainkey.bad.example": OTHER, **ESP}
    assert fields_failed(content, records) == {index(content).named(DKIM)[1]}
    made = planned(content, None, failed=fields_failed(content, records))
    assert made.refusal(ANNA) is None
    out = copy(content, made)
    assert b"d=bad.example" in out
    assert verifiers.by_dkimpy(out, ESP)[0]


def test_a_failing_one_forbids_no_field() -> None:
    fields = BASE.replace(b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\n", b"") + b"\r\n" + BODY
    content = by(b"esp.example", fields, [b"from", b"date"])
    wrong = {NAME: OTHER}
    assert b"\r\nDate:" not in copy(content, planned(content, None))
    made = planned(content, None, failed=fields_failed(content, wrong))
    assert b"\r\nDate:" in copy(content, made)


def test_mail_without_an_edit_keeps_one_that_fails() -> None:
    content = by_esp(b"")
    made = planned(content, None, marketing=False, failed=fields_failed(content, {NAME: OTHER}))
    assert made.marks == ()
    assert copy(content, made).endswith(content)


def test_records_are_read_from_files_as_they_are_now(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.find("x", "esp.example") is None
    (tmp_path / NAME).write_text(f"{record(RSA)}\n")
    assert first(by_esp(b""), {NAME: records.find("x", "esp.example") or ""}) is Verdict.HOLDS
    (tmp_path / NAME).write_text(OTHER)
    assert records.find("x", "esp.example") == OTHER
    outside = tmp_path.parent / "y._domainkey.esp.example"
    outside.write_text("p=")
    for selector in ("../y", "/etc/passwd", "..", "", "x/../../y"):
        assert records.find(selector, "esp.example") is None
    (tmp_path / "z._domainkey.esp.example").mkdir()
    assert records.find("z", "esp.example") is None
