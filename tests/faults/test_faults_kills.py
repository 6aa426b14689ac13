"""A sample of `make faults`: real processes under load, killed, broken and misled.

The whole runs apart (docs/guarantees.md); here are 60 points, always the same.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fault_chain import Chain
from fault_checker import Verdict
from fault_failures import failures, run_failures
from fault_points import Point, errors, first_starts, kills
from fault_site import make_template
from fault_upstream import Stage

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with everybody's opt-in."""
    if shutil.which("strace") is None:
        pytest.fail("strace is missing: run `apt-get install strace` as root, then test again")
    made = asyncio.run(make_template(tmp_path_factory.mktemp("faults") / "template"))
    yield made
    shutil.rmtree(made.parent)


async def run(
    template: Path | None, folder: Path, host: str, points: Sequence[Point]
) -> tuple[Verdict, list[Point]]:
    """The verdict of a chain, and the points that were not reached."""
    chain = await Chain.begin(template, folder, folder.name, host)
    try:
        missed = [point for point in points if not await chain.point(point)]
        return await chain.end(), missed
    finally:
        await chain.upstream.close()


def counted(verdicts: Sequence[Verdict]) -> Counter[str]:
    return sum((verdict.counts for verdict in verdicts), Counter())


async def test_kills_lose_nothing_and_repeat_nothing(template: Path, tmp_path: Path) -> None:
    points = kills(18, seed=60)
    halves = [points[:9], points[9:]]
    done = await asyncio.gather(
        *(
            run(template, tmp_path / f"kills-{n}", f"127.77.{n}.1", half)
            for n, half in enumerate(halves)
        )
    )
    assert [v for verdict, _ in done for v in verdict.violations] == []
    assert [point for _, missed in done for point in missed] == []
    seen = counted([verdict for verdict, _ in done])
    assert seen["acknowledged"] > 50
    assert seen["opt-outs answered"] > 3
    assert seen["marked retries"] > 0, "no kill fell between attempt and result"


async def test_kills_while_a_data_directory_is_made(tmp_path: Path) -> None:
    """A first start that is killed anywhere leaves what the next one can use."""
    [_, points] = first_starts(seed=1, rounds=2)
    verdict, missed = await run(None, tmp_path / "first", "127.77.3.1", points)
    assert (verdict.violations, missed) == ([], [])


async def test_a_disk_that_fails_under_load(template: Path, tmp_path: Path) -> None:
    points = errors(seed=1, rounds=1)[::4]
    verdict, missed = await run(template, tmp_path / "errors", "127.77.4.1", points)
    assert (verdict.violations, missed) == ([], [])
    assert verdict.counts["acknowledged"] > 20


@pytest.mark.parametrize("mode", ["inline", "several"])
async def test_an_upstream_that_fails_at_each_stage(
    template: Path, tmp_path: Path, mode: str
) -> None:
    """All that costs no waiting; `make faults` has the others."""
    quick = [f for f in failures() if not f.act.hang]
    chosen = quick if mode == "inline" else [f for f in quick if f.stage is Stage.RCPT]
    verdict, told = await run_failures(
        template, tmp_path / mode, mode, f"127.77.{5 + len(mode)}.1", chosen
    )
    assert verdict.violations == []
    by_way = {(f.stage.value, f.way): t.code for f, t in zip(chosen, told, strict=True)}
    assert set(by_way.values()) <= {250, 451, 554}
    if mode == "inline":
        assert by_way["dot", "taken, close"] == 451, "nobody knows, so the client keeps it"
        assert by_way["mail", "close"] == 250, "a stale connection costs no mail"
    else:
        assert by_way["rcpt", "4xx"] == by_way["rcpt", "5xx"] == 250, "the others got theirs"
