"""The conditions of a basis: a closed vocabulary in one fixed order (`docs/decision.md`).

A pack's rule lists conditions by name. Each is asked of one event, for one product of one message,
and answers yes, no, or cannot tell, which counts as no. `rank` is its place in the fixed order;
`reason` is what a block is called when it is the one that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from policy.ledger import AFFIRMATIVE, Ledger, covers_product, covers_topics, lies_within
from policy.model import (
    Answer,
    Detail,
    Event,
    Facts,
    ObjectionOffered,
    OptIn,
    Published,
    Purpose,
    Reason,
    Registry,
    Relationship,
    SimilarGroup,
    Stage,
)
from policy.periods import after_day, after_months, local_day

if TYPE_CHECKING:
    from policy.pack import Pack, Rule, Term

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN

_SALES = frozenset({Stage.PURCHASE, Stage.SUBSCRIPTION})
_GIFTS = frozenset({Stage.DONATION, Stage.SUPPORT})
_NON_COMMERCIAL = frozenset({Purpose.CHARITABLE, Purpose.IDEAL})
_OFFERED = frozenset(
    {ObjectionOffered.BOX, ObjectionOffered.PRETICKED_BOX, ObjectionOffered.SENTENCE}
)


@dataclass(slots=True)
class Case:
    """One product of one message, before one pack.

    `early`: the content is not known yet, and every condition on it is taken as met.
    """

    facts: Facts
    ledger: Ledger
    pack: Pack
    product: str | None
    early: bool = False
    last_term: tuple[Rule, Event, datetime | None] | None = None
    _ends: dict[tuple[datetime, int], datetime] | None = None

    def after_months(self, start: datetime, months: int) -> datetime:
        """The end of a period in the pack's zone; most events of a person share the start."""
        ends = self._ends
        if ends is None:
            ends = self._ends = {}
        end = ends.get((start, months))
        if end is None:
            end = ends[start, months] = after_months(start, months, self.pack.zone)
        return end


@dataclass(frozen=True, slots=True)
class Condition:
    """One word of the vocabulary.

    `events` are the details it can be asked of, `needs` the keys of the rule that it reads
    (required), `may` those it reads when present. `of_content`: the answer depends on what the
    message carries. `moves`: it depends on the time, on other entries, or on more of the recipient
    than gates and function; every other answer is in the entry's detail, whose it is, and whether
    it has evidence.
    """

    name: str
    rank: int
    reason: Reason
    ask: Callable[[Case, Rule, Event], Answer]
    tell: Callable[[Case, Event], str]
    events: tuple[type[Detail], ...]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    of_content: bool = False
    needs_review: bool = False
    moves: bool = False


def _known(value: bool | None) -> Answer:
    return UNKNOWN if value is None else YES if value else NO


def _or(value: object) -> str:
    if value is None or value == ():
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)


# entity


def _named(case: Case, _: Rule, event: Event) -> Answer:
    sender = case.facts.sender
    if event.sender == sender.id:
        return YES
    mine = {name.casefold() for name in (sender.id, *sender.names)}
    given = cast(OptIn, event.detail).third_parties
    return YES if any(name.casefold() in mine for name in given) else NO


def _own(case: Case, _: Rule, event: Event) -> Answer:
    return YES if event.sender == case.facts.sender.id else NO


def _tell_entity(case: Case, event: Event) -> str:
    own = event.sender == case.facts.sender.id
    return "given to this sender" if own else "given to another sender"


# act


def _affirmative(_: Case, __: Rule, event: Event) -> Answer:
    # An unknown box is a matter of proof, asked next.
    box = cast(OptIn, event.detail).box
    return YES if box is None or box in AFFIRMATIVE else NO


def _tell_box(_: Case, event: Event) -> str:
    return f"box {_or(cast(OptIn, event.detail).box)}"


def _sale(_: Case, rule: Rule, event: Event) -> Answer:
    deal = cast(Relationship, event.detail)
    if deal.stage is None:
        return UNKNOWN
    if deal.stage not in rule.stages:
        return NO
    if deal.stage not in _SALES or deal.paid:
        return YES
    if rule.indirect_remuneration and deal.indirect_remuneration:
        return YES
    return _known(deal.paid)


