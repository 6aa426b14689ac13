"""The sink's inbox: mails in a browser and as JSON. No scripts, no cookies, nothing from elsewhere.

A mail is foreign text. It is shown escaped; its HTML part only in a frame without scripts, forms,
origin or network. Requests for another host name than loopback or the one bound are refused (DNS
rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import email.parser
import email.policy
import http.client
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.header import decode_header
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import jinja2
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from proxy.web.server import HttpServer

if TYPE_CHECKING:
    from proxy.sink import Received, Sink

_PARTS = 200        # MIME parts looked at
_DEPTH = 20         # nesting looked at
_SHOWN = 1 << 20    # characters of one part shown
_PAGE = 100         # mails on the list
_WAIT = 5.0         # seconds for a one-click opt-out

_ONE_CLICK = "List-Unsubscribe=One-Click"  # RFC 8058 section 3.2

_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_MAIL_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'self'"
)

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "sink_templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person sees of one mail; all text, nothing trusted."""

    subject: str
    sender: str
    fields: tuple[tuple[str, str], ...]
    text: str
    html: str
    unsubscribe: tuple[str, ...]
    one_click: str


def shown(content: bytes) -> Shown:
    """Read `content` for display. Never raises: what cannot be read is shown as it came."""
    fields = tuple(_fields(content))
    text, html = _bodies(content)
    uris = tuple(re.findall(r"<([^<>\s]+)>", _first(fields, "list-unsubscribe")))
    post = _first(fields, "list-unsubscribe-post").replace(" ", "")
    https = [uri for uri in uris if uri.lower().startswith(("https://", "http://"))]
    return Shown(
        subject=_decoded(_first(fields, "subject")),
        sender=_decoded(_first(fields, "from")),
        fields=fields,
        text=text,
        html=html,
        unsubscribe=uris,
        one_click=https[0] if https and post.lower() == _ONE_CLICK.lower() else "",
    )


def _fields(content: bytes) -> Iterator[tuple[str, str]]:
    head = content.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    name, value = "", ""
    for line in head.split("\r\n"):
        if line[:1] in (" ", "\t"):
            value += "\r\n" + line
            continue
        if name or value:
            yield name, value
        name, colon, value = line.partition(":")
        if not colon:
            name, value = "", line
        value = value.removeprefix(" ")
    if name or value:
        yield name, value


def _first(fields: tuple[tuple[str, str], ...], name: str) -> str:
    return next((v.replace("\r\n", "") for n, v in fields if n.strip().lower() == name), "")


def _decoded(text: str) -> str:
    """RFC 2047 words as text."""
    with contextlib.suppress(ValueError, LookupError, email.errors.MessageError):
        return "".join(
            part.decode(charset or "latin-1", "replace") if isinstance(part, bytes) else part
            for part, charset in decode_header(text)
        )
    return text


def _bodies(content: bytes) -> tuple[str, str]:
    """The first text part and the first HTML part."""
    try:
        message = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(content)
        found: dict[str, str] = {}
        for part in _leaves(message):
            kind = part.get_content_type()
            if kind in ("text/plain", "text/html") and kind not in found:
                found[kind] = _text(part)
    except (RecursionError, ValueError, LookupError, email.errors.MessageError):
        return content.partition(b"\r\n\r\n")[2][:_SHOWN].decode("utf-8", "replace"), ""
    return found.get("text/plain", ""), found.get("text/html", "")


def _leaves(message: Message) -> Iterator[Message]:
    pending = [(message, 0)]
    for _ in range(_PARTS):
        if not pending:
            return
        part, depth = pending.pop(0)
        payload = part.get_payload()
        if isinstance(payload, list):
            if depth < _DEPTH:
                pending.extend((p, depth + 1) for p in payload if isinstance(p, Message))
        else:
            yield part


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        return raw.decode(part.get_content_charset("utf-8"), "replace")[:_SHOWN]
    except LookupError:
        return raw.decode("utf-8", "replace")[:_SHOWN]


# -- one-click --------------------------------------------------------------------------------


def may_post(uri: str, public_url: str) -> bool:
    """Whether the inbox may POST to `uri`: loopback, or the origin of `public_url`."""
    try:
        target, own = urlsplit(uri), urlsplit(public_url)
        if target.scheme not in ("http", "https") or target.username is not None:
            return False
        same = bool(own.hostname) and _origin(target) == _origin(own)
        return _origin(target)[2] > 0 and (_is_loopback(target.hostname or "") or same)
    except ValueError:
        return False


def _origin(url: SplitResult) -> tuple[str, str | None, int]:
    return url.scheme, url.hostname, url.port or (443 if url.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _post(uri: str) -> tuple[int, str]:
    """The RFC 8058 request, as a mailbox provider makes it; redirects are not followed."""
    url = urlsplit(uri)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=_WAIT)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", target, _ONE_CLICK, headers)
        response = connection.getresponse()
        return response.status, response.reason
    finally:
        connection.close()


# -- HTTP --------------------------------------------------------------------------------------


