"""Laws of addresses: what is checked is what is sent, and blocking reaches at least as far."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from policy.address import Address, AddressError, parse

ATEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+/=?^_`{|}~-"
LDH = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

dot_strings = st.lists(st.text(ATEXT, min_size=1, max_size=12), min_size=1, max_size=4).map(
    ".".join
)
domains = st.lists(st.text(LDH, min_size=1, max_size=12), min_size=1, max_size=3).map(
    lambda labels: ".".join([*labels, "example"])
)
quoted = st.text(
    st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20
).map(lambda s: '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"')
plain = st.builds("{}@{}".format, dot_strings, domains)
quoted_addresses = st.builds("{}@{}".format, quoted, domains)


def again(address: Address) -> Address:
    return parse(address.exact, smtputf8=address.utf8)


def attempt(text: str) -> Address | AddressError:
    try:
        return parse(text, smtputf8=True)
    except AddressError as error:
        return error


@given(plain | quoted_addresses)
def test_exact_is_a_fixed_point_and_the_wire(text: str) -> None:
    address = parse(text)
    assert again(address) == address
    assert address.wire == address.exact.encode("ascii")
    assert parse(address.wire) == address


@given(st.text(max_size=40) | st.builds("{}@{}".format, st.text(max_size=20), domains))
@example("us\rer@d.example")
@example("user@\u3002example")
@example("u@xn--.example")
@example("u@xn--a-.example")
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    address = attempt(text)
    if isinstance(address, AddressError):
        assert str(address).isascii()
        assert "@" not in str(address).replace("one @", "")
        assert address.enhanced in {"5.1.3", "5.1.2", "5.6.7"}
        return
    assert again(address) == address
    assert address.wire.decode() == address.exact
    assert len(address.wire) <= 254
    assert not any(c.isspace() and c != " " for c in address.exact)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_address_or_an_address_error(raw: bytes) -> None:
    for smtputf8 in (False, True):
        try:
            address = parse(raw, smtputf8=smtputf8)
        except AddressError:
            continue
        assert smtputf8 or address.wire.isascii()


@given(plain)
def test_wide_ignores_case_quoting_and_tags(text: str) -> None:
    address = parse(text)
    local = address.local
    assert parse(text.swapcase()).wide == address.wide
    assert parse(f'"{local}"@{address.domain}').wide == address.wide
    assert parse(f'"{local}"@{address.domain}').exact == address.exact
    assume(len(local) < 60)
    assert parse(f"{local}+tag@{address.domain}").wide == address.wide


@given(plain)
def test_wide_is_its_own_widening(text: str) -> None:
    address = parse(text)
    local, _, domain = address.wide.rpartition("@")
    try:
        assert parse(f'"{local}"@{domain}').wide == address.wide
    except AddressError:  # a bare quote in the folded local part
        assert '"' in local or "\\" in local


@given(st.text(st.characters(categories=["Ll", "Lu", "Lo", "Mn"]), min_size=1, max_size=12))
def test_wide_ignores_compatibility_and_composition(local: str) -> None:
    forms = [unicodedata.normalize(form, local) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    read = [attempt(f"{form}@d.example") for form in (local, *forms)]
    # A refused form gets no mail either.
    assert len({address.wide for address in read if isinstance(address, Address)}) <= 1


@pytest.mark.parametrize(
    ("text", "exact", "wide"),
    [
        ("Anna@Example.NL", "Anna@example.nl", "anna@example.nl"),
        ('"us\\er"@d.example', "user@d.example", "user@d.example"),
        ('"a b"@d.example', '"a b"@d.example', "a b@d.example"),
        ('"a\\"b\\\\"@d.example', '"a\\"b\\\\"@d.example', 'a"b\\@d.example'),
        ('"a@b"@d.example', '"a@b"@d.example', "a@b@d.example"),
        ("@a.example,@b.example:u@d.example", "u@d.example", "u@d.example"),
        ("u%x@d.example", "u%x@d.example", "u%x@d.example"),
        ("x!u@d.example", "x!u@d.example", "x!u@d.example"),
        ("%@d.example", "%@d.example", "%@d.example"),
        ("'--@d.example", "'--@d.example", "'--@d.example"),
        ("=?x?q?=40?=@d.example", "=?x?q?=40?=@d.example", "=?x?q?=40?=@d.example"),
        ("+x@d.example", "+x@d.example", "+x@d.example"),
        ("a+b+c@d.example", "a+b+c@d.example", "a@d.example"),
        ("u+@d.example", "u+@d.example", "u@d.example"),
        ("J.o.e+1@GoogleMail.com", "J.o.e+1@googlemail.com", "joe@gmail.com"),
        ("j.o.e@d.example", "j.o.e@d.example", "j.o.e@d.example"),
        ("u@d.example.", "u@d.example", "u@d.example"),
        ("u@bücher.example", "u@xn--bcher-kva.example", "u@xn--bcher-kva.example"),
        ("u@XN--BCHER-KVA.example", "u@xn--bcher-kva.example", "u@xn--bcher-kva.example"),
        ("u@BÜCHER。example", "u@xn--bcher-kva.example", "u@xn--bcher-kva.example"),
        ("u@straße.example", "u@xn--strae-oqa.example", "u@xn--strae-oqa.example"),
        ("u@r3---x.example", "u@r3---x.example", "u@r3---x.example"),
        ("ｕｓｅｒ@d.example", "ｕｓｅｒ@d.example", "user@d.example"),
        ("uſer@d.example", "uſer@d.example", "user@d.example"),
        ("Kim@d.example", "Kim@d.example", "kim@d.example"),
        ("ｕ＋x@d.example", "ｕ＋x@d.example", "u@d.example"),
        ("cafe\u0301@d.example", "cafe\u0301@d.example", "café@d.example"),
    ],
)
def test_keys(text: str, exact: str, wide: str) -> None:
    address = parse(text, smtputf8=True)
    assert (address.exact, address.wide) == (exact, wide)


def test_homoglyphs_are_other_mailboxes() -> None:
    latin, cyrillic = parse("u@paypal.example"), parse("u@раypal.example", smtputf8=True)
    assert latin.exact != cyrillic.exact
    assert latin.wide != cyrillic.wide


def test_utf8_is_needed_for_the_local_part_only() -> None:
    assert not parse("u@bücher.example", smtputf8=True).utf8
    assert parse("ü@bücher.example", smtputf8=True).utf8


def test_a_domain_may_have_further_separators() -> None:
    marks = {"shop.example": "-_"}
    assert parse("jo-ann@shop.example", subaddress=marks).wide == "jo@shop.example"
    assert parse("jo_a-b+c@shop.example", subaddress=marks).wide == "jo@shop.example"
    assert parse("-jo@shop.example", subaddress=marks).wide == "-jo@shop.example"
    assert parse("jo-ann@d.example", subaddress=marks).wide == "jo-ann@d.example"


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [
        ("", "5.1.3"),
        ("postmaster", "5.1.3"),
        ("@d.example", "5.1.3"),
        ('""@d.example', "5.1.3"),
        ("<u@d.example>", "5.1.3"),
        ("x<u@d.example>", "5.1.3"),
        ("x>u@d.example", "5.1.3"),
        ("a,b@d.example", "5.1.3"),
        ("u (c)@d.example", "5.1.3"),
        ("(c)u@d.example", "5.1.3"),
        ("u @d.example", "5.1.3"),
        ("u@d.example ", "5.1.2"),
        ("u@ d.example", "5.1.2"),
        ("u@d.example(c)", "5.1.2"),
        ("us\\er@d.example", "5.1.3"),
        ('"u"."s"@d.example', "5.1.3"),
        ('"u"x@d.example', "5.1.3"),
        ('"u@d.example', "5.1.3"),
        ('u"x"@d.example', "5.1.3"),
        ('"u\\"@d.example', "5.1.3"),
        ("a..b@d.example", "5.1.3"),
        (".a@d.example", "5.1.3"),
        ("a.@d.example", "5.1.3"),
        ("u@x@d.example", "5.1.3"),
        ("u@", "5.1.2"),
        ("u@d", "5.1.2"),
        ("u@localhost", "5.1.2"),
        ("u@d..example", "5.1.2"),
        ("u@.d.example", "5.1.2"),
        ("u@d.example..", "5.1.2"),
        ("u@d_e.example", "5.1.2"),
        ("u@-d.example", "5.1.2"),
        ("u@d-.example", "5.1.2"),
        ("u@[127.0.0.1]", "5.1.2"),
        ("u@[IPv6:::1]", "5.1.2"),
        ("u@127.0.0.1", "5.1.2"),
        ("u@2130706433", "5.1.2"),
        ("u@xn--a.example", "5.1.2"),
        ("u@💩.example", "5.1.2"),
        ("@h1,@h2:", "5.1.3"),
        ("@h1:@d.example", "5.1.3"),
        ('"a b"@' + ".".join(["a" * 60] * 4) + ".examples", "5.1.3"),
        ("u@xn--0.example", "5.1.2"),
        ("@h1,h2:u@d.example", "5.1.3"),
        ("@:u@d.example", "5.1.3"),
        ("a＠b@d.example", "5.1.3"),
        ("a\u00b4b@d.example", "5.1.3"),
        ("a" * 65 + "@d.example", "5.1.3"),
        ('"' + "a" * 62 + ' "@d.example', "5.1.3"),
        ("u@" + "a" * 64 + ".example", "5.1.2"),
        ("u@" + ".".join(["a" * 60] * 4) + ".exampleexample", "5.1.3"),
        ("u@" + ".".join(["ü" * 20] * 20) + ".example", "5.1.2"),
        ("a@" + "b." * 2000 + "example", "5.1.3"),
    ],
)
def test_refused(text: str, enhanced: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse(text, smtputf8=True)
    assert caught.value.enhanced == enhanced


@pytest.mark.parametrize("position", [0, 2, 4, 5, 8, 14])
def test_no_control_or_invisible_character_anywhere(position: int) -> None:
    codes = [*range(0x20), 0x7F, *range(0x80, 0xA1), 0xAD, 0x200B, 0x200D, 0x200E, 0x2028, 0x2029]
    codes += [0x202E, 0x2066, 0xFEFF, 0x034F, 0x115F, 0x3164, 0xFE0F, 0xE0100, 0x3000, 0xE000]
    for template in ("user@d.example", '"us r"@d.example'):
        for code in codes:
            hostile = template[:position] + chr(code) + template[position:]
            with pytest.raises(AddressError):
                parse(hostile, smtputf8=True)


def test_limits_are_reached() -> None:
    assert len(parse("a" * 64 + "@d.example").local) == 64
    assert parse('"' + "a" * 61 + ' "@d.example').wire.index(b"@") == 64
    longest = "u@" + ".".join(["a" * 60] * 4) + ".examples"
    assert len(parse(longest).exact) == 254


def test_non_ascii_needs_smtputf8() -> None:
    for text in ("ü@d.example", "u@bücher.example", "ü@d.example".encode()):
        with pytest.raises(AddressError) as caught:
            parse(text)
        assert caught.value.enhanced == "5.6.7"
    with pytest.raises(AddressError):
        parse("ü@d.example".encode("latin-1"), smtputf8=True)
