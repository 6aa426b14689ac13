"""What a row of the table is: ratios of rounds, which rounds count, and what is said of them.

No process and no clock here: the arithmetic alone, so that tests can hold it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

#: A round is not judged when its two direct rates differ by more than this share of the higher.
DRIFT = 0.2

#: So many rounds are run for each that shall count, where the machine is not steady.
TRIES = 3

HEAD = (
    "| what | measured | at least | aim | reached | rounds | figures of the median round |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio should reach; `below`: at most instead of at least."""

    least: float
    aim: float
    below: bool = False

    def met(self, value: float) -> str:
        """In a word."""
        if self.below:
            return "aim" if value <= self.aim else "yes" if value <= self.least else "**no**"
        return "aim" if value >= self.aim else "yes" if value >= self.least else "**no**"


@dataclass(slots=True)
class Row:
    """One line of the table: ratios of the rounds that were judged.

    `key` is its name in the record; `less_is_better` where there is no aim to say so.
    """

    key: str
    name: str
    aim: Aim | None = None
    less_is_better: bool = False
    ratios: list[float] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    refused: int = 0

    def add(self, ratio: float, figures: str = "") -> None:
        """A round that counts."""
        self.ratios.append(ratio)
        self.figures.append(figures)

    @property
    def median(self) -> float:
        """Of the ratios; there must be one."""
        return statistics.median(self.ratios)

    @property
    def below(self) -> bool:
        """Whether less is better."""
        return self.aim.below if self.aim else self.less_is_better

    def text(self) -> str:
        """As a row of Markdown, under `HEAD`."""
        least, aim = "", ""
        if self.aim:
            least = ("at most " if self.aim.below else "") + f"{self.aim.least:g}"
            aim = f"{self.aim.aim:g}"
        rounds = f"{len(self.ratios)}" + (f", {self.refused} refused" if self.refused else "")
        if not self.ratios:
            words = "not judged: direct rates differed"
            return f"| {self.name} | {words} | {least} | {aim} | | {rounds} | |"
        ordered = sorted(self.ratios)
        figure = self.figures[self.ratios.index(ordered[len(ordered) // 2])]
        return (
            f"| {self.name} | **{number(self.median)}**"
            f" ({number(ordered[0])} to {number(ordered[-1])}) | {least} | {aim}"
            f" | {self.aim.met(self.median) if self.aim else ''} | {rounds} | {figure} |"
        )


def number(value: float) -> str:
    """Two digits after the point below ten, one below a hundred, none above."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def differ(first: float, second: float) -> bool:
    """Whether two direct rates of one round are too far apart to judge what lies between them."""
    return abs(first - second) > DRIFT * max(first, second)


def judged(
    rounds: int,
    direct: Callable[[], float],
    between: Callable[[], T],
    refuse: Callable[[float, float], None],
) -> Iterator[tuple[float, T]]:
    """Direct, what lies between, direct again; yields the mean of both and what was measured.

    Rounds whose direct rates differ are told to `refuse` and run again, `TRIES` times the rounds
    at most: so fewer than `rounds` may come, or none.
    """
    done = 0
    for _ in range(rounds * TRIES):
        before = direct()
        got = between()
        after = direct()
        if differ(before, after):
            refuse(before, after)
            continue
        yield (before + after) / 2, got
        done += 1
        if done == rounds:
            return


def compared(row: Row, recorded: Mapping[str, float] | None) -> tuple[bool, str]:
    """Whether `row` fell by more than `DRIFT` since it was recorded, and a line that says so."""
    if not row.ratios:
        return False, f"{row.name}: not judged, the direct rates differed"
    if recorded is None:
        return False, f"{row.name}: {number(row.median)}; nothing recorded to compare with"
    was = recorded["median"]
    change = row.median / was - 1
    worse = change if row.below else -change
    word = "FELL" if worse > DRIFT else "better" if worse < -DRIFT else "as recorded"
    line = f"{row.name}: {number(row.median)}, recorded {number(was)} ({change:+.0%}): {word}"
    return worse > DRIFT, line


def table(head: str, lines: Sequence[Sequence[str]]) -> str:
    """Markdown: `head` has its columns between bars."""
    columns = head.count("|") - 1
    rule = "|" + "---|" * columns
    return "\n".join([head, rule, *(f"| {' | '.join(line)} |" for line in lines)])
