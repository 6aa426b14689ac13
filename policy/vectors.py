"""Decision vectors: cases as data, for us and for users with packs of their own.

A file holds cases: the facts of `docs/decision.md` and the decision they must give. For brevity the
runner fills in what a case does not mention; the engine itself has no friendly default. A field
that would be filled in is kept unknown by writing "unknown".
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, cast

from policy.address import AddressError, parse
from policy.engine import decide
from policy.events import (
    EVENT_FIELDS,
    RECIPIENT_FIELDS,
    FieldError,
    Reader,
    country,
    detail_from,
    instant,
    one_of,
    read_fields,
    recipient_from,
    text,
    texts,
    truth,
    whole,
)
from policy.model import (
    NO_OVERLAY,
    Cap,
    Category,
    Decision,
    Event,
    Facts,
    Message,
    OptIn,
    Overlay,
    Purpose,
    QuietHours,
    Reason,
    Recipient,
    Sender,
    Sent,
    SimilarGroup,
    Unsubscribe,
    Verdict,
)
from policy.overlay import TERMS, cap_from, hours_from
from policy.pack import Confidence, Packs

_UNKNOWN = "unknown"
_MESSAGE: dict[str, Reader] = {
    "stream": text,
    "campaign": text,
    "category": one_of(Category),
    "purpose": one_of(Purpose),
    "products": texts,
    "topics": texts,
    "template": text,
    "promotion": truth,
    "sender_identity": truth,
    "postal_address": truth,
    "unsubscribe": one_of(Unsubscribe),
    "unsubscribe_valid_days": whole,
    "advertisement_label": truth,
    "fake_reply": truth,
    "visible_recipients": whole,
    "visible_recipients_allowed": truth,
    "can_inject": lambda value: frozenset(texts(value)),
    "sole_charitable_purpose": truth,
    "charity_registered_in": text,
    "primary_purpose_fundraising": truth,
    "business_only": truth,
    "relevant_functions": texts,
}
_MESSAGE_FILLED: dict[str, object] = {
    "sender_identity": True,
    "postal_address": True,
    "advertisement_label": True,
    "unsubscribe": "link",
    "unsubscribe_valid_days": 0,
    "promotion": False,
    "fake_reply": False,
    "visible_recipients": 1,
}
_EVENT_FILLED: dict[str, tuple[str, object]] = {
    "opt-in": ("withdrawal_info_given", True),
    "relationship": ("informed", True),
}
_CASE_KEYS = frozenset((
    *("id", "at", "sender", "sender_country", "sender_names", "candidate_countries", "similar"),
    *("lifetimes", "message", "recipient", "events", "expect", "confidence", "note"),
    *("overlay", "sender_overlay", "sent"),
))
_EXPECT_KEYS = frozenset((
    *("verdict", "reason", "needs_review", "cite", "rule", "pack", "obligations", "note", "until"),
))


class VectorError(ValueError):
    """A vector file cannot be read; `str()` names the file, the case and the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What a case must give. None is not compared; any reason of the tuple is right."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    needs_review: bool | None = None
    rule: str | None = None
    pack: str | None = None
    obligations: tuple[str, ...] | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case: its facts with everything filled in, and what is expected."""

    id: str
    facts: Facts
    expect: Expect


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one case. `words` is one line on what differs, "" when nothing does."""

    ok: bool
    got: Decision
    expected: Expect
    words: str


def cases_from(source: str, *, name: str) -> list[Case]:
    """Read a vector file. Raises `VectorError`."""
    try:
        content = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise VectorError(f"{name}: {error}") from None
    try:
        _only(content, frozenset({"similar", "lifetimes", "lifetime", "case"}))
        lifetimes = content.get("lifetimes", content.get("lifetime", {}))
        shared = (content.get("similar", []), lifetimes)
        tables = content.get("case", [])
        if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
            raise FieldError("case", "expected [[case]] tables")
    except FieldError as error:
        raise VectorError(f"{name}: {error}") from None
    cases: list[Case] = []
    seen: set[str] = set()
    for number, table in enumerate(tables, 1):
        id_ = table.get("id")
        label = id_ if isinstance(id_, str) and id_ else f"case {number}"
        try:
            if label in seen:
                raise FieldError("id", "a case of this name exists already")
            seen.add(label)
            cases.append(_case(table, label, *shared))
        except ValueError as error:
            raise VectorError(f"{name}: {label}: {error}") from None
    return cases


