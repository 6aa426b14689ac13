"""The decision: facts in, one `Decision` out. Pure, total, deterministic (`docs/decision.md`).

The order is fixed: not marketing, suppression, then for each pack that applies its basis and its
duties; last what the operator forbids beyond the law. All packs must allow; the first that blocks
gives the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from policy import overlay
from policy.basis import Case, Condition, dormant_from, term_end, term_needs_review, valid_end
from policy.counterfactual import changes
from policy.duties import RULE as DUTIES
from policy.duties import unmet
from policy.jurisdiction import Jurisdiction, first, jurisdiction
from policy.ledger import Class, Ledger, Suppression, class_of, suppression
from policy.model import (
    Answer,
    Basis,
    Bounce,
    Decision,
    Event,
    Facts,
    Kind,
    Objection,
    OptIn,
    Reason,
    Relationship,
    Step,
    Trace,
    Verdict,
)
from policy.pack import GDPR_OBJECTION, NO_GATES, Gates, Pack, Packs, Rule

PERMISSION_REQUEST = "permission-request"

_NATURAL = {Kind.CONSUMER: False, Kind.SOLE_TRADER: False}
_EVENT_WORDS = {OptIn: "opt-in", Relationship: "relationship"}
_YES, _NO, _UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
_NEVER = datetime.max.replace(tzinfo=UTC)


#: A question that was asked of an event: pack, rule, condition, answer, the entry's id, and what
#: the condition needs to tell it. Most decisions are never read, so the words come on demand.
_Asked = tuple[str, str, Condition, Answer, str, Case, Event]


@dataclass(slots=True)
class _Finding:
    """What one pack says of the basis. `rule` None: no candidate at all."""

    allowed: bool
    reason: Reason
    rule: Rule | None = None
    event: Event | None = None
    ends_at: datetime | None = None
    needs_review: bool = False


class _Run:
    """One decision in the making: the facts, their ledger, and the trace so far."""

    __slots__ = ("early", "facts", "ledger", "local_allowed", "own", "packs", "steps", "where")

    def __init__(self, facts: Facts, packs: Packs, *, early: bool) -> None:
        self.facts = facts
        self.packs = packs
        self.early = early
        self.ledger = Ledger(facts)
        self.own = overlay.own_terms(facts)
        self.steps: list[Step | _Asked] = []
        self.local_allowed = False
        self.where: Jurisdiction | None = None

    def uid(self, event: Event) -> str:
        """The entry's id; another sender's entry is not shown."""
        return event.uid if event.sender == self.ledger.sender else ""

    @property
    def jurisdiction(self) -> str:
        if self.where is None:
            return first(self.facts, self.packs)
        applies = self.where.applies
        return "" if self.where.elsewhere or not applies else applies[0].pack.id

    def decide(self) -> Decision | None:
        """None: nothing certain can be said yet (only when `early`)."""
        message = self.facts.message
        class_ = class_of(message)
        if message.template == PERMISSION_REQUEST and not self.early:
            class_ = Class.MARKETING  # whatever else it is called
        if class_ is not Class.MARKETING:
            stopped = suppression(self.ledger, class_, early=self.early)
            if stopped.hit is not None:
                return self.suppressed(stopped.hit, stopped)
            if class_ is Class.PERSONAL or message.promotion is False or self.early:
                return None if self.early else self.not_marketing()
            return self.mixed(self.applying())
        if self.early and message.category is None:
            stopped = suppression(self.ledger, Class.PERSONAL)
            return None if stopped.hit is None else self.suppressed(stopped.hit, stopped)
        return self.tightened(self.marketing(self.applying()))

    def applying(self) -> Jurisdiction:
        where = jurisdiction(self.facts, self.packs)
        self.where = where
        return where

    def not_marketing(self) -> Decision:
        return self.result(Verdict.ALLOW, Reason.NOT_MARKETING)

    def mixed(self, where: Jurisdiction) -> Decision:
        """Transactional mail that carries promotion, or may."""
        # Where the primary purpose decides, a transactional message stays one.
        judged = tuple(one for one in where.applies if not one.pack.primary_purpose)
        waived = not where.elsewhere and len(judged) < len(where.applies)
        if waived and not judged:
            return self.not_marketing()
        if waived:
            where, first = replace(where, applies=judged), where.applies[0]
            self.local_allowed = bool(self.facts.recipient.country)
        decision = self.tightened(self.marketing(where))
        if decision.verdict is Verdict.BLOCK:
            return replace(decision, reason=Reason.MIXED_PURPOSE)
        if decision.verdict is Verdict.DEFER:
            return decision
        if waived and first.pack.primary_purpose:
            return replace(decision, reason=Reason.NOT_MARKETING, basis=None)
        return decision

    def marketing(self, where: Jurisdiction) -> Decision:
        stopped = suppression(self.ledger, Class.MARKETING, early=self.early)
        if stopped.hit is not None:
            return self.suppressed(stopped.hit, stopped)
        if stopped.ended_by is not None:
            for event in self.ledger.end_before(stopped.ended_by):
                self.step("", "", "not-ended", _NO, event, "ended by a later objection")
        for event in self.ledger.near:
            words = "an opt-in exists for another spelling of this address"
            self.step("", "", "exact-address", _NO, event, words)
        if where.elsewhere:
            return self.elsewhere(where)
        return self.all_of(
            (one.pack, self.basis(one.pack, consent_only=one.consent_only))
            for one in where.applies
        )

    def all_of(self, found: Iterable[tuple[Pack, list[_Finding]]]) -> Decision:
        """Every pack must allow; reason and basis are those of the first."""
        first: tuple[Pack, _Finding] | None = None
        obligations: dict[str, None] = {}
        ends: list[datetime] = []
        for pack, findings in found:
            blocked = self.blocked(pack, findings, obligations)
            if blocked is not None:
                return blocked
            ends += [finding.ends_at for finding in findings if finding.ends_at is not None]
            # Where the recipient's country has a pack, its allow is that local rules are met.
            self.local_allowed = bool(self.facts.recipient.country)
            if first is None:
                first = (pack, findings[0])
        if first is None:
            return self.result(Verdict.BLOCK, Reason.UNKNOWN_JURISDICTION)
        pack, finding = first
        return self.result(
            Verdict.ALLOW, finding.reason, pack, finding,
            obligations=tuple(obligations), expires_at=min(ends, default=None),
        )

    def elsewhere(self, where: Jurisdiction) -> Decision:
        """An unknown law: consent under all that stand in for it, or the foreign-business rule."""
        found = [(one.pack, self.basis(one.pack, consent_only=True)) for one in where.applies]
        if found and all(finding.allowed for _, findings in found for finding in findings):
            return self.all_of(found)
        if where.abroad is not None:
            for rule in where.abroad.rules:
                if rule.allows is Reason.FOREIGN_BUSINESS and self.gated(where.abroad, rule):
                    return self.all_of([(where.abroad, [_Finding(True, rule.allows, rule)])])
        return self.result(Verdict.BLOCK, Reason.UNKNOWN_JURISDICTION)

    def basis(self, pack: Pack, *, consent_only: bool) -> list[_Finding]:
        """One finding per product, in message order, up to the first that settles the rest."""
        products: tuple[str | None, ...] = self.facts.message.products or (None,)
        if self.early:
            products = (None,)
        findings: list[_Finding] = []
        for product in products:
            case = Case(self.facts, self.ledger, pack, product, self.early)
            finding = self.judge(case, consent_only)
            findings.append(finding)
            if not finding.allowed or _of_any_product(finding):
                break
        return findings

    def judge(self, case: Case, consent_only: bool) -> _Finding:
        """The first rule whose conditions all hold for one of its events."""
        pack = case.pack
        furthest: _Finding | None = None
        best = -1
        for rule in pack.rules:
            if consent_only and rule.allows is not Reason.CONSENT:
                continue
            if not self.gated(pack, rule):
                continue
            if rule.event is None:
                return _Finding(True, rule.allows, rule)
            holding: list[_Finding] = []
            missed: tuple[int, int, datetime, datetime, str] | None = None
            for event in self.ledger.permits[rule.event]:
                failed = self.ask(case, rule, event)
                if failed is None:
                    ends_at = _ends_at(case, rule, event, own=bool(self.own))
                    holding.append(_Finding(True, rule.allows, rule, event, ends_at))
                    continue
                place, condition = failed
                how_far = (condition.rank, place, event.at, event.recorded_at, event.uid)
                if missed is None or how_far > missed:
                    missed = how_far
                    review = condition.needs_review or (
                        condition.name == "term" and term_needs_review(case, rule, event)
                    )
                    miss = _Finding(False, condition.reason, rule, event, None, review)
            if holding:
                return holding[0] if len(holding) == 1 else max(holding, key=_lasting)
            if missed is not None and missed[0] > best:  # on a tie the earlier rule
                best, furthest = missed[0], miss
        return furthest or _Finding(False, Reason.NO_BASIS)

    def ask(self, case: Case, rule: Rule, event: Event) -> tuple[int, Condition] | None:
        """The first condition that is not met, with its place; None when all hold."""
        pack_id, rule_id, uid, steps = case.pack.id, rule.id, self.uid(event), self.steps
        conditions = rule.conditions
        if rule.allows in self.own:
            conditions = (*conditions, overlay.OWN_TERM)
        for place, condition in enumerate(conditions):
            if case.early and condition.of_content:
                continue
            answer = condition.ask(case, rule, event)
            steps.append((pack_id, rule_id, condition, answer, uid, case, event))
            if answer is not _YES:
                return place, condition
        return None

    def gated(self, pack: Pack, rule: Rule) -> bool:
        """Whether the rule is a candidate; if not, the trace says which gate was shut."""
        gates = rule.gates
        shut = None if gates is NO_GATES else self.shut(gates)
        if shut is None and rule.event is not None and not self.ledger.permits.get(rule.event):
            words = _EVENT_WORDS.get(rule.event, "published address")
            shut = ("event", _NO, f"no {words} recorded")
        if shut is None:
            return True
        name, answer, words = shut
        self.steps.append(Step(pack.id, rule.id, name, answer, "", words))
        return False

    def shut(self, gates: Gates) -> tuple[str, Answer, str] | None:
        recipient, message = self.facts.recipient, self.facts.message
        if gates.kinds is not None and recipient.kind not in gates.kinds:
            unknown = recipient.kind is Kind.UNKNOWN
            return "kind", _UNKNOWN if unknown else _NO, f"kind {recipient.kind}"
        if gates.legal_person is not None:
            legal = recipient.legal_person
            if legal is None and recipient.kind is not Kind.UNKNOWN:
                legal = _NATURAL.get(recipient.kind, True)
            if legal is not gates.legal_person:
                return "legal-person", *_told("legal person", legal)
        if gates.outside_eea:
            country = recipient.country
            if not country:
                return "outside-eea", _UNKNOWN, "country unknown"
            if self.packs.in_eea(country):
                return "outside-eea", _NO, f"country {country}"
        if gates.local_rules_met and not (recipient.local_rules_met or self.local_allowed):
            return "local-rules-met", *_told("local rules met", recipient.local_rules_met)
        if gates.business_only:
            if not recipient.address_mainly_business:
                words = "address mainly business"
                return "business-only", *_told(words, recipient.address_mainly_business)
            if not message.business_only and not self.early:
                return "business-only", *_told("message business only", message.business_only)
        if gates.purposes is not None and message.purpose not in gates.purposes:
            known = message.purpose is not None
            return "purpose", _NO if known else _UNKNOWN, f"purpose {message.purpose or 'unknown'}"
        if self.early:
            return None
        if gates.charity_registered_in is not None:
            registered = message.charity_registered_in
            if registered is None or registered.upper() != gates.charity_registered_in:
                answer = _UNKNOWN if registered is None else _NO
                return "charity-registered-in", answer, f"registered in {registered or 'unknown'}"
        if gates.primary_purpose_fundraising and not message.primary_purpose_fundraising:
            words = "primary purpose fundraising"
            return "fundraising", *_told(words, message.primary_purpose_fundraising)
        return None

    def blocked(
        self, pack: Pack, findings: list[_Finding], obligations: dict[str, None]
    ) -> Decision | None:
        """The block of one pack from its findings, one per product; None where it allows.

        What its duties ask to be injected is added to `obligations`.
        """
        last = findings[-1]
        if not last.allowed:
            reason = last.reason
            if self.facts.message.template == PERMISSION_REQUEST:
                reason = Reason.PERMISSION_REQUEST
            return self.result(Verdict.BLOCK, reason, pack, last)
        if self.early:
            return None
        reasons = [finding.reason for finding in findings]
        duty = unmet(pack.duties, self.facts.message, reasons, obligations)
        if duty is None:
            return None
        reason, cite = duty
        self.steps.append(Step(pack.id, DUTIES, reason, _NO, "", "missing"))
        return replace(self.result(Verdict.BLOCK, reason, pack, findings[0]), cite=cite)

    def tightened(self, decision: Decision) -> Decision:
        """What the law allows, unless the operator's own rules hold it."""
        if self.early or not decision.allowed:
            return decision
        home = self.packs.of(self.facts.recipient.country)
        held = overlay.held(self.facts, None if home is None or home.fallback else home.zone)
        if held is None:
            return decision
        self.steps.append(Step("", overlay.RULE, held.condition, held.answer, "", held.detail))
        trace = Trace(self.steps, _told_step)
        if held.reason is Reason.NOT_AUTHORISED:
            return Decision(
                verdict=Verdict.BLOCK,
                reason=held.reason,
                rule=overlay.RULE,
                jurisdiction=decision.jurisdiction,
                trace=trace,
            )
        return replace(
            decision,
            verdict=Verdict.DEFER,
            reason=held.reason,
            cite="",
            until=held.until,
            trace=trace,
        )

    def suppressed(self, event: Event, stopped: Suppression) -> Decision:
        if self.where is None:
            self.applying()
        detail = event.detail
        where = self.where
        pack = where.applies[0].pack if where and where.applies and not where.elsewhere else None
        cite = pack.suppression_cite if pack else GDPR_OBJECTION
        if isinstance(detail, Bounce):
            kind = "third soft bounce" if stopped.soft else "hard bounce"
            words, cite = f"{kind} of {event.at:%Y-%m-%d}", "RFC 3463"
        elif isinstance(detail, Objection):
            words = f"objection to {detail.scope} of {event.at:%Y-%m-%d}"
        else:
            words = f"complaint of {event.at:%Y-%m-%d}"
        if event.sender != self.ledger.sender:
            words += " at another sender"
        self.step("", "suppression", "not-suppressed", _NO, event, words)
        for near in self.ledger.near:
            if near.at > event.at:
                note = "a newer opt-in exists for another spelling of this address"
                self.step("", "suppression", "exact-address", _NO, near, note)
        return Decision(
            verdict=Verdict.BLOCK,
            reason=Reason.SUPPRESSED,
            cite=cite,
            pack=pack.label if pack else "",
            rule="suppression",
            jurisdiction=self.jurisdiction,
            event=self.uid(event),
            trace=Trace(self.steps, _told_step),
        )

    def step(
        self, pack: str, rule: str, name: str, answer: Answer, event: Event, words: str
    ) -> None:
        self.steps.append(Step(pack, rule, name, answer, self.uid(event), words))

    def result(
        self,
        verdict: Verdict,
        reason: Reason,
        pack: Pack | None = None,
        finding: _Finding | None = None,
        *,
        obligations: tuple[str, ...] = (),
        expires_at: datetime | None = None,
    ) -> Decision:
        rule = finding.rule if finding is not None else None
        event = finding.event if finding is not None else None
        # With no candidate the pack's first rule says what would have been needed.
        cited = rule or (pack.rules[0] if pack is not None else None)
        uid = "" if event is None else self.uid(event)
        basis: Basis | None = None
        if verdict is Verdict.ALLOW and rule is not None:
            own = event is not None and event.sender == self.ledger.sender
            basis = Basis(
                rule=rule.id,
                event=uid,
                evidence=event.evidence if event is not None and own else "",
                at=event.at if event is not None else None,
            )
        return Decision(
            verdict=verdict,
            reason=reason,
            cite=cited.cite if cited is not None else "",
            pack=pack.label if pack is not None else "",
            rule=rule.id if rule is not None else "",
            jurisdiction=self.jurisdiction,
            basis=basis,
            event="" if basis is not None else uid,
            obligations=obligations,
            expires_at=expires_at,
            needs_review=finding.needs_review if finding is not None else False,
            trace=Trace(self.steps, _told_step),
        )


