"""A process that keeps things beside a store that cannot be opened, or merges them; to be killed.

What was acknowledged is printed, one line of JSON a thing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from store_values import ANNA, after, event, intake, outcome, person, row

from proxy.errors import StoreUnavailable
from proxy.fallback.file import open_file
from proxy.fallback.keep import Keep
from proxy.fallback.records import decoded
from proxy.fallback.shelter import Shelter
from proxy.fallback.store import FallbackStore
from proxy.store.codec import UNDEDUPED
from proxy.store.model import Intake, Subject
from proxy.store.sqlite import SqliteStore, open_sqlite


class Silent:
    """Telemetry that counts nothing but second copies."""

    def __init__(self) -> None:
        self.ambiguous = 0

    def store_error(self, operation: str) -> None:
        """Count nothing."""

    def ambiguous_retry(self) -> None:
        """A second copy may be out."""
        self.ambiguous += 1

    def undeduped(self) -> None:
        """Count nothing."""


def say(**words: object) -> None:
    """Report, in one system call."""
    os.write(1, json.dumps(words).encode() + b"\n")


def without(ref: str, copy_key: str, who: Subject = ANNA) -> Intake:
    """One recipient's mail that is no marketing, decided without the store."""
    made = intake(ref, row(copy_key, who, marketing=False), stream="orders")
    submission = replace(made.submission, category="transactional", marks=(UNDEDUPED,))
    return replace(made, submission=submission, undeduped=True)


def over(directory: Path, *, down: bool, telemetry: Silent | None = None) -> FallbackStore:
    """A store with what stands beside it; `down`: it cannot be opened."""
    file, payloads = open_file(directory)
    keep = Keep(file, decoded(payloads))

    async def opening() -> SqliteStore:
        if down:
            raise StoreUnavailable("locked")
        return await open_sqlite(
            directory / "store.db", instance="a", owner=True, beside=keep.overlay
        )

    shelter = Shelter(
        directory, keep.overlay, max_age=timedelta(days=1), clock=lambda: after(3600)
    )
    return FallbackStore(opening, keep, shelter, telemetry=telemetry or Silent())


async def keep(directory: Path, count: int) -> None:
    """Opt-outs, and attempts with a result, and one without."""
    store = over(directory, down=True)
    await store.start()
    for i in range(count):
        name = f"{os.getpid()}.{i}"
        await store.oppose(event(name, person(name)))
        say(opposed=name)
        [fate] = (await store.claim(without(f"r{name}", f"k{name}"))).fates
        say(begun=f"r{name}")
        await store.record([outcome(fate)])
        say(relayed=f"r{name}")
    await store.claim(without(f"r{os.getpid()}.open", f"k{os.getpid()}.open"))
    await store.close()


async def merge(directory: Path) -> None:
    """What a start does."""
    store = over(directory, down=False)
    await store.start()
    say(up=store.down is None, left=store.pending()[0])
    await store.close()


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if sys.argv[2] == "keep":
        asyncio.run(keep(where, int(sys.argv[3])))
    else:
        asyncio.run(merge(where))