def run(case: Case, packs: Packs) -> Outcome:
    """Decide one case and compare."""
    got = decide(case.facts, packs)
    want = case.expect
    wrong: list[str] = []
    if got.verdict is not want.verdict or got.reason not in want.reasons:
        reasons = " or ".join(want.reasons)
        wrong.append(f"expected {want.verdict} {reasons}, got {got.verdict} {got.reason}")
    if want.needs_review is not None and got.needs_review is not want.needs_review:
        wrong.append(f"expected needs_review {want.needs_review}, got {got.needs_review}")
    if want.rule is not None and got.rule != want.rule:
        wrong.append(f"expected rule {want.rule}, got {got.rule or 'none'}")
    if want.pack is not None and got.pack.partition("@")[0] != want.pack:
        wrong.append(f"expected pack {want.pack}, got {got.pack or 'none'}")
    if want.obligations is not None and got.obligations != want.obligations:
        wrong.append(f"expected obligations {want.obligations}, got {got.obligations}")
    if want.until is not None and got.until != want.until:
        wrong.append(f"expected until {want.until}, got {got.until or 'none'}")
    return Outcome(not wrong, got, want, "; ".join(wrong))


def _case(table: Mapping[str, Any], id_: str, similar: object, lifetimes: object) -> Case:
    _only(table, _CASE_KEYS)
    for key in ("id", "at", "sender", "message", "recipient", "expect"):
        if key not in table:
            raise FieldError(key, "missing")
    typed = read_fields(
        {key: table[key] for key in ("at", "sender", "confidence") if key in table},
        {"at": instant, "sender": text, "confidence": one_of(Confidence)},
    )
    named = read_fields(
        {
            key: table[key]
            for key in ("sender_country", "sender_names", "candidate_countries")
            if key in table
        },
        {"sender_country": country, "sender_names": texts, "candidate_countries": texts},
    )
    at, sender = cast(datetime, typed["at"]), cast(str, typed["sender"])
    candidates = cast(tuple[str, ...], named.get("candidate_countries", ()))
    recipient = _recipient(_table(table, "recipient"))
    events = _events(table.get("events", []), id_, sender, recipient.address)
    facts = Facts(
        at=at,
        sender=Sender(
            id=sender,
            names=cast(tuple[str, ...], named.get("sender_names", ())),
            country=cast(str | None, named.get("sender_country")),
            similar=_similar(similar) + _similar(table.get("similar", [])),
            lifetimes=_lifetimes(lifetimes) | _lifetimes(table.get("lifetimes", {})),
            candidate_countries=tuple(country(code) for code in candidates),
            overlay=_overlay(table, "sender_overlay"),
        ),
        recipient=recipient,
        message=replace(
            _message(_table(table, "message"), events), overlay=_overlay(table, "overlay")
        ),
        events=events,
        sent=_sent(table.get("sent", [])),
    )
    return Case(id=id_, facts=facts, expect=_expect(_table(table, "expect")))


def _expect(table: Mapping[str, Any]) -> Expect:
    _only(table, _EXPECT_KEYS)
    reasons = table.get("reason")
    typed = read_fields(
        {key: value for key, value in table.items() if key not in ("reason", "cite", "note")},
        {
            "verdict": one_of(Verdict),
            "needs_review": truth,
            "rule": text,
            "pack": text,
            "obligations": texts,
            "until": instant,
        },
    )
    if "verdict" not in typed:
        raise FieldError("expect.verdict", "missing")
    listed = [reasons] if isinstance(reasons, str) else reasons
    if not isinstance(listed, list) or not listed:
        raise FieldError("expect.reason", "expected a list")
    readers = {str(place): one_of(Reason) for place in range(len(listed))}
    found = read_fields(dict(zip(readers, listed, strict=True)), readers)
    return Expect(reasons=cast(tuple[Reason, ...], tuple(found.values())), **cast(Any, typed))


def _recipient(table: Mapping[str, Any]) -> Recipient:
    known = {key: value for key, value in table.items() if key in RECIPIENT_FIELDS}
    extra = {key: value for key, value in table.items() if key not in RECIPIENT_FIELDS}
    typed = recipient_from(known)
    typed.update(read_fields(extra, {"address": text, "local_rules_met": truth}))
    return Recipient(**cast(dict[str, Any], typed))


def _message(table: Mapping[str, Any], events: tuple[Event, ...]) -> Message:
    filled = dict(_MESSAGE_FILLED)
    opt_ins = [event.detail for event in events if isinstance(event.detail, OptIn)]
    topics = dict.fromkeys(topic for opt_in in opt_ins for topic in opt_in.topics)
    if topics:
        filled["topics"] = list(topics)
    return Message(**cast(dict[str, Any], read_fields(_filled(table, filled), _MESSAGE)))


def _filled(table: Mapping[str, Any], defaults: Mapping[str, object]) -> dict[str, object]:
    """The table over its defaults; "unknown" for a field with a default leaves it out."""
    known = {
        key: value
        for key, value in table.items()
        if not (value == _UNKNOWN and (key in defaults or key == "topics"))
    }
    for key, value in defaults.items():
        if key not in table:
            known[key] = value
    return known


