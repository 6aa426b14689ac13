"""What a mail shows its reader: displayed parts, finding, and `fake_reply`."""

from __future__ import annotations

import base64
import quopri
import unicodedata

import pytest
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from policy.model import Unsubscribe
from proxy.message.header import index
from proxy.message.inspect import Shown, Wanted, fake_reply, fold, inspect
from proxy.message.words import OPT_OUT, Words

WANTED = Wanted(
    names=("Acme Schoenen B.V.", "Acme"),
    postal_address="Keizersgracht 1, 1015 AA Amsterdam",
    own_url="https://mail.acme.example/u/",
)
SENDER = WANTED.names[0]
ADDRESS = WANTED.postal_address
OPT_OUT_HTML = '<a href="https://acme.example/x">Uitschrijven</a>'
FULL = f"<p>{SENDER}, {ADDRESS}</p>{OPT_OUT_HTML}"
FULL_TEXT = f"{SENDER}\r\n{ADDRESS}\r\nUitschrijven:\r\nhttps://acme.example/x\r\n"


def shown(body: str | bytes, fields: str = "Content-Type: text/html; charset=utf-8") -> Shown:
    raw = body.encode() if isinstance(body, str) else body
    content = f"From: news@acme.example\r\n{fields}\r\n\r\n".encode() + raw
    return inspect(content, index(content), WANTED)


def part(body: str, kind: str = "text/html", *fields: str) -> str:
    return "\r\n".join([f"Content-Type: {kind}", *fields, "", body])


def multipart(kind: str, *parts: str, boundary: str = "b") -> str:
    inner = "".join(f"--{boundary}\r\n{p}\r\n" for p in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n{inner}--{boundary}--\r\n'


def of(entity: str) -> Shown:
    content = f"From: news@acme.example\r\n{entity}".encode()
    return inspect(content, index(content), WANTED)


def facts(result: Shown) -> tuple[bool | None, bool | None, Unsubscribe | None]:
    return result.sender_identity, result.postal_address, result.unsubscribe


ALL = (True, True, Unsubscribe.LINK)
NOTHING = (False, False, Unsubscribe.NONE)
UNKNOWN = (None, None, None)


# -- finding -------------------------------------------------------------------------------------


def test_everything_and_nothing() -> None:
    assert facts(shown(FULL)) == ALL
    assert facts(shown("<p>Sale</p>")) == NOTHING
    assert facts(shown(FULL_TEXT, "Content-Type: text/plain")) == ALL
    assert facts(shown("Sale", "Subject: x")) == NOTHING


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("ACME\u00a0schoenen\r\n <b>b.v.</b>", True),
        ("\uff21\uff43\uff4d\uff45", True),  # fullwidth
        ("Ac<b>me</b>", True),
        ("Ac<p>me</p>", False),
        ("A&#99;me", True),
        ("<!-- Acme -->", False),
        ("<script>Acme</script><style>Acme</style><title>Acme</title>", False),
        ("<template>Acme</template>", False),
        ("<img alt=Acme>", False),
    ],
)
def test_identity(body: str, found: bool) -> None:
    assert shown(body).sender_identity is found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Acme shoes <news@acme.example>", True),
        ('"ACME" <news@acme.example>', True),
        ("=?utf-8?b?QWNtZQ==?= <news@acme.example>", True),
        ("=?iso-8859-1?q?A=63me_sch=F6n?= <news@acme.example>", True),
        ("news@acme.example", False),
        ("Acme, Beta <news@acme.example>", False),
    ],
)
def test_identity_in_the_display_name(value: str, found: bool) -> None:
    content = f"From: {value}\r\n\r\nhello\r\n".encode()
    assert inspect(content, index(content), WANTED).sender_identity is found
    signed = f"From: {value}\r\n{multipart('signed', part('x'))}".encode()
    assert inspect(signed, index(signed), WANTED).sender_identity is (True if found else None)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("KEIZERSGRACHT 1<br>1015AA&nbsp;&nbsp;Amsterdam", True),
        ("Keizersgracht 1 - 1015 AA - Amsterdam, NL", True),
        ("Keizersgracht 12, 1015 AA Amsterdam", False),
        ("1015 AA Amsterdam", False),
    ],
)
def test_postal_address(body: str, found: bool) -> None:
    assert shown(body).postal_address is found