def _tell_sale(_: Case, event: Event) -> str:
    deal = cast(Relationship, event.detail)
    words = f"stage {_or(deal.stage)}"
    if deal.stage in _SALES:
        words += f", paid {_or(deal.paid)}"
        if deal.indirect_remuneration is not None:
            words += f", indirect remuneration {_or(deal.indirect_remuneration)}"
    return words


# proof


def _evidence(_: Case, __: Rule, event: Event) -> Answer:
    if not event.evidence.strip():
        return NO
    detail = event.detail
    return UNKNOWN if isinstance(detail, OptIn) and detail.box is None else YES


def _tell_evidence(case: Case, event: Event) -> str:
    if not event.evidence.strip():
        return "no evidence"
    if isinstance(event.detail, OptIn) and event.detail.box is None:
        return "box unknown"
    # Another sender's evidence is not ours to show.
    own = event.sender == case.facts.sender.id
    return f"evidence {event.evidence}" if own else "evidence held by another sender"


# source


def _from_customer(_: Case, __: Rule, event: Event) -> Answer:
    return _known(cast(Relationship, event.detail).address_from_customer)


def _tell_source(_: Case, event: Event) -> str:
    return f"address from customer {_or(cast(Relationship, event.detail).address_from_customer)}"


# scope


def _topics(case: Case, _: Rule, event: Event) -> Answer:
    opt_in, topics = cast(OptIn, event.detail), case.facts.message.topics
    if covers_topics(opt_in, topics):
        return YES
    return NO if topics else UNKNOWN


def _tell_topics(case: Case, event: Event) -> str:
    given = cast(OptIn, event.detail).topics
    if not given:
        return "all topics"
    return f"topics {_or(given)}; message on {_or(case.facts.message.topics)}"


def _products(case: Case, _: Rule, event: Event) -> Answer:
    opt_in = cast(OptIn, event.detail)
    if covers_product(opt_in, case.product):
        return YES
    return UNKNOWN if case.product is None else NO


def _tell_products(case: Case, event: Event) -> str:
    given = cast(OptIn, event.detail).products
    if not given:
        return "all products"
    return f"products {_or(given)}; message on {_or(case.product)}"


def _channel(_: Case, __: Rule, event: Event) -> Answer:
    return YES if "email" in cast(OptIn, event.detail).channels else NO


def _tell_channel(_: Case, event: Event) -> str:
    return f"channels {_or(cast(OptIn, event.detail).channels)}"


def _designated(case: Case, rule: Rule, event: Event) -> Answer:
    wanted, given = case.facts.message.purpose, cast(Published, event.detail).purpose
    if wanted is None or given is None:
        return UNKNOWN
    return YES if given in rule.designated.get(wanted, frozenset()) else NO


def _tell_designated(case: Case, event: Event) -> str:
    given = _or(cast(Published, event.detail).purpose)
    return f"published for {given}; message {_or(case.facts.message.purpose)}"


def _charitable(case: Case, _: Rule, event: Event) -> Answer:
    if cast(Relationship, event.detail).stage not in _GIFTS:
        return YES
    purpose = case.facts.message.purpose
    if purpose is None:
        return UNKNOWN
    return YES if purpose in _NON_COMMERCIAL else NO


def _tell_charitable(case: Case, event: Event) -> str:
    stage = _or(cast(Relationship, event.detail).stage)
    return f"stage {stage}; message {_or(case.facts.message.purpose)}"


def _sole_charitable(case: Case, _: Rule, __: Event) -> Answer:
    return _known(case.facts.message.sole_charitable_purpose)


def _tell_sole_charitable(case: Case, _: Event) -> str:
    return f"sole charitable purpose {_or(case.facts.message.sole_charitable_purpose)}"


def _function(case: Case, _: Rule, __: Event) -> Answer:
    function, relevant = case.facts.recipient.function, case.facts.message.relevant_functions
    if function is None or relevant is None:
        return UNKNOWN
    return YES if function.casefold() in {item.casefold() for item in relevant} else NO


def _tell_function(case: Case, _: Event) -> str:
    facts = case.facts
    relevant = _or(facts.message.relevant_functions)
    return f"function {_or(facts.recipient.function)}; message for {relevant}"


def _no_spam_notice(_: Case, __: Rule, event: Event) -> Answer:
    notice = cast(Published, event.detail).no_spam_notice
    return _known(None if notice is None else not notice)


