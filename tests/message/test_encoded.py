"""Encoded words both ways, and which charsets reach a codec."""

from __future__ import annotations

import codecs
import re
from email.header import decode_header, make_header

import pytest
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from proxy.feedback.mailto import tokens_in
from proxy.message.encoded import codec, decode, phrase

CHARSETS = [
    *("us-ascii", "UTF-8", "utf8", "utf-16", "utf-16le", "utf-32be", "latin-1", "latin1"),
    *(f"iso-8859-{n}" for n in range(1, 17) if n != 12),
    *(f"windows-125{n}" for n in range(9)),
    *("cp1252", "windows-874", "koi8-r", "koi8-u", "gb2312", "gbk", "gb18030", "big5"),
    *("big5-hkscs", "euc-jp", "euc-kr", "shift_jis", "ks_c_5601-1987", "ks_c_5601", "tis-620"),
    *("iso-2022-jp", "iso-2022-kr", "macintosh"),
]


@pytest.mark.parametrize("charset", CHARSETS)
def test_known_charsets_have_a_codec(charset: str) -> None:
    name = codec(charset)
    assert name is not None
    assert codecs.lookup(name)._is_text_encoding


@pytest.mark.parametrize(
    "charset", ["", "zip", "bz2", "hex", "rot13", "punycode", "idna", "utf-7", "unicode_escape"]
)
def test_others_have_none(charset: str) -> None:
    assert codec(charset) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?q?Sch=C3=B6n_en?= x", "Schön en x"),
        (b"=?UTF-8?B?U2Now7Zu?=", "Schön"),
        (b"=?utf-8?b?U2Now7Zu?=\r\n =?utf-8?q?er?=", "Schöner"),
        (b"=?utf-8*nl?q?a?= b", "a b"),
        (b"=?utf-8?b?U2Now7Zu", "=?utf-8?b?U2Now7Zu"),
        (b"=?zip?b?U2Now7Zu?=", "=?zip?b?U2Now7Zu?="),
        (b"=?utf-8?b?!?=", ""),
        (b"=?utf-8?b?A?=", "=?utf-8?b?A?="),
        ("Schön".encode(), "Schön"),
        ("Schön".encode("latin-1"), "Schön"),
    ],
)
def test_decode(value: bytes, text: str) -> None:
    assert decode(value) == text


@given(st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1))
def test_a_phrase_reads_back(text: str) -> None:
    words = phrase(text)
    assert all((word.isascii() and len(word) <= 75) or word.startswith('"') for word in words)
    written = " ".join(words)
    if written.startswith('"'):
        assert re.sub(r"\\(.)", r"\1", written[1:-1]) == text
    elif not text.isascii():
        assert decode(written.encode()) == text
        assert str(make_header(decode_header(written))) == text


@pytest.mark.parametrize("text", ["a\r\nBcc: x", "a\x00", "\x7f"])
def test_a_phrase_has_no_control_character(text: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        phrase(text)


@pytest.mark.parametrize("word", [b"=?a?q?b", b"=?a?b?b ", b"=?punycode?q?99-", b"unsubscribe k1 "])
def test_the_subject_of_a_stranger_costs_no_more_than_its_length(word: bytes) -> None:
    """Anyone may write to the opt-out mailbox."""
    assert_linear(tokens_in, b"Subject: " + word * (65_000 // len(word)))