def test_no_postal_address_is_unknown() -> None:
    content = b"From: news@acme.example\r\n\r\nhello\r\n"
    wanted = Wanted(names=("Acme",), postal_address="", own_url="x")
    assert inspect(content, index(content), wanted).postal_address is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('<a href="https://x.example/1">Afmelden</a>', True),
        (
            '<a href="https://x.example/1">klik <b>hier om u af te melden</b>: schrijf u uit</a>',
            True,
        ),
        ('<a href="https://x.example/unsubscribe?id=1">here</a>', True),
        ('<a href="https://x.example/?q=opt%2Dout">here</a>', True),
        ('<a href="mailto:x@x.example?subject=Unsubscribe%20me">here</a>', True),
        ('<a href="MAILTO:unsubscribe@x.example">here</a>', True),
        ('<a href=" https://x.example/1 "><img alt="Unsubscribe" src=x></a>', True),
        ('<map><area href="https://x.example/1" alt="D&eacute;sinscription"></map>', True),
        ('<a href="http://x.example/unsubscribe">Unsubscribe</a>', False),
        ('<a href="/unsubscribe">Unsubscribe</a>', False),
        ('<a href="tel:+3120">Unsubscribe</a>', False),
        ("<a name=x>Unsubscribe</a> https://x.example/unsubscribe", False),
        ('Unsubscribe <a href="https://x.example/1">here</a>', False),
        ('<!-- <a href="https://x.example/1">Unsubscribe</a> -->', False),
        ('<a href="https://x.example/1">Cancellation policy</a>', False),
        ('<a href="https://x.example/1">Adopt outdoor shoes</a>', False),
        ('<a href="https://x.example/1">Manage preferences</a>', False),
    ],
)
def test_opt_out_in_html(body: str, found: bool) -> None:
    assert shown(body).unsubscribe is (Unsubscribe.LINK if found else Unsubscribe.NONE)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("Unsubscribe: https://x.example/1\r\n", True),
        ("Uitschrijven?\r\n\r\nhttps://x.example/1\r\n", True),
        ("https://x.example/unsubscribe/1\r\n", True),
        ("<mailto:x@x.example?subject=unsubscribe>\r\n", True),
        ("Unsubscribe\r\nby phone\r\nhttps://x.example/1\r\n", False),
        ("https://x.example/1\r\nUnsubscribe\r\n", False),
        ("Unsubscribe: http://x.example/1\r\n", False),
        ("Unsubscribe: x@x.example\r\n", False),
    ],
)
def test_opt_out_in_text(body: str, found: bool) -> None:
    result = shown(body, "Content-Type: text/plain")
    assert result.unsubscribe is (Unsubscribe.LINK if found else Unsubscribe.NONE)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('<a href="https://mail.acme.example/u/k1.a-_b?x">Unsubscribe</a>', "text/html"),
        ("Unsubscribe: https://mail.acme.example/u/k1.a-_b\r\n", "text/plain"),
    ],
)
def test_our_own_link_counts_for_its_holder_only(body: str, kind: str) -> None:
    result = shown(body, f"Content-Type: {kind}")
    assert result.unsubscribe is Unsubscribe.NONE
    assert result.own_tokens == {"k1.a-_b"}
    held = result.for_holder()
    assert (held.unsubscribe, held.unsubscribe_valid_days) == (Unsubscribe.LINK, 0)


def test_how_long_a_foreign_link_is_valid_is_unknown() -> None:
    assert shown(FULL).unsubscribe_valid_days is None


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Click to unsubscribe"),
        ("en", "OPT-OUT"),
        ("nl", "Meld je af"),
        ("nl", "Geen e-mails meer"),
        ("de", "Newsletter abbestellen"),
        ("de", "Abmelden"),
        ("fr", "Se désabonner"),
        ("fr", "Desinscription"),
        ("fr", "DE\u0301SINSCRIRE"),
        ("es", "Darse de baja"),
        ("es", "Cancelar la suscripcion"),
        ("it", "Annulla l'iscrizione"),
        ("it", "Disiscriviti"),
        ("da", "Afmeld nyhedsbrev"),
        ("sv", "Avregistrera dig"),
        ("pl", "Wypisz si\u0119"),
    ],
)
def test_words(language: str, text: str) -> None:
    assert Words([language]).found_in(fold(text))
    assert Words().found_in(fold(text))
    assert not Words([language]).found_in(fold("Hello sale vente soldes Angebot aanbieding"))


def test_words_of_other_languages_are_not_taken() -> None:
    assert not Words(["nl"]).found_in("unsubscribe")
    assert Words(["en-GB"]).found_in("unsubscribe")
    assert set(OPT_OUT) >= {"en", "nl", "de", "fr", "es", "it"}


