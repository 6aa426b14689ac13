"""Opt-out tokens: they say who stops what, to us only, and no forged one opens."""

from __future__ import annotations

import random
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.address import parse
from proxy.errors import TokenError
from proxy.keys import Keys, load_keys, rotate
from proxy.tokens import OptOut, length, open_, seal

ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
REF = "01J9ZV3K7Q8M4T0000000000AB.12"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return load_keys(tmp_path_factory.mktemp("keys") / "keys", create=True)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
optouts = st.builds(OptOut, sender=words, stream=words, address=words, ref=words)
short = st.text(string.ascii_letters, max_size=30)
short_optouts = st.builds(OptOut, sender=short, stream=short, address=short, ref=short)


def foreseen(keys: Keys, optout: OptOut) -> int:
    address, ref = len(optout.address.encode()), len(optout.ref.encode())
    return length(keys, optout.sender, optout.stream, address=address, ref=ref)


@given(optouts)
def test_it_opens_to_what_was_sealed(keys: Keys, optout: OptOut) -> None:
    try:
        token = seal(keys, optout)
    except ValueError as fault:
        assert "600 characters" in str(fault)  # noqa: PT017
        with pytest.raises(ValueError, match="600 characters"):
            foreseen(keys, optout)
        return
    assert foreseen(keys, optout) == len(token)
    assert open_(keys, token) == optout
    assert token == seal(keys, optout)
    assert re.fullmatch(r"k1\.[A-Za-z0-9_-]+[A-Za-z0-9]", token), "no end that a linkifier drops"


def test_a_usual_token_is_short_and_shows_nothing(keys: Keys) -> None:
    token = seal(keys, OptOut("acme", "newsletter", "anna.de.vries@example.nl", REF))
    assert len(token) < 200
    assert "anna" not in token
    assert "acme" not in token


def test_the_longest_legal_address_fits(keys: Keys) -> None:
    domain = ".".join(["d" * 62, "e" * 61, "f" * 61, "nl"])
    address = parse("a" * 64 + "@" + domain).exact
    assert len(address) == 254
    token = seal(keys, OptOut("s" * 64, "t" * 64, address, REF))
    assert len(token) <= 600
    assert open_(keys, token).address == address


def test_one_too_long_is_our_fault_at_once(keys: Keys) -> None:
    with pytest.raises(ValueError, match="600 characters"):
        seal(keys, OptOut("s" * 200, "t" * 200, "a@example.nl", REF))
    with pytest.raises(ValueError, match="255 octets"):
        seal(keys, OptOut("s", "t", "a" * 256, REF))


def test_every_single_changed_character_is_refused(keys: Keys) -> None:
    """Every position, every other character of the alphabet: so every flip and respelling."""
    for n, person in enumerate(("a@b.nl", "ab@b.nl", "abc@b.nl")):  # all three base64 tail lengths
        token = seal(keys, OptOut("acme", "news", person, str(n)))
        assert open_(keys, token).address == person
        for at, was in enumerate(token):
            for other in ALPHABET + "+/=. \n%\u0661":
                if other != was:
                    with pytest.raises(TokenError):
                        open_(keys, token[:at] + other + token[at + 1 :])


@given(short_optouts, st.data())
def test_every_bit_flip_is_refused(keys: Keys, optout: OptOut, data: st.DataObject) -> None:
    raw = seal(keys, optout).encode()
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TokenError):
        open_(keys, flipped.decode("latin-1"))


def test_cut_extended_and_random_tokens_are_refused_alike(keys: Keys) -> None:
    token = seal(keys, OptOut("acme", "news", "anna@example.nl", REF))
    dice = random.Random(7)
    bad = [token[:n] for n in range(len(token))]
    bad += [token + c for c in ALPHABET + "=. \n"]
    bad += ["k1." + "".join(dice.choices(ALPHABET, k=len(token) - 3)) for _ in range(2000)]
    bad += ["K" + token[1:], "k01" + token[2:], "k" + token[2:], "k1.k1." + token[3:], token[3:]]
    bad += ["k1" + token[3:], "k1.." + token[3:], "k1." + "A" * 10_000, "k9" * 300, ".", "\x00", ""]
    bad += [token.swapcase(), token[::-1], "k\u0661" + token[2:]]
    words = set()
    for one in bad:
        with pytest.raises(TokenError) as caught:
            open_(keys, one)
        words.add(str(caught.value))
    assert words == {"not one of our tokens"}


def test_a_token_of_another_purpose_or_layout_is_refused(keys: Keys) -> None:
    with pytest.raises(TokenError):
        open_(keys, keys.seal("confirm", b"\x01\x01a\x01b\x01c\x01d"))
    assert open_(keys, keys.seal("unsubscribe", b"\x01\x01a\x01b\x01c\x01d")).stream == "b"
    for payload in (
        b"\x02\x01a\x01b\x01c\x01d",
        b"\x01\x01a\x01b\x01c",
        b"\x01\x01a\x01b\x01c\x09d",
        b"\x01\x01a\x01b\x01c\x01d\x00\x00",
        b"\x01\x01a\x01b\x01c\x01d\x01e",
        b"\x01\x01a\x01b\x01c\x02\xff\xff",
        b"\x01",
    ):
        with pytest.raises(TokenError):
            open_(keys, keys.seal("unsubscribe", payload))


def test_old_links_work_after_rotation_and_other_installations_do_not(tmp_path: Path) -> None:
    mine = load_keys(tmp_path / "keys", create=True)
    optout = OptOut("acme", "news", "anna@example.nl", REF)
    old = seal(mine, optout)
    for _ in range(3):
        rotate(tmp_path / "keys")
    after = load_keys(tmp_path / "keys", create=False)
    assert open_(after, old) == optout
    assert seal(after, optout).startswith("k4.")
    other = load_keys(tmp_path / "other", create=True)
    with pytest.raises(TokenError):
        open_(other, old)


def test_a_subject_uses_both_keys_of_an_address(keys: Keys) -> None:
    anna = keys.subject("acme", parse("Anna+news@example.nl"))
    assert anna.sender == "acme"
    assert anna.exact == keys.pseudonym("Anna+news@example.nl")
    assert anna.wide == keys.pseudonym(parse("Anna+news@example.nl").wide)
    assert anna.exact != anna.wide
    plain = keys.subject("acme", parse("anna@example.nl"))
    assert plain.wide == anna.wide
    assert plain.exact != anna.exact
