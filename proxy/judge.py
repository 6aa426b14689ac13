"""Steps 5 and 6 of the flow for all recipients of a mail: one lookup, one decision each, one
intake.

Turns a decision into what happens: which state the row starts in, which copy it belongs to, and the
line that explains a block. Holds no law: it asks `policy.engine` and acts on the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import orjson

from policy.address import Address
from policy.engine import decide
from policy.explain import sentence
from policy.model import (
    TAKEN_HERE,
    Bounce,
    Category,
    Complaint,
    Decision,
    Facts,
    Message,
    Objection,
    Reason,
    Verdict,
)
from policy.pack import Packs
from proxy import config, log
from proxy.answer import End
from proxy.early import Early
from proxy.envelope import Envelope
from proxy.facts import (
    cap_window,
    facts_for,
    journal_json,
    journal_message,
    message_facts,
    recipient_facts,
    room_for,
    sender_facts,
)
from proxy.keys import Keys
from proxy.mail import Mail
from proxy.message.inspect import Shown
from proxy.ref import chance, new_ref
from proxy.store.model import (
    Counted,
    Fate,
    Intake,
    Known,
    NewRow,
    Room,
    RowFate,
    Snapshot,
    State,
    Subject,
    Submission,
)
from proxy.telemetry import Telemetry

#: What a footer would have met.
_FOOTER_DUTIES = frozenset({Reason.NO_IDENTITY, Reason.NO_POSTAL_ADDRESS, Reason.NO_UNSUBSCRIBE})

# A member of an enumeration is twenty times as long in coming as a name of the module.
_ALLOW, _ATTEMPTING = Verdict.ALLOW, State.ATTEMPTING

#: Decide this many recipients before letting other sessions run.
_BREATH = 50

#: Messages whose facts are kept.
_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A recipient about whom is decided again, as the journal has it."""

    n: int
    address: Address
    subject: Subject
    copy_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One recipient's ruling. `reply` is the SMTP line that a block or deferral is answered
    with; `room` what caps ask of the commit of an allowed one."""

    n: int
    address: Address
    subject: Subject
    decision: Decision
    facts: str
    state: State
    copy: int
    copy_key: str
    reply: str
    seconds: float
    room: tuple[Room, ...] = ()
    language: str = ""

    @property
    def end(self) -> End:
        """How the case ends when no attempt is made."""
        return End.DEFERRED if self.decision.verdict is Verdict.DEFER else End.BLOCKED


@dataclass(frozen=True, slots=True)
class _Told:
    """The facts of a message, and how the journal writes them."""

    message: Message
    recorded: orjson.Fragment


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """All recipients' cases, numbered from 1 in the envelope's order, and the commit that records
    them."""

    stream: config.Stream
    mode: str
    cases: tuple[Case, ...]
    intake: Intake


class Looked(Protocol):
    """Whoever knows what is known of people: the store, or what stands in for it."""

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        """See `Store.lookup`."""
        ...


class Judge:
    """Asks the engine about each recipient of a mail."""

    def __init__(
        self,
        settings: config.Settings,
        *,
        keys: Keys,
        packs: Packs,
        telemetry: Telemetry,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._packs = packs
        self._telemetry = telemetry
        self._clock = clock
        self._senders = {s.id: sender_facts(s) for s in settings.senders}
        self._windows = {s.id: cap_window(s, settings.sender(s.sender)) for s in settings.streams}
        self._dedupe_window = settings.delivery.dedupe_window
        self._told: dict[object, _Told] = {}
        self._early = Early(settings, packs, self._senders)

    async def rule(self, mail: Mail, store: Looked) -> Ruling:
        """Look up and decide for every recipient of `mail`; raises `StoreError`."""
        subjects = [self._keys.subject(mail.stream.sender, a) for a in mail.recipients]
        since = self._mails_since(mail.stream)
        snapshot = await store.lookup(subjects, mails_since=since)
        message = self._message(mail, mail.shown)
        at = self._clock()
        cases: list[Case] = []
        # Two spellings of one address are one person, who gets the first of them first.
        leaving: defaultdict[str, tuple[Counted, ...]] = defaultdict(tuple)
        for n, (address, subject) in enumerate(
            zip(mail.recipients, subjects, strict=True), start=1
        ):
            if n % _BREATH == 0:
                await asyncio.sleep(0)
            known = snapshot.known[subject]
            if before := leaving[subject.wide]:
                known = replace(known, mails=(*known.mails, *before))
            case = self._case(mail, message, n, address, subject, known, at)
            cases.append(case)
            if since is not None and case.state is _ATTEMPTING:
                own = Counted(mail.stream.id, at, case.copy_key, relayed=False)
                leaving[subject.wide] = (*before, own)
        if mail.stream.partial == "all-or-nothing" and any(c.state is State.BLOCKED for c in cases):
            cause = next(c for c in cases if c.state is State.BLOCKED)
            cases = [_left_out(case, cause) for case in cases]
        return Ruling(
            stream=mail.stream,
            mode=mail.stream.mode,
            cases=tuple(cases),
            intake=self._intake(_submission(mail, cases), cases, snapshot, at),
        )

    async def again(
        self, mail: Mail, cases: Sequence[Case | Asked], store: Looked
    ) -> tuple[list[Case], Snapshot]:
        """New decisions for cases whose earlier one grew old, and what they rest on."""
        snapshot = await store.lookup(
            [case.subject for case in cases], mails_since=self._mails_since(mail.stream)
        )
        message = self._message(mail, mail.shown)
        at = self._clock()
        known = snapshot.known
        fresh = [
            self._case(
                mail, message, c.n, c.address, c.subject, known[c.subject], at, copy_key=c.copy_key
            )
            for c in cases
        ]
        return fresh, snapshot

    def refuse_at_rcpt(
        self,
        envelope: Envelope,
        stream: config.Stream,
        recipient: Address,
        subject: Subject,
        snapshot: Snapshot,
    ) -> tuple[Ruling, str] | None:
        """The refusal of one recipient that no message could change, and its words; or None."""
        at = self._clock()
        started = time.perf_counter()
        refused = self._early.refuse(stream, recipient, snapshot.known[subject], at)
        if refused is None:
            return None
        case = Case(
            n=1,
            address=recipient,
            subject=subject,
            decision=refused.decision,
            facts=refused.facts,
            state=State.BLOCKED,
            copy=1,
            copy_key=chance(16).hex(),
            reply=f"550 5.7.1 {refused.said}",
            seconds=time.perf_counter() - started,
        )
        submission = Submission(
            ref=new_ref(at),
            received_at=envelope.received_at,
            submitter=envelope.submitter.identity,
            listener=envelope.submitter.listener,
            mail_from=envelope.mail_from.exact if envelope.mail_from else "",
            message_id="",
            content_hash="",
            size=0,
            stream=stream.id,
            sender=stream.sender,
            category=stream.category,
            mode=stream.mode,
            class_source="at RCPT",
        )
        intake = self._intake(submission, [case], snapshot, at)
        ruling = Ruling(stream=stream, mode=stream.mode, cases=(case,), intake=intake)
        return ruling, refused.said

    def count(self, ruling: Ruling, fates: Sequence[RowFate] = ()) -> None:
        """Metrics and log of decisions that are durable now (answered retries decided nothing)."""
        void = {f.n for f in fates if f.fate not in (Fate.CLAIMED, Fate.RECORDED)}
        for case in ruling.cases:
            if case.n not in void:
                self.count_one(case, ruling.stream, ruling.intake.submission.ref)

    def count_one(
        self, case: Case, stream: config.Stream, ref: str, *, own: bool = False
    ) -> None:
        """Metrics and log of one decision that is durable now; `own` mail is no stream's."""
        decision = case.decision
        if not own:
            self._telemetry.decided(
                stream.id,
                decision.verdict.value,
                decision.reason.value,
                stream.mode,
                decision.jurisdiction,
                case.seconds,
            )
        log.recipient_decided(
            ref=ref,
            n=case.n,
            stream=stream.id,
            verdict=decision.verdict.value,
            reason=decision.reason.value,
            pack=decision.pack.replace("@", "/"),  # not to be taken for an address
            rule=decision.rule,
            mode=stream.mode,
        )

    def _mails_since(self, stream: config.Stream) -> datetime | None:
        window = self._windows[stream.id]
        return None if window is None else self._clock() - window

    def _message(self, mail: Mail, shown: Shown | None) -> _Told:
        """What is known of a mail: the mails of a campaign have all of it in common."""
        key = (
            mail.stream.id,
            mail.category,
            mail.control,
            mail.visible_recipients,
            mail.body.can_inject,
            mail.promotion,
            shown
            and (
                shown.sender_identity,
                shown.postal_address,
                shown.unsubscribe,
                shown.unsubscribe_valid_days,
                shown.fake_reply,
            ),
        )
        told = self._told.get(key)
        if told is None:
            message = message_facts(
                mail.stream,
                mail.category,
                mail.control,
                shown,
                mail.visible_recipients,
                can_inject=mail.body.can_inject,
                promotion=mail.promotion,
            )
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            told = self._told[key] = _Told(message, journal_message(message))
        return told

    def _case(
        self,
        mail: Mail,
        told: _Told,
        n: int,
        address: Address,
        subject: Subject,
        known: Known,
        at: datetime,
        *,
        copy_key: str = "",
    ) -> Case:
        started = time.perf_counter()
        copy_key = copy_key or _copy_key(mail, subject)
        if mail.shown is not None and address.exact in mail.holders:
            # An opt-out link of ours is one for the person it was sealed for, and for nobody else.
            told = self._message(mail, mail.shown.for_holder())
        facts = facts_for(
            at=at,
            sender=self._senders[mail.stream.sender],
            recipient=recipient_facts(address, known, mail.stream),
            message=told.message,
            known=known,
            copy_key=copy_key,
        )
        if mail.null:
            decision = Decision(verdict=_ALLOW, reason=Reason.NOT_MARKETING)
        else:
            decision = decide(facts, self._packs)
        seconds = time.perf_counter() - started
        state, reply = _ATTEMPTING, ""
        if not decision.allowed and (
            mail.stream.mode == "enforce" or self._own_opt_out(decision, facts)
        ):
            blocked = decision.verdict is Verdict.BLOCK
            state = State.BLOCKED if blocked else State.RETURNED
            reply = f"{'550 5.7.1' if blocked else '451 4.7.1'} {sentence(decision)}"
            if decision.reason in _FOOTER_DUTIES and mail.body.stopped:
                reply += f"; no footer: {mail.body.stopped}"
            if mail.stream.implicit:
                # Whoever reads this most likely forgot to name the domain, not to ask for consent.
                reply += f"; no stream has {mail.unclaimed} in from_domains"
        return Case(
            n=n,
            address=address,
            subject=subject,
            decision=decision,
            facts=journal_json(facts, told.recorded),
            state=state,
            copy=n if mail.per_recipient else 1,
            copy_key=copy_key,
            reply=reply,
            room=room_for(facts) if decision.allowed and _is_marketing(decision) else (),
            seconds=seconds,
            language=facts.recipient.language or "",
        )

    def _own_opt_out(self, decision: Decision, facts: Facts) -> bool:
        """Whether an opt-out that Sluis itself took blocks (the exception of observe mode), also
        where the decision names another objection or a bounce first.
        """
        if decision.reason is not Reason.SUPPRESSED:
            return False
        events = tuple(
            e
            for e in facts.events
            if not isinstance(e.detail, Objection | Complaint | Bounce)
            or (isinstance(e.detail, Objection) and e.detail.via in TAKEN_HERE)
        )
        alone = decide(replace(facts, events=events), self._packs)
        return alone.reason is Reason.SUPPRESSED

    def _intake(
        self, submission: Submission, cases: Sequence[Case], snapshot: Snapshot, at: datetime
    ) -> Intake:
        marketing = submission.category == Category.MARKETING
        rows = tuple([
            NewRow(
                n=case.n,
                copy=case.copy,
                subject=case.subject,
                address=case.address.exact,
                copy_key=case.copy_key,
                state=case.state,
                decision=case.decision,
                facts=case.facts,
                marketing=marketing,
                reply=case.reply,
                room=case.room if case.state is _ATTEMPTING else (),
            )
            for case in cases
        ])
        return Intake(
            submission=submission,
            rows=rows,
            high=snapshot.high,
            overlay=snapshot.overlay,
            dedupe_from=at - self._dedupe_window,
            at=at,
        )


