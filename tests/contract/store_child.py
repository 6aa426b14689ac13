"""A process of its own that uses the store, to be run beside the tests, traced, and killed.

What the store said is durable is then printed, one line of JSON a thing, unbuffered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from store_values import (
    ALLOW,
    ANNA,
    BODY,
    BRAM,
    after,
    event,
    high,
    intake,
    notice,
    only,
    opt_in,
    outcome,
    person,
    row,
)

from proxy.errors import StoreError
from proxy.store.fold import EVERY
from proxy.store.instance import InstanceLock
from proxy.store.model import Result, Room, Settlement, State, Store, Take
from proxy.store.sqlite import SqliteStore, open_sqlite


def say(**words: object) -> None:
    """Report, in one system call."""
    os.write(1, json.dumps(words).encode() + b"\n")


async def object_(store: Store, uid: str) -> None:
    """Anna objects."""
    say(new=await store.append([event(uid, ANNA, at=after(1))]))


async def mail(store: Store, count: str) -> None:
    """Opt in, then send `count` mails: two recipients each, claimed, and recorded for the first."""
    say(recovered=await store.recover())
    run = f"{os.getpid()}"
    for i in range(int(count)):
        uid = f"{run}.{i}"
        await store.append([opt_in(uid, ANNA)])
        say(event=uid)
        ref = f"{run}-{i}"
        rows = [row(f"{ref}/anna", ANNA), row(f"{ref}/bram", BRAM, n=2)]
        claimed = await store.claim(intake(ref, rows, high=await high(store)))
        say(claimed=ref)
        await store.record([outcome(claimed.fates[0])])
        say(relayed=ref)


async def fail(store: Store) -> None:
    """Go on after trouble, to show that the store does not; report how each call ends."""
    for i in (f"{os.getpid()}.{turn}" for turn in range(3)):
        for name, call in (
            ("append", store.append([event(f"e{i}", person(f"p{i}"))])),
            ("claim", store.claim(intake(f"r{i}", row(f"k{i}", BRAM)))),
            ("lookup", store.lookup([ANNA])),
            ("ping", store.ping()),
        ):
            try:
                await call
            except StoreError as error:
                say(call=name, error=type(error).__name__)
            else:
                say(call=name, error=None)


async def once(store: Store) -> None:
    """One mail and one opt-out, each reported when durable, to see the order of system calls."""
    fate = only(await store.claim(intake("r", row("k"), high=await high(store))))
    say(step="claim")
    await store.record([outcome(fate, Result.ACCEPTED)])
    say(step="record")
    await store.append([event("o")])
    say(step="append")


async def folds(store: Store) -> None:
    """Commit until the log is folded beside, and once more when it was; report the last."""
    assert isinstance(store, SqliteStore)
    for i in range(EVERY):
        await store.append([event(f"{os.getpid()}.{i}", person(f"p{i}"))])
    while (folding := store._folding._task) is not None:
        await asyncio.wait({folding})
    try:
        await store.append([event(f"{os.getpid()}.last")])
    except StoreError as error:
        say(folded=EVERY, error=type(error).__name__)
    else:
        say(folded=EVERY, error=None)


async def hold(store: Store) -> None:
    """Claim one copy and stay alive until standard input ends."""
    fate = only(await store.claim(intake("held", row("held"), high=await high(store))))
    say(row=fate.row)
    await asyncio.to_thread(sys.stdin.read)


async def capped(store: Store, count: str, most: str) -> None:
    """Send `count` mails to Anna under a cap, each decided again as often as it is stale."""
    since = after(-3600)
    for i in range(int(count)):
        ref = f"{os.getpid()}-{i}"
        while True:
            known = (await store.lookup([ANNA], mails_since=since)).known[ANNA]
            if len(known.mails) >= int(most):
                say(held=ref)
                break
            new = row(ref, room=(Room("newsletter", since, int(most)),))
            claimed = await store.claim(intake(ref, new, high=await high(store)))
            if not claimed.stale:
                await store.record([outcome(only(claimed))])
                say(left=ref)
                break
            say(stale=ref)


async def owe(store: Store, count: str) -> None:
    """Take `count` mails three ways upon ourselves and finish what was taken before."""
    say(recovered=await store.recover())
    for i in range(int(count)):
        ref = f"{os.getpid()}-{i}"
        rows = (
            row(f"{ref}/q", ANNA, state=State.WAITING),
            row(f"{ref}/b", BRAM, n=2, state=State.BLOCKED),
        )
        told = notice((f"{ref}/b", State.BLOCKED), ref=f"{ref}-b")
        new = intake(f"{ref}-q", rows, high=await high(store))
        await store.claim(replace(new, body=BODY, notice=told))
        say(queued=f"{ref}-q", notice=f"{ref}-b")
        pair = [row(f"{ref}/1", ANNA), row(f"{ref}/2", BRAM, n=2)]
        claimed = await store.claim(intake(f"{ref}-p", pair, high=await high(store)))
        first, second = claimed.fates
        await store.record([outcome(first)])
        await store.settle(
            Settlement(
                outcomes=(outcome(second, Result.TEMPORARY),),
                owe=((second.row, second.attempt),),
                body=BODY,
                notice=notice((f"{ref}/x", State.FAILED), ref=f"{ref}-f"),
                at=after(1),
            )
        )
        say(settled=f"{ref}-p", notice=f"{ref}-f")
        single = intake(f"{ref}-w", row(f"{ref}/w"), high=await high(store))
        fate = only(await store.claim(single))
        await store.settle(Settlement(owe=((fate.row, 1),), body=BODY, at=after(1)))
        say(owed=f"{ref}-w")
        await store.record([outcome(fate)])
        say(done=f"{ref}-w")
        for due in (await store.due(after(60), 2))[:2]:
            found = await store.owed(due.row)
            if found is None:
                continue
            taken = await store.take(
                Take(
                    row=due.row,
                    attempts=due.attempts,
                    subject=found.subject,
                    state=State.ATTEMPTING,
                    decision=ALLOW,
                    facts="{}",
                    high=await high(store),
                    dedupe_from=after(-86400),
                    at=after(60),
                )
            )
            await store.record([outcome(only(taken), at=after(61))])
            say(done=due.ref, n=due.n)


ACTIONS = {
    "object": object_,
    "mail": mail,
    "fail": fail,
    "once": once,
    "hold": hold,
    "folds": folds,
    "capped": capped,
    "owe": owe,
}


async def main(path: Path, action: str, arguments: list[str]) -> None:
    """Open, act, close."""
    owner = action != "object"
    instance = f"p{os.getpid()}" if action == "capped" else "a"
    store = await open_sqlite(path, instance=instance, owner=owner, create=action == "mail")
    say(opened=action)
    await ACTIONS[action](store, *arguments)  # type: ignore[operator]
    try:
        await store.close()
    except StoreError:
        say(close="failed")


if __name__ == "__main__":
    if sys.argv[2] == "lock":
        with InstanceLock.acquire(Path(sys.argv[1])):
            say(locked=os.getpid())
            sys.stdin.read()
    else:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
