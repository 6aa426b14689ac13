"""`sluis preflight`: addresses a second, and whether memory grows with the list.

    python -m bench.preflight [addresses]

A ledger of that many people on disk, two events each; lists of a tenth of them and of all of
them, with files written. Memory is the most that Python held in a run of its own (tracemalloc).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

from policy.address import parse
from policy.model import Box, Contact, ContactVia, Objection, OptIn, Via
from proxy.config import Settings, load
from proxy.inquiry import Inquiry
from proxy.keys import Keys, load_keys
from proxy.lists import ListFile
from proxy.packs import builtin_packs
from proxy.preflight import Files, Preflight, Tally
from proxy.store.model import NewAttributes, NewEvent, Store
from proxy.store.sqlite import open_sqlite

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
THEN = NOW - timedelta(days=100)


async def fill(store: Store, keys: Keys, people: int) -> None:
    """Each opted in; one of ten objected later, the others clicked."""
    for start in range(0, people, 1000):
        events: list[NewEvent] = []
        attributes: list[NewAttributes] = []
        for n in range(start, min(people, start + 1000)):
            subject = keys.subject("acme", parse(f"person{n}@example.nl"))
            detail = Objection(via=Via.FORM) if n % 10 == 0 else Contact(via=ContactVia.CLICK)
            for at, what in (
                (THEN, OptIn(box=Box.UNTICKED, topics=("newsletter",))),
                (THEN + timedelta(days=n % 90), detail),
            ):
                events.append(
                    NewEvent(
                        uid=f"{n}.{type(what).__name__}",
                        subject=subject,
                        detail=what,
                        at=at,
                        recorded_at=at,
                        evidence="form:signup-v3",
                        address=f"person{n}@example.nl",
                    )
                )
            values = {"country": "NL", "kind": "consumer"}
            attributes.append(NewAttributes(subject=subject, at=THEN, values=values))
        await store.append(events, attributes)


async def once(
    path: Path, settings: Settings, keys: Keys, store: Store, rows: int
) -> tuple[Tally, float]:
    """One run over a list of `rows`; its tally and seconds."""
    file = path / f"{rows}.csv"
    with file.open("w", encoding="utf-8") as out:
        out.write("name;email\n")
        out.writelines(f"Person {n};person{n}@example.nl\n" for n in range(rows))
    stream = settings.stream("newsletter")
    preflight = Preflight(
        inquiry=Inquiry(settings, builtin_packs(), stream),
        keys=keys, store=store, now=NOW, at=NOW + timedelta(days=7),
    )  # fmt: skip
    began = time.perf_counter()
    with ListFile(file) as list_, Files(path / "out", list_) as files:
        tally = await preflight.run(list_, files)
    return tally, time.perf_counter() - began


async def run(people: int) -> None:
    """Fill, measure, print."""
    settings = load(ROOT / "config" / "sluis.toml", {})
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        keys = load_keys(path / "keys", create=True)
        store = await open_sqlite(path / "s.db", instance="b", owner=True, create=True)
        await fill(store, keys, people)
        for rows in (people // 10, people):
            tally, seconds = await once(path, settings, keys, store, rows)
            assert tally.rows == rows, tally
            assert (tally.allowed, tally.blocked) == (rows - rows // 10, rows // 10), tally
            tracemalloc.start()
            await once(path, settings, keys, store, rows)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            print(
                f"{rows:>8} addresses: {rows / seconds:>8,.0f} a second, {seconds:.1f} s,"
                f" at most {peak:.1f} MB"
            )
        await store.close()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
