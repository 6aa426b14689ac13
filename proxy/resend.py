"""Another attempt of mail that is owed: everything is read and decided again, then sent.

The second half of the flow for one recipient of a row that waits. What stopped the mail before it
left (an opt-out, an expired basis, a changed pack) ends it here as `blocked`, and who handed it in
is told.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime

from policy.model import Category
from proxy import log
from proxy.answer import End
from proxy.config import Settings
from proxy.config.timing import before_the_dot
from proxy.copies import Outgoing
from proxy.delivery.outbox import Tried
from proxy.delivery.schedule import schedule
from proxy.delivery.upstream import Connection, Given, Pool
from proxy.errors import (
    StoreDown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UpstreamUnavailable,
)
from proxy.judge import Asked, Case, Judge
from proxy.keys import Keys
from proxy.mail import Mail, Reader
from proxy.message.classify import Class
from proxy.message.fold import FoldError
from proxy.message.sign import Signer, SigningError
from proxy.notices import Lost, Notices
from proxy.owed import envelope_of
from proxy.own_mail import is_own
from proxy.replies import Reply, our_fault
from proxy.store.model import (
    Due,
    Fate,
    Notice,
    Outcome,
    Owed,
    Result,
    RowFate,
    Settlement,
    Snapshot,
    State,
    Store,
    Take,
)
from proxy.telemetry import LOST, Telemetry

#: A newer event may overtake a decision; each round reads it.
_ROUNDS = 8

#: How long to wait before a failure is handed to a store in trouble once more, in seconds.
_STORE_PAUSE = 0.25

_STALE = "451 4.4.7 decided again before it was sent"


class Owing:
    """Reads mail that is owed, and gives it up."""

    def __init__(
        self,
        settings: Settings,
        *,
        reader: Reader,
        notices: Notices,
        store: Store,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._notices = notices
        self._store = store
        self._clock = clock

    async def read(self, owed: Owed) -> Mail | Reply:
        """The mail as it was taken, under today's configuration."""
        stream = self._settings.find_stream(owed.submission.stream)
        if stream is None:
            why = f"stream {owed.submission.stream} is not configured any more"
            return Reply(451, "4.3.5", why)
        try:
            envelope, null = envelope_of(owed)
        except ValueError:
            return Reply(550, "5.1.6", "the recipient's data was erased")
        submission = owed.submission
        known = Class(stream, Category(submission.category), submission.class_source, null=null)
        return await self._reader.read(envelope, owed.body.content, known)

    async def drop(self, owed: Owed, reply: str, why: str) -> bool:
        """End a row unsent, and tell its submitter; False if it moved on. `why` is for the log.

        Raises `StoreError`.
        """
        mail = await self.read(owed)
        notice = None
        if isinstance(mail, Mail):
            lost = Lost(
                n=owed.n,
                address=mail.recipients[0].exact,
                copy_key=owed.copy_key,
                state=State.FAILED,
                reply=reply,
                remote=self._remote(owed),
                tried_at=owed.tried_at,
            )
            notice = await self._notices.about(mail, [lost])
        now = self._clock()
        take = Take(
            row=owed.row,
            attempts=owed.attempts,
            subject=owed.subject,
            state=State.FAILED,
            decision=None,
            facts="",
            high=0,
            dedupe_from=now - self._settings.delivery.dedupe_window,
            at=now,
            reply=reply,
            notice=notice,
        )
        [fate] = (await self._store.take(take)).fates
        if fate.fate is not Fate.RECORDED:
            return False
        submission = owed.submission
        log.message_failed(ref=submission.ref, n=owed.n, stream=submission.stream, why=why)
        return True


    def _remote(self, owed: Owed) -> str:
        """Who gave the answer that the mail waited with; "" where nobody did, or it is not known.

        The journal does not say which of several upstreams it was.
        """
        upstreams = self._settings.upstreams
        return upstreams[0].host if owed.said and len(upstreams) == 1 else ""


