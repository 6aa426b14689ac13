"""`POST /api/v1/decisions` over real HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
from api_site import NOW, TOKENS, Site

from policy.address import parse
from proxy.errors import StoreUnavailable
from proxy.inquiry import Inquiry
from proxy.packs import builtin_packs
from proxy.store.model import Snapshot
from proxy.web.guard import BODY_BYTES

pytest_plugins = ("api_site",)


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """The problem that an answer is; checked against RFC 9457 and for what may not be in it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= set(body)
    assert body["status"] == status
    assert "example.nl" not in answer.text
    return body


def test_one_decision_for_each_address_in_order(site: Site) -> None:
    addresses = [
        "bram@example.nl", "anna@example.nl", "no address", "cees@example.nl", "nobody@example.nl",
        " anna@example.nl ",
    ]  # fmt: skip
    answer = site.ask(*addresses, role="reader")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["stream"], body["sender"]) == ("newsletter", "acme")
    assert abs(datetime.fromisoformat(body["at"]) - datetime.now(UTC)) < timedelta(minutes=5)
    decisions = body["decisions"]
    assert [d["address"] for d in decisions] == addresses
    assert [(d["verdict"], d["reason"]) for d in decisions] == [
        ("block", "suppressed"), ("allow", "consent"), ("block", "invalid-address"),
        ("block", "preticked-consent"), ("block", "no-basis"), ("allow", "consent"),
    ]  # fmt: skip
    assert decisions[1]["cite"].startswith("Tw 11.7(1)")
    assert decisions[1]["pack"].startswith("nl@")
    assert all(bool(d["remedy"]) == (d["verdict"] != "allow") for d in decisions)
    assert not any({"basis", "trace", "counterfactual", "text"} & set(d) for d in decisions)


def test_explained_to_those_who_may_see_evidence(site: Site) -> None:
    for role in ("editor", "auditor"):
        answer = site.ask("anna@example.nl", "cees@example.nl", role=role, explain=True)
        anna, cees = answer.json()["decisions"]
        assert anna["basis"]["evidence"] == "form:1"
        assert anna["text"].startswith("Allowed (consent)")
        assert "counterfactual" not in anna
        assert cees["basis"] is None
        failed = [s for s in cees["trace"] if s["answer"] != "yes"]
        assert ("affirmative-act", "box preticked") in {
            (s["condition"], s["detail"]) for s in failed
        }
        assert "secret:7" not in answer.text
    body = problem(site.ask("anna@example.nl", role="reader", explain=True), 403)
    assert "editor and auditor" in body["detail"]
    problem(site.ask("anna@example.nl", role="reader", counterfactual=True), 403)


def test_what_would_turn_it(site: Site) -> None:
    answer = site.ask("cees@example.nl", counterfactual=True, language="nl")
    [cees] = answer.json()["decisions"]
    assert cees["counterfactual"]
    assert "Het zou zijn toegestaan als" in cees["text"]
    many = [f"p{n}@example.com" for n in range(101)]
    body = problem(site.ask(*many, counterfactual=True), 422)
    assert body["errors"] == [{"place": "counterfactual", "detail": "with at most 100 addresses"}]


def test_at_another_time(site: Site) -> None:
    before = (NOW - timedelta(days=5)).isoformat()
    [bram] = site.ask("bram@example.nl", at=before).json()["decisions"]
    assert bram["verdict"] == "allow"  # the objection was recorded later
    [anna] = site.ask("anna@example.nl", at=(NOW - timedelta(days=50)).isoformat()).json()[
        "decisions"
    ]
    assert anna["reason"] == "no-basis"


def test_products_and_topics(site: Site) -> None:
    [anna] = site.ask("anna@example.nl", topics=["offers"]).json()["decisions"]
    assert anna["reason"] == "scope-mismatch"


def test_a_thousand_at_once_are_what_one_by_one_is(site: Site) -> None:
    addresses = [f"p{n}@example.com" for n in range(998)]
    answer = site.ask("anna@example.nl", *addresses, "bram@example.nl", role="reader")
    assert answer.status_code == 200
    decisions = answer.json()["decisions"]
    assert [d["address"] for d in decisions][1:-1] == addresses
    assert [decisions[0]["reason"], decisions[-1]["reason"]] == ["consent", "suppressed"]
    body = problem(site.ask("anna@example.nl", *addresses, "b@x.nl", "c@x.nl"), 422)
    assert body["errors"][0]["place"] == "addresses"


