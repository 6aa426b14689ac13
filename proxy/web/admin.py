"""What operators and their machines ask: metrics, liveness, readiness. Bind it to loopback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Health(Protocol):
    """Whether traffic may come."""

    def ready(self) -> tuple[bool, Mapping[str, object]]:
        """Ready or not, and the body: `status`, and in `degraded` what cannot be served."""
        ...


class Metrics(Protocol):
    """The registry, as Prometheus reads it."""

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        ...


def admin_app(telemetry: Metrics, health: Health, api: ASGIApp | None = None) -> Starlette:
    """`/metrics`, `/healthz` (200 while the loop turns), `/readyz` (200 or 503), `/api/v1`."""

    async def metrics(_: Request) -> Response:
        body, content_type = telemetry.render()
        # The type is given as a header, since Starlette would add a charset to text types.
        return Response(body, headers={**_HEADERS, "content-type": content_type})

    async def healthz(_: Request) -> Response:
        return _json(200, {"status": "alive"})

    async def readyz(_: Request) -> Response:
        ready, body = health.ready()
        return _json(200 if ready else 503, {"degraded": [], **body})

    async def problem(_: Request, fault: Exception) -> Response:
        return _json(getattr(fault, "status_code", 500), {"status": "no such page or method"})

    app = Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            *([Mount("/api/v1", api)] if api is not None else []),
        ],
        exception_handlers={404: problem, 405: problem},
    )
    app.router.redirect_slashes = False
    return app


def _json(status: int, body: Mapping[str, object]) -> Response:
    return Response(orjson.dumps(body), status, headers=_HEADERS, media_type="application/json")
