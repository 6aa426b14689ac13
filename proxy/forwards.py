"""Passing opt-outs on: to the opt-out that a mail came with, before ours took its place.

The store makes the work in the commit of the opt-out itself, so nobody waits for it and a crash
loses none. Here it is done: a one-click POST, or a mail through the outbox, tried again until it is
taken, refused for good, or too old. A POST whose answer is lost is sent again: to opt out twice is
to opt out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import unquote, urlsplit

from proxy import log
from proxy.config import Settings
from proxy.delivery.one_click import SECONDS, Answer, OneClick, Outcome
from proxy.delivery.schedule import schedule
from proxy.errors import StoreDown, StoreError
from proxy.keys import Keys
from proxy.message.fold import FoldError
from proxy.message.leave import asked_by, leave
from proxy.message.sign import Signer
from proxy.own_mail import PASSED, OwnMail
from proxy.ref import new_ref
from proxy.store.model import (
    Forward,
    ForwardState,
    Notice,
    Passing,
    Result,
    Store,
)

#: Seconds between two looks for what is due, and between two counts of what waits.
POLL = 0.5
_COUNT = 5.0

#: After so many failures in a row a host is left in peace for `retry_first`: what else is for it is
#: put off untried, so that thousands of opt-outs for one dead server stand before nobody else's.
_FAILURES = 3
_HOSTS = 1_000  # remembered at most

#: How long one that was begun is nobody else's: longer than a try can take.
LEASE = timedelta(seconds=SECONDS + 10)

#: How long one waits whose result could not be written, in seconds.
_STORE_PAUSE = 30.0

#: How many are tried at once, and how many of them at one host: one that hangs holds up no other.
_AT_ONCE = 8
_AT_ONE_HOST = 2
_CHOICE = 20


class ForwardEvents(Protocol):
    """What is told to telemetry."""

    def forward(self, result: str) -> None:
        """One try: `passed`, `refused`, `expired`, or `retry`."""
        ...

    def forwards_waiting(self, count: int) -> None:
        """How many wait."""
        ...


class Forwarder:
    """Runs until stopped; what is being tried then is tried to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: Keys,
        store: Store,
        telemetry: ForwardEvents,
        ring: Callable[[], None],
        clock: Callable[[], datetime],
        one_click: OneClick | None = None,
        chance: Callable[[], float] = random.random,
        poll: float = POLL,
    ) -> None:
        """`ring` tells the outbox that a mail was put in."""
        self._settings = settings
        self._store = store
        self._telemetry = telemetry
        self._ring = ring
        self._clock = clock
        self._one_click = one_click or OneClick(loopback=settings.server.development)
        self._chance = chance
        self._poll = poll
        delivery = settings.delivery
        self._schedule = schedule(delivery.retry_first, delivery.retry_longest, {})
        self._own = OwnMail(settings, keys=keys, signer=Signer())
        self._public_url = settings.http.public_url
        self._peace = delivery.retry_first.total_seconds()
        self._failures: dict[str, tuple[int, float]] = {}  # in a row, and when the last was
        self._running: dict[int, tuple[str, asyncio.Task[None]]] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Pick and try, for ever."""
        loop = asyncio.get_running_loop()
        counted = -_COUNT
        while not self._stop.is_set():
            picked: list[Forward] = []
            try:
                if loop.time() - counted >= _COUNT:
                    counted = loop.time()
                    self._telemetry.forwards_waiting(await self._store.forwards_waiting())
                picked = await self._pick()
            except StoreDown:
                return  # until restart; the next start takes it up
            except StoreError as error:
                log.store_failed(ref="", operation="forwards", error=str(error))
            except Exception as error:  # the one edge: the work goes on
                log.incident(ref="", error=error)
            if self._stop.is_set():
                return
            for forward in picked:
                task = asyncio.create_task(self._try(forward))
                self._running[forward.id] = (host_of(forward.uri), task)
            await self._wait(self._poll)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def stop(self) -> None:
        """Pick nothing more, and wait for what is being tried."""
        self._stop.set()
        while self._running:
            await asyncio.wait({task for _, task in self._running.values()})

    async def _pick(self) -> list[Forward]:
        free = _AT_ONCE - len(self._running)
        if free <= 0:
            return []
        due = await self._store.forwards_due(
            self._clock(), len(self._running) + _AT_ONCE * _CHOICE
        )
        busy = Counter(host for host, _ in self._running.values())
        picked: list[Forward] = []
        for forward in due:
            host = host_of(forward.uri)
            if forward.id in self._running or busy[host] >= _AT_ONE_HOST:
                continue
            busy[host] += 1
            picked.append(forward)
            if len(picked) == free:
                break
        return picked

    async def _try(self, forward: Forward) -> None:
        try:
            await self.attempt(forward)
        except StoreDown:
            self._stop.set()
        except StoreError as error:  # it stays due: do not post again and again meanwhile
            log.store_failed(ref=forward.ref, operation="forwards", error=str(error))
            await self._wait(_STORE_PAUSE)
        except Exception as error:
            log.incident(ref=forward.ref, error=error)
            await self._postpone(forward)
        finally:
            del self._running[forward.id]

    async def _postpone(self, forward: Forward) -> None:
        """After our own trouble: not again at once."""
        try:
            await self._end(forward, Answer(Outcome.LATER, "not tried: a fault of ours"))
        except StoreError as error:
            log.store_failed(ref=forward.ref, operation="forwards", error=str(error))

    async def attempt(self, forward: Forward) -> None:
        """One try of a forward that waits. Raises `StoreError`."""
        if forward.asked_at + self._settings.delivery.expiry <= self._clock():
            last = f"; the last answer: {forward.answer}" if forward.answer else ""
            await self._end(forward, Answer(Outcome.NEVER, f"not taken in time{last}"), late=True)
        elif forward.by == "mail":
            await self._mail(forward)
        elif leads_here(forward.uri, self._public_url):
            await self._end(forward, Answer(Outcome.NEVER, "a link of our own"))
        elif self._in_peace(host := host_of(forward.uri)):
            await self._put_off(forward)
        elif (begun := await self._begin(forward)) is not None:
            answer = await self._one_click.post(forward.uri)
            self._note(host, answer)
            await self._end(begun, answer, begun=True)

    def _in_peace(self, host: str) -> bool:
        failures, last = self._failures.get(host, (0, 0.0))
        return failures >= _FAILURES and time.monotonic() - last < self._peace

    def _note(self, host: str, answer: Answer) -> None:
        if answer.outcome is not Outcome.LATER:
            self._failures.pop(host, None)
            return
        now = time.monotonic()
        if len(self._failures) >= _HOSTS:
            self._failures = {h: f for h, f in self._failures.items() if now - f[1] < self._peace}
        if host in self._failures or len(self._failures) < _HOSTS:
            self._failures[host] = (self._failures.get(host, (0, 0.0))[0] + 1, now)

    async def _put_off(self, forward: Forward) -> None:
        """Not tried, and so not counted; spread, so that they do not come back all at once."""
        now = self._clock()
        wait = self._settings.delivery.retry_first * (1 + self._chance())
        await self._store.passed(
            Passing(
                id=forward.id,
                attempts=forward.attempts,
                state=ForwardState.WAITING,
                answer=forward.answer,
                at=now,
                tried=False,
                next_try=min(now + wait, forward.asked_at + self._settings.delivery.expiry),
            )
        )

    async def _begin(self, forward: Forward) -> Forward | None:
        """Take it for one try, so that no process beside this one makes it too; None: another has.

        What was begun and not ended, as its process died, is due again after `LEASE`.
        """
        now = self._clock()
        taken = Passing(
            id=forward.id,
            attempts=forward.attempts,
            state=ForwardState.WAITING,
            answer=forward.answer,
            at=now,
            next_try=now + LEASE,
        )
        won = await self._store.passed(taken)
        return replace(forward, attempts=forward.attempts + 1) if won else None

    async def _mail(self, forward: Forward) -> None:
        asked = asked_by(forward.uri)
        stream = self._settings.find_stream(forward.stream)
        words = ""
        if asked is None:
            words = "not a usable URI"
        elif asked.address.domain == self._settings.feedback.domain:
            words = "a mailbox of our own"
        elif stream is None:
            words = f"stream {forward.stream} is not configured any more"
        if asked is None or stream is None or words:
            await self._end(forward, Answer(Outcome.NEVER, words))
            return
        at = self._clock()
        ref = new_ref(at)
        hostname, message_id = self._settings.server.hostname, self._own.message_id(ref)
        try:
            content = leave(asked, hostname=hostname, message_id=message_id, at=at)
        except FoldError:
            await self._end(forward, Answer(Outcome.NEVER, "not a usable URI"))
            return
        mail = await self._own.waiting(
            content,
            to=asked.address,
            ref=ref,
            at=at,
            stream=stream.id,
            sender=stream.sender,
            mode=stream.mode,
            listener=self._settings.listeners[0].address,
            submitter="",
            why=f"{PASSED} {forward.ref}.{forward.copy}",
        )
        await self._end(forward, Answer(Outcome.TAKEN, f"mail {ref}"), mail=mail)
        self._ring()

    async def _end(
        self,
        forward: Forward,
        answer: Answer,
        *,
        begun: bool = False,
        late: bool = False,
        mail: Notice | None = None,
    ) -> None:
        now = self._clock()
        next_try = None
        tried = not begun and not late
        if answer.outcome is Outcome.TAKEN:
            state, result = ForwardState.PASSED, "passed"
        elif answer.outcome is Outcome.LATER:
            state, result = ForwardState.WAITING, "retry"
            next_try = self._schedule.after(
                now,
                forward.attempts + tried,
                Result.TEMPORARY,
                "",
                expires=forward.asked_at + self._settings.delivery.expiry,
                chance=self._chance(),
            )
        else:
            state = ForwardState.EXPIRED if late else ForwardState.REFUSED
            result = state.value
        passing = Passing(
            id=forward.id,
            attempts=forward.attempts,
            state=state,
            answer=answer.words,
            at=now,
            tried=tried,
            next_try=next_try,
            mail=mail,
        )
        if await self._store.passed(passing):
            self._telemetry.forward(result)
            log.optout_forwarded(
                ref=f"{forward.ref}.{forward.copy}",
                stream=forward.stream,
                by=forward.by,
                result=result,
                answer=answer.words,
            )


def host_of(uri: str) -> str:
    """Where a URI leads, for people and for fairness: its host, or the domain of its mailbox."""
    if uri.lower().startswith("mailto:"):
        return uri.partition("?")[0].rpartition("@")[2].lower()
    try:
        return (urlsplit(uri).hostname or "").rstrip(".")
    except ValueError:
        return ""


def leads_here(uri: str, public_url: str) -> bool:
    """Whether an https URI is a link of ours: the host of `public_url`, whatever the port, and a
    path below its `/u/`, in every spelling that a server may read so. In doubt it is.
    """
    if host_of(uri) != host_of(public_url):
        return False
    base = "/".join(["", *_segments(f"{urlsplit(public_url).path}/u/")])
    path = urlsplit(uri).path
    readings = (_segments(path), _resolved(_segments(path)))
    return any("/".join(["", *segments]).startswith(base) for segments in readings)


def _segments(path: str) -> list[str]:
    """The segments of a path, decoded to the end, without parameters (RFC 3986 3.3) and case, and
    without empty ones but the last."""
    while (decoded := unquote(path)) != path:
        path = decoded
    plain = [part.partition(";")[0] for part in path.replace("\\", "/").split("/")]
    return [part.casefold() for part in plain[:-1] if part] + [plain[-1].casefold()]


def _resolved(segments: list[str]) -> list[str]:
    """Without dot segments (RFC 3986 5.2.4)."""
    found: list[str] = []
    for part in segments:
        if part == "..":
            del found[-1:]
        elif part != ".":
            found.append(part)
    return found
