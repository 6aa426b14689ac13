"""Counters and histograms that cost little to feed, shown as families of prometheus_client.

Its own children take a lock, check an exemplar and try one bucket after another for each event: for
one mail that was more than the decision. Safe in threads; values are read when somebody asks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]

OTHER = "other"

_lock = threading.Lock()


@lru_cache(maxsize=512)
def reply_labels(command: str, code: int) -> Labels:
    """A command and the code of its reply as labels."""
    return command.lower(), str(code)


class Counters(Collector):
    """One labelled counter, with a bounded set of children.

    `most` as they come, with labels closed by `close`; then `spare` more with labels folded by
    `rest`; then one, all `other`.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        close: Callable[[Labels], Labels],
        *,
        most: int,
        spare: int = 0,
        rest: Callable[[Labels], Labels] = lambda labels: labels,
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._close = close
        self._rest = rest
        self._counts: dict[Labels, int] = {}
        self.most = most
        self.spare = spare
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The family as it is now."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        with _lock:
            counts = list(self._counts.items())
        for labels, count in counts:
            family.add_metric(labels, float(count))
        yield family

    @property
    def room(self) -> int:
        """How many children more there can ever be."""
        return self.most + self.spare + 1 - len(self._counts)

    def make(self, all_labels: Iterable[Labels]) -> None:
        """Create children at zero, in order of importance, while there is room."""
        for labels in all_labels:
            if labels not in self._counts and len(self._counts) < self.most:
                self._counts[labels] = 0

    def add(self, labels: Labels) -> None:
        """Count one."""
        counts = self._counts
        with _lock:
            if labels not in counts:
                labels = self._late(labels)
            counts[labels] += 1

    def _late(self, labels: Labels) -> Labels:
        closed = self._close(labels)
        tries = (
            (closed, self.most),
            (self._rest(closed), self.most + self.spare),
            ((OTHER,) * len(labels), self.most + self.spare + 1),
        )
        for wanted, limit in tries:
            if wanted in self._counts:
                return wanted
            if len(self._counts) < limit:
                self._counts[wanted] = 0
                return wanted
        raise AssertionError("the last try always has room")


class Histogram(Collector):
    """One histogram without labels. `bounds` are the upper ends of its buckets, ascending."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(map(float, bounds))
        self._names = [*map(floatToGoString, self._bounds), "+Inf"]
        self._counts = [0] * len(self._names)
        self._sum = 0.0
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The family as it is now."""
        with _lock:
            counts, sum_ = list(self._counts), self._sum
        buckets = []
        total = 0
        for name, count in zip(self._names, counts, strict=True):
            total += count
            buckets.append((name, float(total)))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=sum_)

    def observe(self, value: float) -> None:
        """Count one value; one that equals a bound lies within it."""
        at = bisect_left(self._bounds, value)
        with _lock:
            self._counts[at] += 1
            self._sum += value
