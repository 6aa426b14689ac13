"""The header index: every row of the table in `docs/message.md`, bounds, and splicing."""

from __future__ import annotations

import contextlib

import pytest
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from proxy.message.header import (
    Fault,
    Header,
    HeaderMalformed,
    HeaderRefused,
    HeaderTooLarge,
    body_of,
    check_marketing,
    check_utf8,
    from_domain,
    index,
    message_id,
    splice,
)

GOOD = b"From: Acme <news@acme.example>\r\nTo: anna@example.nl\r\nSubject: Hi\r\n\r\nBody\r\n"


def _joined(content: bytes, header: Header) -> bytes:
    return b"".join(splice(header)) + bytes(body_of(content, header))


def test_fields_have_names_offsets_and_unfolded_values() -> None:
    content = b"Subject: one\r\n two\r\nX-A:b\r\nsubject : three\r\n\r\nbody"
    header = index(content)
    assert [f.name for f in header.fields] == [b"subject", b"x-a", b"subject"]
    assert header.values(b"subject") == [b"one two", b"three"]
    assert header.first(b"x-a") == b"b"
    assert header.first(b"x-b") is None
    assert content[header.fields[0].start : header.fields[0].end] == b"Subject: one\r\n two\r\n"
    assert bytes(body_of(content, header)) == b"body"
    assert header.complete
    assert header.problems == ()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"\r\nbody\r\n", 1),
        (b" Subject: x\r\n\r\nbody\r\n", 1),
        (b"\tx\r\nSubject: x\r\n\r\n", 1),
        (b"hello world\r\n", 1),
        (b": no name\r\n\r\n", 1),
        (b"From me Mon Nov 24\r\n\r\nbody\r\n", 2),
        (b"From me Mon Nov 24\r\n folded\r\nSubject: x\r\n\r\n", 2),
        (b"From me Mon Nov 24", 1),
    ],
)
def test_no_header_at_all_is_refused_for_all_mail(content: bytes, line: int) -> None:
    with pytest.raises(HeaderMalformed) as caught:
        index(content)
    assert str(caught.value.reply) == f"554 5.6.0 header-malformed line {line}"


def test_several_from_are_refused_for_all_mail() -> None:
    with pytest.raises(HeaderRefused) as caught:
        index(b"From: a@acme.example\r\nfrom : b@acme.example\r\n\r\n")
    assert str(caught.value.reply) == "554 5.6.0 header-duplicate From"


def test_a_line_that_is_no_field_ends_the_block() -> None:
    content = b"From: a@acme.example\r\nSubject: x\r\njunk line\r\nTo: b@example.nl\r\n\r\nbody\r\n"
    header = index(content)
    assert [(p.line, p.fault) for p in header.problems] == [(3, Fault.NOT_A_FIELD)]
    assert not header.complete
    assert bytes(body_of(content, header)).startswith(b"junk line\r\n")
    assert _joined(content, header) == content
    refusal = check_marketing(header)
    assert str(refusal) == "554 5.6.0 header-malformed line 3"


def test_header_without_body_or_blank_line() -> None:
    content = b"From: a@acme.example\r\nSubject: x\r\n"
    header = index(content)
    assert (header.complete, header.problems, header.end) == (False, (), len(content))
    assert check_marketing(header) is None
    assert _joined(content, header) == content


@pytest.mark.parametrize("line", [b"From me Mon Nov 24\r\n", b">From me Mon: Nov 24\r\n"])
def test_mbox_line_is_dropped(line: bytes) -> None:
    header = index(line + GOOD)
    assert header.mbox_line
    assert check_marketing(header) is None
    assert _joined(line + GOOD, header) == GOOD


def test_from_with_a_space_before_the_colon_is_a_field() -> None:
    header = index(b"From : a@acme.example\r\n\r\n")
    assert not header.mbox_line
    assert from_domain(header) == "acme.example"


