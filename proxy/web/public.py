"""What recipients' programs and people reach: `/u/{token}`.

GET, HEAD and OPTIONS change nothing, ever: link scanners follow every link of a mail, also with a
browser that runs scripts. POST acts: the token alone says who stops what (RFC 8058 3.1), so whether
its body is odd, too long, too slow or cut off, the opt-out counts. A 200 means: it is committed; a
202: the store cannot be written, it is durable beside it, and holds in this process from now on.

After a campaign its clicks come all at once, so this is a bare ASGI app: one path, no layers, and
pages that say the same are rendered once. What must be new each time is the commit.
"""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from functools import lru_cache
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from policy.model import Scope, Via
from proxy import log
from proxy.config import Settings
from proxy.errors import StoreError, TokenError
from proxy.keys import Keys
from proxy.store.model import Store
from proxy.tokens import OptOut, open_
from proxy.web import pages
from proxy.web.pages import Page
from proxy.web.record import Clock, OptOutEvents, record_optout, scope_of

#: Octets of a POST's body that are looked at, and that are read before it is answered.
BODY_LOOKED_AT = 16384
BODY_READ = 262144
#: Seconds that a body may take.
BODY_SECONDS = 10.0
#: Rendered pages that are kept, of each kind; one has about 6 KB.
PAGES = 64

_ALLOW = "GET, HEAD, OPTIONS, POST"
_METHODS = frozenset(_ALLOW.split(", "))
_PATH = "/u/"
_TOKEN = re.compile(r"[A-Za-z0-9._-]+")
_ONE_CLICK = b"List-Unsubscribe=One-Click"  # RFC 8058 3.1
_OPTIONS = Page(204, ((b"allow", _ALLOW.encode()), (b"cache-control", b"no-store")))


def public_app(
    settings: Settings,
    keys: Keys,
    store: Store,
    telemetry: OptOutEvents,
    *,
    clock: Clock,
    body_seconds: float = BODY_SECONDS,
) -> ASGIApp:
    """The app behind `http.public_url`. Links of streams and senders no longer configured work."""

    senders = {sender.id: sender for sender in settings.senders}

    def about(lang: str, sender: str, stream: str, scope: Scope) -> pages.About:
        return pages.About(lang=lang, sender=senders.get(sender), stream=stream, scope=scope)

    @lru_cache(maxsize=PAGES)
    def ask(lang: str, sender: str, stream: str, scope: Scope) -> Page:
        return pages.ask(about(lang, sender, stream, scope))

    @lru_cache(maxsize=PAGES)
    def done(
        lang: str, sender: str, stream: str, scope: Scope, second: datetime | None, kept: bool
    ) -> Page:
        return pages.done(about(lang, sender, stream, scope), second, kept=kept)

    find_stream = lru_cache(maxsize=PAGES)(settings.find_stream)

    def language(http: Connection, optout: OptOut) -> str:
        stream = find_stream(optout.stream)
        return _language(http, stream.lang if stream else pages.LANGUAGES[0])

    def show(http: Connection, token: str) -> Page:
        optout = open_(keys, token)
        lang = language(http, optout)
        return ask(lang, optout.sender, optout.stream, scope_of(settings, optout))

    async def act(http: Connection, token: str, body: bytes) -> Page:
        optout = open_(keys, token)
        via, scope = _meant(http, body)
        recorded = await record_optout(
            optout,
            via=via,
            keys=keys,
            store=store,
            settings=settings,
            telemetry=telemetry,
            clock=clock,
            scope=scope,
        )
        at = recorded.at.replace(microsecond=0) if recorded.at else None
        lang = language(http, optout)
        return done(lang, optout.sender, optout.stream, recorded.scope, at, recorded.kept)

    async def answer(http: Connection, receive: Receive) -> Page:
        path, method = http["path"], http["method"]
        rest = path[len(_PATH) :]
        if not path.startswith(_PATH) or not rest or "/" in rest:
            return pages.lost(_language(http))
        if method not in _METHODS:
            return pages.not_allowed(_language(http), _ALLOW)
        if method == "OPTIONS":
            return _OPTIONS
        posted = method == "POST"
        body, whole = await _read(receive, body_seconds) if posted else (b"", True)
        try:
            token = _token(rest)
            page = await act(http, token, body) if posted else show(http, token)
        except TokenError:
            page = pages.lost(_language(http))
        except StoreError as fault:
            log.store_failed(ref="", operation="append", error=str(fault))
            page = pages.busy(_language(http), button=posted)
        except Exception as fault:
            # Unforeseen, or the key file is damaged: whoever asked should ask again.
            log.incident(ref="", error=fault)
            page = pages.busy(_language(http), button=posted)
        return page if whole else page.with_field(b"connection", b"close")

    async def app(http: Connection, receive: Receive, send: Send) -> None:
        if http["type"] != "http":
            return
        page = await answer(http, receive)
        await send({"type": "http.response.start", "status": page.status, "headers": page.headers})
        await send({"type": "http.response.body", "body": page.body})

    return app


def _token(text: str) -> str:
    """The token in a path, without what a program that made text into a link put after it."""
    found = _TOKEN.match(text)
    return found[0].rstrip("._-") if found else ""


async def _read(receive: Receive, seconds: float) -> tuple[bytes, bool]:
    """The first octets of the body, and whether all of it was read. Never raises."""
    kept = b""
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return kept, False
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                kept += chunk[: BODY_LOOKED_AT - len(kept)]
                if size > BODY_READ:
                    return kept, False
                if not message.get("more_body", False):
                    return kept, True
    except TimeoutError:
        return kept, False


def _meant(http: Connection, body: bytes) -> tuple[Via, Scope | None]:
    """Our page's form, which may ask for more than the link does; everything else is one-click."""
    if body == _ONE_CLICK:  # the usual case, which needs no parser
        return Via.ONE_CLICK, None
    if _field(http, b"content-type").startswith("application/x-www-form-urlencoded"):
        try:
            form = parse_qs(body.decode("latin-1"), max_num_fields=20)
        except ValueError:
            form = {}
        if form.get("via") == ["page"]:
            return Via.PAGE, Scope.MARKETING if form.get("scope") == ["marketing"] else None
    return Via.ONE_CLICK, None


def _field(http: Connection, name: bytes) -> str:
    """The first header field of that name, "" for none."""
    for key, value in http["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


def _language(http: Connection, otherwise: str = pages.LANGUAGES[0]) -> str:
    return pages.language(_field(http, b"accept-language"), otherwise)
