"""Steps 7 to 10 of the flow for one mail: claim attempts, send copies, record results.

From commit C1 on nothing here is cancelled: each copy runs to its end, and no final dot is written
before the commit of its attempt has returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from proxy import log
from proxy.answer import End, Ending, answer
from proxy.config import Settings
from proxy.config.timing import before_the_dot
from proxy.copies import Outgoing
from proxy.delivery.outbox import OutboxState
from proxy.delivery.upstream import Connection, Given, Pool
from proxy.errors import (
    StoreDown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UpstreamUnavailable,
)
from proxy.judge import Judge, Ruling
from proxy.lines import Line, Lines
from proxy.mail import Mail
from proxy.message.fold import FoldError
from proxy.message.sign import Signer, SigningError
from proxy.notices import Notices
from proxy.owed import body_of
from proxy.replies import Reply, our_fault
from proxy.resend import Resender
from proxy.results import Results
from proxy.store.model import (
    Fate,
    Outcome,
    Reattempt,
    Result,
    RowFate,
    Settlement,
    State,
    Store,
)
from proxy.telemetry import LOST, Telemetry
from proxy.turn import Turn

#: A newer event may overtake a decision; each round reads it. More than this many in a row is our
#: fault.
ROUNDS = 8

#: How long to wait before handing a result to a store that is briefly unavailable once more, in
#: seconds.
_STORE_PAUSE = 0.25

#: The same copy is on its way already, here or in another process.
ELSEWHERE = frozenset({Fate.IN_FLIGHT, Fate.BUSY})

_BUSY = "451 4.4.5 the same mail is being sent, try again"

#: Content went out, but its dot did not: in the meantime fewer people may get it.
_WITHHELD = Given(Result.UNSENT, 451, "451 4.4.7 decided again before it was sent", "content")


@dataclass(slots=True)
class _Meant:
    """A copy, when it was last decided for whom it is, and whether it still is for anybody.

    Times are of the monotonic clock.
    """

    copy: Outgoing
    decided_at: float
    last: float  # until when its dot may be written: later, another process may have taken it over
    nobody: bool = False


class Dispatch:
    """Sends what was decided; knows which copies are on their way from this process."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        judge: Judge,
        notices: Notices,
        resender: Resender,
        pool: Pool,
        signer: Signer,
        telemetry: Telemetry,
        clock: Callable[[], datetime],
        outbox: OutboxState,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._judge = judge
        self._notices = notices
        self._resender = resender
        self._pool = pool
        self._signer = signer
        self._telemetry = telemetry
        self._clock = clock
        self._outbox = outbox
        self._monotonic = monotonic
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self._before_dot = before_the_dot(settings.upstreams).total_seconds()
        self._hold = settings.delivery.attempt_hold.total_seconds()
        self._live: dict[str, asyncio.Future[Result]] = {}

    async def attempt(
        self, mail: Mail, ruling: Ruling, outgoing: Sequence[Outgoing], until: float, turn: Turn
    ) -> list[Ending] | None:
        """One round: connection in hand, commit C1, send.

        None: something newer asks for another round. `until` (loop time) is for what comes before
        C1; what comes after it runs to its end.
        """
        connection: Connection | None = None
        try:
            if outgoing:
                connection = self._pool.at_hand() or await self._in_time(until)
                connection.begin(outgoing[0].copy)
            last = self._monotonic() + self._before_dot
            claimed = await self._store.claim(ruling.intake)
            if not claimed.stale and ELSEWHERE.isdisjoint([f.fate for f in claimed.fates]):
                turn.begin(mail, ruling, claimed.fates, last)
                line, connection = connection, None  # from here on another's to give back
                return await self._finish(mail, ruling, outgoing, turn, line, until)
            if connection is not None:
                await connection.abandon()
        finally:
            if connection is not None:
                connection.release()
        return None if claimed.stale else await self.join(mail, ruling, claimed.fates, until)

    async def _in_time(self, until: float) -> Connection:
        """Wait in line for a connection."""
        try:
            async with asyncio.timeout_at(until):
                return await self._pool.lend()
        except TimeoutError:
            raise UpstreamUnavailable("no connection came free in time") from None

    async def join(
        self, mail: Mail, ruling: Ruling, fates: Sequence[RowFate], until: float
    ) -> list[Ending] | None:
        """The same copy is on its way already: wait for its result, never send a second one beside
        it."""
        busy = Ending(End.RETURNED, _BUSY, mail.ref)
        if any(f.fate is Fate.BUSY for f in fates):
            return [busy] * len(fates)
        for fate in fates:
            future = self._live.get(ruling.cases[fate.n - 1].copy_key)
            if fate.fate is Fate.IN_FLIGHT and future is not None:
                try:
                    async with asyncio.timeout_at(until):
                        result = await asyncio.shield(future)
                except TimeoutError:
                    return [busy] * len(fates)
                if result is not Result.ACCEPTED:
                    return [busy] * len(fates)
            elif fate.fate is Fate.IN_FLIGHT:
                await asyncio.sleep(0)  # committed this instant, not yet registered
        return None

    async def owe(self, turn: Turn) -> set[int]:
        """Make durable what a 250 rests on; the rows that are owed from here on."""
        mail = turn.mail
        if mail is None:
            return set()
        held, owe, wait = dict(turn.held), turn.owe(), tuple(turn.put_off.values())
        notice = await self._notices.about(mail, turn.lost())
        if not held and not owe and not wait and notice is None:
            return set()
        settlement = Settlement(
            outcomes=tuple(outcome for outcome, _ in held.values()),
            owe=owe,
            wait=wait,
            body=body_of(mail) if owe or wait else None,
            notice=notice,
            at=self._clock(),
        )
        ours = set(await self._store.settle(settlement))
        taken = turn.owed(held, ours, _BUSY)
        if self._settings.delivery.ambiguous == "hold":
            for n, (outcome, _) in held.items():
                if outcome.result is Result.UNKNOWN and outcome.row in ours:
                    log.message_held(ref=mail.ref, n=n)
        if owe or wait:
            self._outbox.ring()
        if taken and notice is not None:
            return ours | await self.owe(turn)  # who else gets nothing is told all the same
        return ours

    def counted(self, mail: Mail, turn: Turn) -> list[Ending]:
        """The endings of all recipients; what is owed counts when it ends."""
        endings = turn.endings()
        for fate, ending in zip(sorted(turn.fates.values(), key=_number), endings, strict=True):
            if fate.fate is Fate.ANSWERED:
                log.message_answered(ref=mail.ref, first=fate.ref)
                self._telemetry.message(mail.stream.id, "answered")
            elif ending.end is End.FAILED and (
                turn.told or answer(mail.ref, endings).positive
            ):
                log.message_failed(ref=mail.ref, n=fate.n, stream=mail.stream.id, why="refused")
                self._telemetry.message(mail.stream.id, LOST)
            elif ending.end is not End.QUEUED:
                self._telemetry.message(mail.stream.id, ending.end.value)
        return endings

    async def _finish(
        self,
        mail: Mail,
        ruling: Ruling,
        outgoing: Sequence[Outgoing],
        turn: Turn,
        connection: Connection | None,
        until: float,
    ) -> list[Ending]:
        """The attempts are durable: send each claimed copy once, and say how all recipients
        ended. `connection` has the first of `outgoing` begun; it is given back."""
        live: dict[str, asyncio.Future[Result]] = {}
        try:
            committed_at = self._monotonic()
            by_n = turn.fates
            self._judge.count(ruling, list(by_n.values()))
            for fate in by_n.values():
                if fate.ambiguous_retry:
                    self._telemetry.ambiguous_retry()
            sends = [o for o in [one.only(by_n) for one in outgoing] if o is not None]
            loop = asyncio.get_running_loop()
            for send in sends:
                for case in send.cases:
                    live[case.copy_key] = self._live[case.copy_key] = loop.create_future()
            if connection is not None and not (sends and sends[0].cases is outgoing[0].cases):
                await connection.abandon()  # what was begun is not what was claimed
                if sends:
                    connection.begin(sends[0].copy)
            # The connection in hand goes with the first copy, and back after it. One copy's trouble
            # stops no other: after C1 each runs to its end.
            results = Results(mail, turn, live, self._record)
            if len(sends) == 1:
                line, connection = connection, None
                await self._send(Line(sends[0], line), committed_at, results)
            elif sends:
                line, connection = connection, None
                over = partial(self._send, committed_at=committed_at, results=results)
                try:
                    await Lines(self._pool, sends, over).run(line)
                finally:
                    await results.written()
            await self._close(turn, until)
        finally:
            if connection is not None:
                connection.release()
            for key, future in live.items():
                # A retry may have claimed a copy that ended while others of this mail went on.
                if self._live.get(key) is future:
                    del self._live[key]
                if not future.done():
                    future.set_result(Result.UNKNOWN)
        return self.counted(mail, turn)

    async def _send(self, line: Line, committed_at: float, results: Results) -> None:
        """The copy of `line`: dot, then commit C2; what became of its recipients goes into
        `results`.

        The connection of `line` may have the copy begun; it is left there where another follows.
        """
        mail, turn = results.mail, results.turn
        meant = _Meant(line.copy, committed_at, turn.last)
        given: list[Given] = []
        failed = _WITHHELD
        try:
            given = await self._hand_over(line, mail, meant, turn)
        except (FoldError, SigningError) as error:  # before any of the content was written
            log.incident(ref=mail.ref, error=error)
            failed = Given(Result.UNSENT, 451, str(our_fault(mail.ref)), "local")
        except UpstreamUnavailable as error:
            failed = Given(Result.UNSENT, 451, f"451 4.4.1 {error}", "connect")
        except StoreError as error:
            # Only deciding again asks the store, before the dot: certainly not sent. The
            # attempt ends, so that a retry need not wait for the next start.
            store_trouble("reclaim", mail.ref, error)
            reply = "451 4.3.0 the decision could not be taken again"
            failed = Given(Result.UNSENT, 451, reply, "local")
        except Exception as error:  # not foreseen, so nobody knows whether the dot was written
            log.incident(ref=mail.ref, error=error)
            failed = Given(Result.UNKNOWN, 451, str(our_fault(mail.ref)), "local")
        finally:
            if not given or line.follows is None:
                line.release()
        if meant.nobody:
            return
        send = meant.copy
        if len(given) != len(send.cases):
            given = [failed] * len(send.cases)
        accepted = self._known(results, send, given)
        if not line.alone:
            results.take(send, given, accepted)
            return
        if accepted:
            await self._record(mail, accepted)
        results.end(send, given)

    async def _hand_over(
        self, line: Line, mail: Mail, meant: _Meant, turn: Turn
    ) -> list[Given]:
        """Nothing was sent, or is known, where it gives nothing."""
        connection = line.connection
        if connection is None:
            connection = line.connection = await self._pool.lend()
        if not connection.begun:
            connection.begin(meant.copy.copy)
        await connection.envelope()
        if self._old(meant) and not await self._still_meant(mail, meant, turn):
            await connection.abandon()
            if meant.nobody:
                return []
            connection.begin(meant.copy.copy)
            await connection.envelope()
        if turn.promised and self._old(meant):
            return []
        upstream = self._upstreams.get(connection.name, self._settings.upstreams[0])
        # The bytes of the copy, signed as the upstream that it goes to wants them.
        parts = await meant.copy.parts(self._signer, upstream)
        follows = line.next()
        return await connection.finish(
            parts,
            partial(self._ready, mail, meant, turn),
            None if follows is None else follows.copy,
        )

    async def _ready(self, mail: Mail, meant: _Meant, turn: Turn) -> bool:
        return not self._old(meant) or await self._still_meant(mail, meant, turn)

    def _old(self, meant: _Meant) -> bool:
        now = self._monotonic()
        return now - meant.decided_at > self._hold or now > meant.last

    async def _still_meant(self, mail: Mail, meant: _Meant, turn: Turn) -> bool:
        """Whether a copy that is `_old` may leave as it is: decided now again (delivery.md 7).

        False: fewer people may get it than its envelope names, or nobody; or it is owed, and the
        outbox decides again.
        """
        if turn.promised:
            return False
        before = meant.copy
        meant.last = self._monotonic() + self._before_dot
        kept = await self._decide_again(mail, before, turn)
        meant.decided_at = self._monotonic()
        meant.nobody = kept is None
        meant.copy = kept or before
        return kept is not None and kept.copy == before.copy

    async def _decide_again(
        self, mail: Mail, send: Outgoing, turn: Turn
    ) -> Outgoing | None:
        for _ in range(ROUNDS):
            cases, seen = await self._judge.again(mail, send.cases, self._store)
            rows = [
                Reattempt(
                    row=send.fates[case.n].row,
                    attempt=send.fates[case.n].attempt,
                    subject=case.subject,
                    decision=case.decision,
                    facts=case.facts,
                    state=case.state,
                    reply=case.reply,
                    room=case.room if case.state is State.ATTEMPTING else (),
                )
                for case in cases
            ]
            claimed = await self._store.reclaim(
                rows, high=seen.high, at=self._clock(), overlay=seen.overlay
            )
            if claimed.stale:
                continue
            fates = {fate.n: fate for fate in claimed.fates}
            turn.decided_again(cases, fates, _BUSY)
            return send.renewed(cases, fates)
        raise StoreUnavailable("newer events overtook every decision")

    def _known(
        self, results: Results, send: Outgoing, given: Sequence[Given]
    ) -> list[Outcome]:
        """Take note of a copy's results. What was accepted is to be recorded: a 250 will rest on
        it. The rest is held until all is known."""
        mail, now = results.mail, self._clock()
        for case, one in zip(send.cases, given, strict=True):
            log.message_attempted(ref=mail.ref, n=case.n, result=one.result, stage=one.stage)
        self._telemetry.relayed((now - mail.envelope.received_at).total_seconds())
        return results.turn.known(
            send, given, now, lambda fate, one: self._resender.next_try(mail, fate.attempt, one)
        )

    async def _record(self, mail: Mail, outcomes: Sequence[Outcome]) -> None:
        """Commit C2 of what was accepted."""
        try:
            await self._store.record(outcomes)
            return
        except StoreRefused:
            raise
        except StoreError as error:
            store_trouble("record", mail.ref, error)
        await asyncio.sleep(_STORE_PAUSE)
        await self._patiently("record", mail, partial(self._store.record, outcomes), None)

    async def _close(self, turn: Turn, until: float) -> None:
        """All is known: what a 250 rests on is written before it; else the client keeps the mail.

        Where somebody's copy was taken, one transaction has the other results, the body of what
        waits now, and the notice about who gets nothing.
        """
        turn.closing = True
        if not (turn.held or turn.open or turn.put_off or turn.stopped):
            return  # everybody's copy was taken, and that is written
        mail = turn.mail
        if mail is not None and (turn.promised or (turn.taken and turn.ours)):
            # Who was promised an end gets it from us; else the client does, once it waited enough.
            patience = None if turn.promised else until
            try:
                await self._patiently("settle", mail, lambda: self.owe(turn), patience)
            except StoreError:
                self._note_held(turn)
                raise
        elif turn.held and self._monotonic() <= turn.last:
            self._note_held(turn)
        elif turn.held:
            # Another process may have taken the attempts over, and 5xx is a promise too.
            await self._late(turn)

    async def _late(self, turn: Turn) -> None:
        outcomes = [outcome for outcome, _ in turn.held.values()]
        try:
            ours = await self._store.record(outcomes)
        except StoreError:
            self._store.record_later(outcomes)
            ours = []
        turn.taken_away(ours, _BUSY)

    def _note_held(self, turn: Turn) -> None:
        """What no 250 rests on is written when it can be.

        Of mail that is owed a failure is told by the transaction that records it, or not recorded.
        """
        held = [o for o, lost in turn.held.values() if lost is None or not turn.promised]
        if held:
            self._store.record_later(held)

    async def _patiently(
        self,
        operation: str,
        mail: Mail,
        write: Callable[[], Awaitable[object]],
        until: float | None,
    ) -> None:
        """Go on trying, until a time of the loop; what is known to be relayed is never forgotten.

        A result can be written beside the store, so it is worth trying also when that is lost.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                await write()
                return
            except StoreRefused:
                raise
            except StoreError as error:
                store_trouble(operation, mail.ref, error)
                lost = isinstance(error, StoreDown) and operation == "settle"
                if lost or (until is not None and loop.time() >= until):
                    raise
                await asyncio.sleep(_STORE_PAUSE)


def store_trouble(operation: str, ref: str, error: StoreError) -> Reply:
    """What a client hears, and the operator, where the store cannot do its part."""
    log.store_failed(ref=ref, operation=operation, error=str(error))
    return our_fault(ref)


def _number(fate: RowFate) -> int:
    return fate.n