def test_blank_continuation_is_refused_for_marketing_only() -> None:
    content = b"From: a@acme.example\r\nSubject: x\r\n \t\r\n y\r\n\r\nbody\r\n"
    header = index(content)
    assert str(check_marketing(header)) == "554 5.6.0 header-malformed line 3"
    assert _joined(content, header) == content
    assert header.fields[-1].end == header.fields_end


@pytest.mark.parametrize(
    "name",
    [
        *("To", "Cc", "Subject", "Date", "Message-ID", "Sender", "Reply-To"),
        *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    ],
)
def test_singletons(name: str) -> None:
    value = b": a@acme.example\r\n"
    one = b"From: a@acme.example\r\n" + name.encode() + value
    two = one + name.upper().encode() + b" " + value
    assert check_marketing(index(one + b"\r\n")) is None
    assert str(check_marketing(index(two + b"\r\n"))) == f"554 5.6.0 header-duplicate {name}"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Acme",
        b"a@acme.example, b@acme.example",
        b"a@acme.example b@acme.example",
        b"Acme a@acme.example",
        b"undisclosed-recipients:;",
        b"Team: a@acme.example;",
        b"<a@acme.example>b@evil.example",
        b"a@acme.example(<b@evil.example>)",
        b"a@acme.example <b@evil.example>",
        b"<a@acme.example> <b@evil.example>",
        b"<<a@acme.example>>",
        b"<@evil.example:a@acme.example>",
        b"< a@acme.example>",
        b"<a@acme.example",
        b'"Acme <a@acme.example>',
        b"Acme (x <a@acme.example>",
        b"Acme \\ <a@acme.example>",
        b"Acme, Inc <a@acme.example>",
        b"a@acme.example\x00",
        b"a@b@acme.example",
        b"root@localhost",
        b"a@[192.0.2.1]",
        b"=?utf-8?q?a=40acme.example?=",
        b"(" * 30 + b"x" + b")" * 30 + b" a@acme.example",
    ],
)
def test_from_that_readers_may_see_differently(value: bytes) -> None:
    header = index(b"From: " + value + b"\r\n\r\n")
    refusal = check_marketing(header)
    assert refusal is not None
    assert str(refusal).startswith("554 5.6.0 header-from ")
    assert b"acme.example" not in str(refusal).encode()
    assert from_domain(header) is None


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b"a@acme.example", "acme.example"),
        (b"<a@ACME.example>", "acme.example"),
        (b"Acme Shoes <a@acme.example>", "acme.example"),
        (b'"Acme, B.V. <x@y>" <a@acme.example>', "acme.example"),
        (b"Acme B.V. (the shop) <a@acme.example>", "acme.example"),
        (b"a@acme.example (Acme)", "acme.example"),
        (b"=?utf-8?q?Sch=C3=B6n?=\r\n <a@acme.example> ", "acme.example"),
        ("Schön <a@schön.example>".encode(), "xn--schn-7qa.example"),
        (b'"a b"@acme.example', "acme.example"),
        (b"(((nested)))  a@acme.example", "acme.example"),
    ],
)
def test_from_with_one_author(value: bytes, domain: str) -> None:
    header = index(b"From: " + value + b"\r\n\r\n")
    assert check_marketing(header) is None
    assert from_domain(header) == domain


def test_from_missing() -> None:
    assert str(check_marketing(index(b"Subject: x\r\n\r\n"))) == "554 5.6.0 header-from missing"


@pytest.mark.parametrize("name", ["To", "Cc", "Resent-To", "Resent-Cc"])
@pytest.mark.parametrize(
    "value", [b"(((a@x", b'"a@x', b"a@x (b", b"<a@x", b"a@x \\", b"a)b@x", b"[a@x", b"(a(b)c@x"]
)
def test_unclosed_quote_or_comment(name: str, value: bytes) -> None:
    header = index(b"From: a@acme.example\r\n" + name.encode() + b": " + value + b"\r\n\r\n")
    assert str(check_marketing(header)).startswith(f"554 5.6.0 header-malformed {name}: unclosed")


