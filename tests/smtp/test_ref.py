"""References sort by time and never repeat, whatever the clock does."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ref import Chance, Refs, made_at, new_ref

_TIMES = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - made aware by the strategy
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.lists(_TIMES, min_size=1, max_size=50))
def test_references_rise_and_differ_even_when_the_clock_goes_back(times: list[datetime]) -> None:
    source = Refs()
    refs = [source(at) for at in times]
    assert refs == sorted(set(refs))
    assert all(
        len(ref) == 16 and set(ref) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for ref in refs
    )


@given(_TIMES)
def test_a_fresh_reference_holds_its_time_to_the_millisecond(at: datetime) -> None:
    assert timedelta() <= at - made_at(Refs()(at)) < timedelta(milliseconds=1)


def test_the_process_has_one_source() -> None:
    at = datetime(2026, 11, 24, 8, tzinfo=UTC)
    many = [new_ref(at) for _ in range(1000)]
    assert many == sorted(set(many))


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        Refs()(datetime(2026, 11, 24))  # noqa: DTZ001


@pytest.mark.parametrize("text", ["", "01J9ZV3K7Q8M4T", "IIIIIIIIIIIIIIII"])
def test_what_is_no_reference_has_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"16 characters|not found"):
        made_at(text)


@given(st.lists(st.integers(min_value=1, max_value=4096), min_size=1, max_size=60))
def test_chance_gives_what_is_asked_for(sizes: list[int]) -> None:
    drawn = Chance()
    assert [len(drawn(size)) for size in sizes] == sizes


def test_chance_gives_nothing_twice() -> None:
    drawn = Chance()
    assert len({drawn(16) for _ in range(10_000)}) == 10_000


def test_a_child_does_not_draw_what_its_parent_draws() -> None:
    drawn = Chance()
    drawn(16)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, drawn(16))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ours, 16) != drawn(16)
    os.close(ours)
    os.close(theirs)
