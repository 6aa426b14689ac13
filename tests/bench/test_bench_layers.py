"""Whose a sample of the profile is, and which calls are counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from bench.race.layers import DISK, GIL, LOOP, WORK, calls, layer, samples, shares
from bench.race.process import cpu
from bench.race.profile import _interpreter

MAIN = "thread (7): MainThread"
WRITER = "thread (8): Thread-1 (_connection_worker_thread)"
SERVE = "serve (proxy/cli/main.py:70)"


@pytest.mark.parametrize(
    ("stack", "name"),
    [
        ([SERVE, "Runner.run (asyncio/runners.py:118)"], LOOP),
        ([SERVE, "take (proxy/smtp/session.py:134)"], "session"),
        ([SERVE, "take (proxy/smtp/session.py:134)", "rule (proxy/judge.py:185)"], "judging"),
        ([SERVE, "rule (proxy/judge.py:185)", "decide (policy/engine.py:9)"], "judging"),
        ([SERVE, "rule (proxy/judge.py:185)", "loads (json/__init__.py:9)"], "judging"),
        ([SERVE, "x (proxy/dispatch.py:5)", "send (proxy/delivery/channel.py:14)"], "delivery"),
        ([SERVE, "x (proxy/dispatch.py:5)", "msg (structlog/_base.py:4)"], "logging and metrics"),
        ([SERVE, "x (proxy/gate.py:5)", "find (proxy/message/header.py:4)"], "reading"),
        (["run (threading.py:982)", "_worker (aiosqlite/core.py:59)"], "store"),
        (["run (threading.py:982)"], LOOP),
        ([], LOOP),
    ],
    ids=str,
)
def test_the_innermost_frame_with_a_layer_counts(stack: list[str], name: str) -> None:
    assert layer(stack) == name


def test_times_of_a_thread_add_up() -> None:
    found = samples(
        [
            f"{MAIN};{SERVE};take (proxy/smtp/session.py:134) 30",
            f"{MAIN};{SERVE} 10",
            f"{WRITER};run (proxy/store/group.py:5) 4",
            "no thread here 5",
            "",
        ]
    )
    assert found.roles == {7: "event loop", 8: "store writer"}
    made = shares(
        found,
        {
            7: Counter({"": 80, WORK: 20}),
            8: Counter({"": 10, GIL: 20, DISK: 30, WORK: 40}),
            9: Counter({WORK: 100}),
            10: Counter(),
        },
    )
    assert made["event loop"]["session"] == pytest.approx(0.6)
    assert made["event loop"][LOOP] == pytest.approx(0.2)
    assert made["store writer"]["store"] == pytest.approx(0.1)
    assert made["store writer"][GIL] == pytest.approx(0.2)
    assert made["store writer"][DISK] == pytest.approx(0.3)
    for name in made:
        assert sum(made[name].values()) == pytest.approx(1)
    assert set(made) == {"event loop", "store writer", "others"}


def test_calls_are_told_apart_by_what_they_go_to() -> None:
    assert calls([
        "100 futex(0x7faa, FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME, 0 <unfinished ...>",
        "100 <... futex resumed>) = 0",
        '100 sendto(9<socket:[123]>, "250 ok", 6, 0, NULL, 0) = 6',
        '101 write(14<socket:[77]>, "x", 1) = 1',
        '101 write(5<anon_inode:[eventfd]>, "\\1", 8) = 8',
        '101 pwrite64(6</data/sluis.db-wal>, "x", 24, 0) = 24',
        "101 fdatasync(6</data/sluis.db-wal>) = 0",
        "100 epoll_pwait(4<anon_inode:[eventpoll]>, [], 1024, 3, NULL, 8) = 0",
        '100 read(9<socket:[123]>, "MAIL", 65536) = 4',
        '100 read(6</data/sluis.db>, "x", 16) = 16',
        "--- stopped by SIGINT ---",
    ]) == {
        "futex": 1,
        "socket writes": 2,
        "wake-ups of the loop": 1,
        "file writes": 1,
        "sync": 1,
        "epoll": 1,
        "socket reads": 1,
    }  # fmt: skip


def test_the_interpreters_data_is_found() -> None:
    own = _interpreter(os.getpid())
    assert own
    assert all(low < high for low, high in own)


def test_the_cpu_of_processes_that_are_no_children_of_each_other_is_added_up() -> None:
    work = "import time\nwhile time.process_time() < 0.2: pass"
    two = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(2)]
    for process in two:  # ended, but still there to be read
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    each = [cpu(process.pid) for process in two]
    both = cpu([process.pid for process in two])
    for process in two:
        process.wait()
    assert min(each) >= 0.15  # ticks of 10 ms
    assert both == pytest.approx(sum(each))