def _left_out(case: Case, cause: Case) -> Case:
    """An allowed recipient whose mail stays behind because another's is blocked
    (all-or-nothing)."""
    if case.state is not _ATTEMPTING:
        return case
    reply = f"550 5.7.1 all-or-nothing: {sentence(cause.decision)}"
    return replace(case, state=State.RETURNED, reply=reply)


def _is_marketing(decision: Decision) -> bool:
    return decision.reason is not Reason.NOT_MARKETING


def _copy_key(mail: Mail, subject: Subject) -> str:
    """The "same copy" hash (design section 4); random without a Message-ID: never deduplicated."""
    if not mail.message_id:
        return chance(16).hex()
    envelope = mail.envelope
    sender = envelope.mail_from.exact if envelope.mail_from else ""
    parts = (
        envelope.submitter.identity,
        sender,
        subject.exact,
        mail.message_id,
        mail.content_hash,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _submission(mail: Mail, cases: Sequence[Case]) -> Submission:
    envelope = mail.envelope
    return Submission(
        ref=envelope.ref,
        received_at=envelope.received_at,
        submitter=envelope.submitter.identity,
        listener=envelope.submitter.listener,
        mail_from=envelope.mail_from.exact if envelope.mail_from else "",
        message_id=mail.message_id,
        content_hash=mail.content_hash,
        size=len(mail.content),
        stream=mail.stream.id,
        sender=mail.stream.sender,
        category=mail.category,
        mode=mail.stream.mode,
        class_source=mail.class_source,
        campaign=mail.control.campaign,
        variant=mail.control.variant,
        template=mail.control.template,
        forward=mail.forward,
        forward_by=mail.forward_by,
        marks=mail.marks_of(
            [frozenset(c.decision.obligations) for c in cases if c.state is _ATTEMPTING]
        ),
    )