def test_the_engine_is_asked_as_everywhere(site: Site) -> None:
    stream = site.settings.stream("newsletter")
    inquiry = Inquiry(site.settings, builtin_packs(), stream)
    for name in ("anna", "bram", "cees", "nobody"):
        address = parse(f"{name}@example.nl")
        subject = site.keys.subject("acme", address)
        [known] = site.run(inquiry.known(site.store, [subject]))
        decision = inquiry.decide(address, known, datetime.now(UTC))
        [told] = site.ask(address.exact).json()["decisions"]
        assert (told["verdict"], told["reason"], told["cite"], told["pack"]) == (
            decision.verdict, decision.reason, decision.cite, decision.pack,
        )  # fmt: skip


# -- who asks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer nonsense", f"Basic {TOKENS['editor']}",
        TOKENS["editor"], f"Bearer {TOKENS['editor'][:-1]}", f"Bearer {TOKENS['editor']}x",
        "Bearer " + "x" * 5000, "Bearer \x80\xff",
    ],
)  # fmt: skip
def test_no_token_no_answer(site: Site, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    body = {"stream": "newsletter", "addresses": ["anna@example.nl"]}
    answer = httpx2.post(f"{site.url}/api/v1/decisions", json=body, headers=headers)  # type: ignore[arg-type]
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith('Bearer realm="sluis"')
    # Neither what is there nor what is wrong with a request is told to strangers.
    for path, content in (("/decisions", b"{"), ("/nothing", b"")):
        url = f"{site.url}/api/v1{path}"
        problem(httpx2.post(url, content=content, headers=headers), 401)  # type: ignore[arg-type]


def test_two_tokens_are_none(site: Site) -> None:
    headers = [("authorization", f"Bearer {TOKENS[name]}") for name in ("reader", "editor")]
    problem(httpx2.post(f"{site.url}/api/v1/decisions", json={}, headers=headers), 401)


def test_a_token_for_one_sender(site: Site) -> None:
    problem(site.ask("anna@example.nl", role="globex"), 403)
    answer = site.ask("anna@example.nl", role="globex", stream="globex-news", explain=True)
    [anna] = answer.json()["decisions"]
    assert anna["basis"]["evidence"] == "secret:7"


def test_the_scheme_is_written_in_any_case(site: Site) -> None:
    headers = {"authorization": f"bEARER {TOKENS['reader']}"}
    body = {"stream": "newsletter", "addresses": ["anna@example.nl"]}
    answer = httpx2.post(f"{site.url}/api/v1/decisions", json=body, headers=headers)
    assert answer.status_code == 200


# -- what is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"stream": "none"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"addresses": []}, "addresses"),
        ({"addresses": "anna@example.nl"}, "addresses"),
        ({"addresses": [1]}, "addresses.0"),
        ({"addresses": ["x" * 1001]}, "addresses.0"),
        ({"addresses": ["\ud800@example.com"]}, "addresses.0"),
        ({"products": ["Not a slug"]}, "products.0"),
        ({"topics": ["x"] * 51}, "topics"),
        ({"at": "yesterday"}, "at"),
        ({"at": "2026-03-01T12:00:00"}, "at"),
        ({"at": "2026-13-01T12:00:00Z"}, "at"),
        ({"at": 1700000000}, "at"),
        ({"explain": "yes"}, "explain"),
        ({"language": "fr"}, "language"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_value_is_named(site: Site, change: dict[str, object], place: str) -> None:
    body = {"stream": "newsletter", "addresses": ["anna@example.nl"], **change}
    answer = httpx2.post(
        f"{site.url}/api/v1/decisions",
        content=json.dumps(body),
        headers={"authorization": f"Bearer {TOKENS['editor']}", "content-type": "application/json"},
    )
    found = problem(answer, 422)
    assert place in [error["place"] for error in found["errors"]]


def raw(site: Site, content: bytes, **headers: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {TOKENS['editor']}", **headers}
    headers.setdefault("content-type", "application/json")
    return httpx2.post(f"{site.url}/api/v1/decisions", content=content, headers=headers)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"{} {}"])
def test_what_is_no_json(site: Site, content: bytes) -> None:
    problem(raw(site, content), 400)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'"x"', b"1"])
