"""What would have to be true for the other answer: the smallest change that flips the verdict.

Candidate changes are read off the trace (each condition that failed has its repairs); then one, two
and three at a time are tried, each trial being a full decision. The first that flips the verdict is
the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import combinations
from typing import Any, cast

from policy.events import type_of
from policy.ledger import lies_within
from policy.model import (
    Answer,
    Bounce,
    Box,
    Change,
    Contact,
    ContactVia,
    Decision,
    Event,
    Facts,
    Kind,
    Objection,
    ObjectionOffered,
    OptIn,
    Published,
    PublishedPurpose,
    Purpose,
    Reason,
    Registry,
    Relationship,
    Scope,
    SimilarGroup,
    Stage,
    Unsubscribe,
    Verdict,
)
from policy.overlay import BLOCKED_PRODUCTS

_TRIALS = 400
_DEPTH = 3
_NEW = "counterfactual"


@dataclass(frozen=True, slots=True)
class _Repair:
    change: Change
    apply: Callable[[Facts], Facts]
    uid: str = ""  # of the entry that it changes


def changes(
    facts: Facts, decision: Decision, trial: Callable[[Facts], Decision]
) -> tuple[Change, ...]:
    """The smallest set of changes after which `trial` gives the other verdict; () if none does."""
    allowed = decision.verdict is Verdict.ALLOW
    found = list(_breaks(facts, decision) if allowed else _repairs(facts, decision))
    known = {(repair.change, repair.uid): repair for repair in found}
    left = _TRIALS
    for size in range(1, _DEPTH + 1):
        behind: list[_Repair] = []
        for chosen in combinations(known.values(), size):
            if left == 0:
                return ()
            left -= 1
            other = facts
            for repair in chosen:
                other = repair.apply(other)
            result = trial(other)
            if result.allowed is not allowed:
                return tuple(repair.change for repair in chosen)
            if not allowed and result.reason is not decision.reason:
                behind += _repairs(other, result)  # mended, and the next thing shows
        for repair in behind:
            known.setdefault((repair.change, repair.uid), repair)
    return ()


def _breaks(facts: Facts, decision: Decision) -> Iterator[_Repair]:
    """What would turn an allow into a block."""
    basis = decision.basis
    if basis is not None:
        for event in facts.events:
            if event.uid == basis.event and event.uid and event.sender == facts.sender.id:
                yield _without(event)
    for scope in (Scope.MARKETING, Scope.EVERYTHING):
        words = f"an objection to {scope}"
        yield _added(facts, Objection(scope=scope), "objection", words, evidence="")
    yield _added(facts, Bounce(), "bounce", "a hard bounce", evidence="")


def _repairs(facts: Facts, decision: Decision) -> Iterator[_Repair]:
    opt_in = OptIn(box=Box.UNTICKED, withdrawal_info_given=True, confirmed_at=facts.at)
    words = "a box that the person ticked, with evidence, confirmed, after any objection"
    asked_anew = _added(facts, opt_in, "opt-in", words, evidence=_NEW)
    if decision.reason is Reason.SUPPRESSED:
        # What was said stays said: first what a person can still do.
        contact = Contact(via=ContactVia.CLICK)
        yield _added(facts, contact, "contact", "the person acts after the bounce", evidence="")
        yield asked_anew
    if decision.until is not None:
        yield _moment(facts, decision.until)
    by_uid = {event.uid: event for event in facts.events if event.sender == facts.sender.id}
    for step in decision.trace:
        if step.answer is Answer.YES:
            continue
        yield from _of_facts(facts, step.condition)
        event = by_uid.get(step.event) if step.event else None
        if event is not None:
            yield from _of_event(facts, step.condition, event)
    yield asked_anew


def _of_event(facts: Facts, condition: str, event: Event) -> Iterator[_Repair]:
    """Repairs of one entry of the ledger."""
    detail = event.detail
    if condition == "not-suppressed":
        yield _without(event)
    elif condition == "evidence":
        if not event.evidence.strip():
            yield _event_change(event, "evidence", "none", "a reference", {"evidence": _NEW})
        if isinstance(detail, OptIn) and detail.box is None:
            yield _set(event, "box", Box.UNTICKED)
    elif isinstance(detail, OptIn):
        yield from _of_opt_in(facts, condition, event, detail)
    elif isinstance(detail, Relationship):
        yield from _of_relationship(facts, condition, event, detail)
    elif isinstance(detail, Published):
        yield from _of_published(facts, condition, event, detail)


def _of_opt_in(
    facts: Facts, condition: str, event: Event, detail: OptIn
) -> Iterator[_Repair]:
    message, recipient = facts.message, facts.recipient
    if condition == "affirmative-act":
        yield _set(event, "box", Box.UNTICKED)
    elif condition == "topics":
        yield _set(event, "topics", message.topics or ())
    elif condition == "products":
        yield _set(event, "products", message.products)
    elif condition == "channel":
        yield _set(event, "channels", (*detail.channels, "email"))
    elif condition == "withdrawal-info":
        yield _set(event, "withdrawal_info_given", True)
    elif condition == "double-opt-in":
        yield _set(event, "confirmed_at", event.at)
    elif condition == "valid-until":
        now = _words(detail.valid_until)
        yield _event_change(event, "valid_until", now, "none", {"valid_until": None})
    elif condition in ("term", "own-term"):
        yield _act(facts)
    elif condition == "awake":
        yield _fact("recipient", recipient, "account_abandoned", False)


def _of_relationship(
    facts: Facts, condition: str, event: Event, detail: Relationship
) -> Iterator[_Repair]:
    message = facts.message
    if condition == "sale":
        if detail.stage not in (Stage.PURCHASE, Stage.SUBSCRIPTION):
            yield _set(event, "stage", Stage.PURCHASE)
        yield _set(event, "paid", True)
    elif condition == "address-from-customer":
        yield _set(event, "address_from_customer", True)
    elif condition == "charitable":
        yield _fact("message", message, "purpose", Purpose.CHARITABLE)
    elif condition == "sole-charitable":
        yield _fact("message", message, "sole_charitable_purpose", True)
    elif condition == "objection-offered":
        if not detail.informed:
            yield _set(event, "informed", True)
        yield _set(event, "objection_offered", ObjectionOffered.BOX)
    elif condition == "similar":
        if not detail.products:
            yield _set(event, "products", message.products or ("any",))
        elif message.products:
            yield _similar(facts, detail)
        else:
            yield _fact("message", message, "products", detail.products)
    elif condition == "not-listed":
        for listed in facts.events:
            if isinstance(listed.detail, Registry) and listed.sender == facts.sender.id:
                yield _without(listed)
    elif condition == "term":
        yield _act(facts)
        yield _event_change(event, "at", f"{event.at:%Y-%m-%d}", "today", {"at": facts.at})


def _of_published(
    facts: Facts, condition: str, event: Event, detail: Published
) -> Iterator[_Repair]:
    message, recipient = facts.message, facts.recipient
    if condition == "designated":
        for purpose in PublishedPurpose:
            yield _set(event, "purpose", purpose)
    elif condition == "function":
        function = recipient.function or "any"
        yield _fact("message", message, "relevant_functions", (function,))
        if recipient.function is None:
            yield _fact("recipient", recipient, "function", function)
    elif condition == "no-spam-notice":
        yield _set(event, "no_spam_notice", False)
    elif condition == "informed-at-collection":
        yield _set(event, "informed_at_collection", True)


def _of_facts(facts: Facts, condition: str) -> Iterator[_Repair]:
    """Repairs of the recipient or the message: gates and duties."""
    message, recipient = facts.message, facts.recipient
    by_name: dict[str, tuple[str, object]] = {
        Reason.NO_IDENTITY: ("sender_identity", True),
        Reason.NO_POSTAL_ADDRESS: ("postal_address", True),
        Reason.NO_UNSUBSCRIBE: ("unsubscribe", Unsubscribe.LINK),
        Reason.VISIBLE_RECIPIENTS: ("visible_recipients", 1),
        "fundraising": ("primary_purpose_fundraising", True),
    }
    if condition in by_name:
        yield _fact("message", message, *by_name[condition])
    elif condition == Reason.UNSUBSCRIBE_NOT_EASY:
        yield _fact("message", message, "unsubscribe", Unsubscribe.LINK)
        yield _fact("message", message, "unsubscribe_valid_days", 0)
    elif condition == Reason.MISLEADING_SUBJECT:
        yield _fact("message", message, "fake_reply", False)
        yield _fact("message", message, "advertisement_label", True)
    elif condition == "kind":
        for kind in (Kind.COMPANY_GENERIC, Kind.COMPANY_NAMED):
            yield _fact("recipient", recipient, "kind", kind)
    elif condition == "legal-person":
        yield _fact("recipient", recipient, "legal_person", True)
    elif condition == "local-rules-met":
        yield _fact("recipient", recipient, "local_rules_met", True)
    elif condition == BLOCKED_PRODUCTS:
        yield from _other_products(facts)
    elif condition == "business-only":
        yield _fact("recipient", recipient, "address_mainly_business", True)
        yield _fact("message", message, "business_only", True)


def _other_products(facts: Facts) -> Iterator[_Repair]:
    """The message without its blocked products, if any is left."""
    blocked = (*facts.message.overlay.blocked_products, *facts.sender.overlay.blocked_products)
    products = facts.message.products
    left = tuple(p for p in products if not any(lies_within(p, category) for category in blocked))
    if left:
        yield _fact("message", facts.message, "products", left)


def _moment(facts: Facts, until: datetime) -> _Repair:
    now, needed = (f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for at in (facts.at, until))
    change = Change(fact="moment of sending", now=now, needed=needed)
    return _Repair(change, lambda other: replace(other, at=until))


def _similar(facts: Facts, detail: Relationship) -> _Repair:
    group = SimilarGroup(products=(*facts.message.products, *detail.products))

    def apply(other: Facts) -> Facts:
        sender = replace(other.sender, similar=(*other.sender.similar, group))
        return replace(other, sender=sender)

    return _Repair(Change(fact="similar", now="no", needed=", ".join(group.products)), apply)


def _act(facts: Facts) -> _Repair:
    contact = Contact(via=ContactVia.CLICK)
    return _added(facts, contact, "contact", "the person acted lately", evidence="")


def _set(event: Event, key: str, value: object) -> _Repair:
    now = _words(getattr(event.detail, key))
    return _event_change(event, key, now, _words(value), {key: value})


def _event_change(
    event: Event, key: str, now: str, needed: str, values: dict[str, object]
) -> _Repair:
    on_event = {field.name for field in fields(Event)}
    name = f"{type_of(event.detail)} of {event.at:%Y-%m-%d}: {key}"

    def one(other: Event, changed: dict[str, Any]) -> Event:
        if other.uid != event.uid or other.sender != event.sender:
            return other
        if type(other.detail) is not type(event.detail):
            return other  # two of one uid: no ledger has them, but a question may
        if set(changed) <= on_event:
            return replace(other, **changed)
        return replace(other, detail=replace(other.detail, **changed))

    def apply(facts: Facts) -> Facts:
        changed = cast(dict[str, Any], values)
        return replace(facts, events=tuple(one(other, changed) for other in facts.events))

    return _Repair(Change(fact=name, now=now, needed=needed), apply, event.uid)


def _without(event: Event) -> _Repair:
    name = f"{type_of(event.detail)} of {event.at:%Y-%m-%d}"

    def apply(facts: Facts) -> Facts:
        kept = tuple(
            other
            for other in facts.events
            if other.uid != event.uid or other.sender != event.sender
        )
        return replace(facts, events=kept)

    return _Repair(Change(fact=name, now="recorded", needed="absent"), apply, event.uid)


def _added(facts: Facts, detail: Any, fact: str, needed: str, *, evidence: str) -> _Repair:
    # As late as can be: whatever is already recorded is older, save what is recorded this instant.
    at = facts.at
    event = Event(
        at=at, recorded_at=at, sender=facts.sender.id, detail=detail, evidence=evidence, uid=_NEW
    )

    def apply(other: Facts) -> Facts:
        return replace(other, events=(*other.events, event))

    return _Repair(Change(fact=fact, now="none", needed=needed), apply)


def _fact(name: str, value: Any, key: str, needed: object) -> _Repair:
    now = _words(getattr(value, key))

    def apply(facts: Facts) -> Facts:
        if name == "recipient":
            recipient = replace(facts.recipient, **cast(dict[str, Any], {key: needed}))
            return replace(facts, recipient=recipient)
        message = replace(facts.message, **cast(dict[str, Any], {key: needed}))
        return replace(facts, message=message)

    return _Repair(Change(fact=f"{name}: {key}", now=now, needed=_words(needed)), apply)


def _words(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "any"
    return str(value)
