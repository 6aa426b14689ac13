"""THE FLOW (docs/flow.md): admit a recipient, submit a message, answer honestly.

No law, no SQL, no aiosmtpd and no metrics library here: the gate asks the parts that have them, in
the one order that keeps the promises. Lookup, decision and attempt are one instant: what was looked
up is validated in the commit that marks the attempt, and no final dot is written before that commit
has returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from policy.address import Address
from policy.model import Verdict, Via
from policy.pack import Packs
from proxy import log
from proxy.answer import End, Ending, answer
from proxy.awaited import Answers
from proxy.complaints import take_report
from proxy.config import Settings
from proxy.content import Content
from proxy.copies import copies_of
from proxy.delivery.outbox import OutboxState, Tried
from proxy.delivery.upstream import Pool
from proxy.dispatch import ELSEWHERE, ROUNDS, Dispatch, store_trouble
from proxy.envelope import Envelope
from proxy.errors import StoreError, StoreRefused, StoreUnavailable, UpstreamUnavailable
from proxy.fallback.store import FallbackStore
from proxy.feedback.mailto import tokens_in
from proxy.judge import Judge, Ruling
from proxy.keys import Keys
from proxy.mail import Mail, Reader
from proxy.message.sign import Signer
from proxy.notices import Notices
from proxy.owed import body_of
from proxy.replies import Reply, our_fault, with_ref
from proxy.resend import Resender, lost_by
from proxy.store.model import Due, Intake, Snapshot, State, Subject
from proxy.telemetry import Telemetry
from proxy.turn import Turn
from proxy.web.record import record_token
from proxy.without import may_go_without, undeduped

#: How long a reply waits for results that are being written already, in seconds.
_GRACE = 5.0

#: How much longer than what gives up by itself when `inline_wait` is over, in seconds: its answer
#: says more.
_A_MOMENT = 0.01

#: How long what was read at RCPT is good for the decision at end of data, in seconds. What came
#: since makes C1 stale all the same; this bounds only what C1 does not look at.
_FRESH = 1.0


class _Lately:
    """What was read at RCPT: asked for the same people and no more, it need not be read again."""

    def __init__(self, store: FallbackStore, snapshot: Snapshot, at: float) -> None:
        self._store = store
        self._snapshot = snapshot
        self.at = at

    async def lookup(
        self, subjects: Sequence[Subject], *, mails_since: datetime | None = None
    ) -> Snapshot:
        """See `Store.lookup`."""
        known = self._snapshot.known
        if mails_since is None and all(subject in known for subject in subjects):
            return self._snapshot
        return await self._store.lookup(subjects, mails_since=mails_since)


class Gate:
    """What the front door asks. Every method answers with a reply; none raises."""

    def __init__(
        self,
        *,
        settings: Settings,
        keys: Keys,
        store: FallbackStore,
        packs: Packs,
        pool: Pool,
        telemetry: Telemetry,
        instance: str,
        clock: Callable[[], datetime],
        outbox: OutboxState,
        signer: Signer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        # Ours are the same in capitals and small letters: some programs change an address.
        self._mailboxes = frozenset(map(str.lower, settings.feedback.mailboxes))
        self._complaints = settings.feedback.complaints_mailbox.lower()
        self._inline_wait = settings.delivery.inline_wait.total_seconds()
        self._outbox = outbox
        self._keys = keys
        self._store = store
        self._pool = pool
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._reader = Reader(settings, keys=keys, instance=instance, clock=clock)
        self._judge = Judge(settings, keys=keys, packs=packs, telemetry=telemetry, clock=clock)
        signer = signer or Signer()
        self._notices = Notices(settings, keys=keys, store=store, signer=signer, clock=clock)
        self._resender = Resender(
            settings=settings,
            keys=keys,
            store=store,
            reader=self._reader,
            judge=self._judge,
            notices=self._notices,
            pool=pool,
            signer=signer,
            telemetry=telemetry,
            clock=clock,
        )
        self._dispatch = Dispatch(
            settings=settings,
            store=store,
            judge=self._judge,
            notices=self._notices,
            resender=self._resender,
            pool=pool,
            signer=signer,
            telemetry=telemetry,
            clock=clock,
            outbox=outbox,
            monotonic=monotonic,
        )
        self._queued: dict[tuple[str, str], bool] = {}  # by stream and listener
        self._answers = Answers()

    # -- 1, 2: MAIL and RCPT ---------------------------------------------------------------------

    async def mail(self, envelope: Envelope) -> Reply | None:
        """MAIL FROM: a credential may only use its own domains, and a full outbox takes none. None
        accepts."""
        return self._reader.refuse_mail_from(envelope) or self._outbox.refusal()

    def relays_notices(self) -> bool:
        """Whether what a client wants to be told (DSN) reaches the upstream, as far as is known."""
        return self._pool.offers("DSN")

    def accepts_from_strangers(self, recipient: Address) -> bool:
        """Whether anyone may write to `recipient`: only the addresses that take opt-outs by mail
        and reports of complaints."""
        return recipient.exact.lower() in self._mailboxes

    async def admit(self, envelope: Envelope, recipient: Address) -> Reply | None:
        """RCPT TO: refuse what is certain whatever the message says. None accepts."""
        feedback = self.accepts_from_strangers(recipient)
        # Such an address is alone in its transaction, so the first one tells of all.
        first = envelope.recipients[0] if envelope.recipients else None
        if first is not None and (feedback or self.accepts_from_strangers(first)):
            return Reply(452, "4.5.3", "a feedback address needs a transaction of its own")
        stream = None if feedback else self._reader.certain_stream(envelope)
        if self._store.down is not None and not feedback and envelope.recipients:
            return Reply(452, "4.5.3", "one recipient at a time for now, send to the others later")
        if stream is None or stream.partial == "all-or-nothing":
            # Refused here, a client would go on with the others: at DATA it is all of them.
            return None
        try:
            if self._store.down is not None:
                raise StoreUnavailable("marketing mail is not taken while the store is down")
            subject = self._keys.subject(stream.sender, recipient)
            for _ in range(ROUNDS):
                snapshot = await self._store.lookup([subject])
                found = self._judge.refuse_at_rcpt(envelope, stream, recipient, subject, snapshot)
                if found is None:
                    envelope.noted = _Lately(self._store, snapshot, self._monotonic())
                    return None
                refusal, said = found
                # The reference in the reply must exist: one durable row before it is spoken.
                if not (await self._store.claim(refusal.intake)).stale:
                    self._judge.count(refusal)
                    return Reply(550, "5.7.1", f"{said} (ref {refusal.intake.submission.ref})")
            raise StoreUnavailable("newer events overtook every decision")
        except StoreError as error:
            return store_trouble("admit", envelope.ref, error)

    # -- 3 to 11: end of DATA --------------------------------------------------------------------

    def submit(self, envelope: Envelope, content: Content) -> asyncio.Future[Reply]:
        """End of DATA: the whole flow, and one honest reply.

        The work is a task of the gate's: a client that drops cannot cancel it, nor can who cancels
        the answer. Without one within `delivery.inline_wait` what is under way is made durable and
        answered `250 queued`; a mail that waits for a connection is given up with 451, as nothing
        of it is recorded yet and its retry waits as well.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._inline_wait
        turn = Turn()
        task = loop.create_task(self._answer(envelope, content, until, turn))
        late = partial(self._take_over, turn, task, envelope.ref)
        return self._answers.begin(task, late, until + _A_MOMENT)

    async def attempt(self, due: Due) -> Tried:
        """One more try of mail that is owed, decided again; for the outbox worker."""
        return await self._resender.attempt(due)

    async def _take_over(self, turn: Turn, task: asyncio.Task[Reply], ref: str) -> Reply:
        """The upstream is slow: owe what is under way, and say so once that is durable."""
        late = Reply(451, "4.4.7", f"upstream is slow, try again (ref {ref})")
        mail = turn.mail
        if turn.closing:
            done, _ = await asyncio.wait({task}, timeout=_GRACE)
            return task.result() if done else late
        if mail is None or not turn.open or not turn.ours:
            return late
        turn.promised = True
        open_ = dict(turn.open)
        try:
            owed = await self._dispatch.owe(turn)
        except StoreError as error:
            # 250 would be lost by a crash: the attempt goes on, and its retry joins it.
            store_trouble("settle", ref, error)
            return late
        ended = any(n in turn.ends and turn.ends[n].end is not End.QUEUED for n in open_)
        if ended or not owed.issuperset(fate.row for fate in open_.values()):
            # A result or a new decision came just now: what follows from it is the answer.
            done, _ = await asyncio.wait({task}, timeout=_GRACE)
            return task.result() if done else late
        reply = answer(ref, turn.endings())
        turn.told = reply.positive
        return reply

    async def drain(self) -> None:
        """Wait until every transaction in progress has its outcome."""
        await self._answers.drain()

    async def _answer(
        self, envelope: Envelope, content: Content, until: float, turn: Turn
    ) -> Reply:
        ref = envelope.ref
        try:
            if self._is_feedback(envelope):
                return await self._feedback(envelope, content)
            mail = await self._reader.read(envelope, content)
            if isinstance(mail, Reply):
                log.message_refused(ref=ref, code=mail.code, reason=mail.text)
                return with_ref(mail, ref)
            if mail.signs:
                self._telemetry.promotion(mail.stream.id, mail.signs)
            return answer(ref, await self._relay(mail, until, turn))
        except StoreError as error:
            return store_trouble("submit", ref, error)
        except UpstreamUnavailable as error:
            log.upstream_failed(ref=ref, error=str(error))
            return Reply(451, "4.4.1", f"no upstream can be reached (ref {ref})")
        except Exception as error:  # the one edge: anything unforeseen is our fault and temporary
            log.incident(ref=ref, error=error)
            return our_fault(ref)

    async def _relay(self, mail: Mail, until: float, turn: Turn) -> list[Ending]:
        for _ in range(ROUNDS):
            try:
                ruling = await self._ruling(mail)
                if self._queues(mail):
                    endings = await self._queue(mail, ruling, until)
                else:
                    outgoing = copies_of(mail, ruling, self._keys)
                    endings = await self._dispatch.attempt(mail, ruling, outgoing, until, turn)
            except StoreRefused:
                raise
            except StoreError:
                # Once an attempt is durable, what follows is no reason for another.
                if turn.mail is not None or self._store.down is None or self._queues(mail):
                    raise
                if not may_go_without(mail):
                    raise
                endings = await self._without_store(mail, until, turn)
            if endings is not None:
                return endings
        raise StoreUnavailable("newer events overtook every decision")

    def _queues(self, mail: Mail) -> bool:
        key = mail.stream.id, mail.envelope.submitter.listener
        found = self._queued.get(key)
        if found is None:
            found = self._settings.delivery_of(mail.stream, key[1]) == "queued"
            self._queued[key] = found
        return found

    async def _ruling(self, mail: Mail) -> Ruling:
        if self._store.down is not None:
            raise StoreUnavailable(str(self._store.down))
        # Once: where C1 finds something newer, the next round reads it.
        noted, mail.envelope.noted = mail.envelope.noted, None
        if isinstance(noted, _Lately) and self._monotonic() - noted.at <= _FRESH:
            return await self._judge.rule(mail, noted)
        return await self._judge.rule(mail, self._store)

    async def _without_store(self, mail: Mail, until: float, turn: Turn) -> list[Ending] | None:
        """Promise 6: decided on the snapshot of the suppressions, written down beside the store."""
        ruling = undeduped(await self._judge.rule(mail, self._store.shelter))
        outgoing = copies_of(mail, ruling, self._keys)
        return await self._dispatch.attempt(mail, ruling, outgoing, until, turn)

    async def _queue(self, mail: Mail, ruling: Ruling, until: float) -> list[Ending] | None:
        """Commit C1 of queued mail, body and all: 250 rests on it, and the outbox does the rest."""
        blocked = [lost_by(case) for case in ruling.cases if case.state is State.BLOCKED]
        intake = _waiting(ruling, mail)
        if intake.body is not None:
            intake = replace(intake, notice=await self._notices.about(mail, blocked))
        claimed = await self._store.claim(intake)
        if claimed.stale:
            return None
        if any(fate.fate in ELSEWHERE for fate in claimed.fates):
            return await self._dispatch.join(mail, ruling, claimed.fates, until)
        self._outbox.ring()
        turn = Turn()
        turn.begin(mail, ruling, claimed.fates)
        self._judge.count(ruling, claimed.fates)
        return self._dispatch.counted(mail, turn)

    # -- 12: opt-outs and complaints by mail -----------------------------------------------------

    def _is_feedback(self, envelope: Envelope) -> bool:
        return any(self.accepts_from_strangers(r) for r in envelope.recipients)

    async def _feedback(self, envelope: Envelope, content: Content) -> Reply:
        if envelope.recipients[0].exact.lower() != self._complaints:
            said = await self._opt_out_by_mail(envelope, content)
        else:
            said = await take_report(
                content,
                ref=envelope.ref,
                keys=self._keys,
                store=self._store,
                settings=self._settings,
                telemetry=self._telemetry,
                clock=self._clock,
            )
        if not said.positive:
            log.message_refused(ref=envelope.ref, code=said.code, reason=said.text)
        return with_ref(said, envelope.ref)

    async def _opt_out_by_mail(self, envelope: Envelope, content: Content) -> Reply:
        """The mailto of List-Unsubscribe: the token in the subject identifies person and list."""
        tokens = tokens_in(content)
        taken = [
            token
            for token in tokens
            if await record_token(
                token,
                via=Via.MAILTO,
                keys=self._keys,
                store=self._store,
                settings=self._settings,
                telemetry=self._telemetry,
                clock=self._clock,
            )
        ]
        if not taken:
            return Reply(550, "5.6.0", "no valid unsubscribe token in the subject")
        return Reply(250, "2.0.0", f"opt-out recorded (ref {envelope.ref})")


def _waiting(ruling: Ruling, mail: Mail) -> Intake:
    """Commit C1 where nobody waits for the upstream: what may leave, or may later, waits."""
    rows = []
    for row, case in zip(ruling.intake.rows, ruling.cases, strict=True):
        if row.state is State.ATTEMPTING:
            rows.append(replace(row, state=State.WAITING, room=()))
        elif row.state is State.RETURNED and case.decision.verdict is Verdict.DEFER:
            rows.append(replace(row, state=State.WAITING, next_try=case.decision.until))
        else:
            rows.append(row)
    waits = any(row.state is State.WAITING for row in rows)
    body = body_of(mail) if waits else None
    return replace(ruling.intake, rows=tuple(rows), body=body)
