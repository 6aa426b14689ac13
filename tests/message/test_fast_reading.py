"""Short cuts in reading a mail give what the long way gives."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.models import Promotion
from proxy.message import encoded, promotion
from proxy.message.header import index
from proxy.message.inspect import fold
from proxy.message.promotion import PHRASES, SIGNS, Score, score
from proxy.message.words import OPT_OUT, Words, _pattern

WEIGHTS = {sign: int(getattr(Promotion(), sign)) for sign in SIGNS}

# The same signs as one pattern each, tried at every character.
PATTERNS = {
    **{
        sign: re.compile(rf"\b(?:{'|'.join(phrases)})".replace("(", "(?:").replace("(?:?:", "(?:"))
        for sign, phrases in PHRASES.items()
    },
    "discount": promotion._DISCOUNT,
}
OPT_OUT_PATTERNS = [re.compile(_pattern(p)) for phrases in OPT_OUT.values() for p in phrases]

WORDS = sorted(
    {
        word
        for phrases in (*PHRASES.values(), *OPT_OUT.values(), promotion._CUTS)
        for phrase in phrases
        for word in re.split(r"[ ()|?]+", phrase)
        if word
    }
)
PIECES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([phrase for phrases in OPT_OUT.values() for phrase in phrases]),
    st.sampled_from(
        [text for phrases in PHRASES.values() for p in phrases for text in promotion._spelled(p)]
    ),
    st.sampled_from([" ", " ", " ", "_", "-", "1", "20", "%", " %", ".", "\u00e9", "x", "\u0301"]),
    st.text(max_size=12),
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)


@settings(max_examples=600)
@given(TEXTS)
def test_signs_are_those_of_the_patterns(text: str) -> None:
    text = fold(text)
    for sign, pattern in PATTERNS.items():
        assert promotion._there(sign, text) is (pattern.search(text) is not None), sign


def test_every_phrase_has_its_sign() -> None:
    for sign, phrases in PHRASES.items():
        for phrase in phrases:
            for text in promotion._spelled(phrase):
                assert PATTERNS[sign].fullmatch(text)
                assert promotion._there(sign, f"so, {text}s")
                assert not promotion._there(sign, f"so{text}")


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["1%", " ", "off", "x off", ".", "5 %", "e" * 40]), max_size=120))
def test_a_discount_is_found_wherever_it_stands(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert promotion._discounted(text) is (promotion._DISCOUNT.search(text) is not None)


@settings(max_examples=400)
@given(TEXTS, st.booleans(), st.integers(1, 300))
def test_a_threshold_changes_nothing_from_it_on(text: str, listed: bool, threshold: int) -> None:
    fields = "List-Id: <a.example>\r\n" if listed else ""
    head = f"From: a@acme.example\r\n{fields}Content-Type: text/plain; charset=utf-8\r\n\r\n"
    content = (head + text).encode("utf-8", "replace")
    whole = score(content, index(content), WEIGHTS)
    short = score(content, index(content), WEIGHTS, threshold=threshold)
    assert whole.total == sum(WEIGHTS[sign] for sign in whole.signs)
    assert short == (whole if whole.total >= threshold else Score(0, ()))


@settings(max_examples=600)
@given(TEXTS)
def test_opt_out_words_are_those_of_the_patterns(text: str) -> None:
    text = fold(text)
    assert Words().found_in(text) is any(p.search(text) for p in OPT_OUT_PATTERNS)


@pytest.mark.parametrize("language", sorted(OPT_OUT))
def test_every_opt_out_word_is_found(language: str) -> None:
    for phrase in OPT_OUT[language]:
        plain = "".join(c for c in phrase if c.isascii())
        assert Words([language]).found_in(phrase)
        assert Words().found_in(f"a {phrase.replace(' ', '-')}s")
        if len(plain) == len(phrase):
            assert Words().found_in(plain)


@given(st.text(st.characters(codec="utf-8"), max_size=300), st.booleans())
def test_folded_text_is_split_and_joined(text: str, ascii_only: bool) -> None:
    text = text.encode("ascii", "ignore").decode() if ascii_only else text
    folded = fold(text)
    assert folded == " ".join(folded.split())
    if ascii_only:
        assert folded == " ".join(text.casefold().split())


def test_every_white_space_is_one() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        if char.isspace():
            assert fold(f"a{char}{char}b{char}") == "a b"


@settings(max_examples=400)
@given(st.lists(st.sampled_from([b"=?", b"?=", b"utf-8?q?", b"a=20b", b" ", b"\xc3\xa9", b"x"])))
def test_a_value_without_encoded_words_is_decoded_alike(pieces: list[bytes]) -> None:
    value = b"".join(pieces)
    slow = "".join(
        encoded._decode_word(part) if part.startswith(b"=?") else encoded._plain(part)
        for part in encoded._split(encoded._BETWEEN.sub(rb"\1", value))
    )
    assert encoded.decode(value) == slow