def _tell_notice(_: Case, event: Event) -> str:
    return f"no-spam notice {_or(cast(Published, event.detail).no_spam_notice)}"


# information


def _withdrawal_info(_: Case, __: Rule, event: Event) -> Answer:
    return _known(cast(OptIn, event.detail).withdrawal_info_given)


def _tell_withdrawal(_: Case, event: Event) -> str:
    return f"told of withdrawal {_or(cast(OptIn, event.detail).withdrawal_info_given)}"


def _confirmed(case: Case, _: Rule, event: Event) -> Answer:
    at = cast(OptIn, event.detail).confirmed_at
    return YES if at is not None and at <= case.facts.at else NO


def _tell_confirmed(_: Case, event: Event) -> str:
    at = cast(OptIn, event.detail).confirmed_at
    return f"confirmed {at:%Y-%m-%d}" if at is not None else "not confirmed"


def _objection_offered(_: Case, __: Rule, event: Event) -> Answer:
    deal = cast(Relationship, event.detail)
    if deal.informed is False:
        return NO
    if deal.objection_offered is None:
        return UNKNOWN
    if deal.objection_offered not in _OFFERED:
        return NO
    return _known(deal.informed)


def _tell_offered(_: Case, event: Event) -> str:
    deal = cast(Relationship, event.detail)
    return f"objection offered by {_or(deal.objection_offered)}, informed {_or(deal.informed)}"


def _informed_at_collection(_: Case, __: Rule, event: Event) -> Answer:
    return _known(cast(Published, event.detail).informed_at_collection)


def _tell_informed(_: Case, event: Event) -> str:
    return f"informed at collection {_or(cast(Published, event.detail).informed_at_collection)}"


# similarity


def similar(product: str, bought: str, groups: tuple[SimilarGroup, ...]) -> bool:
    """Whether `product` is like `bought`: within it, or both within the slugs of one group."""
    if lies_within(product, bought):
        return True
    return any(
        any(lies_within(product, slug) for slug in group.products)
        and any(lies_within(bought, slug) for slug in group.products)
        for group in groups
    )


def _bought_like(case: Case, deal: Relationship) -> tuple[str, ...]:
    product, groups = case.product, case.facts.sender.similar
    return tuple(
        bought
        for bought in deal.products
        if product is not None and similar(product, bought, groups)
    )


def _similar(case: Case, _: Rule, event: Event) -> Answer:
    deal = cast(Relationship, event.detail)
    if deal.stage in _GIFTS:
        return YES if case.facts.message.purpose in _NON_COMMERCIAL else NO
    if case.product is None or not deal.products:
        return UNKNOWN
    return YES if _bought_like(case, deal) else NO


def _tell_similar(case: Case, event: Event) -> str:
    deal = cast(Relationship, event.detail)
    if deal.stage in _GIFTS:
        return f"stage {_or(deal.stage)}; message {_or(case.facts.message.purpose)}"
    words = f"products {_or(deal.products)}; message on {_or(case.product)}"
    return words + _declared(case, deal)


def _declared(case: Case, deal: Relationship) -> str:
    """By whom and when the products were declared similar, where that is what makes them so."""
    product = case.product
    if product is None or any(lies_within(product, bought) for bought in deal.products):
        return ""
    for group in case.facts.sender.similar:
        if any(similar(product, bought, (group,)) for bought in deal.products):
            day = "" if group.reviewed_on is None else f" on {group.reviewed_on.isoformat()}"
            return f", declared similar by {group.reviewer or 'the operator'}{day}"
    return ""


# list


def _not_listed(case: Case, rule: Rule, _: Event) -> Answer:
    wanted = (rule.registry or "").casefold()
    listed = any(
        cast(Registry, event.detail).registry.casefold() == wanted
        for event in case.ledger.registries
    )
    return NO if listed else YES


def _tell_listed(case: Case, _: Event) -> str:
    lists = [cast(Registry, event.detail).registry for event in case.ledger.registries]
    return f"lists {', '.join(sorted(lists)) or 'none'}"


# time


def _in_force(case: Case, rule: Rule, event: Event) -> Answer:
    if event.at > case.facts.at:
        return NO
    if rule.in_force_from is None:
        return YES
    return YES if local_day(event.at, case.pack.zone) >= rule.in_force_from else NO


