"""The outbox, row by row of the tables of states and of the same copy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from store_factories import Stores
from store_values import (
    ALLOW,
    ANNA,
    BLOCK,
    BODY,
    BRAM,
    DEFER,
    T0,
    WINDOW,
    after,
    again,
    event,
    high,
    intake,
    notice,
    only,
    outcome,
    relayed,
    row,
    states,
)

from policy.model import Decision
from proxy.errors import StoreError
from proxy.store.model import (
    Fate,
    IntakeResult,
    NewRow,
    Outcome,
    Result,
    Room,
    RowFate,
    Settlement,
    State,
    Store,
    Take,
)

pytest_plugins = ("store_factories",)


async def queued(
    store: Store, ref: str = "q", copy_key: str = "k", *rows: NewRow, **more: Any
) -> IntakeResult:
    """Commit C1 of queued mail: bodies and waiting rows."""
    new = rows or (row(copy_key, state=State.WAITING),)
    return await store.claim(replace(intake(ref, new, high=await high(store)), body=BODY, **more))


async def take(
    store: Store,
    state: State = State.ATTEMPTING,
    *,
    at: float = 60,
    ref: str = "",
    decision: Decision | None = None,
    **more: Any,
) -> IntakeResult:
    """Claim the waiting row that is due first."""
    due = [d for d in await store.due(after(at), 100) if ref in ("", d.ref)]
    owed = await store.owed(due[0].row)
    assert owed is not None
    made = {State.ATTEMPTING: ALLOW, State.BLOCKED: BLOCK, State.WAITING: DEFER}
    values: dict[str, Any] = {
        "row": owed.row,
        "attempts": owed.attempts,
        "subject": owed.subject,
        "state": state,
        "decision": decision or made.get(state),
        "facts": '{"v":3}',
        "high": await high(store),
        "dedupe_from": after(at) - WINDOW,
        "at": after(at),
        **more,
    }
    return await store.take(Take(**values))


async def waiting(store: Store, ref: str = "") -> list[str]:
    """References of all that is owed and waits, however late it is due."""
    return [d.ref for d in await store.due(after(10**9), 1000) if ref in ("", d.ref)]


async def has_body(store: Store, fate: RowFate) -> bool:
    """Whether the mail of a waiting row can be read."""
    return await store.owed(fate.row) is not None


async def test_queued_mail_waits_with_its_body(stores: Stores) -> None:
    store = await stores.open()
    fate = only(await queued(store))
    assert (fate.fate, fate.ref) == (Fate.QUEUED, "q")
    assert await states(store, "q") == [State.WAITING]
    [due] = await store.due(T0, 10)
    expected = (fate.row, 0, "q", 1, "newsletter")
    assert (due.row, due.attempts, due.ref, due.n, due.stream) == expected
    owed = await store.owed(due.row)
    assert owed is not None
    assert (owed.body, owed.subject, owed.address) == (BODY, ANNA, "anna@example.nl")
    assert owed.submission == intake("q", row("k")).submission
    assert await store.due(after(-1), 10) == []


async def test_what_waits_needs_a_body(stores: Stores) -> None:
    store = await stores.open()
    with pytest.raises(ValueError, match="needs a body"):
        await store.claim(intake("q", row("k", state=State.WAITING)))
    with pytest.raises(ValueError, match="needs a body"):
        await store.settle(Settlement(owe=((1, 1),), at=T0))


async def test_the_same_copy_while_it_waits_or_is_tried_is_answered_queued(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    assert only(await queued(store, "r2")).fate is Fate.QUEUED
    assert only(await queued(store, "r2")).ref == "q"
    await take(store)
    found = only(await store.claim(intake("r3", row("k"))))
    assert (found.fate, found.ref) == (Fate.QUEUED, "q")
    assert await states(store, "r2") == await states(store, "r3") == []


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (Result.ACCEPTED, State.RELAYED),
        (Result.PERMANENT, State.FAILED),
        (Result.TEMPORARY, State.WAITING),
        (Result.UNSENT, State.WAITING),
        (Result.UNKNOWN, State.WAITING),
    ],
)
async def test_the_end_of_an_attempt_of_owed_mail(
    stores: Stores, result: Result, state: State
) -> None:
    store = await stores.open()
    await queued(store)
    fate = only(await take(store))
    assert (fate.fate, fate.attempt, fate.ambiguous_retry) == (Fate.CLAIMED, 1, False)
    end = outcome(fate, result, at=after(61))
    later = Outcome(
        row=end.row, attempt=1, result=result, reply=end.reply, at=end.at, next_try=after(300)
    )
    await store.record([later])
    assert await states(store, "q") == [state]
    assert await has_body(store, fate) is (state is State.WAITING)
    assert await store.due(after(299), 10) == []
    if state is State.WAITING:
        fate = only(await take(store, at=300))
        assert fate.attempt == 2
        assert fate.ambiguous_retry is (result is Result.UNKNOWN)


@pytest.mark.parametrize("owed_", [True, False])
async def test_what_a_dead_run_left_waits_if_it_is_owed(stores: Stores, owed_: bool) -> None:
    store = await stores.open()
    if owed_:
        await queued(store)
        await take(store)
    else:
        await store.claim(intake("q", row("k")))
    await store.close()
    store = await stores.open()
    assert await store.recover() == 1
    assert await states(store, "q") == [State.WAITING if owed_ else State.UNKNOWN]
    assert await waiting(store) == (["q"] if owed_ else [])
    assert (await store.journal(ref="q"))[0].maybe_sent


async def test_an_opt_out_before_the_claim_stops_it(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    before = await high(store)
    await store.append([event("no", at=after(5))])
    assert (await take(store, high=before)).stale
    assert await states(store, "q") == [State.WAITING]
    told = notice(("k", State.BLOCKED))
    fate = only(await take(store, State.BLOCKED, reply="550 5.7.1 suppressed", notice=told))
    assert fate.fate is Fate.RECORDED
    [entry] = await store.journal(ref="q")
    assert (entry.state, entry.reason, entry.reply) == (
        State.BLOCKED, "suppressed", "550 5.7.1 suppressed",
    )  # fmt: skip
    assert entry.attempts == 0
    assert not await has_body(store, fate)
    assert await waiting(store) == ["dsn"]


async def test_a_deferral_at_the_claim_waits_until_its_time(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    fate = only(await take(store, State.WAITING, next_try=after(900)))
    assert fate.fate is Fate.RECORDED
    assert await states(store, "q") == [State.WAITING]
    assert await store.due(after(899), 9) == []
    assert [d.ref for d in await store.due(after(900), 9)] == ["q"]
    assert await has_body(store, fate)


async def test_the_last_attempt_is_known_and_whether_its_answer_still_stands(
    stores: Stores,
) -> None:
    """So that a notice names upstream and time of what was tried, and nobody for words of ours."""
    store = await stores.open()
    fate = only(await queued(store))

    async def last() -> tuple[object, bool]:
        owed = await store.owed(fate.row)
        assert owed is not None
        return owed.tried_at, owed.said

    assert await last() == (None, False)
    await store.record([outcome(only(await take(store, at=60)), Result.UNSENT, "451 4.4.1 down")])
    assert await last() == (after(60), False), "nobody answered"
    await store.record([outcome(only(await take(store, at=90)), Result.TEMPORARY)])
    assert await last() == (after(90), True)
    await take(store, State.WAITING, at=120, reply="451 4.7.1 quiet hours")
    assert await last() == (after(90), False), "put off by a decision since"


async def test_a_claim_whose_copy_was_relayed_elsewhere_sends_nothing(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    new = intake("q", row("k", state=State.WAITING), high=await high(store))
    late = replace(new, body=BODY, dedupe_from=after(1))  # beyond the window, so owed anew
    waits = only(await store.claim(late))
    fate = only(await take(store, dedupe_from=T0))
    assert (fate.fate, fate.ref) == (Fate.ANSWERED, "first")
    assert await states(store, "q") == [State.RELAYED]
    assert not await has_body(store, waits)


async def test_a_late_acceptance_takes_the_waiting_row_along(stores: Stores) -> None:
    store = await stores.open()
    first = only(await store.claim(intake("r", row("k"))))
    await store.record([outcome(first, Result.UNKNOWN)])
    waits = only(await queued(store))
    await store.record([outcome(first, at=after(30))])  # its reply came late
    assert await states(store, "q") == [State.RELAYED]
    assert not await has_body(store, waits)


async def test_a_claim_needs_the_row_as_it_was_read(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    [due] = await store.due(T0, 1)
    first = only(await take(store))
    await store.record([outcome(first, Result.TEMPORARY)])
    assert only(await take(store, attempts=0)).fate is Fate.BUSY
    assert only(await take(store)).attempt == 2
    stale = Take(
        row=due.row, attempts=1, subject=ANNA, state=State.ATTEMPTING, decision=ALLOW, facts="{}",
        high=await high(store), dedupe_from=T0, at=T0,
    )  # fmt: skip
    assert only(await store.take(stale)).fate is Fate.BUSY, "one attempt at a time"


async def test_a_claim_that_finds_no_room_is_stale(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    await relayed(store, "other", "k2")
    room = (Room("newsletter", after(-60), 1),)
    assert (await take(store, room=room)).stale
    assert not (await take(store, room=(Room("newsletter", after(-60), 2),))).stale


async def test_expiry_ends_failed_with_a_notice_and_without_a_decision(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    fate = only(
        await take(
            store, State.FAILED, reply="451 4.4.7 expired", notice=notice(("k", State.FAILED))
        )
    )
    [entry] = await store.journal(ref="q")
    assert (entry.state, entry.reply, entry.verdict) == (
        State.FAILED, "451 4.4.7 expired", "allow",
    )  # fmt: skip
    assert not await has_body(store, fate)
    assert await waiting(store) == ["dsn"]


async def test_another_process_may_end_a_row_but_not_claim_it(stores: Stores) -> None:
    store = await stores.open()
    await queued(store)
    other = await stores.open("b", owner=False)
    with pytest.raises(StoreError):
        await take(other)
    assert only(await take(other, State.FAILED)).fate is Fate.RECORDED
    assert await states(store, "q") == [State.FAILED]


async def test_a_retry_by_hand_makes_rows_due(stores: Stores) -> None:
    store = await stores.open()
    fate = only(await queued(store))
    await take(store, State.WAITING, next_try=after(10**6))
    other = await stores.open("b", owner=False)
    assert await other.hasten([fate.row, 999], after(70)) == 1
    assert [d.row for d in await store.due(after(70), 9)] == [fate.row]


# -- settle ----------------------------------------------------------------------------------------


async def partly(store: Store) -> tuple[RowFate, RowFate]:
    """Two attempts, of which the first was accepted."""
    rows = [row("a", ANNA), row("b", BRAM, n=2)]
    first, second = (await store.claim(intake("p", rows, high=await high(store)))).fates
    await store.record([outcome(first)])
    return first, second


@pytest.mark.parametrize("result", [Result.TEMPORARY, Result.UNSENT, Result.UNKNOWN])
async def test_the_rest_of_a_partly_accepted_mail_waits(stores: Stores, result: Result) -> None:
    store = await stores.open()
    _, second = await partly(store)
    owed = await store.settle(
        Settlement(
            outcomes=(outcome(second, result),),
            owe=((second.row, second.attempt),),
            body=BODY,
            at=after(1),
        )
    )
    assert owed == [second.row]
    assert await states(store, "p") == [State.RELAYED, State.WAITING]
    fate = only(await take(store))
    assert (fate.row, fate.n) == (second.row, 2)
    await store.record([outcome(fate)])
    assert await states(store, "p") == [State.RELAYED, State.RELAYED]
    assert not await has_body(store, fate)


async def test_a_settlement_may_be_repeated(stores: Stores) -> None:
    store = await stores.open()
    _, second = await partly(store)
    settlement = Settlement(
        outcomes=(outcome(second, Result.TEMPORARY),),
        owe=((second.row, second.attempt),),
        body=BODY,
        notice=notice(("x", State.BLOCKED)),
        at=after(1),
    )
    await store.settle(settlement)
    await store.settle(settlement)
    assert await states(store, "p") == [State.RELAYED, State.WAITING]
    assert sorted(await waiting(store)) == ["dsn", "p"]


async def test_mail_may_become_owed_while_it_is_under_way(stores: Stores) -> None:
    store = await stores.open()
    fate = only(await store.claim(intake("w", row("k"))))
    assert await store.settle(Settlement(owe=((fate.row, 1),), body=BODY, at=T0)) == [fate.row]
    assert await states(store, "w") == [State.ATTEMPTING]
    found = only(await store.claim(intake("r", row("k"))))
    assert (found.fate, found.ref) == (Fate.QUEUED, "w")
    await store.record([outcome(fate, Result.TEMPORARY)])
    assert await waiting(store) == ["w"]


async def test_what_ended_before_is_not_owed_any_more(stores: Stores) -> None:
    store = await stores.open()
    fate = only(await store.claim(intake("w", row("k"))))
    await store.record([outcome(fate, Result.TEMPORARY)])
    assert await store.settle(Settlement(owe=((fate.row, 1),), body=BODY, at=T0)) == []
    assert await states(store, "w") == [State.RETURNED]
    assert await waiting(store) == []


async def test_owed_mail_that_is_blocked_before_its_dot_loses_its_body(stores: Stores) -> None:
    store = await stores.open()
    fate = only(await store.claim(intake("w", row("k"))))
    await store.settle(Settlement(owe=((fate.row, 1),), body=BODY, at=T0))
    await store.reclaim([again(fate, state=State.BLOCKED)], high=await high(store), at=after(2))
    assert await states(store, "w") == [State.BLOCKED]
    assert (await store.unfinished()).counts == {}


async def test_the_body_is_kept_until_the_last_owed_row_ends(stores: Stores) -> None:
    store = await stores.open()
    rows = (row("a", ANNA, state=State.WAITING), row("b", BRAM, n=2, state=State.WAITING))
    await queued(store, "q", "", *rows)
    first = only(await take(store))
    await store.record([outcome(first)])
    second = only(await take(store))
    assert second.row != first.row
    await store.record([outcome(second, Result.TEMPORARY)])
    assert await has_body(store, second)
    only(await take(store, State.BLOCKED))
    assert not await has_body(store, second)


# -- notices ---------------------------------------------------------------------------------------


async def test_a_copy_and_state_is_told_once_in_its_window(stores: Stores) -> None:
    store = await stores.open()
    told = ("k", State.BLOCKED)
    for ref in ("one", "two"):
        await store.settle(Settlement(notice=notice(told, ref=ref), at=after(10)))
    assert await waiting(store) == ["one"]
    assert await store.told([told, ("k", State.FAILED)], after(0)) == {told}
    assert await store.told([told], after(11)) == set()
    await store.settle(Settlement(notice=notice(told, ("k", State.FAILED), ref="3"), at=after(11)))
    await store.settle(Settlement(notice=notice(told, ref="4", since=12), at=after(20)))
    assert await waiting(store) == ["one", "3", "4"]


async def test_a_notice_rides_with_the_claim_that_causes_it(stores: Stores) -> None:
    store = await stores.open()
    rows = (row("a", ANNA, state=State.WAITING), row("b", BRAM, n=2, state=State.BLOCKED))
    result = await queued(store, "q", "", *rows, notice=notice(("b", State.BLOCKED)))
    assert [f.fate for f in result.fates] == [Fate.QUEUED, Fate.RECORDED]
    assert sorted(await waiting(store)) == ["dsn", "q"]
    stale = await stores.open("b", owner=False)
    assert [r.ref for r in await stale.outbox()] == ["q", "dsn"]


# -- what people read ------------------------------------------------------------------------------


async def test_numbers_and_lists(stores: Stores) -> None:
    store = await stores.open()
    assert (await store.unfinished()).oldest is None
    await queued(store, "q1", "k1")
    await queued(store, "q2", "k2")
    await take(store, ref="q2")
    await relayed(store, "done", "k3")
    seen = await store.unfinished()
    assert seen.counts == {"waiting": 1, "attempting": 1}
    assert seen.oldest == T0
    assert [(r.ref, r.state, r.owed) for r in await store.outbox()] == [
        ("q1", State.WAITING, True),
        ("q2", State.ATTEMPTING, True),
    ]
    assert [r.ref for r in await store.outbox(ref="q2")] == ["q2"]
    assert len(await store.outbox(limit=1)) == 1


async def test_those_that_wait_longest_come_first(stores: Stores) -> None:
    store = await stores.open()
    for i in range(3):
        new = row(f"k{i}", state=State.WAITING)
        late = replace(new, next_try=T0 + timedelta(seconds=30 - i))
        await queued(store, f"r{i}", "", late)
    assert [d.ref for d in await store.due(after(60), 2)] == ["r2", "r1"]
