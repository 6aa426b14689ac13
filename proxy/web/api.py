"""`/api/v1` of the admin address (`docs/api.md`): asks what a mail would come to. Writes nothing.

The only file that knows FastAPI. There are no pages for trying it out: they would load scripts from
elsewhere. Its description is at `/api/v1/openapi.json`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    WithJsonSchema,
)
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from policy.address import Address, AddressError, parse
from policy.explain import explain
from policy.model import Reason, Verdict
from policy.pack import Packs
from proxy import log
from proxy.config import ApiToken, Settings, Stream
from proxy.errors import StoreError
from proxy.inquiry import Inquiry, as_known_at, decision_fields, decision_grounds, refusal_fields
from proxy.keys import Keys
from proxy.store.model import Store
from proxy.web.guard import BODY_SECONDS, Guard
from proxy.web.problem import NO_STORE, PROBLEM, problem

PREFIX = "/api/v1"
ADDRESSES = 1000
#: Each counterfactual is some dozens of decisions.
COUNTERFACTUALS = 100
#: Requests decided side by side; the others wait, so that mail does not.
_AT_ONCE = 2

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _instant(value: object) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("not an RFC 3339 time with its zone: write 2026-03-01T12:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("no time of the calendar") from error


def _sendable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("not Unicode text: a half of a surrogate pair") from error
    return value


Text = Annotated[StrictStr, AfterValidator(_sendable)]
Slug = Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9/_.-]{0,63}$")]
Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": f"^{_TIME.pattern}$"}),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class DecisionRequest(_Model):
    """A mail that meets every duty, to each of some people."""

    stream: Annotated[Text, Field(max_length=64, description="The stream it would go by.")]
    addresses: Annotated[
        list[Annotated[Text, Field(max_length=1000)]],
        Field(min_length=1, max_length=ADDRESSES, description="Whom it would go to."),
    ]
    products: Annotated[
        list[Slug], Field(max_length=50, description="What it is about; else the stream's.")
    ] = []
    topics: Annotated[list[Slug], Field(max_length=50, description="Else the stream's.")] = []
    at: Annotated[
        Instant | None,
        Field(description="When it goes; one gone by: as it was known then. Default: now."),
    ] = None
    explain: Annotated[
        StrictBool,
        Field(description="Add what each decision rests on. Roles editor and auditor."),
    ] = False
    counterfactual: Annotated[
        StrictBool,
        Field(
            description="Add what would turn each decision; with at most "
            f"{COUNTERFACTUALS} addresses. Implies explain."
        ),
    ] = False
    language: Annotated[Literal["en", "nl"], Field(description="Of remedy and text.")] = "en"


class BasisOut(_Model):
    """The entry of the ledger that permits the mail."""

    rule: str
    evidence: str
    at: datetime | None


class ChangeOut(_Model):
    """One change of facts that would turn the verdict."""

    fact: str
    now: str
    needed: str


class StepOut(_Model):
    """What was asked of which entry, and the answer."""

    pack: str
    rule: str
    condition: str
    answer: Literal["yes", "no", "unknown"]
    event: str
    detail: str


class DecisionOut(_Model):
    """The decision for one address. `basis` and what follows are there when asked for."""

    address: str
    verdict: Verdict
    reason: Reason
    cite: str
    pack: str
    rule: str
    jurisdiction: str
    expires_at: datetime | None
    until: datetime | None
    needs_review: bool
    remedy: str
    basis: BasisOut | None = None
    trace: list[StepOut] | None = None
    counterfactual: list[ChangeOut] | None = None
    text: str | None = None


class DecisionsOut(_Model):
    """One decision for each address, in their order."""

    stream: str
    sender: str
    at: datetime
    decisions: list[DecisionOut]


class ErrorOut(_Model):
    """One place of the request and what is wrong there."""

    place: str
    detail: str


class Problem(_Model):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ErrorOut] = []


class Api:
    """The API as an ASGI app. Until `store` is set it answers 503."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        packs: Packs,
        *,
        clock: Callable[[], datetime],
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self.store: Store | None = None
        self._settings = settings
        self._keys = keys
        self._packs = packs
        self._clock = clock
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self.app: ASGIApp = Guard(
            self._fastapi(), settings.api_tokens, frozenset({"/openapi.json"}), body_seconds
        )

    def _fastapi(self) -> FastAPI:
        app = FastAPI(
            title="Sluis",
            version="1",
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            exception_handlers={HTTPException: _http, RequestValidationError: _invalid},
        )
        told = {
            400: "The body is no JSON.",
            401: "No token, or none that is known.",
            403: "The token's role or senders do not allow it.",
            408: "The body did not arrive in time.",
            413: "The body is too long.",
            422: "A value is missing or wrong.",
            500: "Something unforeseen.",
            503: "The store cannot answer now.",
        }
        app.post(
            "/decisions",
            operation_id="decide",
            summary="What a mail to these people would come to",
            response_model=DecisionsOut,
            response_model_exclude_unset=True,
            responses={
                status: {"model": Problem, "description": words} for status, words in told.items()
            },
            dependencies=[Security(HTTPBearer(auto_error=False))],
        )(self._decisions)

        def openapi() -> dict[str, Any]:
            if app.openapi_schema is None:
                app.openapi_schema = _described(app)
            return app.openapi_schema

        app.openapi = openapi  # type: ignore[method-assign]
        return app

    async def _decisions(self, request: Request, asked: DecisionRequest) -> Response:
        token: ApiToken = request.state.token
        stream = self._settings.find_stream(asked.stream)
        if stream is None:
            return _wrong("stream", "there is no such stream")
        if token.senders and stream.sender not in token.senders:
            return problem(403, "the token is not for the sender of this stream")
        if (asked.explain or asked.counterfactual) and token.role == "reader":
            return problem(403, "what a decision rests on is for the roles editor and auditor")
        if asked.counterfactual and len(asked.addresses) > COUNTERFACTUALS:
            return _wrong("counterfactual", f"with at most {COUNTERFACTUALS} addresses")
        if self.store is None:
            return problem(503, "starting", headers={"retry-after": "5"})
        try:
            async with self._turn:
                data = await self._answer(asked, stream, self.store)
        except StoreError as error:
            log.store_failed(ref="", operation="lookup", error=str(error))
            return problem(503, "the store cannot answer now", headers={"retry-after": "5"})
        except Exception as error:
            log.incident(ref="", error=error)
            return problem(500, "something unforeseen; it is in the log")
        log.api_answered(token=token.name, stream=stream.id, subjects=len(asked.addresses))
        return Response(orjson.dumps(data), headers=NO_STORE, media_type="application/json")

    async def _answer(
        self, asked: DecisionRequest, stream: Stream, store: Store
    ) -> dict[str, object]:
        products, topics = tuple(asked.products), tuple(asked.topics)
        inquiry = Inquiry(self._settings, self._packs, stream, products, topics)
        read = [self._address(text) for text in asked.addresses]
        addresses = [one for one in read if isinstance(one, Address)]
        subjects = [self._keys.subject(stream.sender, address) for address in addresses]
        now = self._clock()
        at = asked.at or now
        known = await inquiry.known(store, subjects, at)
        if at < now:
            known = [as_known_at(one, at) for one in known]
        decided = await inquiry.answer(addresses, known, at, counterfactual=asked.counterfactual)
        answers = iter(decided)
        decisions: list[dict[str, object]] = []
        for text, one in zip(asked.addresses, read, strict=True):
            if not isinstance(one, Address):
                decisions.append({"address": text, **refusal_fields(one, asked.language)})
                continue
            decision = next(answers)
            fields = {"address": text, **decision_fields(decision, asked.language)}
            if asked.explain or asked.counterfactual:
                fields |= decision_grounds(decision)
                fields["text"] = explain(decision, asked.language, at=at)
                if not asked.counterfactual:
                    del fields["counterfactual"]
            decisions.append(fields)
        return {"stream": stream.id, "sender": stream.sender, "at": at, "decisions": decisions}

    def _address(self, text: str) -> Address | str:
        """The address, or what is wrong with it."""
        try:
            subaddress = self._settings.policy.subaddress
            return parse(text.strip(), smtputf8=True, subaddress=subaddress)
        except AddressError as error:
            return str(error)


def _wrong(place: str, words: str) -> Response:
    return problem(422, f"{place}: {words}", errors=[{"place": place, "detail": words}])


async def _http(_: Request, fault: HTTPException) -> Response:
    words = {404: "there is nothing here", 405: "not with this method"}
    detail = words.get(fault.status_code, "the body is no JSON")
    return problem(fault.status_code, detail, headers=fault.headers)


async def _invalid(_: Request, fault: RequestValidationError) -> Response:
    """What is wrong and where; the values themselves are not repeated."""
    errors = [
        {
            "place": ".".join(str(part) for part in error["loc"][1:]) or "body",
            "detail": str(error["msg"]).removeprefix("Value error, "),
        }
        for error in fault.errors()[:20]
    ]
    if any(error["type"] == "json_invalid" for error in fault.errors()):
        return problem(400, "the body is no JSON")
    return problem(422, "; ".join(f"{e['place']}: {e['detail']}" for e in errors), errors=errors)


def _described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1, where errors have their own media type."""
    schema: dict[str, Any] = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description="What the relay would decide, by the same facts and rules.",
        routes=app.routes,
        servers=[{"url": PREFIX}],
    )
    for path in schema["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {PROBLEM: answer["content"].pop("application/json")}
    return schema
