"""From a token to a ledger entry: the one way in which an opt-out is recorded.

Used by the page and the one-click of `public.py`, by opt-outs that come as mail, and by the command
line.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from policy.address import AddressError, parse
from policy.model import Objection, Scope, Via
from proxy import log
from proxy.config import Settings
from proxy.errors import StoreError, TokenError
from proxy.keys import Keys
from proxy.store.codec import micros
from proxy.store.model import Added, NewEvent, Store, Subject
from proxy.tokens import OptOut, open_

Clock = Callable[[], datetime]


class OptOutEvents(Protocol):
    """What is told to telemetry."""

    def optout(self, stream: str, via: str, seconds: float) -> None:
        """One new opt-out is durable, `seconds` after it was asked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What holds now. `new` is False when the same objection was in force already.

    `kept`: it is durable and binds this process, and the store has it later. `at` is when the one
    in force was recorded; None when that could not be read.
    """

    scope: Scope
    new: bool
    at: datetime | None
    kept: bool = False


def scope_of(settings: Settings, optout: OptOut) -> Scope:
    """How far one click reaches: all marketing of the sender, unless the stream narrows it.

    A stream that is no longer configured, or is another sender's now, narrows nothing.
    """
    stream = settings.find_stream(optout.stream)
    narrow = stream is not None and stream.sender == optout.sender and stream.one_click == "stream"
    return Scope.STREAM if narrow else Scope.MARKETING


async def record_optout(
    optout: OptOut,
    *,
    via: Via,
    keys: Keys,
    store: Store,
    settings: Settings,
    telemetry: OptOutEvents,
    clock: Clock,
    scope: Scope | None = None,
) -> Recorded:
    """Record the objection of `optout`; once this returned it is durable, and holds everywhere
    unless it is `kept` beside a store that cannot be written.

    `scope` overrides the configured one. The address itself is not stored: blocking needs only its
    pseudonyms, and so an erased person stays erased. Raises `StoreError` when it is not recorded,
    `TokenError` when the token's address cannot be read, so that no mail could reach it either.
    """
    started = time.monotonic()
    try:
        address = parse(optout.address, smtputf8=True, subaddress=settings.policy.subaddress)
    except AddressError as fault:
        raise TokenError("a token for an address that cannot be mailed") from fault
    scope = scope or scope_of(settings, optout)
    subject = keys.subject(optout.sender, address)
    stream = optout.stream if scope is Scope.STREAM else None
    now = clock()
    event = NewEvent(
        uid=_uid(now),
        subject=subject,
        detail=Objection(scope=scope, stream=stream, via=via),
        at=now,
        recorded_at=now,
        evidence=f"token:{optout.ref}",
        unless_in_force=True,
        forward=optout.ref if passes_on(settings, optout) else "",
    )
    added = await store.oppose(event)
    if added is Added.KNOWN:
        return Recorded(scope=scope, new=False, at=await _since(store, subject, scope, stream))
    telemetry.optout(optout.stream, via.value, time.monotonic() - started)
    kept = added is Added.KEPT
    tell = log.optout_kept if kept else log.optout_recorded
    tell(ref=optout.ref, sender=optout.sender, stream=optout.stream, via=via.value)
    return Recorded(scope=scope, new=True, at=now, kept=kept)


def _uid(now: datetime) -> str:
    """32 hex digits: microseconds, then chance. In order of time, as an index takes them best."""
    return f"{micros(now):014x}{secrets.token_hex(9)}"


def passes_on(settings: Settings, optout: OptOut) -> bool:
    """Whether the opt-out that the mail came with hears of this one."""
    stream = settings.find_stream(optout.stream)
    return stream is None or stream.list_unsubscribe_forward


async def record_token(
    token: str,
    *,
    via: Via,
    keys: Keys,
    store: Store,
    settings: Settings,
    telemetry: OptOutEvents,
    clock: Clock,
) -> bool:
    """Record what `token` asks. False when it is not ours; True when it is recorded or held before.

    Raises `StoreError`, and `KeysError` as `Keys.open` does.
    """
    try:
        optout = open_(keys, token)
        await record_optout(
            optout,
            via=via,
            keys=keys,
            store=store,
            settings=settings,
            telemetry=telemetry,
            clock=clock,
        )
    except TokenError:
        return False
    return True


async def _since(
    store: Store, subject: Subject, scope: Scope, stream: str | None
) -> datetime | None:
    """When the objection in force was recorded: the newest of its kind, no opt-in came after."""
    try:
        snapshot = await store.lookup([subject])
    except StoreError:
        return None  # it holds all the same
    return max(
        (
            event.recorded_at
            for event in snapshot.known[subject].events
            if event.exact
            and event.sender == subject.sender
            and isinstance(event.detail, Objection)
            and (event.detail.scope, event.detail.stream) == (scope, stream)
        ),
        default=None,
    )