def _told(words: str, value: bool | None) -> tuple[Answer, str]:
    if value is None:
        return _UNKNOWN, f"{words} unknown"
    return _NO, f"{words} {'yes' if value else 'no'}"


def _ends_at(case: Case, rule: Rule, event: Event, *, own: bool) -> datetime | None:
    """When this basis ends; `own`: the operator has terms too."""
    found = valid_end(case, event)
    for end in (
        term_end(case, rule, event) if rule.term is not None else None,
        dormant_from(case, rule, event) if rule.dormant_months is not None else None,
        overlay.own_end(case, rule, event) if own else None,
    ):
        if end is not None and (found is None or end < found):
            found = end
    return found


def _lasting(finding: _Finding) -> tuple[datetime, datetime, datetime, str]:
    """Of several events that satisfy a rule: the one lasting longest, then the newest."""
    event = cast(Event, finding.event)
    return (finding.ends_at or _NEVER, event.at, event.recorded_at, event.uid)


def _of_any_product(finding: _Finding) -> bool:
    """Whether what permits this product permits every other, no shorter."""
    if finding.event is None:
        return True
    detail = finding.event.detail
    return isinstance(detail, OptIn) and not detail.products


def _told_step(asked: Step | _Asked) -> Step:
    if isinstance(asked, Step):
        return asked
    pack, rule, condition, answer, uid, case, event = asked
    return Step(pack, rule, condition.name, answer, uid, condition.tell(case, event))


