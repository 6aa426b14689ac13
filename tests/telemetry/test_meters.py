"""Our counters and histograms show what those of prometheus_client would."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as Theirs
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from proxy import log, meters
from proxy.meters import OTHER

BOUNDS = (0.00025, 0.001, 0.5, 1, 5, 60)


def both(make_ours: Any, make_theirs: Any) -> tuple[CollectorRegistry, Any, Any]:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    return ours, make_ours(ours), (theirs, make_theirs(theirs))


def shown(registry: CollectorRegistry) -> list[list[str]]:
    made = generate_latest(registry), openmetrics(registry)  # type: ignore[no-untyped-call]
    return [
        [line for line in text.decode().split("\n") if "_created" not in line] for text in made
    ]


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100)), max_size=50))
def test_a_histogram(values: list[float]) -> None:
    registry, ours, (other, theirs) = both(
        lambda r: meters.Histogram("sluis_x_seconds", "Time.", BOUNDS, r),
        lambda r: Theirs("x_seconds", "Time.", namespace="sluis", registry=r, buckets=BOUNDS),
    )
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    assert shown(registry) == shown(other)


LABELS = st.tuples(st.sampled_from(["a", "b", 'c"\n\\']), st.sampled_from(["x", "y"]))


@settings(deadline=None)
@given(st.lists(LABELS, max_size=50))
def test_a_counter(events: list[tuple[str, str]]) -> None:
    registry, ours, (other, theirs) = both(
        lambda r: meters.Counters(
            "sluis_y_total", "Events.", ("one", "two"), r, lambda labels: labels, most=6
        ),
        lambda r: Counter("y_total", "Events.", ("one", "two"), namespace="sluis", registry=r),
    )
    for labels in events:
        ours.add(labels)
        theirs.labels(*labels).inc()
    assert shown(registry) == shown(other)


def test_a_counter_has_a_bounded_set_of_children() -> None:
    registry = CollectorRegistry()
    counters = meters.Counters(
        *("sluis_z_total", "Events.", ("one", "two"), registry, lambda labels: labels),
        most=2,
        spare=1,
        rest=lambda labels: (labels[0], OTHER),
    )
    counters.make([("a", "1"), ("a", "2"), ("a", "3")])
    for n in range(1, 10):
        counters.add(("a", str(n)))
    counters.add(("b", "1"))
    family = next(iter(counters.collect()))
    assert {tuple(s.labels.values()): s.value for s in family.samples} == {
        ("a", "1"): 1,
        ("a", "2"): 1,
        ("a", OTHER): 7,
        (OTHER, OTHER): 1,
    }
    assert counters.room == 0


def test_no_event_is_lost_between_threads() -> None:
    registry = CollectorRegistry()
    counters = meters.Counters("a_total", "Events.", ("one",), registry, lambda v: v, most=1)
    histogram = meters.Histogram("b", "Events.", (1,), registry)

    def work() -> None:
        for _ in range(2_000):
            counters.add(("x",))
            histogram.observe(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.get_sample_value("a_total", {"one": "x"}) == 16_000
    assert registry.get_sample_value("b_sum") == 16_000
    assert registry.get_sample_value("b_bucket", {"le": "1.0"}) == 16_000


class LongWay(log._Limiter):
    """Each event looks at everything, also where its identity had its share."""

    def ask(self, identity: tuple[str, ...], burst: int) -> tuple[int | None, Any]:
        now = self._clock()
        ended = self._sweep(now, keep=identity)
        if identity not in self._seen and len(self._seen) >= log._MAX_IDENTITIES:
            identity = (identity[0], "other")
        state = self._seen.get(identity)
        if state is None or now >= state[0]:
            held = int(state[2]) if state else 0
            self._seen[identity] = [now + self.window, 1, 0]
            return held, ended
        if state[1] < burst:
            state[1] += 1
            return 0, ended
        state[2] += 1
        return None, ended


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 0, 0, 0.5, 7, 61])), max_size=120),
    st.integers(1, 3),
)
def test_events_are_held_back_as_the_long_way_does(
    events: list[tuple[int, float]], burst: int
) -> None:
    now = 0.0
    short, long = (kind(60.0, lambda: now) for kind in (log._Limiter, LongWay))
    for kind, passed in events:
        now += passed
        identity = ("message.attempted", str(kind))
        held, ended = short.ask(identity, burst)
        expected, told = long.ask(identity, burst)
        assert (held, list(ended)) == (expected, list(told))
    assert short.flush() == long.flush()


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_a_level_that_is_not_written_costs_no_share(level: log.Level) -> None:
    stream = io.BytesIO()
    log.configure(level, stream=stream)
    try:
        log.message_received(ref="r", listener="l", size=1, recipients=1)
        log.message_attempted(ref="r", n=1, result="accepted", stage="dot")
        log.recipient_decided(
            ref="r", n=1, stream="s", verdict="allow", reason="x", pack="", rule="", mode="enforce"
        )
        lines = {"debug": 3, "info": 2, "warning": 0}[level]
        assert stream.getvalue().count(b"\n") == lines
        assert len(log._limiter._seen) == lines
    finally:
        log.configure()
