"""The pages that a recipient sees: words, look, and the headers that keep them harmless.

No script, no cookie, nothing from elsewhere: a page is one document, its style allowed by hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.resources import files

from babel.dates import format_datetime
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from policy.model import Scope
from proxy.config import Sender

#: Languages of the pages; the first is spoken when the reader names none of them.
LANGUAGES = ("en", "nl")

_BRAND = "#24507a"
_LIGHT, _DARK = "#ffffff", "#1d2126"  # --paper in page.css, by colour scheme
_PREFERENCE = re.compile(
    r"\s*([a-z]{1,8})(?:-[a-z0-9-]*)?\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?", re.I
)
_ACCEPT = 1000  # characters of Accept-Language that are looked at
_MAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+")

_FIXED = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",  # the token is in the address
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
    "x-robots-tag": "noindex, nofollow",
    "cross-origin-resource-policy": "same-origin",
    "vary": "Accept-Language",
}

_environment = Environment(
    loader=PackageLoader("proxy.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_template = _environment.get_template("page.html")
_css = files("proxy.web").joinpath("templates", "page.css").read_text("utf-8")


@cache
def words(lang: str) -> dict[str, str]:
    """The texts of one language, by key."""
    text = files("proxy.web").joinpath("locales", f"{lang}.toml").read_text("utf-8")
    return tomllib.loads(text)


def language(accept: str, otherwise: str) -> str:
    """The reader's language out of an Accept-Language header (RFC 9110 12.5.4), one of ours."""
    return _language(accept[:_ACCEPT], otherwise)


@lru_cache(maxsize=1024)
def _language(accept: str, otherwise: str) -> str:
    best, best_weight = otherwise if otherwise in LANGUAGES else LANGUAGES[0], 0.0
    for part in accept.split(","):
        if match := _PREFERENCE.fullmatch(part):
            name, weight = match[1].lower(), float(match[2] or 1)
            if name in LANGUAGES and weight > best_weight:
                best, best_weight = name, weight
    return best


@dataclass(frozen=True, slots=True)
class Page:
    """An answer as ASGI sends it: made once, sent as often as it is asked for."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""

    def with_field(self, name: bytes, value: bytes) -> Page:
        """The same with one more header field; `name` in lower case."""
        return Page(self.status, (*self.headers, (name, value)), self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a page is about: `sender` None and `stream` "" when they are not known."""

    lang: str
    sender: Sender | None = None
    stream: str = ""
    scope: Scope = Scope.MARKETING


def ask(about: About) -> Page:
    """The question, with the button that acts."""
    t = words(about.lang)
    narrow = about.scope is Scope.STREAM
    return _page(
        200,
        about,
        t["ask_title"],
        lead=[_fill("ask_stream" if narrow else "ask_marketing", about)],
        body=[t["ask_whom"], _still(about)],
        button=t["ask_button"],
        small=t["ask_nothing_yet"],
        offer=_fill("ask_all", about) if narrow else "",
    )


def done(about: About, at: datetime | None, *, kept: bool = False) -> Page:
    """What was stopped, since when (`at`, when known), and what still comes.

    `kept`: 202, durable here, and in the store once that can be written.
    """
    return _page(
        202 if kept else 200,
        about,
        words(about.lang)["done_title"],
        lead=[_fill("done_stream" if about.scope is Scope.STREAM else "done_marketing", about)],
        body=[_still(about)],
        when=at,
    )


@cache
def lost(lang: str) -> Page:
    """One answer for every token that is not ours and every other path."""
    t = words(lang)
    about = About(lang=lang)
    return _page(404, about, t["lost_title"], body=[t["lost_text"], t["lost_remedy"]])


@cache
def busy(lang: str, *, button: bool) -> Page:
    """Our own trouble, with the button to try again when the request was to act."""
    t = words(lang)
    page = _page(
        503,
        About(lang=lang),
        t["busy_title"],
        body=[t["busy_text"], t["busy_remedy"]],
        button=t["busy_button"] if button else "",
    )
    return page.with_field(b"retry-after", b"120")


@cache
def not_allowed(lang: str, allow: str) -> Page:
    """A method that the address does not know."""
    t = words(lang)
    page = _page(405, About(lang=lang), t["method_title"], body=[t["method_text"]])
    return page.with_field(b"allow", allow.encode())


def _still(about: About) -> str:
    return _fill("still_stream" if about.scope is Scope.STREAM else "still_marketing", about)


def _fill(key: str, about: About) -> str:
    t = words(about.lang)
    name = about.sender.name if about.sender else t["this_sender"]
    return t[key].format(sender=name, stream=about.stream)


def _page(
    status: int,
    about: About,
    title: str,
    *,
    lead: Iterable[str] = (),
    body: Iterable[str] = (),
    button: str = "",
    small: str = "",
    offer: str = "",
    when: datetime | None = None,
) -> Page:
    sender = about.sender
    style, policy = _style(sender.colour or _BRAND if sender else _BRAND)
    at = when.astimezone(UTC) if when else None
    html = _template.render(
        lang=about.lang,
        t=words(about.lang),
        title=title,
        name=sender.name if sender else "",
        style=style,
        lead=lead,
        body=body,
        button=button,
        small=small,
        offer=offer,
        when=at,
        when_words=format_datetime(at, "d MMMM y, HH:mm 'UTC'", locale=about.lang) if at else "",
        sender=sender,
        contact_url=_contact_url(sender.contact) if sender else "",
    )
    octets = html.encode()
    headers = {
        **_FIXED,
        "content-security-policy": policy,
        "content-language": about.lang,
        "content-length": str(len(octets)),
        "content-type": "text/html; charset=utf-8",
    }
    return Page(status, tuple((k.encode(), v.encode()) for k, v in headers.items()), octets)


@cache
def _style(brand: str) -> tuple[Markup, str]:
    """The style sheet in a sender's colour, and the Content-Security-Policy that allows it."""
    text = (
        f":root {{ --brand: {brand}; --on-brand: {_readable_on(brand)}; "
        f"--edge-light: {_edge(brand, _LIGHT)}; --edge-dark: {_edge(brand, _DARK)}; }}\n{_css}"
    )
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    return Markup(text), policy  # noqa: S704  (our own file and a colour that the config checked)


def _readable_on(colour: str) -> str:
    return max(("#ffffff", "#000000"), key=lambda ink: _contrast(ink, colour))


def _edge(brand: str, paper: str) -> str:
    """A border for the button: its own colour, or one to be seen by (WCAG 1.4.11: 3 to 1)."""
    if _contrast(brand, paper) >= 3:
        return brand
    return max(("#1d2126", "#eceff3"), key=lambda ink: _contrast(ink, paper))


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio, 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contact_url(contact: str) -> str:
    if _MAIL.fullmatch(contact):
        return f"mailto:{contact}"
    return contact if contact.startswith("https://") else ""