def _tell_in_force(_: Case, event: Event) -> str:
    return f"since {event.at:%Y-%m-%d}"


def term_end(case: Case, rule: Rule, event: Event) -> datetime | None:
    """The instant from which the rule's term has run out for this event; None is never."""
    term = rule.term
    if term is None:
        return None
    known = case.last_term
    if known is None or known[0] is not rule or known[1] is not event:
        # Asked as a condition, and again for when a basis that holds will end.
        known = case.last_term = (rule, event, _term_end(case, term, event))
    return known[2]


def _term_end(case: Case, term: Term, event: Event) -> datetime | None:
    detail = event.detail
    start = event.at
    if isinstance(detail, Relationship):
        if detail.stage is Stage.SUBSCRIPTION and (
            detail.ended_at is None or detail.ended_at > case.facts.at
        ):
            return None  # while a subscription runs the clock stands still
        if detail.ended_at is not None and detail.ended_at <= case.facts.at:
            start = max(start, detail.ended_at)
    if term.from_acts:
        start = max(start, case.ledger.last_act)
    if term.from_mail:
        start = max(start, _last_mail(case, start))
    return case.after_months(start, _months(case, term, event))


def _last_mail(case: Case, default: datetime) -> datetime:
    last = case.facts.recipient.last_marketing_at
    return last if last is not None and last <= case.facts.at else default


def _lifetimes(case: Case, term: Term, event: Event) -> list[int | None]:
    """The operator's lifetimes of the bought products behind this message; None: none declared."""
    lifetimes = case.facts.sender.lifetimes
    detail = event.detail
    if not lifetimes or not term.lifetimes or not isinstance(detail, Relationship):
        return []
    found: list[int | None] = []
    for bought in detail.products if case.early else _bought_like(case, detail):
        slug = bought
        while slug and slug not in lifetimes:
            slug = slug.rpartition("/")[0]
        found.append(lifetimes.get(slug))
    return found


def _months(case: Case, term: Term, event: Event) -> int:
    stage = getattr(event.detail, "stage", None)
    months = term.by_stage.get(stage, term.months) if stage is not None else term.months
    found = _lifetimes(case, term, event)
    if case.early:  # whichever product the message turns out to be about
        return max([months, *(life for life in found if life is not None)])
    # A bought product without a lifetime keeps the rule's own term.
    return max((months if life is None else life for life in found), default=months)


def term_needs_review(case: Case, rule: Rule, event: Event) -> bool:
    """Whether the term that ran out is our own default and not the law's or the operator's."""
    if rule.term is None or not rule.term.needs_review:
        return False
    found = _lifetimes(case, rule.term, event)
    return not found or None in found


def valid_end(case: Case, event: Event) -> datetime | None:
    """The instant from which an opt-in's own `valid_until` has passed; None is never."""
    until = getattr(event.detail, "valid_until", None)
    if until is None or isinstance(until, datetime):
        return until
    return after_day(until, case.pack.zone)


def _term(case: Case, rule: Rule, event: Event) -> Answer:
    end = term_end(case, rule, event)
    return YES if end is None or case.facts.at < end else NO


def _tell_term(case: Case, event: Event) -> str:
    last = case.facts.recipient.last_marketing_at
    words = f"since {event.at:%Y-%m-%d}"
    return words if last is None else f"{words}, last mail {last:%Y-%m-%d}"


def _valid(case: Case, _: Rule, event: Event) -> Answer:
    end = valid_end(case, event)
    return YES if end is None or case.facts.at < end else NO


def _tell_valid(_: Case, event: Event) -> str:
    until = cast(OptIn, event.detail).valid_until
    return "no end" if until is None else f"valid until {until.isoformat()}"


def dormant_from(case: Case, rule: Rule, event: Event) -> datetime | None:
    """The instant from which a consent sleeps: no mail and no act, and the account abandoned."""
    if not case.facts.recipient.account_abandoned or rule.dormant_months is None:
        return None
    start = max(event.at, case.ledger.last_act)
    start = max(start, _last_mail(case, start))
    return case.after_months(start, rule.dormant_months)


def _awake(case: Case, rule: Rule, event: Event) -> Answer:
    end = dormant_from(case, rule, event)
    return YES if end is None or case.facts.at < end else NO


