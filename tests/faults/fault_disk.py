"""A disk that is full, and then is not: a small tmpfs under the data directory, where we may mount.

The relay is not restarted for it: what it cannot write it does not promise, and it goes on by
itself once there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_chain import Chain, load
from fault_checker import Verdict
from fault_points import MODES, Point
from fault_site import DiedError, until

_SIZE = 8 * 1024 * 1024


def may_mount(folder: Path) -> bool:
    """Whether a tmpfs can be mounted here."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or not _mount(folder):
        return False
    _unmount(folder)
    return True


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """8 MiB under `folder`, gone afterwards."""
    folder.mkdir(parents=True)
    if not _mount(folder):
        raise PermissionError(f"a tmpfs cannot be mounted at {folder}")
    try:
        yield folder
    finally:
        _unmount(folder)


def fill(folder: Path, leave: int) -> Path:
    """Write until only `leave` octets are free; the file that takes the room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(folder).free > leave:
            file.write(b"\0" * min(65536, max(4096, shutil.disk_usage(folder).free - leave)))
    return ballast


async def run_full_disk(
    template: Path, folder: Path, host: str, rounds: int
) -> tuple[Verdict, list[Point]]:
    """Fill and free the disk under load; every second round the process is killed while it is
    full."""
    chain = await Chain.begin(None, folder, f"disk {rounds}", host, outbox_free="1B")
    points = []
    with small_disk(chain.site.data) as disk:
        shutil.copytree(template, disk, dirs_exist_ok=True)
        for number in range(rounds):
            point = Point(number, "a full disk", MODES[number % len(MODES)], "none")
            points.append(point)
            await _round(chain, point, disk, killed=number % 2 == 1)
        verdict = await chain.end()
        if verdict.violations:
            shutil.copytree(disk, folder / "data-kept")
    return verdict, points


async def _round(chain: Chain, point: Point, disk: Path, *, killed: bool) -> None:
    served = await chain.site.serve()
    working = asyncio.create_task(load(chain, point, served))
    try:
        await _answers(chain, 10)
        ballast = fill(disk, chain.chance.choice((0, 4096, 40_000, 150_000)))
        await _answers(chain, 25)
        if not killed:
            ballast.unlink()
            told = len(chain.records.told)
            if not await until(lambda: any(t.code == 250 for t in chain.records.told[told:]), 40):
                raise TimeoutError("there is room again, and nothing is taken")
        await served.kill()
        if killed:
            try:
                await (await chain.site.serve()).kill()
            except DiedError as died:
                if died.status != os.EX_UNAVAILABLE:
                    raise
            ballast.unlink()
    finally:
        await served.kill()
        await working


async def _answers(chain: Chain, count: int, seconds: float = 4.0) -> None:
    """Wait for so many more answers of any kind, but not for ever: a full disk gives few."""
    began = len(chain.records.told)
    await until(lambda: len(chain.records.told) - began >= count, seconds)
