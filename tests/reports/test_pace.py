"""Work that can wait takes less of the loop the busier the process is, and ends all the same."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pace import AT_REST, LONGEST, SHORTEST, WHEN_FULL, Pace, share_of

seconds = st.floats(min_value=0, max_value=100, allow_nan=False)


@given(seconds, seconds, st.floats(min_value=0.001, max_value=100))
def test_the_share_is_within_bounds_and_never_grows_with_the_load(
    spent: float, late: float, passed: float
) -> None:
    share = share_of(spent, late, passed)
    assert WHEN_FULL <= share <= AT_REST
    assert share_of(spent + passed / 10, late, passed) <= share
    assert share_of(spent, late + passed / 10, passed) <= share


@pytest.mark.parametrize(("spent", "late"), [(0.0, 0.0), (-1.0, -0.1)], ids=["idle", "early"])
def test_nothing_to_do_is_rest(spent: float, late: float) -> None:
    assert share_of(spent, late, 1.0) == AT_REST


def test_a_process_that_uses_half_a_core_or_a_loop_that_is_late_is_full() -> None:
    assert share_of(0.5, 0.0, 1.0) == pytest.approx(WHEN_FULL)
    assert share_of(0.25, 0.0, 1.0) == pytest.approx((AT_REST + WHEN_FULL) / 2)
    assert share_of(1.9, 0.0, 1.0) == pytest.approx(WHEN_FULL)  # two cores, one interpreter lock
    assert share_of(0.0, 1.0, 1.0) == pytest.approx(WHEN_FULL)


@pytest.mark.parametrize(
    ("share", "worked", "pause"),
    [
        (AT_REST, 0.001, 0.001 / AT_REST),
        (WHEN_FULL, 0.001, 0.001 / WHEN_FULL),
        (AT_REST, 0.0, SHORTEST),
        (WHEN_FULL, 10.0, LONGEST),
    ],
    ids=["at-rest", "full", "nothing", "much"],
)
async def test_a_rest_lasts_as_long_as_the_work_asks_for(
    monkeypatch: pytest.MonkeyPatch, share: float, worked: float, pause: float
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace()
    pace.share = share
    await pace.rest(worked)
    assert slept == [pytest.approx(pause)]


async def test_the_next_piece_takes_less_after_a_busy_rest() -> None:
    busy = Pace(spent=time.monotonic)  # a process that always runs
    await busy.rest(0.0)
    assert busy.share == pytest.approx(WHEN_FULL, rel=0.5)
