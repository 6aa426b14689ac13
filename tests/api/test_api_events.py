"""`POST /api/v1/events` over real HTTP: what an application reports is on record at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from api_site import NOW, TOKENS, Site

from policy.address import parse
from policy.model import Event, Objection, OptIn, Scope, Via
from proxy.errors import StoreUnavailable
from proxy.store.model import NewEvent

pytest_plugins = ("api_site",)

OPT_IN: dict[str, Any] = {
    "type": "opt-in", "at": (NOW - timedelta(days=3)).isoformat(), "evidence": "form:signup-v3",
    "box": "unticked", "topics": ["newsletter"], "country": "NL", "kind": "consumer",
    "sender": "acme",
}  # fmt: skip


def no(address: str, **more: Any) -> dict[str, Any]:
    """An opt-out."""
    return {"address": address, "type": "objection", "sender": "acme", **more}


def yes(address: str, **more: Any) -> dict[str, Any]:
    """A good opt-in."""
    return {"address": address, **OPT_IN, **more}


def results(answer: httpx2.Response, status: int = 200) -> list[str]:
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return [one["result"] for one in answer.json()["events"]]


def refused(answer: httpx2.Response, status: int) -> dict[str, str]:
    """The places of a problem and what is wrong there; it repeats nothing that was sent."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "example" not in answer.text
    return {error["place"]: error["detail"] for error in answer.json().get("errors", ())}


def reason(site: Site, address: str) -> str:
    [decision] = site.ask(address).json()["decisions"]
    return str(decision["reason"])


def known(site: Site, address: str) -> list[Event]:
    subject = site.keys.subject("acme", parse(address))
    return list(site.run(site.store.lookup([subject])).known[subject].events)


def test_an_opt_out_holds_once_it_is_answered(site: Site) -> None:
    assert results(site.report(yes("els@example.nl"))) == ["new"]
    assert reason(site, "els@example.nl") == "consent"
    assert results(site.report(no("els@example.nl", evidence="ticket:77"))) == ["new"]
    assert reason(site, "els@example.nl") == "suppressed"
    *_, event = known(site, "els@example.nl")
    assert event.detail == Objection(scope=Scope.MARKETING, via=Via.STAFF)
    assert event.evidence == "ticket:77"
    assert abs(event.at - event.recorded_at) < timedelta(seconds=5)


def test_a_consent_of_now_lifts_an_earlier_no(site: Site) -> None:
    """As one recorded by hand does; only what comes from a file may not."""
    assert results(site.report(no("fons@example.nl"))) == ["new"]
    later = {**yes("fons@example.nl"), "at": None}
    assert results(site.report(later)) == ["new"]
    assert reason(site, "fons@example.nl") == "consent"
    [_, event] = known(site, "fons@example.nl")
    assert isinstance(event.detail, OptIn)
    assert not event.detail.source


def test_the_same_event_is_one(site: Site) -> None:
    event = yes("gerda@example.nl")
    assert results(site.report(event, event, no("gerda@example.nl"))) == ["new", "known", "new"]
    assert results(site.report(event)) == ["known"]
    assert len(known(site, "gerda@example.nl")) == 2


def test_a_retry_with_its_key_is_one_as_long_as_it_says_the_same(site: Site) -> None:
    event = no("hugo@example.nl")
    assert results(site.report(event, key="a1")) == ["new"]
    assert results(site.report(event, key="a1")) == ["known"]
    assert results(site.report(event, key="a2")) == ["new"]
    wider = no("hugo@example.nl", scope="everything")
    assert results(site.report(wider, key="a1")) == ["new"], "what says more is never dropped"
    assert results(site.report(no("ida@example.nl"), key="a1")) == ["new"]


