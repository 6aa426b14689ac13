"""Errors as RFC 9457 has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from starlette.responses import Response

PROBLEM = "application/problem+json"
NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`detail` says what is wrong with this request; `errors` where, if in several places."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = list(errors)
    return Response(
        orjson.dumps(body), status, headers={**NO_STORE, **(headers or {})}, media_type=PROBLEM
    )
