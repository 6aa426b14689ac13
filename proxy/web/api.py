"""`/api/v1` of the admin address (`docs/api.md`): asks what a mail would come to, and takes events.

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
from fastapi import FastAPI, Header, Request, Security
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
from policy.events import EVENT_FIELDS
from policy.explain import explain
from policy.model import Reason, Verdict
from policy.pack import Packs
from proxy import log
from proxy.config import ApiToken, Settings, Stream
from proxy.errors import StoreError
from proxy.imports import Entry
from proxy.inquiry import Inquiry, as_known_at, decision_fields, decision_grounds, refusal_fields
from proxy.keys import Keys
from proxy.store.model import Added, Store
from proxy.web.events import HalfRecordedError, NotYoursError, Recorder, Wrong, record
from proxy.web.guard import BODY_SECONDS, Guard
from proxy.web.problem import NO_STORE, PROBLEM, problem

PREFIX = "/api/v1"
ADDRESSES = 1000
EVENTS = 1000
#: Each counterfactual is some dozens of decisions.
COUNTERFACTUALS = 100
#: Requests decided side by side; the others wait, so that mail does not.
_AT_ONCE = 2
_SOON = {"retry-after": "5"}

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


class EventIn(BaseModel):
    """One event, with the columns of an import beside these: those of its type, and the
    recipient's (country, kind, language, ...). Lists are lists, truths are true or false."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    address: Annotated[Text, Field(max_length=1000, description="Whom it is about.")]
    type: Annotated[
        Literal[tuple(EVENT_FIELDS)],  # type: ignore[valid-type]
        Field(description="`objection` is an opt-out: of `scope` marketing where it says none."),
    ]
    sender: Annotated[
        Text | None,
        Field(max_length=64, description="Needed where the token is for several."),
    ] = None
    at: Annotated[
        Instant | None, Field(description="When it happened. Default: now.")
    ] = None
    evidence: Annotated[
        Text | None,
        Field(description="What proves it, such as `form:signup-v3`: a basis without is none."),
    ] = None


class EventsRequest(_Model):
    """Events that happened elsewhere: all are sound, or none is recorded."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"events": [{"address": "anna@example.nl", "type": "objection"}]},
            ]
        }
    )

    events: Annotated[
        list[EventIn], Field(min_length=1, max_length=EVENTS, description="In no order.")
    ]


class RecordedOut(_Model):
    """What became of an event."""

    result: Annotated[
        Added,
        Field(
            description="`known`: it was on record. `kept`: durable and binding here, the store has"
            " it later."
        ),
    ]


class EventsOut(_Model):
    """One result for each event, in their order."""

    events: list[RecordedOut]


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
        self._recorder = Recorder(settings, keys, clock=clock)
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
        problems: dict[int | str, dict[str, Any]] = {
            status: {"model": Problem, "description": words} for status, words in told.items()
        }
        app.post(
            "/events",
            operation_id="record",
            summary="Record opt-outs, consents and relationships",
            description="An opt-out is `{\"address\": ..., \"type\": \"objection\"}`: once this is"
            " answered 200 no mail that it is against leaves any more. Role editor.",
            response_model=EventsOut,
            responses={
                **problems,
                202: {
                    "model": EventsOut,
                    "description": "The store cannot be written: opt-outs bind this process.",
                },
            },
            dependencies=[Security(HTTPBearer(auto_error=False))],
        )(self._events)
        app.post(
            "/decisions",
            operation_id="decide",
            summary="What a mail to these people would come to",
            response_model=DecisionsOut,
            response_model_exclude_unset=True,
            responses=problems,
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
            return problem(503, "starting", headers=_SOON)
        try:
            async with self._turn:
                data = await self._answer(asked, stream, self.store)
        except StoreError as error:
            log.store_failed(ref="", operation="lookup", error=str(error))
            return problem(503, "the store cannot answer now", headers=_SOON)
        except Exception as error:
            log.incident(ref="", error=error)
            return problem(500, "something unforeseen; it is in the log")
        log.api_answered(token=token.name, stream=stream.id, subjects=len(asked.addresses))
        return Response(orjson.dumps(data), headers=NO_STORE, media_type="application/json")

    async def _events(
        self,
        request: Request,
        asked: EventsRequest,
        idempotency_key: Annotated[
            Text,
            Header(
                max_length=255,
                description="Events without `at` that come again with it are the same events.",
            ),
        ] = "",
    ) -> Response:
        token: ApiToken = request.state.token
        if token.role != "editor":
            return problem(403, "to record is for the role editor")
        if self.store is None:
            return problem(503, "starting", headers=_SOON)
        rows = [
            {**event.model_dump(), "at": event.at.isoformat() if event.at else None}
            for event in asked.events
        ]
        try:
            async with self._turn:
                entries = await self._recorder.read(rows, token, idempotency_key)
            wrong = [one for one in entries if isinstance(one, Wrong)]
            if wrong:
                told = [{"place": one.place, "detail": one.reason} for one in wrong[:20]]
                return problem(422, "nothing was recorded: see errors", errors=told)
            added = await record([e for e in entries if isinstance(e, Entry)], self.store)
        except NotYoursError:
            return problem(403, "the token is not for the sender of an event")
        except HalfRecordedError:
            words = "the store cannot be written now: opt-outs are recorded, nothing else is"
            return problem(503, words, headers=_SOON)
        except StoreError as error:
            log.store_failed(ref="", operation="append", error=str(error))
            return problem(503, "the store cannot be written now", headers=_SOON)
        except Exception as error:
            log.incident(ref="", error=error)
            return problem(500, "something unforeseen; it is in the log")
        log.api_recorded(token=token.name, events=len(added), new=added.count(Added.NEW))
        data = {"events": [{"result": one.value} for one in added]}
        status = 202 if Added.KEPT in added else 200
        return Response(orjson.dumps(data), status, NO_STORE, "application/json")

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
        description="What the relay would decide, by the same facts and rules, and what that rests"
        " on: opt-outs and consents, recorded by `POST /events`.",
        routes=app.routes,
        servers=[{"url": PREFIX}],
    )
    for path in schema["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {PROBLEM: answer["content"].pop("application/json")}
    return schema
