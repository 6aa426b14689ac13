"""Points one after another on one data directory, each process meeting what the last one left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from fault_checker import Journal, Verdict, check
from fault_clients import Crowd
from fault_points import Point
from fault_records import OptOut, Records, now
from fault_site import PEOPLE, DiedError, Served, Site, lay_out, until
from fault_upstream import Act, Script, Session, Stage, Upstream, as_usual

_STREAMS = {
    "inline": ("news", "orders"),
    "queued": ("newsq", "ordersq"),
    "inline-wait": ("news", "orders"),
    "several": ("news", "orders", "newsq"),
    "mixed": ("news", "newsq", "orders", "ordersq"),
}

#: A point ends after so many seconds or transactions even where what it waits for does not come.
_LONGEST = 20.0
_MOST = 80

_CLIENTS = 5
_DRAIN = 60.0


class Weather:
    """An upstream on a bad day: now and then it refuses, loses its reply, or closes."""

    def __init__(self, chance: random.Random, slow: float) -> None:
        self._chance = chance
        self._slow = slow

    def __call__(self, stage: Stage, session: Session) -> Act | None:
        draw = self._chance.random()
        if stage is Stage.DOT:
            if draw < 0.03:
                return Act(reply=b"451 4.3.2 later\r\n")
            if draw < 0.04:
                return Act(reply=b"554 5.7.0 never\r\n")
            if draw < 0.05:
                return Act(reply=b"", keep=True, close=True)
            if draw < 0.06:
                return Act(reply=b"", keep=False, close=True)
            if draw < 0.06 + self._slow:
                return Act(seconds=self._chance.uniform(0.3, 0.7))
        elif stage is Stage.RCPT:
            if draw < 0.03:
                return Act(reply=b"450 4.2.0 later\r\n")
            if draw < 0.035:
                return Act(reply=b"550 5.1.1 nobody here\r\n")
        elif stage is Stage.DATA and draw < 0.01:
            return Act(seconds=1.1)  # beyond attempt_hold: decided again before the dot
        elif draw < 0.004:
            return Act(reply=b"421 4.3.2 closing\r\n", close=True)
        return None


@dataclass
class Chain:
    """Points one after another on one data directory, each process meeting what the last left."""

    site: Site
    upstream: Upstream
    crowd: Crowd
    chance: random.Random

    @classmethod
    async def begin(
        cls, template: Path | None, folder: Path, seed: str, host: str, **options: str
    ) -> Chain:
        """A new data directory with its own upstream."""
        records = Records()
        upstream = Upstream(records.arrived)
        await upstream.start()
        chance = random.Random(seed)
        site = lay_out(template, folder, upstream.port, host=host, **options)
        return cls(site, upstream, Crowd(records, chance, host), chance)

    @property
    def records(self) -> Records:
        return self.crowd.records

    async def point(self, point: Point) -> bool:
        """Serve under load until the point is reached; then the process is dead. False: it was not
        reached, and the process was killed all the same."""
        self.upstream.script = Weather(self.chance, 0.3 if point.mode == "inline-wait" else 0.02)
        try:
            served = await self.site.serve(point.trap, prefix=point.prefix)
        except DiedError as died:
            if point.strike == "syscall" and died.status == -signal.SIGKILL:
                return True  # reached while it started
            if point.strike == "none" and died.status == os.EX_UNAVAILABLE:
                return True  # it refused to start on a broken disk
            raise
        struck = asyncio.Event()
        if point.strike in ("before", "after"):
            self.upstream.script = self._striking(point, served, struck, self.upstream.script)
        working = asyncio.create_task(load(self, point, served))
        reached = await self._reached(point, served, struck)
        await served.kill()
        await working
        return reached

    async def end(self) -> Verdict:
        """Restart in good weather, let everybody ask again, drain, stop; then hold the records."""
        self.upstream.script = as_usual
        served = await self.site.serve()
        left = await self.crowd.settle(served.smtp)
        emptied = await self.site.emptied(_DRAIN)
        status = await served.stop()
        await self.upstream.close()
        verdict = check(self.records, Journal.read(self.site.database))
        verdict.violations += [f"its client got no end: {mail.id}" for mail in left]
        if not emptied:
            verdict.violations.append(f"not drained within {_DRAIN:.0f} s")
        if status != 0:
            verdict.violations.append(f"exit status {status} at the end")
        return verdict

    def _striking(
        self, point: Point, served: Served, struck: asyncio.Event, usual: Script
    ) -> Script:
        left = point.count

        def strike() -> None:
            served.strike()
            struck.set()

        def script(stage: Stage, session: Session) -> Act | None:
            nonlocal left
            act = usual(stage, session)
            if stage is not point.stage or struck.is_set():
                return act
            left -= 1
            if left > 0:
                return act
            if point.strike == "before":
                return replace(act or Act(), strike=strike)
            return replace(act or Act(), strike_after=strike)

        return script

    async def _reached(self, point: Point, served: Served, struck: asyncio.Event) -> bool:
        began = len(self.records.told)

        def reached() -> bool:
            if point.strike == "syscall":
                return not served.alive
            if point.strike in ("before", "after"):
                return struck.is_set()
            return answers() >= point.count

        def answers() -> int:
            return len(self.records.told) - began

        await until(
            lambda: reached() or answers() >= _MOST or not served.alive, _LONGEST, pause=0.003
        )
        if point.strike in ("random", "none"):
            await asyncio.sleep(self.chance.uniform(0, 0.015))
        # Where a disk is broken, answers may be few: that is no failure of the point.
        return reached() or point.strike == "none"


async def load(chain: Chain, point: Point, served: Served) -> None:
    """Clients, and people who say no, until the process is gone."""
    crowd, several = chain.crowd, point.mode in ("several", "mixed")
    clients = [
        crowd.client(served.smtp, _STREAMS[point.mode], several, point.number)
        for _ in range(_CLIENTS)
    ]
    people = asyncio.create_task(
        crowd.objector(served.public, lambda: chain.chance.uniform(0.02, 0.2))
    )
    other = asyncio.create_task(_object(chain)) if point.other_process else None
    try:
        await asyncio.gather(*clients)
    finally:
        people.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await people
    if other is not None:
        await other


async def _object(chain: Chain) -> None:
    """Somebody's no is recorded by another process beside the one that serves."""
    person = chain.chance.choice([p for p in PEOPLE if p not in chain.crowd.objected])
    begun = now()
    status, _ = await chain.site.run("consent", "object", person, "--evidence", "ticket:1")
    if status == 0:
        chain.crowd.objected.append(person)
    optout = OptOut(person, begun, now(), 200 if status == 0 else 0, "command line")
    chain.records.optouts.append(optout)
