"""Signs of promotion in transactional mail, and what they weigh."""

from __future__ import annotations

import pytest
from growth import assert_linear

from proxy.config.models import Promotion
from proxy.message.header import index
from proxy.message.promotion import SIGNS, Score, score

WEIGHTS = {sign: int(getattr(Promotion(), sign)) for sign in SIGNS}


def of(text: str, fields: str = "", kind: str = "plain") -> Score:
    head = f"From: a@acme.example\r\n{fields}Content-Type: text/{kind}; charset=utf-8\r\n\r\n"
    content = f"{head}{text}".encode()
    return score(content, index(content), WEIGHTS)


def test_the_weights_are_those_of_the_configuration() -> None:
    assert set(SIGNS) == set(Promotion.model_fields) - {"threshold"}


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("20% off everything", "discount"),
        ("Nu 15 % korting", "discount"),
        ("Rabatt: 10%", "discount"),
        ("Use your discount code SPRING", "voucher"),
        ("Jouw kortingscode: LENTE", "voucher"),
        ("Ihr Gutscheincode", "voucher"),
        ("You may also like these socks", "shopping"),
        ("Bekijk ook onze sokken", "shopping"),
        ("Last chance!", "urgency"),
        ("Zolang de voorraad strekt", "urgency"),
        ("Schrijf je in voor onze nieuwsbrief", "newsletter"),
        ("Abonnez-vous \u00e0 notre newsletter", "newsletter"),
        ("Unsubscribe from these mails", "opt_out"),
    ],
)
def test_each_sign(text: str, sign: str) -> None:
    assert of(text) == Score(WEIGHTS[sign], (sign,))
    assert of(f"<p>{text.replace(' ', '  ')}</p>", kind="html").signs == (sign,)


@pytest.mark.parametrize(
    "text",
    [
        "Your order 1001 was shipped. 21% VAT included. Total 45.00 EUR.",
        "Je wachtwoord is gewijzigd. Was jij dit niet? Bel ons vandaag.",
        "Bestelling 12: 2 paar sokken, verzonden naar Offenbach 20",
        "Ihre Rechnung 2026-11, f\u00e4llig am 30. November",
        "<style>.off{width:20%}</style><p>Your code is 123456</p>",
    ],
)
def test_service_mail_shows_none(text: str) -> None:
    assert of(text, kind="html") == Score(0, ())


def test_signs_add_up_once_each() -> None:
    got = of("20% off! 30% off! Shop now", "Subject: last chance\r\nList-Id: <a.example>\r\n")
    assert got.signs == ("discount", "shopping", "urgency", "list_fields")
    assert got.total == 60 + 40 + 40 + 40


def test_a_sign_without_weight_does_not_count() -> None:
    content = b"From: a@acme.example\r\n\r\nLast chance"
    assert score(content, index(content), {**WEIGHTS, "urgency": 0}) == Score(0, ())


def test_what_cannot_be_read_shows_its_subject_and_fields_only() -> None:
    got = of("20% off", "Subject: Shop now\r\n", "plain; charset=x-none")
    assert got.signs == ("shopping",)


@pytest.mark.parametrize(
    "text", ["<" * 200_000, "<style " * 30_000, "off 1" * 40_000, "1% " * 60_000]
)
def test_hostile_text_is_read_in_bounded_time(text: str) -> None:
    assert_linear(lambda part: of(part, kind="html"), text)