class _Guard:
    """Refuses foreign host names and origins, and sets the headers that every answer has."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", _PAGE_POLICY)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers["cache-control"] = "no-store"
            await send(message)

        request = Request(scope)
        app: ASGIApp = self._app
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if not (_is_loopback(host) or host == self._host):
            app = PlainTextResponse("this inbox answers to its own address only", 421)
        elif request.method not in ("GET", "HEAD") and request.headers.get(
            "sec-fetch-site", "none"
        ) not in ("none", "same-origin"):
            app = PlainTextResponse("not from another site", 403)
        await app(scope, receive, guarded)


def inbox_app(sink: Sink, *, host: str, public_url: str) -> Starlette:
    """The inbox as an ASGI application."""

    def find(request: Request) -> Received:
        wanted = request.path_params["id"]
        for mail in reversed(sink.messages):
            if mail.id == wanted:
                return mail
        raise HTTPException(404, "no such mail, or no longer kept")

    def page(name: str, values: Mapping[str, object]) -> HTMLResponse:
        return HTMLResponse(_templates.get_template(name).render(values))

    def mail_page(mail: Received, note: str = "") -> HTMLResponse:
        view = shown(mail.content)
        may = bool(view.one_click) and may_post(view.one_click, public_url)
        values = {"line": _line(mail), "view": view, "may": may, "note": note}
        return page("mail.html", values)

    async def listing(_: Request) -> Response:
        mails = [
            {"line": _line(mail), "view": shown(_head(mail.content))}
            for mail in reversed(sink.messages[-_PAGE:])
        ]
        kept = len(sink.messages)
        return page("list.html", {"mails": mails, "kept": kept, "total": sink.total})

    async def one(request: Request) -> Response:
        return mail_page(find(request))

    async def html(request: Request) -> Response:
        body = shown(find(request).content).html
        return HTMLResponse(body, headers={"content-security-policy": _MAIL_POLICY})

    async def raw(request: Request) -> Response:
        mail = find(request)
        name = {"content-disposition": f'attachment; filename="mail-{mail.id}.eml"'}
        return Response(mail.content, media_type="message/rfc822", headers=name)

    async def unsubscribe(request: Request) -> Response:
        mail = find(request)
        uri = shown(mail.content).one_click
        if not uri or not may_post(uri, public_url):
            raise HTTPException(409, "no one-click address that this inbox may call")
        try:
            status, reason = await asyncio.to_thread(_post, uri)
        except (OSError, ValueError, http.client.HTTPException) as error:
            return mail_page(mail, f"No answer: {error}")
        return mail_page(mail, f"Answered {status} {reason}")

    async def api_list(_: Request) -> Response:
        return JSONResponse([_json(mail) for mail in reversed(sink.messages)])

    async def api_one(request: Request) -> Response:
        mail = find(request)
        view = shown(mail.content)
        more = {
            "headers": [list(field) for field in view.fields],
            "text": view.text,
            "html": view.html,
            "list_unsubscribe": list(view.unsubscribe),
            "one_click": view.one_click,
        }
        return JSONResponse(_json(mail) | more)

    async def api_clear(_: Request) -> Response:
        sink.clear()
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", listing),
            Route("/mail/{id:int}", one),
            Route("/mail/{id:int}/html", html),
            Route("/mail/{id:int}/raw", raw),
            Route("/mail/{id:int}/unsubscribe", unsubscribe, methods=["POST"]),
            Route("/api/messages", api_list),
            Route("/api/messages", api_clear, methods=["DELETE"]),
            Route("/api/messages/{id:int}", api_one),
        ],
        middleware=[Middleware(_Guard, host=host)],
    )


def _head(content: bytes) -> bytes:
    return content.partition(b"\r\n\r\n")[0]


def _line(mail: Received) -> dict[str, str]:
    return {
        "id": str(mail.id),
        "at": mail.at.isoformat(timespec="seconds"),
        "mail_from": mail.mail_from.decode("utf-8", "replace"),
        "recipients": ", ".join(r.decode("utf-8", "replace") for r in mail.recipients),
        "size": str(len(mail.content)),
    }


def _json(mail: Received) -> dict[str, object]:
    view = shown(_head(mail.content))
    return {
        "id": mail.id,
        "at": mail.at.isoformat(),
        "mail_from": mail.mail_from.decode("utf-8", "replace"),
        "recipients": [r.decode("utf-8", "replace") for r in mail.recipients],
        "size": len(mail.content),
        "subject": view.subject,
        "from": view.sender,
    }


class InboxServer:
    """The inbox on a port of its own, in the running loop."""

    def __init__(self, sink: Sink, *, public_url: str) -> None:
        self._sink = sink
        self._public_url = public_url
        self._server: HttpServer | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family)
        app = inbox_app(self._sink, host=host, public_url=self._public_url)
        self._server = HttpServer(app, bound)
        await self._server.start()
        return self._server.port

    async def close(self) -> None:
        """Stop; requests in progress end first."""
        if self._server is not None:
            await self._server.stop()
