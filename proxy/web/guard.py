"""What stands before the API: who asks is known, and how much, before a byte of the body counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.api_tokens import find
from proxy.config import ApiToken
from proxy.web.problem import problem

#: The longest body: a thousand addresses and what is around them, several times over.
BODY_BYTES = 1 << 20

#: Seconds in which the whole body has to arrive.
BODY_SECONDS = 10.0

_CLOSE = {"connection": "close"}


class Guard:
    """Answers 401, 413 and 408 itself; else the app sees the body whole, and `state.token`.

    What is listed in `open_paths` needs no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Sequence[ApiToken],
        open_paths: frozenset[str],
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._open = open_paths
        self._seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in self._open:
            await self._app(scope, _nothing, send)
            return
        presented = _bearer(request)
        token = find(self._tokens, presented) if presented is not None else None
        if token is None:
            wrong = ', error="invalid_token"' if presented is not None else ""
            challenge = {"www-authenticate": f'Bearer realm="sluis"{wrong}'}
            answer = problem(401, "a valid bearer token is needed", headers=_CLOSE | challenge)
            await answer(scope, receive, send)
            return
        body = bytearray()
        try:
            length = request.headers.get("content-length", "0")
            if not length.isascii() or not length.isdigit() or int(length) > BODY_BYTES:
                raise _TooLarge
            async with asyncio.timeout(self._seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > BODY_BYTES:
                        raise _TooLarge
        except _TooLarge:
            words = f"a request may have {BODY_BYTES} bytes"
            await problem(413, words, headers=_CLOSE)(scope, receive, send)
            return
        except TimeoutError:
            await problem(408, "the request did not arrive", headers=_CLOSE)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        scope.setdefault("state", {})["token"] = token
        await self._app(scope, _once(bytes(body)), send)


class _TooLarge(Exception):
    pass


def _bearer(request: Request) -> str | None:
    """The token presented (RFC 6750, 2.1), None where there is none or more than one."""
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _once(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
