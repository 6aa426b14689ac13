"""Work that can wait, a little at a time: less the more mail there is.

A relay of one loop and one interpreter lock can use no more than a core. So what is measured is how
much of one the process used while this work rested, and how late the loop woke it: where other
programs take the machine, the loop is late although the process is not busy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

#: The shares of a core that the work takes while nothing else happens, and while the relay is full.
AT_REST: Final = 0.05
WHEN_FULL: Final = 0.005

#: The part of a core from which on the relay counts as full: beside other programs it gets no more.
FULL: Final = 0.5

#: The shortest and the longest rest in seconds: what was not measured is work too, and however full
#: the relay is, the work ends.
SHORTEST: Final = 0.002
LONGEST: Final = 0.5


class Pace:
    """Rests in proportion to the work done. `spent` is the CPU of the whole process in seconds.

    `share` is what the work may take of a core until the next rest.
    """

    def __init__(self, spent: Callable[[], float] = time.process_time) -> None:
        self._spent = spent
        self.share = AT_REST

    async def rest(self, worked: float) -> None:
        """Rest after `worked` seconds of work, and see how busy the others are meanwhile."""
        loop = asyncio.get_running_loop()
        pause = min(max(worked / self.share, SHORTEST), LONGEST)
        began, spent = loop.time(), self._spent()
        await asyncio.sleep(pause)
        passed = loop.time() - began
        if passed > 0:
            self.share = share_of(self._spent() - spent, passed - pause, passed)


def share_of(spent: float, late: float, passed: float) -> float:
    """The share of a core for work that can wait, after others `spent` so much CPU of `passed`
    seconds, of which the loop was `late` by some."""
    busy = min(1.0, max(spent, late, 0.0) / (FULL * passed))
    return max(WHEN_FULL, AT_REST - (AT_REST - WHEN_FULL) * busy)
