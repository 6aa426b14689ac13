"""The arithmetic of `bench.peers`: which rounds count, and what a row says of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.race.judge import DRIFT, HEAD, TRIES, Aim, Row, compared, differ, judged, number, table

RATES = st.floats(1, 1e6)


@given(RATES, RATES)
def test_direct_rates_differ_by_the_share_of_the_higher_whatever_their_order(
    one: float, two: float
) -> None:
    assert differ(one, two) == differ(two, one)
    assert differ(one, two) == (min(one, two) < (1 - DRIFT) * max(one, two)) or one == two


def test_a_fifth_is_still_judged() -> None:
    assert not differ(1000, 800)
    assert differ(1000, 799)


def course(rates: list[float]) -> Iterator[float]:
    yield from rates


@pytest.mark.parametrize(
    ("direct", "means", "refused"),
    [
        ([100, 100, 90, 110], [100, 100], []),
        ([100, 79, 100, 100, 120, 100], [100, 110], [(100, 79)]),
        ([100, 10] * 2 * TRIES, [], [(100, 10)] * 2 * TRIES),
        ([100, 100, *[100, 10] * (2 * TRIES - 1)], [100], [(100, 10)] * (2 * TRIES - 1)),
    ],
    ids=["steady", "one-again", "never", "then-never"],
)
def test_unsteady_rounds_are_refused_and_run_again_within_bounds(
    direct: list[float], means: list[float], refused: list[tuple[float, float]]
) -> None:
    rates = course(direct)
    between = iter(range(1000))
    said: list[tuple[float, float]] = []
    got = list(judged(2, lambda: next(rates), lambda: next(between), lambda *two: said.append(two)))
    assert [mean for mean, _ in got] == means
    assert said == refused
    assert next(rates, None) is None  # no run more than needed
    assert next(between) == len(direct) // 2


def row(*ratios: float, aim: Aim | None = None) -> Row:
    made = Row("key", "what", aim)
    for ratio in ratios:
        made.add(ratio, f"figures of {ratio:g}")
    return made


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_median_range_and_the_figures_of_its_median_round() -> None:
    made = row(3, 1, 2, aim=Aim(2, 2.7))
    made.refused = 1
    assert cells(made.text()) == [
        *("what", "**2.00** (1.00 to 3.00)", "2", "2.7", "yes", "3, 1 refused"),
        "figures of 2",
    ]
    assert len(cells(made.text())) == len(cells(HEAD.splitlines()[0]))


def test_a_row_without_a_round_is_not_judged() -> None:
    made = Row("key", "what", Aim(2, 3))
    made.refused = 15
    assert cells(made.text())[1:] == [
        *("not judged: direct rates differed", "2", "3", "", "0, 15 refused", "")
    ]


@pytest.mark.parametrize(
    ("aim", "value", "word"),
    [
        (Aim(2, 3), 3, "aim"),
        (Aim(2, 3), 2, "yes"),
        (Aim(2, 3), 1.99, "**no**"),
        (Aim(1, 0.5, below=True), 0.5, "aim"),
        (Aim(1, 0.5, below=True), 1, "yes"),
        (Aim(1, 0.5, below=True), 1.01, "**no**"),
    ],
    ids=lambda value: str(value) if not isinstance(value, Aim) else f"{value.below}",
)
def test_an_aim_is_met_at_its_value(aim: Aim, value: float, word: str) -> None:
    assert aim.met(value) == word


@pytest.mark.parametrize(
    ("median", "below", "fell", "word"),
    [
        (0.79, False, True, "FELL"),
        (0.81, False, False, "as recorded"),
        (1.3, False, False, "better"),
        (1.3, True, True, "FELL"),
        (0.7, True, False, "better"),
    ],
    ids=["lower", "within", "higher", "more-cpu", "less-cpu"],
)
def test_what_fell_is_told(median: float, below: bool, fell: bool, word: str) -> None:
    made = row(median)
    made.less_is_better = below
    worse, line = compared(made, {"median": 1.0})
    assert worse is fell
    assert line.endswith(f": {word}")


def test_nothing_falls_without_a_record_or_a_round() -> None:
    assert compared(row(1), None)[0] is False
    assert compared(Row("key", "what"), {"median": 1.0}) == (
        False,
        "what: not judged, the direct rates differed",
    )


def test_numbers_have_as_many_digits_as_they_bear() -> None:
    assert [number(value) for value in (0.314, 9.99, 31.4, 314.15)] == [
        *("0.31", "9.99", "31.4", "314")
    ]


def test_a_table_has_a_rule_as_wide_as_its_head() -> None:
    assert table("| a | b |", [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