def _events(value: object, id_: str, sender: str, address: str) -> tuple[Event, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FieldError("events", "expected a list of tables")
    events = [_event(item, f"{id_}/{n}", sender, address) for n, item in enumerate(value, 1)]
    return tuple(event for event in events if event is not None)


def _event(table: Mapping[str, Any], uid: str, sender: str, address: str) -> Event | None:
    common: dict[str, Reader] = {
        "at": instant,
        "recorded_at": instant,
        "sender": text,
        "evidence": text,
        "exact": truth,
        "address": text,
    }
    type_ = table.get("type")
    if not isinstance(type_, str) or type_ not in EVENT_FIELDS:
        raise FieldError("events.type", "expected one of " + ", ".join(EVENT_FIELDS))
    if "at" not in table:
        raise FieldError("events.at", "missing")
    head = read_fields({key: table[key] for key in common if key in table}, common)
    rest = {key: value for key, value in table.items() if key not in common and key != "type"}
    defaults = dict([_EVENT_FILLED[type_]]) if type_ in _EVENT_FILLED else {}
    detail = detail_from(type_, _filled(rest, defaults))
    at = cast(datetime, head["at"])
    exact = cast(bool, head.get("exact", True))
    if "address" in head:
        try:
            own, given = (
                parse(item, smtputf8=True) for item in (address, cast(str, head["address"]))
            )
        except AddressError as error:
            raise FieldError("events.address", str(error)) from None
        if own.wide != given.wide:
            return None
        exact = own.exact == given.exact
    return Event(
        at=at,
        recorded_at=cast(datetime, head.get("recorded_at", at)),
        sender=cast(str, head.get("sender", sender)),
        detail=detail,
        evidence=cast(str, head.get("evidence", "case")),
        uid=uid,
        exact=exact,
    )


def _similar(value: object) -> tuple[SimilarGroup, ...]:
    if not isinstance(value, list):
        raise FieldError("similar", "expected a list of groups")
    groups: list[SimilarGroup] = []
    for item in value:
        if isinstance(item, list):
            groups.append(SimilarGroup(products=texts(item)))
            continue
        if not isinstance(item, dict):
            raise FieldError("similar", "expected products, reviewer and reviewed_on")
        _only(item, frozenset({"products", "reviewer", "reviewed_on"}))
        reviewed_on = item.get("reviewed_on")
        if reviewed_on is not None and type(reviewed_on) is not date:
            raise FieldError("similar.reviewed_on", "expected a date")
        groups.append(
            SimilarGroup(
                products=texts(item.get("products")),
                reviewer=text(item["reviewer"]) if "reviewer" in item else None,
                reviewed_on=reviewed_on,
            )
        )
    return tuple(groups)


def _overlay(table: Mapping[str, Any], key: str) -> Overlay:
    """Hours count in the zone of the recipient's country, else in UTC: no zone is built here."""
    if key not in table:
        return NO_OVERLAY
    fields = read_fields(
        _table(table, key),
        {
            "max_per_person": _cap,
            "quiet_hours": _hours,
            "valid_months": _terms,
            "blocked_products": texts,
        },
    )
    if "max_per_person" in fields:
        fields["cap"] = fields.pop("max_per_person")
    return Overlay(**cast(dict[str, Any], fields))


def _cap(value: object) -> Cap:
    cap = cap_from(text(value))
    if cap is None:
        raise FieldError("", 'expected mails in a time, such as "2/7d"')
    return cap


def _hours(value: object) -> QuietHours:
    hours = hours_from(text(value))
    if hours is None:
        raise FieldError("", 'expected two times, such as "21:00-08:00"')
    return QuietHours(start=hours[0], end=hours[1], zone=UTC)


def _terms(value: object) -> dict[str, int]:
    terms = _lifetimes(value)
    if not TERMS.issuperset(terms):
        raise FieldError("", "expected months by " + ", ".join(sorted(TERMS)))
    return terms


def _sent(value: object) -> tuple[Sent, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FieldError("sent", "expected a list of tables")
    found: list[Sent] = []
    for item in value:
        fields = read_fields(item, {"stream": text, "at": instant})
        if "at" not in fields:
            raise FieldError("sent.at", "missing")
        found.append(Sent(cast(str, fields.get("stream", "")), cast(datetime, fields["at"])))
    return tuple(found)


def _lifetimes(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise FieldError("lifetimes", "expected products with their months")
    return cast(dict[str, int], read_fields(value, dict.fromkeys(value, whole)))


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table[key]
    if not isinstance(value, dict):
        raise FieldError(key, "expected a table")
    return value


def _only(table: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in table:
        if key not in known:
            raise FieldError(key, "unknown key")
