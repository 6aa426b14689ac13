"""Words, colours and contrast of the pages, without a server."""

from __future__ import annotations

import base64
import hashlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.web import pages

pytest_plugins = ("web_site",)

colours = st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True)


def test_every_language_has_the_same_texts_with_the_same_placeholders() -> None:
    def shape(lang: str) -> dict[str, set[str | None]]:
        return {
            key: {name for _, name, _, _ in string.Formatter().parse(text)} - {None}
            for key, text in pages.words(lang).items()
        }

    assert shape("en") == shape("nl")
    assert set(pages.LANGUAGES) == {"en", "nl"}


@given(colours)
def test_every_sender_colour_gives_a_readable_button(colour: str) -> None:
    assert pages._contrast(pages._readable_on(colour), colour) >= 4.5  # WCAG 1.4.3
    for paper in (pages._LIGHT, pages._DARK):
        edge = pages._edge(colour, paper)
        assert pages._contrast(edge, paper) >= 3  # WCAG 1.4.11


def test_the_fixed_colours_are_readable() -> None:
    """Ink and soft text on paper and ground, in both colour schemes."""
    css = pages._css
    for block in re.findall(r":root \{ (?:color-scheme[^;]*; )?(--paper[^}]*)\}", css):
        names = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block))
        long = {
            k: "#" + "".join(c * 2 for c in v[1:]) if len(v) == 4 else v for k, v in names.items()
        }
        for text in ("ink", "soft"):
            for ground in ("paper", "ground"):
                assert pages._contrast(long[text], long[ground]) >= 4.5
    assert css.count("--paper:") == 2


def test_contrast_is_that_of_wcag() -> None:
    assert pages._contrast("#000000", "#ffffff") == pytest.approx(21)
    assert pages._contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert pages._contrast("#ffffff", "#777777") == pytest.approx(4.48, abs=0.01)


@given(colours)
def test_the_policy_allows_exactly_the_style_that_is_there(colour: str) -> None:
    style, policy = pages._style(colour)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert colour in style
    assert "</" not in style
    assert "url(" not in style
    assert "@import" not in style


@given(st.text(max_size=60))
def test_any_accept_language_gives_a_language(accept: str) -> None:
    assert pages.language(accept, "nl") in pages.LANGUAGES


@pytest.mark.parametrize(
    ("accept", "lang"),
    [
        ("", "en"),
        ("nl", "nl"),
        ("NL-be", "nl"),
        ("en, nl", "en"),
        ("nl, en", "nl"),
        ("en;q=0.5, nl;q=0.7", "nl"),
        ("de, nl;q=0.1", "nl"),
        ("nl;q=0", "en"),
        ("nl;q=0.000, en;q=0.001", "en"),
        ("nlx", "en"),
        ("*;q=0.5", "en"),
    ],
)
def test_accept_language(accept: str, lang: str) -> None:
    assert pages.language(accept, "en") == lang


@pytest.mark.parametrize(
    ("contact", "url"),
    [
        ("privacy@acme.example", "mailto:privacy@acme.example"),
        ("https://www.acme.example/contact", "https://www.acme.example/contact"),
        ("http://www.acme.example/contact", ""),
        ("javascript:alert(1)", ""),
        ("020-5550100", ""),
        ("Write to privacy@acme.example please", ""),
    ],
)
def test_contacts_become_links_where_they_are_one(contact: str, url: str) -> None:
    assert pages._contact_url(contact) == url
