"""Whether work grows with its input and no faster, told by two sizes of one input."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

Text = TypeVar("Text", bytes, str)

#: Four times the input may cost so much more: linear work costs 4 times as much, quadratic 16.
_MORE = 10
_TRIES = 5


def assert_linear(work: Callable[[Text], object], whole: Text) -> None:
    """Compare the processor time of the first quarter of an input with that of all of it.

    No ceiling in seconds: the two run beside each other, and one pair of several will do.
    """
    quarter = whole[: len(whole) // 4]
    seen = []
    for _ in range(_TRIES):
        small, large = _cost(work, quarter), _cost(work, whole)
        if large <= _MORE * small:
            return
        seen.append(large / small)
    raise AssertionError(f"four times the input costs {[round(ratio) for ratio in seen]} times")


def _cost(work: Callable[[Text], object], text: Text) -> int:
    gc.collect()
    gc.disable()  # how often the collector passes over all objects grows faster than their number
    try:
        started = time.process_time_ns()
        work(text)
        spent = time.process_time_ns() - started
    finally:
        gc.enable()
    return max(spent, 1_000_000)  # what is cheaper than a millisecond is all noise