# -- encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "windows-1252", "utf-16", "KOI8-R"])
def test_charsets_and_encodings(charset: str) -> None:
    text = FULL.encode(charset)
    kind = f"Content-Type: text/html; charset={charset}\r\nContent-Transfer-Encoding: "
    assert facts(shown(base64.encodebytes(text).replace(b"\n", b"\r\n"), kind + "BASE64")) == ALL
    if charset != "utf-16":
        assert facts(shown(text, kind + "8bit")) == ALL
        qp = quopri.encodestring(text).replace(b"\n", b"\r\n")
        assert facts(shown(qp, kind + "quoted-printable")) == ALL


def test_unannounced_utf8_is_read_as_such() -> None:
    assert shown('<a href="https://x.example/">Désinscrire</a>', "Content-Type: text/html") == (
        shown('<a href="https://x.example/">Désinscrire</a>')
    )


def test_only_the_first_half_megabyte_is_looked_at() -> None:
    assert facts(shown(" " * 524_288 + FULL)) == NOTHING
    text = base64.encodebytes((" " * 524_288 + FULL).encode()).replace(b"\n", b"\r\n")
    kind = "Content-Type: text/html\r\nContent-Transfer-Encoding: base64"
    assert facts(shown(text, kind)) == NOTHING
    early = base64.encodebytes((FULL + " " * 2_000_000).encode()).replace(b"\n", b"\r\n")
    assert facts(shown(early, kind)) == ALL


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ("Content-Type: text/html; charset=utf-7", FULL),
        ("Content-Type: text/html; charset=zip", FULL),
        ("Content-Type: text/html; charset=punycode", FULL),
        ("Content-Type: text/html; charset=a; charset=b", FULL),
        ("Content-Type: text/html\r\nContent-Type: text/html", FULL),
        ("Content-Type: text/html\r\nContent-Transfer-Encoding: x-uuencode", FULL),
        ("Content-Type: text/html\r\nContent-Transfer-Encoding: base64", "QUJ"),
        ("Content-Type: text/html\r\nContent-Transfer-Encoding: base64", "QQ==QQ=="),
        ("Content-Type: text/html\r\nContent-Transfer-Encoding: base64", "Q*JD"),
        ("Content-Type: text/plain", f"-----BEGIN PGP MESSAGE-----\r\n{FULL_TEXT}"),
    ],
)
def test_a_target_that_is_not_clear_is_unknown(fields: str, body: str) -> None:
    result = shown(body, fields)
    assert facts(result) == UNKNOWN
    assert result.opaque


# -- displayed parts -----------------------------------------------------------------------------

PLAIN = part("hello", "text/plain")
RICH = part(FULL)
ATTACHED = part(FULL, "text/html", "Content-Disposition: attachment")
NAMED = part(FULL, "text/html", "Content-Disposition: x; filename=a.html")
INLINE = part(FULL, "text/html", "Content-Disposition: inline; filename=a.html")
IMAGE = part("", "image/png")


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        (multipart("alternative", PLAIN, RICH), ALL),
        (multipart("alternative", RICH, PLAIN), ALL),
        (multipart("alternative", PLAIN, multipart("related", RICH, IMAGE, boundary="i")), ALL),
        (multipart("alternative", PLAIN, IMAGE), NOTHING),
        (multipart("alternative", part(FULL_TEXT, "text/plain"), part("x")), NOTHING),
        (multipart("related", PLAIN, RICH), NOTHING),
        (multipart("mixed", IMAGE, RICH, PLAIN), ALL),
        (multipart("mixed", PLAIN, RICH), NOTHING),
        (multipart("mixed", ATTACHED, NAMED, PLAIN), NOTHING),
        (multipart("mixed", INLINE, PLAIN), ALL),
        (multipart("x-unknown", IMAGE, RICH), ALL),
        (multipart("mixed", multipart("alternative", PLAIN, RICH, boundary="i"), IMAGE), ALL),
        (multipart("mixed", RICH, part("", "message/rfc822")), ALL),
        (multipart("mixed", ATTACHED), UNKNOWN),
        (IMAGE, UNKNOWN),
        *[
            (multipart(kind, RICH, RICH), UNKNOWN)
            for kind in ("signed", "encrypted", "report", "digest", "parallel")
        ],
        (part("MII=", "application/pkcs7-mime"), UNKNOWN),
        (part("MII=", "application/x-pkcs7-mime"), UNKNOWN),
        (part(RICH, "message/rfc822"), UNKNOWN),
        (multipart("mixed", part(RICH, "message/rfc822"), RICH), UNKNOWN),
        (multipart("alternative", PLAIN, multipart("signed", RICH, boundary="i")), UNKNOWN),
        (multipart("alternative", PLAIN, RICH).replace("--b--", ""), UNKNOWN),
        (multipart("alternative"), UNKNOWN),
    ],
)
def test_displayed(
    entity: str, expected: tuple[bool | None, bool | None, Unsubscribe | None]
) -> None:
    result = of(entity)
    assert facts(result) == expected
    assert bool(result.opaque) == (expected == UNKNOWN)


