"""The journal's decisions taken again from the same facts, under other packs or settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime

from policy.engine import decide, refuse_early
from policy.model import Decision, Facts, Reason
from policy.pack import Packs
from proxy.config import Settings
from proxy.facts import sender_facts
from proxy.recorded import RecordError, facts_from_record, under_settings
from proxy.store.model import Decided, Store

#: Rows of the journal to a page.
PAGE = 500


@dataclass(frozen=True, slots=True)
class Ruled:
    """What a decision comes to."""

    verdict: str
    reason: str
    cite: str


@dataclass(frozen=True, slots=True)
class Flip:
    """One mail to one person that would be ruled otherwise: another verdict, or another reason."""

    ref: str
    n: int
    stream: str
    decided_at: datetime
    old: Ruled
    new: Ruled


@dataclass(slots=True)
class Count:
    """A stream's replay: `decided` is the sum of the others."""

    decided: int = 0
    same: int = 0
    stopped: int = 0
    released: int = 0
    other_reason: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class Backtest:
    """One replay. `counts` by stream grow while `flips` is read.

    `settings` give senders (names, similar products, lifetimes) and streams as they are to be
    tried; everything else is as it was recorded.
    """

    settings: Settings
    packs: Packs
    counts: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))

    async def flips(
        self, store: Store, since: datetime, stream: str | None = None
    ) -> AsyncIterator[Flip]:
        """Each flip in the order of the journal, page by page. Raises `StoreError`."""
        senders = {s.id: sender_facts(s) for s in self.settings.senders}
        after = 0
        while page := await store.decided(after=after, limit=PAGE, since=since):
            after = page[-1].id
            for row in page:
                if stream not in (None, row.stream) or _unjudged(row):
                    continue
                count = self.counts[row.stream]
                count.decided += 1
                try:
                    facts = facts_from_record(row.facts, senders.__getitem__)
                except RecordError:
                    count.unreadable += 1
                    continue
                old = Ruled(row.verdict, row.reason, row.cite)
                new = self._again(row, facts)
                if (old.verdict, old.reason) == (new.verdict, new.reason):
                    count.same += 1
                    continue
                if old.verdict == new.verdict:
                    count.other_reason += 1
                elif new.verdict == "allow":
                    count.released += 1
                else:
                    count.stopped += 1
                yield Flip(row.ref, row.n, row.stream, row.decided_at, old, new)

    def _again(self, row: Decided, facts: Facts) -> Ruled:
        settings = self.settings.find_stream(row.stream)
        if settings is not None:
            facts = under_settings(facts, settings)
        decision: Decision | None = None
        if row.at_rcpt:
            # What it said then was certain whatever the mail would have been.
            decision = refuse_early(facts, self.packs)
        if decision is None:
            decision = decide(facts, self.packs)
        return Ruled(decision.verdict.value, decision.reason.value, decision.cite)


def _unjudged(row: Decided) -> bool:
    """Bounces and receipts pass without a question (`judge.py`)."""
    return row.null and row.reason == Reason.NOT_MARKETING and not row.pack
