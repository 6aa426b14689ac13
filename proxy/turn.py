"""What one mail owes to whom, from commit C1 to its reply: the book that the gate keeps of it.

Results that are not final are held back until all are known, because what they become depends on
the reply: where somebody's copy was taken the answer is 250, and the others are ours to finish.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from policy.model import Verdict
from proxy.answer import End, Ending
from proxy.copies import Outgoing
from proxy.delivery.upstream import Given
from proxy.judge import Case, Ruling
from proxy.mail import Mail
from proxy.notices import Lost
from proxy.resend import lost_by
from proxy.store.model import Fate, Outcome, Result, RowFate, State

_FINAL = frozenset({Result.ACCEPTED, Result.PERMANENT})

_ENDS = {
    Result.ACCEPTED: End.RELAYED,
    Result.PERMANENT: End.FAILED,
    Result.TEMPORARY: End.RETURNED,
    Result.UNSENT: End.RETURNED,
    Result.UNKNOWN: End.UNKNOWN,
}


@dataclass(slots=True)
class Turn:
    """Empty until C1 is durable (`begin`).

    `open` are the attempts without a result; `held` the outcomes that are not written yet;
    `put_off` the rows of those whom a decision deferred, each with the time until which;
    `promised` that the client may have been told `250 queued`, `told` that it was; `closing` that
    the last results are being written; `last` the instant, of a monotonic clock, until which the
    attempts are ours for sure.
    """

    mail: Mail | None = None
    ruling: Ruling | None = None
    fates: dict[int, RowFate] = field(default_factory=dict)
    open: dict[int, RowFate] = field(default_factory=dict)
    held: dict[int, tuple[Outcome, Lost | None]] = field(default_factory=dict)
    ends: dict[int, Ending] = field(default_factory=dict)
    stopped: list[Lost] = field(default_factory=list)
    put_off: dict[int, tuple[int, datetime]] = field(default_factory=dict)
    promised: bool = False
    told: bool = False
    closing: bool = False
    last: float = float("inf")

    def begin(
        self, mail: Mail, ruling: Ruling, fates: Sequence[RowFate], last: float = float("inf")
    ) -> None:
        """C1 is durable, with these fates."""
        self.mail, self.ruling, self.last = mail, ruling, last
        self.fates = {fate.n: fate for fate in fates}
        self.open = {fate.n: fate for fate in fates if fate.fate is Fate.CLAIMED}
        for case in ruling.cases:
            fate, until = self.fates[case.n], case.decision.until or ruling.intake.at
            if fate.fate is Fate.RECORDED and _defers(case):
                self.put_off[case.n] = fate.row, until
        self.stopped = [
            lost_by(case)
            for case in ruling.cases
            if case.state is State.BLOCKED and self.fates[case.n].fate is Fate.RECORDED
        ]

    def known(
        self,
        send: Outgoing,
        given: Sequence[Given],
        at: datetime,
        next_try: Callable[[RowFate, Given], datetime | None],
    ) -> list[Outcome]:
        """Take note of a copy's results; those that are to be written at once."""
        taken = []
        for case, one in zip(send.cases, given, strict=True):
            fate = send.fates[case.n]
            outcome = Outcome(
                row=fate.row,
                attempt=fate.attempt,
                result=one.result,
                reply=one.reply,
                at=at,
                next_try=None if one.result in _FINAL else next_try(fate, one),
            )
            self.ends[case.n] = Ending(_ENDS[one.result], one.reply, send.mail.ref)
            if one.result is Result.ACCEPTED:
                taken.append(outcome)
            else:
                self.open.pop(case.n, None)
                self.held[case.n] = outcome, _failed(case, one, at)
        return taken

    def written(self, send: Outgoing) -> None:
        """The accepted copies are durable."""
        for case in send.cases:
            if self.ends[case.n].end is End.RELAYED:
                self.open.pop(case.n, None)

    def decided_again(self, cases: Sequence[Case], fates: dict[int, RowFate], busy: str) -> None:
        """New decisions of copies that were not sent yet, as they are durable."""
        for case in cases:
            fate = fates[case.n]
            ref = self.mail.ref if self.mail else ""
            if case.state is not State.ATTEMPTING:
                self.ends[case.n] = Ending(case.end, case.reply, ref)
                if case.end is End.BLOCKED:
                    self.stopped.append(lost_by(case))
                elif self.ruling is not None:
                    until = case.decision.until or self.ruling.intake.at
                    self.put_off[case.n] = fate.row, until
            elif fate.fate is not Fate.CLAIMED:  # taken from us: send nothing
                self.ends[case.n] = Ending(End.RETURNED, busy, ref)
            else:
                self.open[case.n] = fate
                continue
            self.open.pop(case.n, None)

    @property
    def ours(self) -> bool:
        """Whether a 250 may rest on us: nobody's mail is the client's to try again."""
        return not any(end.end is End.RETURNED for _, end in self._unheld())

    @property
    def taken(self) -> bool:
        """Whether somebody's copy was taken, now, before, or by the outbox."""
        return any(end.end in (End.RELAYED, End.QUEUED) for _, end in self._unheld())

    def owe(self) -> tuple[tuple[int, int], ...]:
        """(row, attempt) of what is ours to finish."""
        waiting = [o for o, _ in self.held.values() if o.result not in _FINAL]
        return (
            *((o.row, o.attempt) for o in waiting),
            *((fate.row, fate.attempt) for fate in self.open.values()),
        )

    def lost(self) -> list[Lost]:
        """Who gets nothing, as far as is known."""
        return [*self.stopped, *(lost for _, lost in self.held.values() if lost is not None)]

    def owed(
        self, written: Mapping[int, tuple[Outcome, Lost | None]], ours: Container[int], busy: str
    ) -> bool:
        """What was held is written, and what is not final of it waits in the outbox: the rows
        `ours`.

        The others were taken from us before: whoever has them tells how they end, so they are the
        client's to ask for again. Whether there are such.
        """
        taken = False
        for n, (outcome, _) in written.items():
            if outcome.row not in ours:
                self.ends[n] = Ending(End.RETURNED, busy, self.fates[n].ref)
                taken = True
            elif outcome.result not in _FINAL:
                self.ends[n] = Ending(End.QUEUED, "", self.fates[n].ref)
            self.held.pop(n, None)
        for n, (row, _) in self.put_off.items():
            if row in ours:
                self.ends[n] = Ending(End.QUEUED, "", self.fates[n].ref)
        return taken

    def taken_away(self, ours: Container[int], busy: str) -> None:
        """What was held is written, but only the rows `ours` ended so."""
        for n, (outcome, _) in self.held.items():
            if outcome.row not in ours:
                self.ends[n] = Ending(End.RETURNED, busy, self.fates[n].ref)

    def endings(self) -> list[Ending]:
        """How each recipient's mail ended, in order; what is still open counts as queued."""
        return [end for _, end in sorted(self._all())]

    def _all(self) -> list[tuple[int, Ending]]:
        ends = dict(self.ends)
        for n in self.open:
            ends.setdefault(n, Ending(End.QUEUED, "", self.fates[n].ref))
        for n, fate in self.fates.items():
            if n not in ends:
                ends[n] = self._first(n, fate)
        return list(ends.items())

    def _unheld(self) -> list[tuple[int, Ending]]:
        return [(n, e) for n, e in self._all() if n not in self.held and n not in self.open]

    def _first(self, n: int, fate: RowFate) -> Ending:
        """What C1 itself made of a recipient."""
        if self.ruling is None or self.mail is None:
            raise RuntimeError("nothing was begun")
        if fate.fate is Fate.ANSWERED:
            return Ending(End.RELAYED, fate.reply, fate.ref)
        if fate.fate is Fate.QUEUED:
            return Ending(End.QUEUED, "", fate.ref)
        case = self.ruling.cases[n - 1]
        if case.state is State.RETURNED and case.decision.verdict is not Verdict.DEFER:
            return Ending(End.BLOCKED, case.reply, self.mail.ref)
        return Ending(case.end, case.reply, self.mail.ref)


def _defers(case: Case) -> bool:
    return case.state is State.RETURNED and case.decision.verdict is Verdict.DEFER


def _failed(case: Case, given: Given, at: datetime) -> Lost | None:
    if given.result is not Result.PERMANENT:
        return None
    return Lost(
        n=case.n,
        address=case.address.exact,
        copy_key=case.copy_key,
        state=State.FAILED,
        reply=given.reply,
        remote=given.remote,
        tried_at=at,
    )