def test_a_poorer_alternative_is_marked() -> None:
    assert of(multipart("alternative", PLAIN, RICH)).marks == ("partial_alternative",)
    full = multipart("alternative", part(FULL_TEXT, "text/plain"), RICH)
    assert of(full).marks == ()


def test_an_amp_part_must_have_the_opt_out_itself() -> None:
    amp = part(OPT_OUT_HTML, "text/x-amp-html")
    assert of(multipart("alternative", PLAIN, amp, RICH)).unsubscribe is Unsubscribe.LINK
    bare = part("x", "text/x-amp-html")
    assert of(multipart("alternative", PLAIN, bare, RICH)).unsubscribe is Unsubscribe.NONE
    own = '<a href="https://mail.acme.example/u/k1.a">x</a>'
    both = multipart("alternative", part(own, "text/x-amp-html"), part(own))
    assert of(both).own_tokens == {"k1.a"}
    assert of(multipart("alternative", bare, part(own))).own_tokens == frozenset()
    assert facts(of(amp)) == UNKNOWN


def test_more_than_a_megabyte_to_look_at_is_not_read() -> None:
    half = "x\r\n" * 174_762
    two = [part(half, "text/plain"), part(f"{half}{FULL}")]
    assert of(multipart("alternative", *two)).opaque == ""
    over = multipart("alternative", *two, part("some more"))
    assert of(over).opaque == "too much text is displayed"
    assert of(over.replace("/alternative", "/mixed")).opaque == "", "its first part alone is shown"


# -- subject -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "fake"),
    [
        ("Re: your order", True),
        ("RE : your order", True),
        ("re:x", True),
        ("Re[2]: x", True),
        ("Fwd: x", True),
        ("FW: x", True),
        ("AW: x", True),
        ("Antw: x", True),
        ("Antw.: x", True),
        ("WG: x", True),
        ("TR: x", True),
        ("Rép : x", True),
        ("\u200bRe: x", True),
        ("Re\uff1a x", True),
        ("=?utf-8?q?Re=3A_x?=", True),
        ("=?utf-8?b?UmU6IHg=?=", True),
        ("=?utf-8?q?R?= =?utf-8?q?e=3A?=", True),
        ("Regarding: x", False),
        ("Result: x", False),
        ("Your order re: shoes", False),
        ("Reminder", False),
        ("", False),
    ],
)
def test_fake_reply(subject: str, fake: bool) -> None:
    head = f"From: a@acme.example\r\nSubject: {subject}\r\n".encode()
    assert fake_reply(index(head + b"\r\n")) is fake
    assert fake_reply(index(head + b"In-Reply-To:\r\n\r\n")) is fake
    for name in (b"In-Reply-To", b"References"):
        assert not fake_reply(index(head + name + b": <m@x>\r\n\r\n"))


# -- bounds --------------------------------------------------------------------------------------


@given(st.text(max_size=600))
def test_fold_is_casefolded_nfkc(text: str) -> None:
    short = text[:256]
    expected = " ".join(unicodedata.normalize("NFKC", short).casefold().split())
    assert fold(short) == expected
    assert "  " not in fold(text)


@pytest.mark.parametrize(
    "body",
    [
        "a\u0301\u0316" * 80_000,
        "\ufdfa" * 170_000,
        "https:/ " * 60_000,
        "unsubscribe https:x " * 25_000,
        "<a href=https:x>unsub</a>" * 20_000,
        "&#x" + "1" * 500_000,
        "=\r\n" * 170_000,
        "<div>" * 100_000,
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "text/html"])
def test_hostile_text_is_read_in_linear_time(body: str, kind: str) -> None:
    fields = f"Content-Type: {kind}; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable"
    assert shown(body, fields).opaque == ""
    assert shown(body, f"Content-Type: {kind}; charset=utf-8").opaque == ""
    assert_linear(lambda text: shown(text, fields), body)


def test_a_subject_of_encoded_words_is_read_in_linear_time() -> None:
    def read(subject: bytes) -> bool:
        return fake_reply(index(b"Subject: " + subject + b"\r\n\r\n"))

    subject = b"=?utf-8?q?x?= " * 15_000
    assert not read(subject)
    assert_linear(read, subject)
