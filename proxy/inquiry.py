"""What would happen to a mail that meets every duty: asked of one person or of a list.

`sluis explain`, `sluis preflight` and `POST /api/v1/decisions` ask here; it builds facts and asks
the engine as the gate does for mail (`judge.py`), from one lookup for all addresses of a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from policy import model
from policy.address import Address
from policy.engine import decide
from policy.explain import remedy
from policy.model import Decision, Facts, Message, Overlay, Reason, Verdict
from policy.pack import Packs
from proxy.config import Settings, Stream
from proxy.facts import assumed_message, facts_for, mails_since, recipient_facts, sender_facts
from proxy.store.model import Known, Store, Subject

#: Decide this many before letting others run, as the gate does.
_BREATH = 50


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One kind of mail: a stream, and what the mail is about (the stream's own where empty)."""

    settings: Settings
    packs: Packs
    stream: Stream
    products: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    _sender: model.Sender = field(init=False, repr=False)
    _message: Message = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sender = sender_facts(self.settings.sender(self.stream.sender))
        message = assumed_message(self.stream, self.products, self.topics)
        object.__setattr__(self, "_sender", sender)
        object.__setattr__(self, "_message", message)

    async def known(
        self, store: Store, subjects: Sequence[Subject], at: datetime | None = None
    ) -> list[Known]:
        """What is on record of each of this sender's subjects, in one query; `StoreError`.

        With `at` also the mails that they had, as far as caps count them for a mail at that moment.
        """
        sender = self.settings.sender(self.stream.sender)
        since = None if at is None else mails_since(self.stream, sender, at)
        snapshot = await store.lookup(subjects, mails_since=since)
        return [snapshot.known[subject] for subject in subjects]

    async def answer(
        self,
        addresses: Sequence[Address],
        known: Sequence[Known],
        at: datetime,
        *,
        counterfactual: bool = False,
    ) -> list[Decision]:
        """The decision for each address at the moment `at`."""
        decisions = []
        for n, (address, one) in enumerate(zip(addresses, known, strict=True), start=1):
            if counterfactual or n % _BREATH == 0:
                await asyncio.sleep(0)
            decisions.append(self.decide(address, one, at, counterfactual=counterfactual))
        return decisions

    def decide(
        self, address: Address, known: Known, at: datetime, *, counterfactual: bool = False
    ) -> Decision:
        """The decision for one address; `counterfactual` adds what would turn it."""
        return decide(self.facts(address, known, at), self.packs, counterfactual=counterfactual)

    def basis(self, address: Address, known: Known, at: datetime) -> Decision:
        """The same, were there no caps and no quiet hours: they pass, and a basis ends."""
        facts = self.facts(address, known, at)
        return decide(
            replace(
                facts,
                sender=replace(facts.sender, overlay=_unpaused(facts.sender.overlay)),
                message=replace(facts.message, overlay=_unpaused(facts.message.overlay)),
            ),
            self.packs,
        )

    def facts(self, address: Address, known: Known, at: datetime) -> Facts:
        """What the decision rests on."""
        return facts_for(
            at=at,
            sender=self._sender,
            recipient=recipient_facts(address, known, self.stream),
            message=self._message,
            known=known,
        )


def _unpaused(overlay: Overlay) -> Overlay:
    return replace(overlay, cap=None, quiet_hours=None)


def as_known_at(known: Known, moment: datetime) -> Known:
    """What had been recorded by then."""
    return replace(
        known,
        events=tuple(e for e in known.events if e.recorded_at <= moment),
        mails=tuple(mail for mail in known.mails if mail.at <= moment),
    )


def decision_fields(decision: Decision, language: str = "en") -> dict[str, object]:
    """A decision as plain data: verdict, reason, article and remedy. No evidence is in it."""
    return {
        "verdict": decision.verdict.value,
        "reason": decision.reason.value,
        "cite": decision.cite,
        "pack": decision.pack,
        "rule": decision.rule,
        "jurisdiction": decision.jurisdiction,
        "expires_at": decision.expires_at,
        "until": decision.until,
        "needs_review": decision.needs_review,
        "remedy": "" if decision.allowed else remedy(decision.reason, language),
    }


def refusal_fields(words: str, language: str = "en") -> dict[str, object]:
    """The same for what is no address; `words` say why, without it."""
    return {
        "verdict": Verdict.BLOCK.value,
        "reason": Reason.INVALID_ADDRESS.value,
        "cite": "RFC 5321",
        "pack": "",
        "rule": "",
        "jurisdiction": "",
        "expires_at": None,
        "until": None,
        "needs_review": False,
        "remedy": f"{remedy(Reason.INVALID_ADDRESS, language)} ({words})",
    }


def decision_grounds(decision: Decision) -> dict[str, object]:
    """What a decision rests on, as plain data: basis with its evidence, trace, counterfactual."""
    basis = decision.basis
    return {
        "basis": basis and {"rule": basis.rule, "evidence": basis.evidence, "at": basis.at},
        "counterfactual": [
            {"fact": c.fact, "now": c.now, "needed": c.needed} for c in decision.counterfactual
        ],
        "trace": [
            {
                "pack": s.pack,
                "rule": s.rule,
                "condition": s.condition,
                "answer": s.answer.value,
                "event": s.event,
                "detail": s.detail,
            }
            for s in decision.trace
        ],
    }
