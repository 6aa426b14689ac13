"""The threads that take turns at Python share a core; all others have every core."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from proxy import cores

ALL = os.sched_getaffinity(0)

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="there is but one core to choose from")


@contextmanager
def waiting(*names: str) -> Iterator[dict[str, int]]:
    """Threads of these names that do nothing, and their ids."""
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, name=name) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield {thread.name: thread.native_id or 0 for thread in threads}
    finally:
        done.set()
        for thread in threads:
            thread.join()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.001)


async def test_hot_threads_share_the_core_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_PAUSE", 0.01)
    of = os.sched_getaffinity
    with waiting("hot", "cold") as ids:
        task = asyncio.create_task(cores.together({"hot"}))
        await until(lambda: len(of(0)) == 1 and of(ids["hot"]) == of(0))
        assert of(ids["cold"]) == ALL
        with waiting("late") as later:  # made by a thread that is held
            await until(lambda: of(later["late"]) == ALL)
        task.cancel()
        await asyncio.wait({task})
        assert of(0) == of(ids["hot"]) == of(ids["cold"]) == ALL


async def test_it_follows_who_gives_the_process_other_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "_PAUSE", 0.01)
    task = asyncio.create_task(cores.together(set()))
    await until(lambda: len(os.sched_getaffinity(0)) == 1)
    try:
        (here,) = os.sched_getaffinity(0)
        other = {min(ALL - {here})}
        os.sched_setaffinity(0, other)
        await until(task.done)  # one core is left, so there is nothing to choose
        assert os.sched_getaffinity(0) == other
    finally:
        task.cancel()
        os.sched_setaffinity(0, ALL)


async def test_a_sandbox_without_the_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: int, cores: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    await asyncio.wait_for(cores.together(set()), 20)
    assert os.sched_getaffinity(0) == ALL
