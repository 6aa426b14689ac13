"""When owed mail is tried again: later each time, never in step, never beyond its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.timing import Kind
from proxy.delivery.schedule import Schedule, schedule
from proxy.store.model import Result

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
END = NOW + timedelta(days=5)
SCHEDULE = schedule(timedelta(minutes=1), timedelta(hours=1), {})
REPLIES = ["", "451 4.3.2 later", "452 4.2.2 full", "450 4.7.1 greylisted", "451 4.4.1 no upstream"]


def wait(
    attempts: int, result: Result = Result.TEMPORARY, reply: str = "", chance: float = 0.0
) -> float:
    at = SCHEDULE.after(NOW, attempts, result, reply, expires=END, chance=chance)
    return (at - NOW).total_seconds()


def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    assert [wait(n) for n in range(1, 9)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert wait(10_000) == 3600


@pytest.mark.parametrize(
    ("result", "reply", "first"),
    [
        (Result.UNSENT, "451 4.4.1 no upstream", 30),
        (Result.UNKNOWN, "", 60),
        (Result.TEMPORARY, "451 4.3.2 later", 60),
        (Result.TEMPORARY, "450 4.7.1 greylisted", 120),
        (Result.TEMPORARY, "452 4.2.2 full", 360),
        (Result.TEMPORARY, "451 4.3.1 no room", 360),
    ],
)
def test_the_class_of_the_reply_sets_the_first_wait(
    result: Result, reply: str, first: float
) -> None:
    assert wait(1, result, reply) == first


@given(
    st.integers(0, 200),
    st.sampled_from(list(Result)),
    st.sampled_from(REPLIES),
    st.floats(0, 1, exclude_max=True),
    st.integers(-10, 10**6),
)
def test_always_later_never_after_the_end(
    attempts: int, result: Result, reply: str, chance: float, left: int
) -> None:
    expires = NOW + timedelta(seconds=left)
    at = SCHEDULE.after(NOW, attempts, result, reply, expires=expires, chance=chance)
    assert at >= NOW
    assert at <= max(expires, NOW)
    assert at - NOW <= timedelta(hours=1)
    if left > 3600:
        whole = SCHEDULE.after(NOW, attempts, result, reply, expires=expires, chance=0)
        assert (whole - NOW) * 0.6 <= at - NOW <= whole - NOW


@pytest.mark.parametrize(
    ("result", "reply", "kind"),
    [
        (Result.TEMPORARY, "451 4.3.2 later", "temporary"),
        (Result.TEMPORARY, "452 4.3.1 no room", "full"),
        (Result.TEMPORARY, "450 4.7.1 greylisted", "policy"),
        (Result.UNSENT, "451 4.4.1 no upstream", "unreachable"),
        (Result.UNKNOWN, "451 4.4.2 lost", "unknown"),
    ],
)
def test_each_kind_has_a_schedule_of_its_own_where_it_is_given(
    result: Result, reply: str, kind: Kind
) -> None:
    usual = schedule(timedelta(minutes=1), timedelta(hours=1), {})
    own = schedule(timedelta(minutes=1), timedelta(hours=1), {kind: "7s/20s"})

    def waits(of: Schedule) -> list[float]:
        at = [of.after(NOW, n, result, reply, expires=END, chance=0) for n in range(1, 5)]
        return [(one - NOW).total_seconds() for one in at]

    assert waits(own) == [7, 14, 20, 20]
    assert {k: v for k, v in own.waits.items() if k != kind} == {
        k: v for k, v in usual.waits.items() if k != kind
    }