def _tell_awake(case: Case, event: Event) -> str:
    abandoned = _or(case.facts.recipient.account_abandoned)
    return f"account abandoned {abandoned}, {_tell_term(case, event)}"


_ANY: tuple[type[Detail], ...] = (OptIn, Relationship, Published)
_O: tuple[type[Detail], ...] = (OptIn,)
_R: tuple[type[Detail], ...] = (Relationship,)
_P: tuple[type[Detail], ...] = (Published,)
_R_ = Reason

_ALL = (
    Condition("named", 0, _R_.THIRD_PARTY_UNNAMED, _named, _tell_entity, _O),
    Condition("own-entity", 0, _R_.NOT_OWN_ENTITY, _own, _tell_entity, (*_R, *_P)),
    Condition("affirmative-act", 1, _R_.PRETICKED_CONSENT, _affirmative, _tell_box, _O),
    Condition(
        "sale", 1, _R_.NOT_A_SALE, _sale, _tell_sale, _R,
        needs=("stages",), may=("indirect_remuneration",),
    ),
    Condition("evidence", 2, _R_.PROOF_MISSING, _evidence, _tell_evidence, _ANY),
    Condition(
        "address-from-customer", 3, _R_.ADDRESS_NOT_FROM_CUSTOMER, _from_customer, _tell_source, _R
    ),
    Condition("topics", 4, _R_.SCOPE_MISMATCH, _topics, _tell_topics, _O, of_content=True),
    Condition("products", 4, _R_.SCOPE_MISMATCH, _products, _tell_products, _O, of_content=True),
    Condition("channel", 4, _R_.SCOPE_MISMATCH, _channel, _tell_channel, _O),
    Condition(
        "designated", 4, _R_.PURPOSE_MISMATCH, _designated, _tell_designated, _P,
        needs=("designated",),
    ),
    Condition("charitable", 4, _R_.PURPOSE_MISMATCH, _charitable, _tell_charitable, _R),
    Condition(
        "sole-charitable", 4, _R_.PURPOSE_MISMATCH, _sole_charitable, _tell_sole_charitable, _R,
        of_content=True,
    ),
    Condition(
        "function", 4, _R_.PURPOSE_MISMATCH, _function, _tell_function, _P, of_content=True
    ),
    Condition("no-spam-notice", 4, _R_.PURPOSE_MISMATCH, _no_spam_notice, _tell_notice, _P),
    Condition(
        "withdrawal-info", 5, _R_.WITHDRAWAL_INFO_MISSING, _withdrawal_info, _tell_withdrawal, _O
    ),
    Condition(
        "double-opt-in", 5, _R_.UNCONFIRMED, _confirmed, _tell_confirmed, _O,
        needs_review=True, moves=True,
    ),
    Condition(
        "objection-offered", 5, _R_.NO_OBJECTION_OFFERED, _objection_offered, _tell_offered, _R
    ),
    Condition(
        "informed-at-collection", 5, _R_.NO_OBJECTION_OFFERED, _informed_at_collection,
        _tell_informed, _P,
    ),
    Condition(
        "similar", 6, _R_.NOT_SIMILAR, _similar, _tell_similar, _R,
        of_content=True, needs_review=True,
    ),
    Condition(
        "not-listed", 7, _R_.REGISTRY, _not_listed, _tell_listed, _R,
        needs=("registry",), moves=True,
    ),
    Condition(
        "in-force", 8, _R_.NOT_IN_FORCE, _in_force, _tell_in_force, _ANY,
        may=("in_force_from",), moves=True,
    ),
    Condition("valid-until", 8, _R_.EXPIRED, _valid, _tell_valid, _O, moves=True),
    Condition("term", 8, _R_.EXPIRED, _term, _tell_term, (*_O, *_R), needs=("term",), moves=True),
    Condition(
        "awake", 8, _R_.DORMANT, _awake, _tell_awake, _O, needs=("dormant_months",), moves=True
    ),
)

CONDITIONS: Mapping[str, Condition] = {condition.name: condition for condition in _ALL}
ORDER: Mapping[str, int] = {condition.name: place for place, condition in enumerate(_ALL)}
EVENT_TYPES: Mapping[str, type[Detail]] = {
    "opt-in": OptIn,
    "relationship": Relationship,
    "published": Published,
}
