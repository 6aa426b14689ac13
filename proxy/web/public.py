"""What recipients' programs and people reach: `/u/{token}`.

GET, HEAD and OPTIONS change nothing, ever: link scanners follow every link of a mail, also with a
browser that runs scripts. POST acts: the token alone says who stops what (RFC 8058 3.1), so whether
its body is odd, too long, too slow or cut off, the opt-out counts. A 200 means: it is committed; a
202: the store cannot be written, it is durable beside it, and holds in this process from now on.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from policy.model import Scope, Via
from proxy import log
from proxy.config import Settings
from proxy.errors import StoreError, TokenError
from proxy.keys import Keys
from proxy.store.model import Store
from proxy.tokens import OptOut, open_
from proxy.web import pages
from proxy.web.record import Clock, OptOutEvents, record_optout, scope_of

#: Octets of a POST's body that are looked at, and that are read before it is answered.
BODY_LOOKED_AT = 16384
BODY_READ = 262144
#: Seconds that a body may take.
BODY_SECONDS = 10.0

_ALLOW = "GET, HEAD, OPTIONS, POST"
_TOKEN = re.compile(r"[A-Za-z0-9._-]+")


def public_app(
    settings: Settings,
    keys: Keys,
    store: Store,
    telemetry: OptOutEvents,
    *,
    clock: Clock,
    body_seconds: float = BODY_SECONDS,
) -> Starlette:
    """The app behind `http.public_url`. Links of streams and senders no longer configured work."""

    senders = {sender.id: sender for sender in settings.senders}

    def about(request: Request, optout: OptOut, scope: Scope | None = None) -> pages.About:
        stream = settings.find_stream(optout.stream)
        otherwise = stream.lang if stream else pages.LANGUAGES[0]
        return pages.About(
            lang=pages.language(request.headers.get("accept-language", ""), otherwise),
            sender=senders.get(optout.sender),
            stream=optout.stream,
            scope=scope or scope_of(settings, optout),
        )

    async def show(request: Request) -> Response:
        try:
            return pages.ask(about(request, open_(keys, _token(request))))
        except TokenError:
            return _lost(request)
        except Exception as fault:
            return _busy(request, fault)

    async def act(request: Request) -> Response:
        body, whole = await _read(request, body_seconds)
        try:
            optout = open_(keys, _token(request))
            via, scope = _meant(request, body)
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
            answer = pages.done(
                about(request, optout, recorded.scope), recorded.at, kept=recorded.kept
            )
        except TokenError:
            answer = _lost(request)
        except StoreError as fault:
            log.store_failed(ref="", operation="append", error=str(fault))
            answer = pages.busy(_language(request), button=True)
        except Exception as fault:
            answer = _busy(request, fault)
        if not whole:
            answer.headers["connection"] = "close"
        return answer

    async def options(_: Request) -> Response:
        return Response(status_code=204, headers={"allow": _ALLOW, "cache-control": "no-store"})

    app = Starlette(
        routes=[
            Route("/u/{token}", show, methods=["GET", "HEAD"]),
            Route("/u/{token}", act, methods=["POST"]),
            Route("/u/{token}", options, methods=["OPTIONS"]),
        ],
        exception_handlers={404: _no_page, 405: _no_method},
    )
    app.router.redirect_slashes = False  # RFC 8058 3.1: no redirect
    return app


def _token(request: Request) -> str:
    """The token in the path, without what a program that made text into a link put after it."""
    found = _TOKEN.match(request.path_params["token"])
    return found[0].rstrip("._-") if found else ""


async def _read(request: Request, seconds: float) -> tuple[bytes, bool]:
    """The first octets of the body, and whether all of it was read. Never raises."""
    kept = bytearray()
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                kept += chunk[: BODY_LOOKED_AT - len(kept)]
                if size > BODY_READ:
                    return bytes(kept), False
    except (TimeoutError, ClientDisconnect):
        return bytes(kept), False
    return bytes(kept), True


def _meant(request: Request, body: bytes) -> tuple[Via, Scope | None]:
    """Our page's form, which may ask for more than the link does; everything else is one-click."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        try:
            form = parse_qs(body.decode("latin-1"), max_num_fields=20)
        except ValueError:
            form = {}
        if form.get("via") == ["page"]:
            return Via.PAGE, Scope.MARKETING if form.get("scope") == ["marketing"] else None
    return Via.ONE_CLICK, None


def _language(request: Request) -> str:
    return pages.language(request.headers.get("accept-language", ""), pages.LANGUAGES[0])


def _lost(request: Request) -> Response:
    return pages.lost(_language(request))


def _busy(request: Request, fault: Exception) -> Response:
    """Unforeseen, or the key file is damaged: whoever asked should ask again."""
    log.incident(ref="", error=fault)
    return pages.busy(_language(request), button=request.method == "POST")


async def _no_page(request: Request, _: Exception) -> Response:
    return _lost(request)


async def _no_method(request: Request, _: Exception) -> Response:
    return pages.not_allowed(_language(request), _ALLOW)
