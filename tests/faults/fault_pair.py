"""Two relays of one host on one store: one is killed, or stopped beyond its leases, the other goes
on; clients of one try again at the other."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from fault_chain import Chain, Weather, load
from fault_checker import Verdict
from fault_points import MODES, Point
from fault_site import Served, lay_out, until

#: Seconds: with these time-outs a lease is over by then.
_LEASE = 8.0

KILLED = "one of two relays is killed"
STOPPED = "one of two relays is stopped, and goes on"


async def run_pair(
    template: Path, folder: Path, host: str, rounds: int
) -> tuple[Verdict, list[Point]]:
    """Rounds of load on both; in each, one of them dies or stands still for a while."""
    quick = {"patience": "700ms"}
    chain = await Chain.begin(template, folder, f"pair {rounds}", host, **quick)
    shared = {
        "http": f'keys_file = "{chain.site.data / "keys"}"',
        "more": f'[store]\nurl = "sqlite:///{chain.site.database}"\n',
    }
    second = lay_out(None, folder / "second", chain.upstream.port, host=host, **quick, **shared)
    sites = [chain.site, second]
    points: list[Point] = []
    try:
        running: list[Served | None] = [None, None]
        for number in range(rounds):
            stopped = number % 3 == 2
            kind, mode = STOPPED if stopped else KILLED, MODES[number % len(MODES)]
            point = Point(number, kind, mode, "random")
            points.append(point)
            both = [one or await site.serve() for one, site in zip(running, sites, strict=True)]
            running = list(both)
            victim = chain.chance.randrange(2)
            await _round(chain, point, both, victim, stopped=stopped)
            if not stopped:
                running[victim] = None
        for one in running:
            if one is not None:
                await one.kill()
        beside = await second.serve()
        verdict = await chain.end()
        if await beside.stop() != 0:
            verdict.violations.append("the second relay did not end well")
    finally:
        chain.records.keep(folder)
        await chain.upstream.close()
    return verdict, points


async def _round(
    chain: Chain, point: Point, both: list[Served], victim: int, *, stopped: bool
) -> None:
    chain.upstream.script = Weather(chain.chance, 0.3 if point.mode == "inline-wait" else 0.02)
    working = [asyncio.create_task(load(chain, point, served)) for served in both]
    served = both[victim]
    await _answers(chain, chain.chance.randint(10, 60))
    if stopped:
        served.strike(signal.SIGSTOP)
        begun = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - begun > _LEASE, _LEASE + 5)
        served.strike(signal.SIGCONT)
        await _answers(chain, 30)
    else:
        await served.kill()
        await _answers(chain, 15)
    for task in working:
        task.cancel()
    for task in working:
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _answers(chain: Chain, count: int) -> None:
    began = len(chain.records.told)
    await until(lambda: len(chain.records.told) - began >= count, 20)


