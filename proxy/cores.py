"""Keep the threads that take turns at Python on one core.

Only one of them runs Python at a time: a turn that goes to a thread on another core costs an
interrupt there and finds its cache cold, some tens of microseconds a dozen times a mail. Which core
that is stays the scheduler's choice: now and then they are let go for a moment, and held where the
event loop is found. All other threads (signatures, hashes, passwords) may use every core.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Set as AbstractSet
from pathlib import Path

#: Seconds between two looks at where the loop runs best, and for how long it is let go for that.
_PAUSE = 1.0
_MOMENT = 0.01

#: Field 39 of proc_pid_stat(5), counted from behind the name: the core that it ran on last.
_PROCESSOR = 36


async def together(names: AbstractSet[str]) -> None:
    """Hold the calling thread and those of these names on one core, until cancelled.

    Returns at once where there is but one core, or no such call (it is Linux's).
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = held = os.sched_getaffinity(0)
    try:
        while True:
            now = os.sched_getaffinity(0)
            if now != held:  # somebody outside gave us other cores
                allowed = now
            if len(allowed) < 2:
                return
            hot = _threads(names)
            _hold(hot, allowed)
            await asyncio.sleep(_MOMENT)
            held = {_core()} & allowed or allowed
            _hold(hot, held)
            # A thread inherits from the one that makes it.
            _hold({t.native_id for t in threading.enumerate() if t.native_id} - hot, allowed)
            await asyncio.sleep(_PAUSE)
    except OSError:
        return  # a sandbox without this call
    finally:
        _let_go(allowed)


def _threads(names: AbstractSet[str]) -> set[int]:
    found = {t.native_id for t in threading.enumerate() if t.name in names and t.native_id}
    return {*found, threading.get_native_id()}


def _hold(threads: AbstractSet[int], cores: AbstractSet[int]) -> None:
    for thread in threads:
        try:
            if os.sched_getaffinity(thread) != cores:
                os.sched_setaffinity(thread, cores)
        except ProcessLookupError:  # it ended
            continue


def _let_go(cores: AbstractSet[int]) -> None:
    try:
        _hold({t.native_id for t in threading.enumerate() if t.native_id}, cores)
    except OSError:
        return


def _core() -> int:
    """The core that the calling thread ran on last."""
    stat = Path("/proc/thread-self/stat").read_text(encoding="ascii", errors="replace")
    return int(stat.rpartition(")")[2].split()[_PROCESSOR])
