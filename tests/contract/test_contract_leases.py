"""Several processes on one store: whose an attempt is, and what becomes of it when its owner goes.

And mail of which nobody knows whether it left, where a person is to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from store_factories import Stores
from store_values import (
    ALLOW,
    ANNA,
    BODY,
    BRAM,
    DEFER,
    WINDOW,
    after,
    again,
    high,
    intake,
    notice,
    only,
    outcome,
    relayed,
    row,
    states,
)

from proxy.errors import StoreDown
from proxy.store.model import (
    Fate,
    IntakeResult,
    Result,
    RowFate,
    Settlement,
    State,
    Store,
    Take,
)

pytest_plugins = ("store_factories",)

LEASE = timedelta(minutes=10)


@dataclass
class Clock:
    """One wall clock and one monotonic clock for all processes of a test."""

    wall: float = 0.0
    steady: float = 0.0

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.steady += seconds

    def __call__(self) -> datetime:
        return after(self.wall)

    @property
    def options(self) -> dict[str, Any]:
        """For a store that lives by it."""
        monotonic: Callable[[], float] = lambda: self.steady  # noqa: E731
        return {"clock": self, "monotonic": monotonic, "lease": LEASE}


async def attempting(store: Store, ref: str = "r", *, owed: bool = False) -> RowFate:
    """An attempt that is under way; `owed`: its body is durable."""
    fate = only(await store.claim(intake(ref, row("k"), high=await high(store))))
    if owed:
        kept = Settlement(owe=((fate.row, fate.attempt),), body=BODY, at=after(0))
        assert await store.settle(kept) == [fate.row]
    return fate


async def take(store: Store, state: State = State.ATTEMPTING, at: float = 0) -> IntakeResult:
    """Claim the one row that is due."""
    [due] = await store.due(after(10**9), 9)
    owed = await store.owed(due.row)
    assert owed is not None
    return await store.take(
        Take(
            row=owed.row,
            attempts=owed.attempts,
            subject=owed.subject,
            state=state,
            decision=ALLOW if state is State.ATTEMPTING else None,
            facts="{}",
            high=await high(store),
            dedupe_from=after(at) - WINDOW,
            at=after(at),
        )
    )


async def result_of(store: Store, ref: str) -> tuple[State, str, bool]:
    [entry] = await store.journal(ref=ref)
    return entry.state, entry.result, entry.maybe_sent


@pytest.mark.parametrize("owed", [False, True])
async def test_an_attempt_is_its_owners_until_its_lease_is_over(stores: Stores, owed: bool) -> None:
    clock = Clock()
    first, second = [await stores.open(name, **clock.options) for name in "ab"]
    await attempting(first, owed=owed)
    clock.go(LEASE.total_seconds() - 1)
    assert await second.recover() == 0
    assert (await second.claim(intake("s", row("k")))).fates[0].fate is (
        Fate.QUEUED if owed else Fate.BUSY
    )
    clock.go(2)
    assert await second.recover() == 1
    assert await second.recover() == 0
    expected = State.WAITING if owed else State.UNKNOWN
    assert await result_of(second, "r") == (expected, "unknown", True)
    fate = only(await take(second) if owed else await second.claim(intake("s", row("k"))))
    assert (fate.fate, fate.ambiguous_retry) == (Fate.CLAIMED, True)


async def test_whoever_is_there_ends_the_attempts_of_a_run_that_was_replaced(
    stores: Stores,
) -> None:
    clock = Clock()
    await attempting(await stores.open("a", **clock.options))
    other = await stores.open("b", **clock.options)
    assert await other.recover() == 0
    await stores.open("a", **clock.options)  # a new run of the first, which died
    assert await other.recover() == 1
    assert await states(other, "r") == [State.UNKNOWN]


@pytest.mark.parametrize("how", ["reclaim", "take"])
async def test_every_attempt_has_a_lease_of_its_own(stores: Stores, how: str) -> None:
    clock = Clock()
    first, second = [await stores.open(name, **clock.options) for name in "ab"]
    fate = await attempting(first, owed=how == "take")
    if how == "take":
        await first.record([outcome(fate, Result.TEMPORARY)])
    clock.go(LEASE.total_seconds() - 1)
    if how == "take":
        await take(first)
    else:
        await first.reclaim([again(fate)], high=0, at=after(5))
    clock.go(LEASE.total_seconds() - 1)
    assert await second.recover() == 0
    clock.go(2)
    assert await second.recover() == 1


async def test_a_run_trusts_itself_a_second_lease_long(stores: Stores) -> None:
    clock = Clock()
    store = await stores.open("a", **clock.options)
    await attempting(store)
    clock.go(2 * LEASE.total_seconds() - 1)
    assert await store.recover() == 0
    clock.go(2)
    assert await store.recover() == 1


async def test_a_clock_that_is_set_ahead_ends_no_lease(stores: Stores) -> None:
    clock = Clock()
    first, second = [await stores.open(name, **clock.options) for name in "ab"]
    assert await second.recover() == 0
    fate = await attempting(first)
    clock.go(5)
    clock.wall += 86400.0
    assert await second.recover() == 0
    clock.go(LEASE.total_seconds() - 1)
    assert await second.recover() == 0
    await first.record([outcome(fate)])
    assert await states(second, "r") == [State.RELAYED]
    other = only(await first.claim(intake("t", row("l"))))
    assert other.fate is Fate.CLAIMED
    clock.go(LEASE.total_seconds() + 1)
    assert await second.recover() == 1, "a whole lease later the clock is believed again"


async def test_a_clock_that_is_set_back_ends_no_lease(stores: Stores) -> None:
    clock = Clock()
    first, second = [await stores.open(name, **clock.options) for name in "ab"]
    await attempting(first)
    clock.wall -= 86400.0
    clock.go(LEASE.total_seconds() + 1)
    assert await second.recover() == 0


async def test_who_shares_a_store_shares_its_keys(stores: Stores) -> None:
    await stores.open("a", keys="one")
    await stores.open("b", keys="one")
    await stores.open("c", owner=False)
    for owner in (True, False):
        with pytest.raises(StoreDown, match=r"other keys.*http\.keys_file"):
            await stores.open("d", owner=owner, keys="two")


# -- late results ----------------------------------------------------------------------------------


async def lost_lease(stores: Stores, *, owed: bool = False) -> tuple[Store, Store, RowFate]:
    """An attempt of the first store that the second has taken over."""
    clock = Clock()
    first, second = [await stores.open(name, **clock.options) for name in "ab"]
    fate = await attempting(first, owed=owed)
    clock.go(LEASE.total_seconds() + 1)
    assert await second.recover() == 1
    return first, second, fate


async def test_a_late_acceptance_ends_the_row_and_what_waits_of_its_copy(stores: Stores) -> None:
    first, second, fate = await lost_lease(stores)
    more = intake("q", row("k", state=State.WAITING), high=await high(second))
    waits = only(await second.claim(replace(more, body=BODY)))
    assert waits.fate is Fate.QUEUED
    assert await first.record([outcome(fate)]) == [fate.row]
    assert await result_of(first, "r") == (State.RELAYED, "accepted", True)
    assert await states(first, "q") == [State.RELAYED]
    assert await second.owed(waits.row) is None
    [entry] = await first.journal(ref="q")
    assert entry.attempts == 0, "nothing was sent for it"
    assert await first.record([outcome(fate)]) == [fate.row], "and again is the same"


async def test_a_late_acceptance_of_owed_mail_ends_it_before_it_is_sent_again(
    stores: Stores,
) -> None:
    first, second, fate = await lost_lease(stores, owed=True)
    assert await states(second, "r") == [State.WAITING]
    assert await first.record([outcome(fate)]) == [fate.row]
    assert await states(second, "r") == [State.RELAYED]
    assert await second.due(after(10**9), 9) == []
    assert (await second.unfinished()).counts == {}


@pytest.mark.parametrize(
    "result", [Result.TEMPORARY, Result.PERMANENT, Result.UNSENT, Result.UNKNOWN]
)
async def test_any_other_late_result_changes_nothing(stores: Stores, result: Result) -> None:
    first, second, fate = await lost_lease(stores)
    assert await first.record([outcome(fate, result)]) == []
    assert (await result_of(second, "r"))[0] is State.UNKNOWN
    settlement = Settlement(
        outcomes=(outcome(fate, result),),
        owe=((fate.row, fate.attempt),),
        body=BODY,
        notice=notice(("k", State.FAILED)),
        at=after(1),
    )
    assert await first.settle(settlement) == [], "not ours to promise"
    assert await states(second, "r") == [State.UNKNOWN]
    told = await second.told([("k", State.FAILED)], after(0))
    assert bool(told) is (result is not Result.PERMANENT), "no failure is told that is none"


async def test_a_late_refusal_after_another_attempt_leaves_that_one_alone(stores: Stores) -> None:
    first, second, fate = await lost_lease(stores, owed=True)
    taken = only(await take(second))
    assert await first.record([outcome(fate, Result.PERMANENT)]) == []
    assert await states(second, "r") == [State.ATTEMPTING]
    assert await second.record([outcome(taken)]) == [taken.row]
    assert await states(second, "r") == [State.RELAYED]


async def test_what_was_taken_over_cannot_be_decided_again(stores: Stores) -> None:
    first, _, fate = await lost_lease(stores)
    assert only(await first.reclaim([again(fate)], high=0, at=after(1))).fate is Fate.BUSY


# -- held for a person -----------------------------------------------------------------------------

HOLD: dict[str, Any] = {"hold": timedelta(days=5)}


async def held(stores: Stores, *, crash: bool = False) -> tuple[Store, RowFate]:
    """Owed mail whose attempt ended in nobody knows what."""
    store = await stores.open("a", **HOLD)
    fate = await attempting(store, owed=True)
    if crash:
        await store.close()
        store = await stores.open("a", **HOLD)
        assert await store.recover() == 1
    else:
        await store.record([outcome(fate, Result.UNKNOWN)])
    return store, fate


@pytest.mark.parametrize("crash", [False, True])
async def test_what_may_have_been_sent_is_held(stores: Stores, crash: bool) -> None:
    store, fate = await held(stores, crash=crash)
    assert await result_of(store, "r") == (State.HELD, "unknown", True)
    seen = await store.unfinished()
    assert (seen.counts, seen.oldest, seen.oldest_open) == ({"held": 1}, after(0), None)
    [listed] = await store.outbox()
    assert (listed.state, listed.owed, listed.maybe_sent) == (State.HELD, True, True)
    assert await store.due(after(5 * 86400 - 1), 9) == []
    found = only(await store.claim(intake("s", row("k"))))
    assert (found.fate, found.ref) == (Fate.QUEUED, "r"), "a client's retry sends nothing either"
    owed = await store.owed(fate.row)
    assert owed is not None
    assert (owed.state, owed.body) == (State.HELD, BODY)


async def test_what_is_not_owed_is_never_held(stores: Stores) -> None:
    store = await stores.open("a", **HOLD)
    fate = await attempting(store)
    await store.record([outcome(fate, Result.UNKNOWN)])
    assert await states(store, "r") == [State.UNKNOWN]


@pytest.mark.parametrize("result", [Result.TEMPORARY, Result.UNSENT])
async def test_what_was_certainly_not_sent_is_never_held(stores: Stores, result: Result) -> None:
    store = await stores.open("a", **HOLD)
    fate = await attempting(store, owed=True)
    await store.record([outcome(fate, result)])
    assert await states(store, "r") == [State.WAITING]


async def test_released_mail_is_sent_as_an_ambiguous_retry(stores: Stores) -> None:
    store, fate = await held(stores)
    assert only(await take(store)).fate is Fate.BUSY, "not while it is held"
    other = await stores.open("b", owner=False)
    assert await other.hasten([fate.row], after(9)) == 1
    assert [d.row for d in await store.due(after(9), 9)] == [fate.row]
    taken = only(await take(store))
    assert (taken.fate, taken.attempt, taken.ambiguous_retry) == (Fate.CLAIMED, 2, True)


async def test_held_mail_is_due_when_it_expires_and_can_be_given_up(stores: Stores) -> None:
    store, fate = await held(stores)
    assert [d.row for d in await store.due(after(5 * 86400), 9)] == [fate.row]
    assert only(await take(store, State.FAILED)).fate is Fate.RECORDED
    assert await states(store, "r") == [State.FAILED]
    assert (await store.unfinished()).counts == {}
    assert await store.owed(fate.row) is None


async def test_a_late_acceptance_ends_held_mail(stores: Stores) -> None:
    store, fate = await held(stores, crash=True)
    assert await store.record([outcome(fate)]) == [fate.row]
    assert await states(store, "r") == [State.RELAYED]
    assert (await store.unfinished()).counts == {}


# -- put off by the decision, while others of the mail are taken -----------------------------------


async def put_off(store: Store) -> tuple[RowFate, RowFate]:
    """Two recipients: one accepted, one deferred."""
    rows = [row("a", ANNA), row("b", BRAM, n=2, state=State.RETURNED)]
    first, second = (await store.claim(intake("p", rows, high=await high(store)))).fates
    await store.record([outcome(first)])
    return first, second


async def test_a_deferred_recipient_is_owed_and_waits(stores: Stores) -> None:
    store = await stores.open()
    _, second = await put_off(store)
    assert await states(store, "p") == [State.RELAYED, State.RETURNED]
    settlement = Settlement(wait=((second.row, after(900)),), body=BODY, at=after(1))
    assert await store.settle(settlement) == [second.row]
    assert await store.settle(settlement) == [second.row], "and again is the same"
    assert await states(store, "p") == [State.RELAYED, State.WAITING]
    assert await store.due(after(899), 9) == []
    [due] = await store.due(after(900), 9)
    assert (due.row, due.attempts) == (second.row, 0)
    [_, entry] = await store.journal(ref="p")
    assert (entry.reason, entry.ended_at) == (DEFER.reason, None)
    taken = only(await take(store, at=900))
    assert (taken.attempt, taken.ambiguous_retry) == (1, False)
    await store.record([outcome(taken)])
    assert (await store.unfinished()).counts == {}


@pytest.mark.parametrize("how", ["under way", "relayed"])
async def test_what_was_sent_again_in_the_meantime_does_not_wait_beside_it(
    stores: Stores, how: str
) -> None:
    store = await stores.open()
    _, second = await put_off(store)
    if how == "relayed":
        await relayed(store, "retry", "b", BRAM)
    else:
        only(await store.claim(intake("retry", row("b", BRAM), high=await high(store))))
    settlement = Settlement(wait=((second.row, after(900)),), body=BODY, at=after(1))
    assert await store.settle(settlement) == []
    assert await states(store, "p") == [State.RELAYED, State.RETURNED]
