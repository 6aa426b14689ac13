"""When mail that is owed is tried again: pure, by the kind of failure, with jitter.

RFC 5321 section 4.5.4.1: at least 30 minutes after a host refused is the classic wish for mail
exchangers; our upstream is one relay of our own, so the first tries come sooner and then spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from proxy.config.timing import Kind, waits
from proxy.store.model import Result

#: How much longer than usual the first wait is, by the kind of failure.
_FACTORS: Mapping[Kind, float] = {
    "temporary": 1.0,
    "full": 6.0,
    "policy": 2.0,
    "unreachable": 0.5,
    "unknown": 1.0,
}

#: A wait is drawn from this share of itself, up to the whole, so that mails do not march in step.
_SPREAD = 0.4


@dataclass(frozen=True, slots=True)
class Schedule:
    """For each kind of failure the first wait and the longest; each wait is twice the one
    before."""

    waits: Mapping[Kind, tuple[timedelta, timedelta]]

    def after(
        self,
        now: datetime,
        attempts: int,
        result: Result,
        reply: str,
        *,
        expires: datetime,
        chance: float,
    ) -> datetime:
        """The next try after the `attempts`-th (1 is the first) ended so; never after `expires`.

        `reply` is the upstream's line, `chance` a random number in [0, 1).
        """
        first, longest = self.waits[kind_of(result, reply)]
        wait = min(first * 2.0 ** min(max(attempts, 1) - 1, 30), longest)
        return min(now + wait * (1 - _SPREAD * chance), max(expires, now))


def schedule(first: timedelta, longest: timedelta, retry: Mapping[str, str]) -> Schedule:
    """The schedule of an upstream: what `retry` says of a kind, else its share of `first`."""
    made: dict[Kind, tuple[timedelta, timedelta]] = {}
    for kind, factor in _FACTORS.items():
        said = retry.get(kind)
        made[kind] = waits(said) if said else (min(first * factor, longest), longest)
    return Schedule(made)


def kind_of(result: Result, reply: str) -> Kind:
    """What the upstream's line, or the lack of one, says of when it may be otherwise."""
    if result is Result.UNSENT:
        return "unreachable"
    if result is Result.UNKNOWN:
        return "unknown"
    if reply.startswith("452") or " 4.2.2" in reply[:10] or " 4.3.1" in reply[:10]:
        return "full"
    if " 4.7." in reply[:10]:
        return "policy"
    return "temporary"