def test_8bit_header_passes_unless_the_stream_refuses_it() -> None:
    header = index("From: a@acme.example\r\nSubject: Schön\r\n\r\n".encode("latin-1"))
    assert check_marketing(header) is None
    assert str(check_marketing(header, refuse_8bit=True)).startswith("554 5.6.7 ")
    assert str(check_utf8(header)) == "554 5.6.0 header-malformed line 2: not UTF-8"
    assert check_utf8(index("Subject: Schön\r\n\r\n".encode())) is None


def test_message_id() -> None:
    assert message_id(index(b"Message-ID: <a@b>\r\n\r\n")) == "<a@b>"
    assert message_id(index(b"Message-ID:\r\n\r\n")) == ""
    assert message_id(index(b"Subject: x\r\n\r\n")) == ""
    assert len(message_id(index(b"Message-ID: " + b"x" * 5_000 + b"\r\n\r\n"))) == 998


@pytest.mark.parametrize(
    "content",
    [
        b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"X: a" + b"\r\n a" * 200_000 + b"\r\n\r\n",
        b"X: a\r\n" * 100_000 + b"\r\n",
        b"X: a\r\n" * 1_001 + b"\r\n",
        b"X: a\r\n" + b"y" * 300_000,
    ],
    ids=["one field", "folded", "many fields", "1001 fields", "endless line"],
)
def test_over_a_bound(content: bytes) -> None:
    with pytest.raises(HeaderTooLarge) as caught:
        index(content)
    assert str(caught.value.reply) == "552 5.3.4 header-too-large"

    def read(text: bytes) -> None:
        with contextlib.suppress(HeaderTooLarge):
            index(text, max_bytes=1 << 30, max_fields=1 << 30)

    assert_linear(read, content)


def test_exactly_at_the_bounds() -> None:
    assert len(index(b"X: a\r\n" * 1_000 + b"\r\n").fields) == 1_000
    content = b"X: " + b"a" * (262_144 - 6) + b"\r\n\r\n" + b"body"
    header = index(content)
    assert header.fields_end == 262_143
    assert bytes(body_of(content, header)) == b"body"


_names = st.sampled_from([b"From", b"To", b"X-A", b"Subject", b"Bcc", b"Sluis-Stream", b"x :y"])
_values = st.lists(
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), min_size=1, max_size=20),
    min_size=1,
    max_size=3,
).map(lambda lines: b"\r\n ".join(line.encode("latin-1") for line in lines))
_blocks = st.lists(st.tuples(_names, _values), min_size=1, max_size=12).map(
    lambda fields: b"".join(n + b": " + v + b"\r\n" for n, v in fields)
)


@given(st.one_of(_blocks, st.binary(max_size=300)), st.binary(max_size=100), st.booleans())
def test_index_covers_every_octet_and_splice_changes_none(
    block: bytes, body: bytes, blank: bool
) -> None:
    content = block + (b"\r\n" if blank else b"") + body
    try:
        header = index(content)
    except HeaderRefused:
        return
    at = header.start
    for field in header.fields:
        assert field.start == at
        assert field.start < field.value_start <= field.end
        at = field.end
    assert at == header.fields_end
    assert header.end == header.fields_end + 2 * header.complete
    assert header.raw == content[: header.end]
    assert content[: header.start] + _joined(content, header) == content


@given(_blocks, st.data())
def test_what_is_removed_is_gone_and_the_rest_keeps_its_bytes(
    block: bytes, data: st.DataObject
) -> None:
    content = block + b"\r\nbody\r\n"
    try:
        header = index(content)
    except HeaderRefused:
        return
    gone = data.draw(st.sets(st.sampled_from(header.fields)))
    new = b"X-Ours: 1\r\n"
    spliced = b"".join(splice(header, remove=gone, add=[new]))
    kept = [header.raw[f.start : f.end] for f in header.fields if f not in gone]
    assert spliced == new + b"".join(kept) + b"\r\n"
    if kept:
        again = index(spliced)
        assert b"".join(splice(again)) == spliced
