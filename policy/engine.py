"""The decision: facts in, one `Decision` out. Pure, total, deterministic (`docs/decision.md`).

The order is fixed: not marketing, suppression, then for each pack that applies its basis and its
duties; last what the operator forbids beyond the law. All packs must allow; the first that blocks
gives the reason. What holds for everybody of one sort is asked once (`settled.py`); who reads the
trace of a decision has every question asked again, one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import cast

from policy import overlay
from policy.basis import Case, Condition, dormant_from, term_end, term_needs_review, valid_end
from policy.counterfactual import changes
from policy.duties import RULE as DUTIES
from policy.jurisdiction import Applies, Jurisdiction
from policy.ledger import Class, Ledger, Suppression, suppression
from policy.model import (
    Answer,
    Basis,
    Bounce,
    Decision,
    Event,
    Facts,
    Objection,
    OptIn,
    Reason,
    Relationship,
    Step,
    Trace,
    Verdict,
)
from policy.pack import GDPR_OBJECTION, Pack, Packs, Rule
from policy.settled import PERMISSION_REQUEST, Asked, Owed, Place, settled

__all__ = ["PERMISSION_REQUEST", "decide", "living_basis", "refuse_early"]

_EVENT_WORDS = {OptIn: "opt-in", Relationship: "relationship"}
# A member of an enumeration is twenty times as long in coming as a name of the module.
_YES, _NO = Answer.YES, Answer.NO
_ALLOW, _BLOCK, _MARKETING = Verdict.ALLOW, Verdict.BLOCK, Class.MARKETING
_SOME_ALLOW = Decision(verdict=_ALLOW, reason=Reason.CONSENT)
_NEVER = datetime.max.replace(tzinfo=UTC)

#: A question that was asked of an event: pack, rule, condition, answer, the entry's id, and what
#: the condition needs to tell it.
_Told = tuple[str, str, Condition, Answer, str, Case, Event]


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
    """One decision in the making: the facts, their ledger, and the trace where it is wanted."""

    __slots__ = (
        "early", "facts", "ledger", "local_allowed", "packs", "refusing", "sender", "settled",
        "steps", "where",
    )  # fmt: skip

    def __init__(
        self,
        facts: Facts,
        packs: Packs,
        *,
        early: bool,
        refusing: bool = False,
        steps: list[Step | _Told] | None = None,
    ) -> None:
        self.facts = facts
        self.packs = packs
        self.early = early
        self.refusing = refusing  # whether an allow need not say on what it rests
        self.steps = steps
        self.sender = facts.sender.id
        self.ledger = Ledger(facts)
        self.settled = settled(facts, packs, early=early)
        self.local_allowed = False
        self.where: Jurisdiction | None = None

    def uid(self, event: Event) -> str:
        """The entry's id; another sender's entry is not shown."""
        return event.uid if event.sender == self.sender else ""

    @property
    def jurisdiction(self) -> str:
        where = self.where
        if where is None:
            return self.settled.first(self.facts)
        return "" if where.elsewhere or not where.applies else where.applies[0].pack.id

    @property
    def trace(self) -> Trace:
        return Trace(partial(_retold, self.facts, self.packs, self.early))

    def decide(self) -> Decision | None:
        """None: nothing certain can be said yet (only when `early`)."""
        message, class_ = self.facts.message, self.settled.class_
        if class_ is _MARKETING:
            if self.early and message.category is None:
                stopped = suppression(self.ledger, Class.PERSONAL)
                return None if stopped.hit is None else self.suppressed(stopped.hit, stopped)
            return self.tightened(self.marketing(self.applying()))
        stopped = suppression(self.ledger, class_, early=self.early)
        if stopped.hit is not None:
            return self.suppressed(stopped.hit, stopped)
        if class_ is Class.PERSONAL or message.promotion is False or self.early:
            return None if self.early else self.not_marketing()
        return self.mixed(self.applying())

    def applying(self) -> Jurisdiction:
        self.where = where = self.settled.jurisdiction(self.facts)
        return where

    def not_marketing(self) -> Decision:
        return self.result(_ALLOW, Reason.NOT_MARKETING)

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
        if decision.verdict is _BLOCK:
            return replace(decision, reason=Reason.MIXED_PURPOSE)
        if decision.verdict is Verdict.DEFER:
            return decision
        if waived and first.pack.primary_purpose:
            return replace(decision, reason=Reason.NOT_MARKETING, basis=None)
        return decision

    def marketing(self, where: Jurisdiction) -> Decision:
        ledger = self.ledger
        if ledger.objections or ledger.bounces:
            stopped = suppression(ledger, _MARKETING, early=self.early)
            if stopped.hit is not None:
                return self.suppressed(stopped.hit, stopped)
            if stopped.ended_by is not None:
                for event in ledger.end_before(stopped.ended_by):
                    self.step("", "", "not-ended", _NO, event, "ended by a later objection")
        for event in ledger.near:
            words = "an opt-in exists for another spelling of this address"
            self.step("", "", "exact-address", _NO, event, words)
        if where.elsewhere:
            return self.elsewhere(where)
        return self.all_of(where.applies)

    def all_of(
        self, applies: Sequence[Applies], found: Sequence[list[_Finding]] | None = None
    ) -> Decision:
        """Every pack must allow; reason and basis are those of the first.

        `found` is what each says of the basis, where that was asked already.
        """
        first: _Finding | None = None
        obligations: tuple[str, ...] = ()
        ends_at: datetime | None = None
        for n, one in enumerate(applies):
            pack = one.pack
            findings = found[n] if found is not None else self.basis(pack, one.consent_only)
            if not findings[-1].allowed:
                return self.blocked(pack, findings[-1])
            if not self.early:
                reasons = tuple([finding.reason for finding in findings])
                duty, injected = self.settled.owed(pack, reasons)
                if duty is not None:
                    return self.owing(pack, findings[0], duty)
                if injected:
                    obligations = tuple(dict.fromkeys(obligations + injected))
            for finding in findings:
                end = finding.ends_at
                if end is not None and (ends_at is None or end < ends_at):
                    ends_at = end
            # Where the recipient's country has a pack, its allow is that local rules are met.
            self.local_allowed = bool(self.facts.recipient.country)
            if first is None:
                first = findings[0]
        if first is None:
            return self.result(_BLOCK, Reason.UNKNOWN_JURISDICTION)
        if self.refusing:
            return _SOME_ALLOW
        return self.result(
            _ALLOW, first.reason, applies[0].pack, first,
            obligations=obligations, expires_at=ends_at,
        )  # fmt: skip

    def elsewhere(self, where: Jurisdiction) -> Decision:
        """An unknown law: consent under all that stand in for it, or the foreign-business rule."""
        found = [self.basis(one.pack, consent_only=True) for one in where.applies]
        if found and all(finding.allowed for findings in found for finding in findings):
            return self.all_of(where.applies, found)
        if where.abroad is not None:
            for rule in where.abroad.rules:
                if rule.allows is Reason.FOREIGN_BUSINESS and self.gated(where.abroad, rule):
                    abroad = Applies(where.abroad)
                    return self.all_of((abroad,), ([_Finding(True, rule.allows, rule)],))
        return self.result(_BLOCK, Reason.UNKNOWN_JURISDICTION)

    def basis(self, pack: Pack, consent_only: bool) -> list[_Finding]:
        """One finding per product, in message order, up to the first that settles the rest."""
        findings: list[_Finding] = []
        for product in self.settled.products:
            case = Case(self.facts, self.ledger, pack, product, self.early)
            finding = self.judge(case, consent_only)
            findings.append(finding)
            if not finding.allowed or _of_any_product(finding):
                break
        return findings

    def judge(self, case: Case, consent_only: bool) -> _Finding:
        """The first rule whose conditions all hold for one of its events."""
        furthest: _Finding | None = None
        best = -1
        traced = self.steps is not None
        candidates: Iterable[Asked] = self.settled.asked(
            case.pack, self.facts, case.product,
            consent_only=consent_only, local_allowed=self.local_allowed,
        )  # fmt: skip
        if traced:
            candidates = self.gates(case, consent_only, candidates)
        permits = self.ledger.permits
        for asked in candidates:
            rule = asked.rule
            if rule.event is None:
                return _Finding(True, rule.allows, rule)
            holding: list[_Finding] = []
            missed: tuple[int, int, datetime, datetime, str] | None = None
            for event in permits.get(rule.event, ()):
                failed = self.ask(case, asked, event) if traced else asked.missed(case, event)
                if failed is None:
                    ends_at = _ends_at(case, rule, event, self.settled.own)
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

    def ask(self, case: Case, asked: Asked, event: Event) -> Place | None:
        """`Asked.missed`, with a step for each question."""
        steps = cast("list[Step | _Told]", self.steps)
        uid = self.uid(event)
        for found in asked.places:
            condition = found[1]
            answer = condition.ask(case, asked.rule, event)
            steps.append((case.pack.id, asked.rule.id, condition, answer, uid, case, event))
            if answer is not _YES:
                return found
        return None

    def gates(
        self, case: Case, consent_only: bool, candidates: Iterable[Asked]
    ) -> Iterable[Asked]:
        """The candidates, with a step for each rule that is none."""
        asked = {one.rule.id: one for one in candidates}
        for rule in case.pack.rules:
            if consent_only and rule.allows is not Reason.CONSENT:
                continue
            if self.gated(case.pack, rule):
                yield asked[rule.id]

    def gated(self, pack: Pack, rule: Rule) -> bool:
        """Whether the rule is a candidate; if not, the trace says which gate was shut."""
        shut = self.settled.shut(rule, self.facts, local_allowed=self.local_allowed)
        if shut is None and rule.event is not None and not self.ledger.permits.get(rule.event):
            words = _EVENT_WORDS.get(rule.event, "published address")
            shut = ("event", _NO, f"no {words} recorded")
        if shut is None:
            return True
        if self.steps is not None:
            name, answer, words = shut
            self.steps.append(Step(pack.id, rule.id, name, answer, "", words))
        return False

    def blocked(self, pack: Pack, finding: _Finding) -> Decision:
        reason = finding.reason
        if self.facts.message.template == PERMISSION_REQUEST:
            reason = Reason.PERMISSION_REQUEST
        return self.result(_BLOCK, reason, pack, finding)

    def owing(self, pack: Pack, finding: _Finding, duty: Owed) -> Decision:
        """The block of a pack whose basis holds, for a duty that is neither met nor injected."""
        reason, cite = duty
        if self.steps is not None:
            self.steps.append(Step(pack.id, DUTIES, reason, _NO, "", "missing"))
        return replace(self.result(_BLOCK, reason, pack, finding), cite=cite)

    def tightened(self, decision: Decision) -> Decision:
        """What the law allows, unless the operator's own rules hold it."""
        if self.early or not self.settled.overlaid or not decision.allowed:
            return decision
        home = self.packs.of(self.facts.recipient.country)
        held = overlay.held(self.facts, None if home is None or home.fallback else home.zone)
        if held is None:
            return decision
        if self.steps is not None:
            self.steps.append(Step("", overlay.RULE, held.condition, held.answer, "", held.detail))
        if held.reason is Reason.NOT_AUTHORISED:
            return Decision(
                verdict=_BLOCK,
                reason=held.reason,
                rule=overlay.RULE,
                jurisdiction=decision.jurisdiction,
                trace=decision.trace,
            )
        return replace(
            decision,
            verdict=Verdict.DEFER,
            reason=held.reason,
            cite="",
            until=held.until,
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
        if event.sender != self.sender:
            words += " at another sender"
        self.step("", "suppression", "not-suppressed", _NO, event, words)
        for near in self.ledger.near:
            if near.at > event.at:
                note = "a newer opt-in exists for another spelling of this address"
                self.step("", "suppression", "exact-address", _NO, near, note)
        return Decision(
            verdict=_BLOCK,
            reason=Reason.SUPPRESSED,
            cite=cite,
            pack=pack.label if pack else "",
            rule="suppression",
            jurisdiction=self.jurisdiction,
            event=self.uid(event),
            trace=self.trace,
        )

    def step(
        self, pack: str, rule: str, name: str, answer: Answer, event: Event, words: str
    ) -> None:
        if self.steps is not None:
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
        own = event is not None and event.sender == self.sender
        uid = event.uid if event is not None and own else ""
        basis: Basis | None = None
        if verdict is _ALLOW and rule is not None:
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
            trace=self.trace,
        )


def _ends_at(case: Case, rule: Rule, event: Event, own: frozenset[str]) -> datetime | None:
    """When this basis ends; `own`: for what the operator has terms too."""
    found = valid_end(case, event)
    if rule.term is None and rule.dormant_months is None and not own:
        return found
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


def _retold(facts: Facts, packs: Packs, early: bool) -> tuple[Step, ...]:
    """Every step of a decision, by taking it again."""
    steps: list[Step | _Told] = []
    _Run(facts, packs, early=early, steps=steps).decide()
    return tuple(map(_step, steps))


def _step(told: Step | _Told) -> Step:
    if isinstance(told, Step):
        return told
    pack, rule, condition, answer, uid, case, event = told
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
    decision = _Run(facts, packs, early=True, refusing=True).decide()
    return decision if decision is not None and decision.verdict is _BLOCK else None


def living_basis(facts: Facts, packs: Packs) -> Decision | None:
    """What a person could be written to on: the allow that only the message could still turn.

    For counting and forecasts. Conditions of content and all duties are taken as met; None where
    any marketing mail would be blocked.
    """
    decision = _Run(facts, packs, early=True).decide()
    return decision if decision is not None and decision.verdict is _ALLOW else None
