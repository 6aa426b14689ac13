"""When mail that is owed is tried again: pure, by the kind of failure, with jitter.

RFC 5321 section 4.5.4.1: at least 30 minutes after a host refused is the classic wish for mail
exchangers; our upstream is one relay of our own, so the first tries come sooner and then spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from proxy.store.model import Result

#: How much longer than usual the first wait is, by the class of the upstream's reply.
_FULL = 6.0
_POLICY = 2.0
_UNSENT = 0.5

#: A wait is drawn from this share of itself, up to the whole, so that mails do not march in step.
_SPREAD = 0.4


@dataclass(frozen=True, slots=True)
class Schedule:
    """The first wait, and the longest; each wait is twice the one before."""

    first: timedelta
    longest: timedelta

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
        factor = _class(result, reply) * 2.0 ** min(max(attempts, 1) - 1, 30)
        wait = min(self.first * factor, self.longest)
        return min(now + wait * (1 - _SPREAD * chance), max(expires, now))


def _class(result: Result, reply: str) -> float:
    if result is Result.UNSENT:
        return _UNSENT
    if reply.startswith("452") or " 4.2.2" in reply[:10] or " 4.3.1" in reply[:10]:
        return _FULL
    if " 4.7." in reply[:10]:
        return _POLICY
    return 1.0
