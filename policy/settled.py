"""What is settled before anybody's entries are read: for one message, sender and sort of recipient.

A newsletter goes to many people of few sorts. Which packs apply, which rules are candidates and
what a known kind of entry answers to them is the same for all of a sort, so it is found out once.
What moves is left: the time, and what the entries of a person say together.

Remembered in the `Packs` that it was found out by, within bounds. Messages and senders are known
again by identity: whoever builds new ones for each decision gains nothing, and pays half as much
again for what is kept of them.
"""

from __future__ import annotations

from typing import Final

from policy import overlay
from policy.basis import Case, Condition
from policy.duties import unmet
from policy.gates import Shut, shut
from policy.jurisdiction import Jurisdiction, by_domain, first, jurisdiction
from policy.ledger import Class, class_of
from policy.model import NO_OVERLAY, Answer, Event, Facts, Reason
from policy.pack import NO_GATES, Pack, Packs, Rule

PERMISSION_REQUEST = "permission-request"

#: Messages with a sort of recipient, and kinds of entries with a rule, that are remembered.
_SORTS: Final = 256
_ANSWERS: Final = 4096

_YES = Answer.YES

#: The place of a condition in its rule, and the condition.
Place = tuple[int, Condition]
#: By rule and id of an entry's detail: the detail, and the first fixed condition it does not meet.
Answers = dict[tuple["Asked", int], tuple[object, Place | None]]
#: A duty that is not met, and its article.
Owed = tuple[Reason, str]


class Asked:
    """A rule whose gates are open, and what it asks of its entries about one product.

    `fixed` are the conditions whose answer an entry carries in itself, `moving` the others.
    """

    __slots__ = ("_answers", "fixed", "moving", "places", "rule")

    def __init__(
        self, rule: Rule, *, own: frozenset[str], early: bool, answers: Answers
    ) -> None:
        self.rule = rule
        conditions = rule.conditions
        if rule.allows in own:
            conditions = (*conditions, overlay.OWN_TERM)
        self.places = tuple(
            (place, condition)
            for place, condition in enumerate(conditions)
            if not (early and condition.of_content)
        )
        self.fixed = tuple(found for found in self.places if not found[1].moves)
        self.moving = tuple(found for found in self.places if found[1].moves)
        self._answers = answers

    def missed(self, case: Case, event: Event) -> Place | None:
        """The first condition that is not met; None when all hold."""
        failed = self._fixed(case, event)
        for found in self.moving:
            if failed is not None and found[0] > failed[0]:
                break
            if found[1].ask(case, self.rule, event) is not _YES:
                return found
        return failed

    def _fixed(self, case: Case, event: Event) -> Place | None:
        detail = event.detail
        if event.sender != case.facts.sender.id or not event.evidence.strip():
            return self._ask(case, event)
        key = self, id(detail)
        known = self._answers.get(key)
        if known is None:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            # Holding the detail keeps its id from being another's.
            known = self._answers[key] = detail, self._ask(case, event)
        return known[1]

    def _ask(self, case: Case, event: Event) -> Place | None:
        for found in self.fixed:
            if found[1].ask(case, self.rule, event) is not _YES:
                return found
        return None


class Settled:
    """All that follows from the message, its sender and the sort of recipient (`settled`)."""

    __slots__ = (
        "_answers",
        "_asked",
        "_duties",
        "_first",
        "_jurisdiction",
        "_packs",
        "class_",
        "early",
        "message",
        "overlaid",
        "own",
        "products",
        "sender",
    )

    def __init__(self, facts: Facts, packs: Packs, *, early: bool) -> None:
        message, sender = facts.message, facts.sender
        self.message, self.sender, self.early = message, sender, early  # their ids are the key's
        self._packs = packs
        self._answers = packs.answers
        class_ = class_of(message)
        if message.template == PERMISSION_REQUEST and not early:
            class_ = Class.MARKETING  # whatever else it is called
        self.class_ = class_
        self.overlaid = message.overlay is not NO_OVERLAY or sender.overlay is not NO_OVERLAY
        self.own = overlay.own_terms(facts)
        self.products: tuple[str | None, ...] = message.products or (None,)
        if early:
            self.products = (None,)
        self._jurisdiction: Jurisdiction | None = None
        self._first: str | None = None
        self._asked: dict[tuple[str, bool, bool, str | None], tuple[Asked, ...]] = {}
        self._duties: dict[tuple[str, ...], tuple[Owed | None, tuple[str, ...]]] = {}

    def jurisdiction(self, facts: Facts) -> Jurisdiction:
        """The packs that apply."""
        if self._jurisdiction is None:
            self._jurisdiction = jurisdiction(facts, self._packs)
        return self._jurisdiction

    def first(self, facts: Facts) -> str:
        """The id of the first pack that applies, where nothing else is asked of it."""
        if self._first is None:
            self._first = first(facts, self._packs)
        return self._first

    def asked(
        self,
        pack: Pack,
        facts: Facts,
        product: str | None,
        *,
        consent_only: bool,
        local_allowed: bool,
    ) -> tuple[Asked, ...]:
        """The rules of a pack whose gates are open, in order, for one product."""
        key = pack.id, consent_only, local_allowed, product
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = tuple(
                Asked(rule, own=self.own, early=self.early, answers=self._answers)
                for rule in pack.rules
                if (not consent_only or rule.allows is Reason.CONSENT)
                and self.shut(rule, facts, local_allowed=local_allowed) is None
            )
        return asked

    def shut(self, rule: Rule, facts: Facts, *, local_allowed: bool) -> Shut | None:
        """The first gate of a rule that is not met, or None."""
        if rule.gates is NO_GATES:
            return None
        return shut(
            rule.gates,
            facts.recipient,
            self.message,
            self._packs,
            local_allowed=local_allowed,
            early=self.early,
        )

    def owed(
        self, pack: Pack, reasons: tuple[Reason, ...]
    ) -> tuple[Owed | None, tuple[str, ...]]:
        """The first duty of a pack that stops the message, and what is to be injected.

        `reasons` are those for which each product of the message is allowed.
        """
        key = (pack.id, *reasons)
        found = self._duties.get(key)
        if found is None:
            obligations: dict[str, None] = {}
            duty = unmet(pack.duties, self.message, reasons, obligations)
            found = self._duties[key] = duty, tuple(obligations)
        return found


def settled(facts: Facts, packs: Packs, *, early: bool) -> Settled:
    """What is settled for these facts; the same for all with this message, sender and sort."""
    message, sender, recipient = facts.message, facts.sender, facts.recipient
    country = recipient.country
    domain: Pack | None = None
    if not country and sender.candidate_countries:
        domain = by_domain(recipient.address, packs)
    key = (
        id(message),
        id(sender),
        early,
        country,
        domain and domain.id,
        recipient.kind,
        recipient.legal_person,
        recipient.function,
        recipient.address_mainly_business,
        recipient.local_rules_met,
    )
    known = packs.settled
    found = known.get(key)
    if found is None:
        if len(known) >= _SORTS:
            known.clear()
            packs.answers.clear()
        found = known[key] = Settled(facts, packs, early=early)
    return found
