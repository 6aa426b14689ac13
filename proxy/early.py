"""What is refused at RCPT: a block that no message could change, with its words and its record.

Of whom nothing is known much is alike: without entries no term runs, so neither the time nor the
name before the top-level domain enters the decision. It is taken once for each stream and such
domain, and only the time is put into its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from policy import model
from policy.address import Address
from policy.engine import refuse_early
from policy.explain import sentence
from policy.model import Decision
from policy.pack import Packs
from proxy import config
from proxy.facts import assumed_message, facts_for, journal_json, recipient_facts
from proxy.store.model import Known

#: Top-level domains and streams that are remembered: clients choose the former.
_REMEMBERED = 2000


@dataclass(frozen=True, slots=True)
class Refused:
    """A block: its words for the reply, and the facts as the journal keeps them."""

    decision: Decision
    said: str
    facts: str


class Early:
    """Decides at RCPT, under one configuration. `senders` are facts by id."""

    def __init__(
        self, settings: config.Settings, packs: Packs, senders: Mapping[str, model.Sender]
    ) -> None:
        self._packs = packs
        self._senders = senders
        self._messages = {stream.id: assumed_message(stream) for stream in settings.streams}
        self._strangers: dict[tuple[str, str], Refused | None] = {}

    def refuse(
        self, stream: config.Stream, recipient: Address, known: Known, at: datetime
    ) -> Refused | None:
        """The refusal of mail of `stream` that is certain now; None where the message may matter.

        A stream that is not configured raises `KeyError`.
        """
        stranger = not (
            known.events or known.attributes or known.mails or known.last_marketing_at is not None
        )
        if not stranger:
            return self._decide(stream, recipient, known, at)
        key = stream.id, recipient.domain.rpartition(".")[2]
        time = f'{{"at":"{at.isoformat()}"'
        if key in self._strangers:
            found = self._strangers[key]
            return found and Refused(found.decision, found.said, time + found.facts)
        made = self._decide(stream, recipient, known, at)
        if made is not None and not made.facts.startswith(time):
            return made
        if len(self._strangers) >= _REMEMBERED:
            self._strangers.clear()
        rest = made and Refused(made.decision, made.said, made.facts.removeprefix(time))
        self._strangers[key] = rest
        return made

    def _decide(
        self, stream: config.Stream, recipient: Address, known: Known, at: datetime
    ) -> Refused | None:
        facts = facts_for(
            at=at,
            sender=self._senders[stream.sender],
            recipient=recipient_facts(recipient, known, stream),
            message=self._messages[stream.id],
            known=known,
        )
        decision = refuse_early(facts, self._packs)
        if decision is None:
            return None
        return Refused(decision, sentence(decision), journal_json(facts))
