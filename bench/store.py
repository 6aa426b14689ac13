"""The store with and without sharing, side by side in one run; results as ratios.

    python bench/store.py [--mails 2000] [--sessions 50] [--rounds 5] [--directory DIR]

Two stores on the same directory, one with groups of at most 512 operations, one with groups of one.
Rounds alternate, so that a busy machine hurts both alike. A *mail* is one claim and one record,
each awaited: two durable commits. What a commit costs on this disk decides the first ratio, so it
is measured and printed too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from policy.model import Box, Decision, OptIn, Reason, Verdict
from proxy.store.model import (
    Intake,
    NewEvent,
    NewRow,
    Outcome,
    Result,
    State,
    Store,
    Subject,
    Submission,
)
from proxy.store.sqlite import open_sqlite

PEOPLE = 5000
NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def person(i: int) -> Subject:
    """One of the people in the ledger."""
    return Subject("acme", f"{i:032x}", f"{i + (1 << 64):032x}")


def mail(ref: str, who: Subject, high: int) -> Intake:
    """The claim of one marketing mail to one recipient."""
    decision = Decision(verdict=Verdict.ALLOW, reason=Reason.CONSENT, cite="Tw 11.7(1)")
    return Intake(
        submission=Submission(
            ref=ref, received_at=NOW, submitter="user:shop", listener="127.0.0.1:2525",
            mail_from="news@acme.example", message_id=f"<{ref}@acme.example>",
            content_hash="0" * 64, size=4096, stream="newsletter", sender="acme",
            category="marketing", mode="enforce", class_source="credential",
        ),
        rows=(
            NewRow(
                n=1, copy=1, subject=who, address=f"{who.exact}@example.nl", copy_key=ref,
                state=State.ATTEMPTING, decision=decision, facts="{}" + " " * 1000, marketing=True,
            ),
        ),
        high=high,
        dedupe_from=NOW - timedelta(days=5),
        at=NOW,
    )  # fmt: skip


async def sessions(count: int, each: int, work: Callable[[int], Awaitable[None]]) -> float:
    """`count` sessions doing `each` pieces of work one after another; pieces per second."""

    async def session(number: int) -> None:
        for i in range(each):
            await work(number * each + i)

    began = time.perf_counter()
    await asyncio.gather(*(session(number) for number in range(count)))
    return count * each / (time.perf_counter() - began)


async def mails(store: Store, name: str, total: int, count: int) -> float:
    """Mails per second."""
    high = (await store.lookup([])).high

    async def one(i: int) -> None:
        claimed = await store.claim(mail(f"{name}-{i}", person(i % PEOPLE), high))
        fate = claimed.fates[0]
        await store.record(
            [
                Outcome(
                    row=fate.row, attempt=fate.attempt, result=Result.ACCEPTED, reply="250", at=NOW
                )
            ]
        )

    return await sessions(count, total // count, one)


async def lookups(store: Store, total: int, count: int) -> float:
    """Lookups of one subject per second."""

    async def one(i: int) -> None:
        await store.lookup([person(i * 7919 % PEOPLE)])

    return await sessions(count, total // count, one)


async def fill(store: Store) -> None:
    """A ledger of opt-ins."""
    detail = OptIn(box=Box.UNTICKED, topics=("news",))
    for start in range(0, PEOPLE, 1000):
        await store.append(
            [
                NewEvent(
                    uid=f"u{i}", subject=person(i), detail=detail, at=NOW, recorded_at=NOW,
                    evidence="form:1",
                )
                for i in range(start, start + 1000)
            ]
        )  # fmt: skip


def sync_seconds(directory: Path) -> float:
    """The median of appending 4 KiB and fdatasync."""
    times = []
    descriptor = os.open(directory / "sync", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(200):
            began = time.perf_counter()
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return statistics.median(times)


def report(what: str, shared: list[float], single: list[float], names: tuple[str, str]) -> None:
    """Medians, their ratio, and the spread of the ratio over the rounds."""
    ratios = sorted(a / b for a, b in zip(shared, single, strict=True))
    print(
        f"{what}: {names[0]} {statistics.median(shared):,.0f}/s,"
        f" {names[1]} {statistics.median(single):,.0f}/s,"
        f" ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


async def main(arguments: argparse.Namespace, directory: Path) -> None:
    """Alternate the two stores, and compare."""
    print(f"fdatasync of 4 KiB here: {1e3 * sync_seconds(directory):.3f} ms (median of 200)")
    stores = {
        limit: await open_sqlite(
            directory / f"{limit}.db", instance="bench", owner=True, create=True, max_group=limit
        )
        for limit in (512, 1)
    }
    written: dict[int, list[float]] = {limit: [] for limit in stores}
    read: dict[int, list[float]] = {limit: [] for limit in stores}
    for store in stores.values():
        await fill(store)
        await mails(store, "warm", 200, 10)
    for number in range(arguments.rounds):
        for limit, store in stores.items():
            name = f"round{number}"
            written[limit].append(await mails(store, name, arguments.mails, arguments.sessions))
            read[limit].append(await lookups(store, arguments.mails * 4, arguments.sessions))
    print(f"{arguments.sessions} sessions, {arguments.rounds} rounds, median per store:")
    report("mails (claim + record)", written[512], written[1], ("group commit", "a commit each"))
    report("lookups", read[512], read[1], ("batched", "single"))
    for store in stores.values():
        await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Group commit and batched lookups, as ratios.")
    parser.add_argument("--mails", type=int, default=2000, help="mails per round and store")
    parser.add_argument("--sessions", type=int, default=50, help="how many wait at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where the databases go (a real disk)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as temporary:
        asyncio.run(main(options, Path(temporary)))