def decide(facts: Facts, packs: Packs, *, counterfactual: bool = False) -> Decision:
    """Whether this mail may leave now, and why.

    Total: it raises nothing for any `Facts`. `counterfactual` adds the smallest change of facts
    that would flip the verdict; each trial is a full decision, so ask only for a person.
    """
    decision = cast(Decision, _Run(facts, packs, early=False).decide())  # None only when early
    if counterfactual:
        found = changes(facts, decision, lambda other: decide(other, packs))
        return replace(decision, counterfactual=found)
    return decision


def refuse_early(facts: Facts, packs: Packs) -> Decision | None:
    """At RCPT: the block that is certain whatever the message will say; None when none is.

    `facts.message` carries what the stream fixes (stream, category, purpose); topics, products,
    template and everything else that content or control headers may still change is not read, or
    taken as met.
    """
    decision = _Run(facts, packs, early=True).decide()
    return decision if decision is not None and decision.verdict is Verdict.BLOCK else None


def living_basis(facts: Facts, packs: Packs) -> Decision | None:
    """What a person could be written to on: the allow that only the message could still turn.

    For counting and forecasts. Conditions of content and all duties are taken as met; None where
    any marketing mail would be blocked.
    """
    decision = _Run(facts, packs, early=True).decide()
    return decision if decision is not None and decision.verdict is Verdict.ALLOW else None
