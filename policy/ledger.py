"""A ledger folded at one instant: what is known then, what suppresses, and what an objection ended.

`Ledger` sorts the events that were recorded by the moment of sending. `suppression` applies
`docs/decision.md` section 4 to it. Nothing here knows a country's law.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import cast

from policy.model import (
    Bounce,
    Box,
    Category,
    Complaint,
    Contact,
    ContactVia,
    Detail,
    Event,
    Facts,
    Message,
    Objection,
    OptIn,
    Published,
    Registry,
    Relationship,
    Scope,
    Severity,
)

AFFIRMATIVE = frozenset({Box.UNTICKED, Box.PAPER, Box.ORAL})
SOLE_DUTY_TEMPLATES = frozenset(
    {"invoice", "legal-notice", "security-notice", "optout-acknowledgement", "doi-confirmation"}
)

_ACTS = frozenset({ContactVia.CLICK, ContactVia.LOGIN, ContactVia.ORDER, ContactVia.REPLY})
_BOUNCE_HOLDS = timedelta(hours=90 * 24)
_SOFT_WINDOW = timedelta(days=30)
_SOFT_COUNT = 3
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class Class(Enum):
    """As what a message is held against the suppressions."""

    MARKETING = "marketing"
    TRANSACTIONAL = "transactional"
    PERSONAL = "personal"


class Ledger:
    """The events of one recipient as they stood at `facts.at`, sorted by what they can do.

    `permits` holds, by type, the exact events on which a basis may rest, of every sender. `near`
    are opt-ins given to this sender on another spelling of the address: they never permit.
    `contacts` are acts of the person at any sender.
    """

    __slots__ = (
        "_last_act",
        "at",
        "bounces",
        "contacts",
        "facts",
        "near",
        "objections",
        "permits",
        "registries",
        "sender",
    )

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.at = facts.at
        self.sender = facts.sender.id
        self.permits: dict[type[Detail], list[Event]] = {}
        self.objections: list[Event] = []
        self.bounces: list[Event] = []
        self.contacts: list[Event] = []
        self.registries: list[Event] = []
        self.near: list[Event] = []
        self._last_act: datetime | None = None
        others = False
        at = facts.at
        sender = self.sender
        for event in facts.events:
            if event.recorded_at > at:
                continue
            detail = event.detail
            type_ = type(detail)
            if type_ is Contact:
                # An act on another spelling could be another person's: it lifts nothing.
                if event.exact and event.at <= at and cast(Contact, detail).via in _ACTS:
                    self.contacts.append(event)
            elif type_ is OptIn or type_ is Relationship or type_ is Published:
                if event.exact:
                    held = self.permits.get(type_)
                    if held is None:
                        self.permits[type_] = [event]
                    else:
                        held.append(event)
                    if event.sender != sender:
                        others = True
                elif type_ is OptIn and event.sender == sender:
                    self.near.append(event)
            elif type_ is Objection or type_ is Complaint:
                self.objections.append(event)
            elif type_ is Bounce:
                self.bounces.append(event)
            elif type_ is Registry and event.sender == sender:
                self.registries.append(event)
        if others and self.objections:
            self._end_shared_opt_ins()

    def _end_shared_opt_ins(self) -> None:
        """An objection at the collecting sender ends its opt-in for every named third party."""
        ended: dict[str, datetime] = {}
        for event in self.objections:
            if event.sender != self.sender:
                ended[event.sender] = max(ended.get(event.sender, _BEGINNING), holds_from(event))
        opt_ins = self.permits.get(OptIn)
        if opt_ins and ended:
            kept = [e for e in opt_ins if e.at > ended.get(e.sender, _BEGINNING)]
            self.permits[OptIn] = kept

    def end_before(self, moment: datetime) -> list[Event]:
        """Drop, and return, every event for a basis that is not later than `moment`."""
        dropped: list[Event] = []
        self._last_act = None
        for type_, events in self.permits.items():
            dropped += [event for event in events if event.at <= moment]
            self.permits[type_] = [event for event in events if event.at > moment]
        return dropped

    @property
    def last_act(self) -> datetime:
        """The newest of `_acts`; the beginning of time when there is none."""
        if self._last_act is None:
            self._last_act = max(self._acts(), default=_BEGINNING)
        return self._last_act

    def _acts(self) -> Iterable[datetime]:
        """When the person acted towards this sender.

        An act is an opt-in, its confirmation, a relationship, its end, or a contact.
        """
        for event in self.permits.get(OptIn, ()):
            opt_in = cast(OptIn, event.detail)
            if event.sender == self.sender and event.at <= self.at and opt_in.box in AFFIRMATIVE:
                yield event.at
                if opt_in.confirmed_at is not None and opt_in.confirmed_at <= self.at:
                    yield opt_in.confirmed_at
        for event in self.permits.get(Relationship, ()):
            ended_at = cast(Relationship, event.detail).ended_at
            if event.sender == self.sender and event.at <= self.at:
                yield event.at
                if ended_at is not None and ended_at <= self.at:
                    yield ended_at
        for event in self.contacts:
            if event.sender == self.sender:
                yield event.at


@dataclass(frozen=True, slots=True)
class Suppression:
    """`hit` stops the mail; else `ended_by` ends every basis that is not later than it."""

    hit: Event | None
    ended_by: datetime | None
    soft: bool = False


def holds_from(objection: Event) -> datetime:
    """Only what is later than both its own time and its recording outlives an objection."""
    return max(objection.at, objection.recorded_at)


def suppression(ledger: Ledger, class_: Class, *, early: bool = False) -> Suppression:
    """Whether objections, complaints or bounces stop this message.

    `early`: the content is not known yet, so only what stops *every* message of the stream counts.
    """
    found: Event | None = None
    ended_by: datetime | None = None
    if class_ is not Class.PERSONAL:
        for event in ledger.objections:
            topics = _hit(ledger, event, class_, early)
            if topics is None:
                continue
            moment = holds_from(event)
            if not _lifted(ledger, moment, topics, early):
                if found is None or _precedes(ledger.sender, found, event):
                    found = event
            elif ended_by is None or moment > ended_by:
                ended_by = moment
    if found is not None:
        return Suppression(found, None)
    if ledger.bounces:
        bounced, soft = _bounced(ledger)
        if bounced is not None:
            return Suppression(bounced, None, soft)
    return Suppression(None, ended_by)


def _precedes(sender: str, found: Event, other: Event) -> bool:
    """Which of two hits to name: one of this sender before another's, then the newest."""
    return _naming(sender, other) > _naming(sender, found)


