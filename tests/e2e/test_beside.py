"""The work beside the mail goes on, whatever happens to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_sluis import World, until

from proxy import log

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]


@pytest.fixture
def logged() -> Iterator[io.BytesIO]:
    stream = io.BytesIO()
    log.configure(format="json", stream=stream)
    yield stream
    log.configure()


async def test_what_is_not_foreseen_ends_no_work_beside_the_mail(
    world: Make, monkeypatch: pytest.MonkeyPatch, logged: io.BytesIO
) -> None:
    """Its end would be noticed late: `/readyz` would go on saying what it said then."""
    looked = 0

    def writable(path: Path) -> bool:
        nonlocal looked
        looked += 1
        if looked == 1:
            raise RuntimeError("nobody thought of it")
        return looked < 3

    monkeypatch.setattr("proxy.app._PULSE", 0.01)
    monkeypatch.setattr("proxy.app._writable", writable)
    w = await world()

    async def told() -> bool:
        return "data_dir" in w.sluis.health.degraded

    await until(told)
    [line] = [x for x in logged.getvalue().splitlines() if b'"incident"' in x]
    assert b"nobody thought of it" in line