class Resender:
    """Tries rows of the outbox; one at a time each, many at once."""

    def __init__(
        self,
        *,
        settings: Settings,
        keys: Keys,
        store: Store,
        reader: Reader,
        judge: Judge,
        notices: Notices,
        pool: Pool,
        signer: Signer,
        telemetry: Telemetry,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._store = store
        self._owing = Owing(settings, reader=reader, notices=notices, store=store, clock=clock)
        self._judge = judge
        self._notices = notices
        self._pool = pool
        self._signer = signer
        self._telemetry = telemetry
        self._clock = clock
        self._monotonic = monotonic
        self._chance = chance
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        delivery = settings.delivery
        self._hold = delivery.attempt_hold.total_seconds()
        self._before_dot = before_the_dot(settings.upstreams).total_seconds()
        first, longest = delivery.retry_first, delivery.retry_longest
        self._schedules = {
            "": schedule(first, longest, {}),
            **{u.name: schedule(first, longest, u.retry) for u in settings.upstreams},
        }

    async def attempt(self, due: Due) -> Tried:
        """One try of a row that waits; raises nothing but `StoreDown`."""
        try:
            owed = await self._store.owed(due.row)
            return Tried.DONE if owed is None else await self._attempt(owed)
        except UpstreamUnavailable as error:
            log.upstream_failed(ref=due.ref, error=str(error))
            return Tried.NO_UPSTREAM
        except StoreDown:
            raise
        except StoreError as error:
            log.store_failed(ref=due.ref, operation="outbox", error=str(error))
        except Exception as error:  # the one edge: the row waits on, and others go their way
            log.incident(ref=due.ref, error=error)
        await self._postpone(due)
        return Tried.DONE

    def next_try(self, mail: Mail, attempts: int, given: Given) -> datetime:
        """When owed mail is tried again after its `attempts`-th try ended so."""
        received = mail.envelope.received_at
        of_upstream = self._schedules.get(given.upstream, self._schedules[""])
        return of_upstream.after(
            self._clock(),
            attempts,
            given.result,
            given.reply,
            expires=received + self._settings.delivery.expiry,
            chance=self._chance(),
        )

    async def _attempt(self, owed: Owed) -> Tried:
        expiry = self._settings.delivery.expiry
        if owed.submission.received_at + expiry <= self._clock():
            last = f"; the last answer was: {owed.reply}" if owed.reply else ""
            await self._drop(owed, f"451 4.4.7 not delivered in time{last}", "expired")
            return Tried.DONE
        if owed.state is State.HELD:
            return Tried.DONE  # a person decides
        mail = await self._owing.read(owed)
        if isinstance(mail, Reply):
            await self._refused(owed, mail)
            return Tried.DONE
        asked = Asked(
            n=owed.n, address=mail.recipients[0], subject=owed.subject, copy_key=owed.copy_key
        )
        async with AsyncExitStack() as held:
            # Connection first, then the decision: the younger it is at the dot, the better.
            connection = await held.enter_async_context(self._pool.connection())
            for _ in range(_ROUNDS):
                [case], seen = await self._judge.again(mail, [asked], self._store)
                dot_by = self._monotonic() + self._before_dot
                taken = await self._store.take(await self._decided(owed, mail, case, seen))
                if not taken.stale:
                    [fate] = taken.fates
                    given = await self._follow(mail, case, fate, connection, dot_by)
                    break
            else:
                raise StoreUnavailable("newer events overtook every decision")
        # The connection is given back: what was said may have to wait for the store.
        if given is not None:
            await self._settle(mail, case, fate, given)
        return Tried.DONE

    async def _decided(self, owed: Owed, mail: Mail, case: Case, seen: Snapshot) -> Take:
        """What the decision makes of the row."""
        state, notice, next_try = State.ATTEMPTING, None, None
        if case.state is State.BLOCKED:
            state = State.BLOCKED
            notice = await self._notices.about(mail, [lost_by(case)])
        elif case.state is not State.ATTEMPTING:
            state = State.WAITING
            expires = mail.envelope.received_at + self._settings.delivery.expiry
            later = self._clock() + self._settings.delivery.retry_first
            next_try = min(case.decision.until or later, expires)
        return self._take(
            owed,
            state,
            reply=case.reply,
            case=case,
            seen=seen,
            next_try=next_try,
            notice=notice,
        )

    async def _follow(
        self, mail: Mail, case: Case, fate: RowFate, connection: Connection, dot_by: float
    ) -> Given | None:
        """What became of the attempt; None where none was begun."""
        if fate.fate is Fate.BUSY:
            return None
        if fate.fate is Fate.ANSWERED:
            self._count(mail.class_source, mail.stream.id, "answered")
            return None
        self._judge.count_one(case, mail.stream, mail.ref, own=is_own(mail.class_source))
        if fate.fate is Fate.CLAIMED:
            if fate.ambiguous_retry:
                self._telemetry.ambiguous_retry()
            return await self._send(mail, case, fate, connection, dot_by)
        if case.state is State.BLOCKED:
            self._count(mail.class_source, mail.stream.id, End.BLOCKED.value)
        return None

    async def _send(
        self, mail: Mail, case: Case, fate: RowFate, connection: Connection, dot_by: float
    ) -> Given:
        """The attempt is durable: dot, unless its decision has grown old by then, or its lease."""
        until = min(self._monotonic() + self._hold, dot_by)
        send = Outgoing(case.copy, mail, (case,), self._keys, {case.n: fate})

        async def young() -> bool:
            return self._monotonic() <= until

        try:
            connection.begin(send.copy)
            await connection.envelope()
            upstream = self._upstreams.get(connection.name, self._settings.upstreams[0])
            parts = await send.parts(self._signer, upstream)
            given = await connection.finish(parts, young)
        except (FoldError, SigningError) as error:  # before any of the content was written
            log.incident(ref=mail.ref, error=error)
            return Given(Result.UNSENT, 451, str(our_fault(mail.ref)), "local")
        except UpstreamUnavailable as error:
            return Given(Result.UNSENT, 451, f"451 4.4.1 {error}", "connect")
        except Exception as error:  # not foreseen, so nobody knows whether the dot was written
            log.incident(ref=mail.ref, error=error)
            return Given(Result.UNKNOWN, 451, str(our_fault(mail.ref)), "local")
        # Nothing given: withheld before its dot.
        return given[0] if given else Given(Result.UNSENT, 451, _STALE, "content")

    async def _settle(
        self, mail: Mail, case: Case, fate: RowFate, given: Given
    ) -> None:
        """Commit C2: nobody waits for it, but a failure is told in the same transaction."""
        now = self._clock()
        outcome = Outcome(
            row=fate.row,
            attempt=fate.attempt,
            result=given.result,
            reply=given.reply,
            at=now,
            next_try=now
            if given.reply == _STALE
            else self.next_try(mail, fate.attempt, given),
        )
        log.message_attempted(ref=mail.ref, n=case.n, result=given.result, stage=given.stage)
        if given.result is Result.UNKNOWN and self._settings.delivery.ambiguous == "hold":
            log.message_held(ref=mail.ref, n=case.n)
        if given.result is not Result.PERMANENT:
            self._store.record_later([outcome])
            if given.result is Result.ACCEPTED:
                if not is_own(mail.class_source):
                    self._telemetry.relayed((now - mail.envelope.received_at).total_seconds())
                self._count(mail.class_source, mail.stream.id, End.RELAYED.value)
            return
        lost = Lost(
            n=case.n,
            address=case.address.exact,
            copy_key=case.copy_key,
            state=State.FAILED,
            reply=given.reply,
            remote=given.remote,
            tried_at=now,
        )
        if await self._told(mail, outcome, lost):
            log.message_failed(ref=mail.ref, n=case.n, stream=mail.stream.id, why="refused")
            self._count(mail.class_source, mail.stream.id, LOST)

    async def _told(self, mail: Mail, outcome: Outcome, lost: Lost) -> bool:
        """Record a failure with its notice in one commit; False if the row is another's by now.

        Beside a store in trouble neither can be written down, so both wait for it: forgotten, the
        mail would be tried again once the attempt's lease is over.
        """
        while True:
            try:
                notice = await self._notices.about(mail, [lost])
                settlement = Settlement(outcomes=(outcome,), notice=notice, at=outcome.at)
                return bool(await self._store.settle(settlement))
            except (StoreRefused, StoreDown):
                raise
            except StoreError as error:
                log.store_failed(ref=mail.ref, operation="settle", error=str(error))
                await asyncio.sleep(_STORE_PAUSE)

    async def _refused(self, owed: Owed, reply: Reply) -> None:
        """Today's configuration refuses the mail as a whole."""
        if not reply.temporary:
            await self._drop(owed, str(reply), "refused")
            return
        wait = self._clock() + self._settings.delivery.retry_longest
        await self._store.take(self._take(owed, State.WAITING, reply=str(reply), next_try=wait))

    async def _drop(self, owed: Owed, reply: str, why: str) -> None:
        if await self._owing.drop(owed, reply, why):
            self._count(owed.submission.class_source, owed.submission.stream, LOST)

    def _count(self, class_source: str, stream: str, outcome: str) -> None:
        if not is_own(class_source):
            self._telemetry.message(stream, outcome)

    async def _postpone(self, due: Due) -> None:
        """After our own trouble: not again at once."""
        try:
            owed = await self._store.owed(due.row)
            if owed is not None:
                wait = self._clock() + self._settings.delivery.retry_first
                take = self._take(owed, State.WAITING, reply=owed.reply, next_try=wait)
                await self._store.take(take)
        except StoreError as error:
            log.store_failed(ref=due.ref, operation="outbox", error=str(error))

    def _take(
        self,
        owed: Owed,
        state: State,
        *,
        reply: str,
        case: Case | None = None,
        seen: Snapshot | None = None,
        next_try: datetime | None = None,
        notice: Notice | None = None,
    ) -> Take:
        now = self._clock()
        return Take(
            row=owed.row,
            attempts=owed.attempts,
            subject=owed.subject,
            state=state,
            decision=case.decision if case else None,
            facts=case.facts if case else "",
            high=seen.high if seen else 0,
            overlay=seen.overlay if seen else 0,
            copy_key=owed.copy_key,
            dedupe_from=now - self._settings.delivery.dedupe_window,
            at=now,
            reply=reply,
            room=case.room if case and state is State.ATTEMPTING else (),
            next_try=next_try,
            notice=notice,
        )


def lost_by(case: Case) -> Lost:
    """A recipient whom policy stopped."""
    return Lost(
        n=case.n,
        address=case.address.exact,
        copy_key=case.copy_key,
        state=State.BLOCKED,
        reply=case.reply,
        decision=case.decision,
    )