def test_what_is_no_object(site: Site, content: bytes) -> None:
    problem(raw(site, content), 422)


def test_a_form_is_no_request(site: Site) -> None:
    content_type = "application/x-www-form-urlencoded"
    problem(raw(site, b"stream=newsletter", **{"content-type": content_type}), 422)


def test_too_long_a_body_is_not_read(site: Site) -> None:
    problem(raw(site, b" " * (BODY_BYTES + 1)), 413)
    # Announced, and then not even sent.
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        client.sendall(
            b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
            + f"Authorization: Bearer {TOKENS['reader']}\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    # Not announced.
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        client.sendall(
            b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + f"Authorization: Bearer {TOKENS['reader']}\r\n\r\n".encode()
        )
        try:
            for _ in range(20):
                client.sendall(chunk)
        except OSError:
            pass  # it hung up, which is right too; what it said is read below
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_too_slow_a_body(start: Callable[..., Site]) -> None:
    site = start(body_seconds=0.2)
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        client.sendall(
            b"POST /api/v1/decisions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
            + f"Authorization: Bearer {TOKENS['reader']}\r\n\r\n{{".encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_other_paths_and_methods(site: Site) -> None:
    headers = {"authorization": f"Bearer {TOKENS['reader']}"}
    with httpx2.Client(base_url=site.url, headers=headers) as client:
        problem(client.get("/api/v1/decisions"), 405)
        for path in ("/api/v1/nothing", "/api/v1/docs", "/api/v1/redoc", "/api/v1/decisions/"):
            problem(client.get(path), 404)
        assert client.get("/healthz").status_code == 200
        assert client.get("/openapi.json").status_code == 404


# -- trouble ---------------------------------------------------------------------------------------


def test_before_the_store_is_open(start: Callable[..., Site]) -> None:
    answer = start(ready=False).ask("anna@example.com")
    problem(answer, 503)
    assert answer.headers["retry-after"] == "5"


def test_store_trouble_and_the_unforeseen(
    start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = start()

    async def away(*_: object, **__: object) -> Snapshot:
        raise StoreUnavailable("the disk is away")

    monkeypatch.setattr(site.store, "lookup", away)
    assert problem(site.ask("anna@example.com"), 503)["detail"] == "the store cannot answer now"

    async def wrong(*_: object, **__: object) -> Snapshot:
        raise ZeroDivisionError("anna@example.nl")

    monkeypatch.setattr(site.store, "lookup", wrong)
    problem(site.ask("anna@example.com"), 500)


# -- the description -------------------------------------------------------------------------------


def test_the_description_holds_for_what_is_answered(site: Site) -> None:
    schema = httpx2.get(f"{site.url}/api/v1/openapi.json").json()
    assert schema["openapi"] == "3.1.0"
    assert schema["servers"] == [{"url": "/api/v1"}]
    operation = schema["paths"]["/decisions"]["post"]
    assert operation["security"]
    assert set(operation["responses"]) == {
        "200", "400", "401", "403", "408", "413", "422", "500", "503",
    }  # fmt: skip

    def check(name: str, value: object) -> None:
        jsonschema.validate(
            value, {"$ref": f"#/components/schemas/{name}", "components": schema["components"]}
        )

    asked: list[dict[str, Any]] = [{}, {"explain": True}, {"counterfactual": True}]
    for options in asked:
        answer = site.ask("anna@example.nl", "cees@example.nl", "no address", **options)
        check("DecisionsOut", answer.json())
    check("Problem", site.ask(role=None).json())
    check("Problem", site.ask().json())
    for status, answer in operation["responses"].items():
        kind = "application/json" if status == "200" else "application/problem+json"
        assert list(answer["content"]) == [kind]


def test_nothing_is_loaded_from_elsewhere(site: Site) -> None:
    text = httpx2.get(f"{site.url}/api/v1/openapi.json").text
    assert "http://" not in text
    assert "https://" not in text