@pytest.mark.parametrize(
    ("event", "place", "word"),
    [
        (yes("jan@example.nl", box="perhaps"), "events.1.box", "expected one of"),
        (yes("jan@example.nl", at="2026-03-01"), "events.1.at", "RFC 3339"),
        (yes("jan@example.nl", at="2990-03-01T12:00:00Z"), "events.1.at", "future"),
        (yes("jan at example"), "events.1.address", "not an address that can be sent to"),
        (yes("jan@example.nl", box=None, colour="red"), "events.1.colour", "does not belong"),
        (yes("jan@example.nl", country="Nederland"), "events.1.country", "two letters"),
        (yes("jan@example.nl", sender="acmo"), "events.1.sender", "no sender with id the value"),
        (no("jan@example.nl", sender=None), "events.1.sender", "missing"),
        (no("jan@example.nl", type="no"), "events.1.type", "should be"),
        (no("jan@example.nl", scope="stream"), "events.1.stream", "belongs to the scope"),
        (no("jan@example.nl", stream="newsletter"), "events.1.stream", "belongs to the scope"),
        (no("jan@example.nl", scope="topic"), "events.1.topics", "belong to the scope"),
        (
            no("jan@example.nl", scope="stream", stream="globex-news"),
            "events.1.stream",
            "no such stream",
        ),
        (no("jan@example.nl", evidence="\ud800"), "events.1.evidence", "not Unicode"),
        (no("jan@example.nl", via="\ud800"), "events.1", "no Unicode text"),
        (no("jan@example.nl", via=1 << 70), "events.1", "too large"),
    ],
)
def test_one_wrong_event_and_none_is_recorded(
    site: Site, event: dict[str, Any], place: str, word: str
) -> None:
    told = refused(site.report(no("kees@example.nl"), event), 422)
    assert list(told) == [place]
    assert word in told[place]
    assert known(site, "kees@example.nl") == known(site, "jan@example.nl") == []


@pytest.mark.parametrize("role", ["reader", "auditor", "globex", "shop", None])
def test_only_an_editor_of_the_sender_may_record(site: Site, role: str | None) -> None:
    refused(site.report(no("leo@example.nl"), role=role), 401 if role is None else 403)
    assert known(site, "leo@example.nl") == []


def test_a_token_for_one_sender_need_not_name_it(site: Site) -> None:
    assert results(site.report(no("leo2@example.nl", sender=None), role="shop")) == ["new"]
    subject = site.keys.subject("globex", parse("leo2@example.nl"))
    [event] = site.run(site.store.lookup([subject])).known[subject].events
    assert event.sender == "globex"


def test_a_thousand_and_no_more(site: Site) -> None:
    events = [no(f"m{n}@example.nl") for n in range(1000)]
    assert results(site.report(*events)) == ["new"] * 1000
    refused(site.report(*events, no("m1000@example.nl")), 422)
    refused(site.report(), 422)
    refused(site.report(no("m1@example.nl"), more=1), 422)


def test_without_the_store_nothing_is_promised(
    start: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = start()
    refused(start(ready=False).report(no("nora@example.nl")), 503)

    async def fails(*_: Any, **__: Any) -> list[bool]:
        raise StoreUnavailable("locked")

    with monkeypatch.context() as patch:
        patch.setattr(site.store, "append", fails)  # of opt-outs, too, in this store
        answer = site.report(no("nora@example.nl"), yes("otto@example.nl"))
        refused(answer, 503)
        assert int(answer.headers["retry-after"]) > 0

    real = site.store.append

    async def no_consents(events: list[NewEvent], *more: Any) -> list[bool]:
        if any(isinstance(event.detail, OptIn) for event in events):
            raise StoreUnavailable("locked")
        return await real(events, *more)

    with monkeypatch.context() as patch:
        patch.setattr(site.store, "append", no_consents)
        answer = site.report(no("nora@example.nl"), yes("otto@example.nl"))
        refused(answer, 503)
        assert "opt-outs are recorded" in answer.json()["detail"]
    assert len(known(site, "nora@example.nl")) == 1
    assert known(site, "otto@example.nl") == []


def test_the_description_shows_how_to_opt_somebody_out(site: Site) -> None:
    described = httpx2.get(f"{site.url}/api/v1/openapi.json", timeout=30).json()
    operation = described["paths"]["/events"]["post"]
    assert "opt-out" in operation["summary"]
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = described["components"]["schemas"][name.rpartition("/")[2]]
    [example] = schema["examples"]
    headers = {"authorization": f"Bearer {TOKENS['shop']}"}
    answer = httpx2.post(f"{site.url}/api/v1/events", json=example, headers=headers, timeout=30)
    assert results(answer) == ["new"]