def _naming(sender: str, event: Event) -> tuple[bool, datetime, datetime, str]:
    return (event.sender == sender, event.at, event.recorded_at, event.uid)


def _hit(ledger: Ledger, event: Event, class_: Class, early: bool) -> tuple[str, ...] | None:
    """None: the objection does not reach this message. Else the topics it stops; () is all."""
    detail = event.detail
    scope = detail.scope if isinstance(detail, Objection) else Scope.MARKETING
    own = event.sender == ledger.sender
    message = ledger.facts.message
    if class_ is Class.TRANSACTIONAL:
        if scope is not Scope.EVERYTHING and scope is not Scope.STREAM:
            return None
        # With the content still to come, any transactional mail may prove to be a sole legal duty.
        if early or message.template in SOLE_DUTY_TEMPLATES:
            return None
    if scope is Scope.EVERYTHING:
        return ()
    if not own:
        return None
    if scope is Scope.MARKETING:
        return ()
    objection = cast(Objection, detail)  # a complaint is about all marketing
    if scope is Scope.STREAM:
        if objection.stream is None or objection.stream == message.stream:
            return ()
        return () if not message.stream and not early else None
    if not objection.topics:
        return ()
    if early:
        return None
    if not message.topics:
        return ()
    return tuple(topic for topic in message.topics if topic in objection.topics) or None


def _lifted(ledger: Ledger, moment: datetime, hit: tuple[str, ...], early: bool) -> bool:
    """Whether affirmative opt-ins later than `moment` took the objection back for this message."""
    message = ledger.facts.message
    wanted = hit or message.topics or ()
    lifting: list[OptIn] = []
    for event in ledger.permits.get(OptIn, ()):
        opt_in = cast(OptIn, event.detail)
        if (
            event.sender == ledger.sender
            and moment < event.at <= ledger.at
            and opt_in.box in AFFIRMATIVE
            and event.evidence.strip()
            and "email" in opt_in.channels
            and not _imported_only(opt_in, ledger.at)
            and (early or covers_topics(opt_in, wanted))
        ):
            lifting.append(opt_in)
    if early or not lifting:
        return bool(lifting)
    products: tuple[str | None, ...] = message.products or (None,)
    return all(any(covers_product(opt_in, product) for opt_in in lifting) for product in products)


def _imported_only(opt_in: OptIn, at: datetime) -> bool:
    confirmed = opt_in.confirmed_at is not None and opt_in.confirmed_at <= at
    # "import:signup" is one by import too: the rest is where the file says that it came from.
    source = (opt_in.source or "").partition(":")[0]
    return source.casefold() == "import" and not confirmed


def covers_topics(opt_in: OptIn, topics: tuple[str, ...] | None) -> bool:
    """Whether an opt-in covers all of these topics; unknown (or no) topics only without a limit."""
    if not opt_in.topics:
        return True
    return bool(topics) and all(topic in opt_in.topics for topic in topics or ())


def covers_product(opt_in: OptIn, product: str | None) -> bool:
    """Whether an opt-in covers this product; an unknown one only without a limit."""
    if not opt_in.products:
        return True
    return product is not None and any(lies_within(product, given) for given in opt_in.products)


def lies_within(product: str, category: str) -> bool:
    """`shoes/running` lies within `shoes`, and within itself; not the reverse."""
    return product == category or product.startswith(category + "/")


def _bounced(ledger: Ledger) -> tuple[Event | None, bool]:
    """The bounce that still holds, of any sender, and whether it is the third soft one."""
    holding: list[tuple[Event, bool]] = []
    soft: list[Event] = []
    for event in ledger.bounces:
        if cast(Bounce, event.detail).severity is Severity.SOFT:
            soft.append(event)
        else:
            holding.append((event, False))
    soft.sort(key=lambda event: (event.at, event.uid))
    for first, third in zip(soft, soft[_SOFT_COUNT - 1 :], strict=False):
        quiet = not any(first.at < act.at < third.at for act in ledger.contacts)
        if third.at - first.at <= _SOFT_WINDOW and quiet:
            holding.append((third, True))
    last = max((act.at for act in ledger.contacts), default=_BEGINNING)
    live = [
        (event, is_soft)
        for event, is_soft in holding
        if event.at >= last and ledger.at - event.at < _BOUNCE_HOLDS
    ]
    if not live:
        return None, False
    return max(live, key=lambda pair: (_naming(ledger.sender, pair[0]), not pair[1]))


def class_of(message: Message) -> Class:
    """An unknown category is marketing."""
    if message.category is Category.PERSONAL:
        return Class.PERSONAL
    if message.category is Category.TRANSACTIONAL:
        return Class.TRANSACTIONAL
    return Class.MARKETING
