"""What every store must do with claims, outcomes and recovery (delivery.md sections 2, 5, 6)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from store_values import (
    ANNA,
    BRAM,
    T0,
    WINDOW,
    after,
    again,
    event,
    high,
    intake,
    only,
    opt_in,
    outcome,
    person,
    relayed,
    row,
    states,
)

from policy.model import Objection, Scope, Via
from proxy.errors import StoreDown, StoreUnavailable
from proxy.store.model import (
    Decided,
    Fate,
    NewAttributes,
    Outcome,
    Result,
    RowFate,
    State,
    Store,
    Subject,
)

if TYPE_CHECKING:
    from store_factories import Stores

pytest_plugins = ("store_factories",)

PLAIN = [Result.TEMPORARY, Result.UNSENT, Result.PERMANENT]


async def claim(store: Store, ref: str, copy_key: str = "k", *, at_second: float = 0) -> RowFate:
    return only(await store.claim(intake(ref, row(copy_key), at=after(at_second))))


# -- claim -----------------------------------------------------------------------------------------


async def test_a_new_copy_is_claimed_and_journalled(stores: Stores) -> None:
    store = await stores.open()
    fate = await claim(store, "r")
    assert (fate.n, fate.fate, fate.ref, fate.ambiguous_retry) == (1, Fate.CLAIMED, "r", False)
    assert fate.row > 0
    assert fate.attempt > 0
    (entry,) = await store.journal(ref="r")
    assert (entry.ref, entry.n, entry.copy, entry.exact) == ("r", 1, 1, ANNA.exact)
    assert (entry.address, entry.stream, entry.sender) == ("anna@example.nl", "newsletter", "acme")
    assert (entry.state, entry.attempts, entry.result, entry.reply) == ("attempting", 1, "", "")
    assert (entry.verdict, entry.reason, entry.cite) == ("allow", "consent", "Tw 11.7(1)")
    assert (entry.pack, entry.rule, entry.mode) == ("nl@2026.11#0123abcd", "consent", "enforce")
    assert (entry.basis_event, entry.facts, entry.decided_at) == ("optin-1", '{"v":1}', T0)
    assert (entry.ended_at, entry.maybe_sent) == (None, False)


@pytest.mark.parametrize("state", [State.BLOCKED, State.RETURNED])
async def test_a_blocked_or_deferred_row_is_recorded_with_its_answer(
    stores: Stores, state: State
) -> None:
    store = await stores.open()
    fate = only(await store.claim(intake("r", row("k", state=state, reply="550 5.7.1 no"))))
    assert (fate.fate, fate.ref, fate.reply) == (Fate.RECORDED, "r", "550 5.7.1 no")
    (entry,) = await store.journal(ref="r")
    assert (entry.state, entry.attempts, entry.reply) == (state, 0, "550 5.7.1 no")
    assert entry.ended_at == T0
    assert entry.basis_event == ("objection-1" if state is State.BLOCKED else "")


async def test_several_rows_have_fates_in_order(stores: Stores) -> None:
    store = await stores.open()
    rows = [
        row("k1", person("a"), n=1),
        row("k2", person("b"), n=2, state=State.BLOCKED),
        row("k3", person("c"), n=3),
    ]
    result = await store.claim(intake("r", rows))
    assert [f.n for f in result.fates] == [1, 2, 3]
    assert [f.fate for f in result.fates] == [Fate.CLAIMED, Fate.RECORDED, Fate.CLAIMED]
    assert await states(store, "r") == [State.ATTEMPTING, State.BLOCKED, State.ATTEMPTING]


async def test_one_reference_may_hold_several_submissions(stores: Stores) -> None:
    """A refusal at RCPT and the later end of data belong to the same transaction."""
    store = await stores.open()
    await store.claim(intake("r", row("refused", BRAM, state=State.BLOCKED)))
    await store.claim(intake("r", row("k", n=2)))
    assert [(e.n, e.state) for e in await store.journal(ref="r")] == [
        (1, State.BLOCKED),
        (2, State.ATTEMPTING),
    ]


async def test_the_same_copy_twice_in_one_submission_is_a_programming_error(
    stores: Stores,
) -> None:
    store = await stores.open()
    with pytest.raises(ValueError, match="distinct"):
        await store.claim(intake("r", [row("k"), row("k", n=2)]))
    with pytest.raises(ValueError, match="distinct"):
        await store.claim(intake("r", [row("k"), row("l")]))


async def test_only_an_owner_claims(stores: Stores) -> None:
    store = await stores.open(owner=False)
    with pytest.raises(ValueError, match="owner"):
        await store.claim(intake("r", row("k")))
    assert await store.append([event("o")]) == [True]


# -- dedupe: delivery.md section 5, row by row -----------------------------------------------------


async def test_relayed_within_the_window_is_answered_with_the_first_reply(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    fate = await claim(store, "second", at_second=WINDOW.total_seconds())
    assert (fate.fate, fate.ref, fate.reply) == (
        Fate.ANSWERED,
        "first",
        "250 2.0.0 Ok: queued as 4bD",
    )
    assert await store.journal(ref="second") == []


async def test_relayed_is_answered_even_when_it_would_be_blocked_now(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    await store.append([event("o")])
    fate = only(await store.claim(intake("second", row("k", state=State.BLOCKED))))
    assert fate.fate is Fate.ANSWERED


async def test_relayed_is_answered_whatever_newer_rows_say(stores: Stores) -> None:
    store = await stores.open()
    first = await claim(store, "first")
    await store.record([outcome(first, Result.UNKNOWN)])
    second = await claim(store, "second")
    await store.record([outcome(second, Result.PERMANENT)])
    await store.record([outcome(first)])  # the first owner's 2xx comes late
    fate = await claim(store, "third")
    assert (fate.fate, fate.ref) == (Fate.ANSWERED, "first")


async def test_after_the_window_a_relayed_copy_is_decided_anew(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    late = await claim(store, "second", at_second=WINDOW.total_seconds() + 1)
    assert (late.fate, late.ambiguous_retry) == (Fate.CLAIMED, False)


async def test_a_copy_live_in_this_process_is_joined(stores: Stores) -> None:
    store = await stores.open()
    first = await claim(store, "first")
    fate = await claim(store, "second")
    assert (fate.fate, fate.ref) == (Fate.IN_FLIGHT, "first")
    assert (fate.row, fate.attempt) == (first.row, first.attempt)
    assert await store.journal(ref="second") == []


async def test_a_copy_live_in_another_process_is_busy(stores: Stores) -> None:
    first, second = await stores.open("a"), await stores.open("b")
    await claim(first, "first")
    assert (await claim(second, "second")).fate is Fate.BUSY


async def test_two_claims_of_one_copy_at_once_are_one_attempt(stores: Stores) -> None:
    store = await stores.open()
    fates = await asyncio.gather(*(claim(store, f"r{i}") for i in range(10)))
    assert sorted(f.fate for f in fates) == [Fate.CLAIMED, *[Fate.IN_FLIGHT] * 9]


async def test_two_processes_claiming_one_copy_at_once_are_one_attempt(stores: Stores) -> None:
    first, second = await stores.open("a"), await stores.open("b")
    fates = await asyncio.gather(
        *(claim(s, f"{i}{j}") for i in range(5) for j, s in enumerate((first, second)))
    )
    assert [f.fate for f in fates].count(Fate.CLAIMED) == 1


async def test_unknown_is_sent_again_and_marked(stores: Stores) -> None:
    store = await stores.open()
    await store.record([outcome(await claim(store, "first"), Result.UNKNOWN)])
    fate = await claim(store, "second")
    assert (fate.fate, fate.ambiguous_retry) == (Fate.CLAIMED, True)
    assert [e.maybe_sent for e in await store.journal(exact=ANNA.exact)] == [True, True]


@pytest.mark.parametrize("result", PLAIN)
async def test_returned_and_failed_are_decided_anew_in_a_new_row(
    stores: Stores, result: Result
) -> None:
    store = await stores.open()
    first = await claim(store, "first")
    await store.record([outcome(first, result)])
    fate = await claim(store, "second")
    assert (fate.fate, fate.ambiguous_retry) == (Fate.CLAIMED, False)
    assert fate.row != first.row


@pytest.mark.parametrize("state", [State.BLOCKED, State.RETURNED])
async def test_blocked_and_deferred_are_decided_anew_in_a_new_row(
    stores: Stores, state: State
) -> None:
    store = await stores.open()
    await store.claim(intake("first", row("k", state=state)))
    fate = await claim(store, "second")
    assert (fate.fate, fate.ambiguous_retry) == (Fate.CLAIMED, False)


@pytest.mark.parametrize("result", PLAIN)
async def test_maybe_sent_is_never_cleared(stores: Stores, result: Result) -> None:
    """A lost reply, then a plain refusal: the copy may still be out, also long after the window."""
    store = await stores.open()
    await store.record([outcome(await claim(store, "first"), Result.UNKNOWN)])
    await store.record([outcome(await claim(store, "second"), result)])
    fate = await claim(store, "third", at_second=10 * WINDOW.total_seconds())
    assert fate.ambiguous_retry


async def test_other_copies_are_not_the_same_copy(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    assert (await claim(store, "second", "l")).fate is Fate.CLAIMED


async def test_one_copy_in_flight_skips_the_whole_submission(stores: Stores) -> None:
    store = await stores.open()
    await claim(store, "first", "k")
    rows = [row("a", BRAM), row("k", n=2), row("b", person("c"), n=3, state=State.BLOCKED)]
    result = await store.claim(intake("second", rows))
    assert [f.fate for f in result.fates] == [Fate.SKIPPED, Fate.IN_FLIGHT, Fate.SKIPPED]
    assert await store.journal(ref="second") == []
    assert (await claim(store, "third", "a")).fate is Fate.CLAIMED


async def test_what_was_answered_before_does_not_hold_back_the_rest(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    result = await store.claim(intake("second", [row("k"), row("l", BRAM, n=2)]))
    assert [f.fate for f in result.fates] == [Fate.ANSWERED, Fate.CLAIMED]
    assert [e.n for e in await store.journal(ref="second")] == [2]


# -- stale: delivery.md section 6 ------------------------------------------------------------------


@pytest.mark.parametrize(
    "newer",
    [
        event("o"),
        event("o", person("anna", tag="x")),
        event("o", person("anna", sender="other"), Objection(scope=Scope.EVERYTHING)),
        event("o", Subject("acme", ANNA.exact, "wide:anna-by-older-rules")),
    ],
    ids=["exact", "wide", "other-sender", "exact-only"],
)
async def test_an_objection_after_the_lookup_makes_the_claim_stale(
    stores: Stores, newer: object
) -> None:
    store = await stores.open()
    await store.append([opt_in("i")])
    seen = await high(store)
    await store.append([newer])  # type: ignore[list-item]
    rows = [row("l", BRAM), row("k", n=2)]
    assert (await store.claim(intake("r", rows, high=seen))).stale
    assert await store.journal(ref="r") == []
    fresh = await store.claim(intake("r", rows, high=await high(store)))
    assert [f.fate for f in fresh.fates] == [Fate.CLAIMED, Fate.CLAIMED]


async def test_events_of_others_and_attributes_do_not_make_it_stale(stores: Stores) -> None:
    store = await stores.open()
    await store.append([opt_in("i")])
    seen = await high(store)
    columns = NewAttributes(subject=ANNA, at=T0, values={"language": "nl"})
    await store.append([event("o", BRAM)], [columns])
    assert only(await store.claim(intake("r", row("k"), high=seen))).fate is Fate.CLAIMED


async def test_an_opt_out_handed_in_with_a_claim_wins(stores: Stores) -> None:
    """Blocking events go first in a group, though they were handed in after the claims."""
    store = await stores.open()
    await store.append([opt_in("i")])
    seen = await high(store)
    first = asyncio.ensure_future(store.claim(intake("x", row("x", BRAM), high=seen)))
    claimed, appended = await asyncio.gather(
        store.claim(intake("r", row("k"), high=seen)), store.append([event("o")])
    )
    assert appended == [True]
    assert claimed.stale
    assert not (await first).stale


async def test_an_opt_out_of_another_process_between_lookup_and_claim_wins(stores: Stores) -> None:
    store = await stores.open()
    await store.append([opt_in("i")])
    seen = await high(store)
    assert '"new": [true]' in stores.elsewhere("object", "o")
    assert (await store.claim(intake("r", row("k"), high=seen))).stale
    (_, objection) = (await store.lookup([ANNA])).known[ANNA].events
    assert objection.detail == Objection(via=Via.ONE_CLICK)


async def test_an_answer_from_the_journal_is_never_stale(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "first", "k")
    seen = await high(store)
    await store.append([event("o")])
    assert only(await store.claim(intake("r", row("k"), high=seen))).fate is Fate.ANSWERED


# -- record ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "state", "maybe_sent"),
    [
        (Result.ACCEPTED, State.RELAYED, False),
        (Result.PERMANENT, State.FAILED, False),
        (Result.TEMPORARY, State.RETURNED, False),
        (Result.UNSENT, State.RETURNED, False),
        (Result.UNKNOWN, State.UNKNOWN, True),
    ],
)
async def test_each_result_ends_the_row(
    stores: Stores, result: Result, state: State, maybe_sent: bool
) -> None:
    store = await stores.open()
    fate = await claim(store, "r")
    said = "250 2.1.5 a / 250 2.0.0 Ök 'quoted'" if result is Result.ACCEPTED else "x"
    await store.record([outcome(fate, result, said, at=after(3))])
    (entry,) = await store.journal(ref="r")
    assert (entry.state, entry.result, entry.reply) == (state, result, said)
    assert (entry.ended_at, entry.maybe_sent, entry.attempts) == (after(3), maybe_sent, 1)


@pytest.mark.parametrize("result", list(Result))
@pytest.mark.parametrize("marketing", [True, False])
async def test_only_a_relayed_marketing_mail_is_the_last_marketing_mail(
    stores: Stores, result: Result, marketing: bool
) -> None:
    store = await stores.open()
    fate = only(await store.claim(intake("r", row("k", marketing=marketing))))
    await store.record([outcome(fate, result, at=after(3))])
    others = [person("anna", sender="other"), person("anna", tag="x")]
    known = (await store.lookup([ANNA, *others])).known
    sent = marketing and result is Result.ACCEPTED
    assert known[ANNA].last_marketing_at == (after(3) if sent else None)
    assert [known[o].last_marketing_at for o in others] == [None, None]


async def test_the_last_marketing_mail_never_moves_back(stores: Stores) -> None:
    store = await stores.open()
    fates = [await claim(store, f"r{i}", f"k{i}") for i in range(3)]
    for fate, second in zip(fates, (5, 9, 1), strict=True):
        await store.record([outcome(fate, at=after(second))])
    assert (await store.lookup([ANNA])).known[ANNA].last_marketing_at == after(9)


async def test_recording_twice_changes_nothing(stores: Stores) -> None:
    store = await stores.open()
    fate = await claim(store, "r")
    await store.record([outcome(fate, at=after(1))])
    before = await store.journal(ref="r")
    await store.record([outcome(fate, at=after(9)), outcome(fate, at=after(10))])
    assert await store.journal(ref="r") == before


@pytest.mark.parametrize("late", [Result.TEMPORARY, Result.PERMANENT, Result.UNKNOWN])
async def test_a_late_refusal_never_undoes_relayed(stores: Stores, late: Result) -> None:
    store = await stores.open()
    fate = await claim(store, "r")
    await store.record([outcome(fate)])
    await store.record([outcome(fate, late)])
    (entry,) = await store.journal(ref="r")
    assert (entry.state, entry.reply) == (State.RELAYED, "250 2.0.0 Ok: queued as 4bD")
    assert (await claim(store, "again")).fate is Fate.ANSWERED


async def test_a_late_acceptance_makes_an_unknown_row_relayed(stores: Stores) -> None:
    store = await stores.open()
    fate = await claim(store, "r")
    await store.record([outcome(fate, Result.UNKNOWN)])
    await store.record([outcome(fate, at=after(7))])
    (entry,) = await store.journal(ref="r")
    assert (entry.state, entry.ended_at, entry.maybe_sent) == (State.RELAYED, after(7), True)
    assert (await store.lookup([ANNA])).known[ANNA].last_marketing_at == after(7)


async def test_an_outcome_of_nothing_hurts_only_itself(stores: Stores) -> None:
    store = await stores.open()
    fates = [await claim(store, f"r{i}", f"k{i}") for i in range(3)]
    nothing = Outcome(row=999, attempt=1, result=Result.ACCEPTED, reply="250", at=T0)
    results = await asyncio.gather(
        store.record([outcome(fates[0])]),
        store.record([outcome(fates[1]), nothing]),
        store.record([outcome(fates[2])]),
        return_exceptions=True,
    )
    assert (results[0], results[2]) == ([fates[0].row], [fates[2].row])
    assert isinstance(results[1], StoreUnavailable)
    ends = [(await states(store, f"r{i}"))[0] for i in range(3)]
    assert ends == [State.RELAYED, State.ATTEMPTING, State.RELAYED]


async def test_a_claim_sees_results_handed_in_before_it(stores: Stores) -> None:
    store = await stores.open()
    fate = await claim(store, "first")
    store.record_later([outcome(fate, Result.TEMPORARY)])
    assert (await claim(store, "second")).fate is Fate.CLAIMED


async def test_results_not_awaited_are_written_before_close(stores: Stores) -> None:
    store = await stores.open()
    fate = await claim(store, "r")
    store.record_later([outcome(fate, Result.PERMANENT)])
    await store.close()
    store = await stores.open()
    assert await states(store, "r") == [State.FAILED]


async def test_an_outcome_of_nothing_not_awaited_is_dropped(stores: Stores) -> None:
    store = await stores.open()
    store.record_later([Outcome(row=9, attempt=1, result=Result.UNSENT, reply="", at=T0)])
    await store.close()


# -- decide again ----------------------------------------------------------------------------------


async def test_a_row_decided_again_gets_a_new_attempt(stores: Stores) -> None:
    store = await stores.open()
    first = await claim(store, "r")
    result = await store.reclaim([again(first)], high=0, at=after(6))
    fate = only(result)
    assert (fate.n, fate.fate, fate.row) == (1, Fate.CLAIMED, first.row)
    assert fate.attempt != first.attempt
    assert not fate.ambiguous_retry
    (entry,) = await store.journal(ref="r")
    assert (entry.state, entry.attempts, entry.facts) == (State.ATTEMPTING, 2, '{"v":2}')
    assert entry.decided_at == after(6)
    await store.record([outcome(fate)])
    assert await states(store, "r") == [State.RELAYED]


@pytest.mark.parametrize("state", [State.BLOCKED, State.RETURNED])
async def test_a_row_decided_again_can_end(stores: Stores, state: State) -> None:
    store = await stores.open()
    fate = only(await store.reclaim([again(await claim(store, "r"), state=state)], high=0, at=T0))
    assert fate.fate is Fate.RECORDED
    (entry,) = await store.journal(ref="r")
    assert (entry.state, entry.result, entry.attempts) == (state, Result.UNSENT, 1)
    assert (await claim(store, "next")).fate is Fate.CLAIMED


async def test_deciding_again_on_an_old_lookup_is_stale(stores: Stores) -> None:
    store = await stores.open()
    first = await claim(store, "r")
    await store.append([event("o")])
    assert (await store.reclaim([again(first)], high=0, at=T0)).stale
    assert await states(store, "r") == [State.ATTEMPTING]
    seen = await high(store)
    assert not (await store.reclaim([again(first, state=State.BLOCKED)], high=seen, at=T0)).stale


async def test_an_attempt_that_was_given_up_cannot_be_taken_up_again(stores: Stores) -> None:
    store = await stores.open()
    first = await claim(store, "r")
    second = only(await store.reclaim([again(first)], high=0, at=T0))
    assert only(await store.reclaim([again(first)], high=0, at=T0)).fate is Fate.BUSY
    await store.record([outcome(first, Result.PERMANENT)])  # too late: not its row any more
    assert await states(store, "r") == [State.ATTEMPTING]
    await store.record([outcome(second)])
    assert await states(store, "r") == [State.RELAYED]


# -- recovery and fencing --------------------------------------------------------------------------


async def test_recovery_ends_what_older_runs_left_as_unknown(stores: Stores) -> None:
    store = await stores.open()
    done = await relayed(store, "done", "done")
    open_ = await claim(store, "open")
    await store.close()
    store = await stores.open()
    mine = await claim(store, "mine", "mine")
    assert (await claim(store, "early")).fate is Fate.BUSY
    assert await store.recover() == 1
    assert await store.recover() == 0
    assert await states(store, "done") == [State.RELAYED]
    assert await states(store, "mine") == [State.ATTEMPTING]
    (entry,) = await store.journal(ref="open")
    assert (entry.state, entry.result, entry.maybe_sent) == (State.UNKNOWN, Result.UNKNOWN, True)
    assert entry.ended_at == after(3600)
    retry = await claim(store, "retry")
    assert (retry.fate, retry.ambiguous_retry) == (Fate.CLAIMED, True)
    assert len({done.row, open_.row, mine.row, retry.row}) == 4


async def test_recovery_leaves_other_instances_alone(stores: Stores) -> None:
    first, older = await stores.open("a"), await stores.open("b")
    fate = await claim(first, "r")
    await older.close()
    second = await stores.open("b")
    assert await second.recover() == 0
    await first.record([outcome(fate)])
    assert await states(second, "r") == [State.RELAYED]


async def test_a_process_that_was_replaced_claims_nothing_more(stores: Stores) -> None:
    old = await stores.open("a")
    await claim(old, "first")
    new = await stores.open("a")
    with pytest.raises(StoreDown):
        await claim(old, "second", "l")
    assert await new.recover() == 1
    assert (await claim(new, "third")).ambiguous_retry


async def test_the_late_result_of_a_replaced_process_still_counts(stores: Stores) -> None:
    old = await stores.open("a")
    fate = await claim(old, "first")
    new = await stores.open("a")
    await new.recover()
    await old.record([outcome(fate)])
    assert await states(new, "first") == [State.RELAYED]
    answered = await claim(new, "second")
    assert (answered.fate, answered.ref) == (Fate.ANSWERED, "first")


async def test_everything_is_still_there_after_reopening(stores: Stores) -> None:
    store = await stores.open()
    await store.append([opt_in("i")])
    await relayed(store, "r", "k")
    before = (await store.lookup([ANNA]), await store.journal(exact=ANNA.exact))
    await store.close()
    store = await stores.open()
    assert (await store.lookup([ANNA]), await store.journal(exact=ANNA.exact)) == before


# -- reading ---------------------------------------------------------------------------------------


async def test_the_journal_of_a_person_is_newest_first_and_limited(stores: Stores) -> None:
    store = await stores.open()
    for i in range(5):
        await claim(store, f"r{i}", f"k{i}")
    await store.claim(intake("bram", row("b", BRAM)))
    found = await store.journal(exact=ANNA.exact, limit=3)
    assert [e.ref for e in found] == ["r4", "r3", "r2"]
    assert await store.journal(ref="nothing") == []
    assert await store.journal() == []


async def test_a_cancelled_claim_is_still_in_the_journal(stores: Stores) -> None:
    store = await stores.open()
    calls = [asyncio.ensure_future(claim(store, f"r{i}", f"k{i}")) for i in range(10)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await store.ping()
    assert [await states(store, f"r{i}") for i in range(10)] == [[State.ATTEMPTING]] * 10


async def test_many_at_once_all_end_as_they_were_told(stores: Stores) -> None:
    store = await stores.open()

    async def mail(i: int) -> RowFate:
        who = person(f"p{i % 17}")
        await store.append([opt_in(f"i{i}", who)])
        while True:
            seen = (await store.lookup([who])).high
            result = await store.claim(intake(f"r{i}", row(f"k{i}", who), high=seen))
            if not result.stale:
                break
        await store.record([outcome(only(result), at=T0 + timedelta(seconds=i))])
        return only(result)

    fates = await asyncio.gather(*(mail(i) for i in range(200)))
    assert len({f.row for f in fates}) == 200
    assert [await states(store, f"r{i}") for i in range(200)] == [[State.RELAYED]] * 200


async def test_the_journal_is_read_by_pages_of_decisions(stores: Stores) -> None:
    store = await stores.open()
    for i in range(5):
        rows = [row(f"k{i}", ANNA), row(f"l{i}", BRAM, n=2, state=State.BLOCKED)]
        await store.claim(intake(f"r{i}", rows, at=after(60 * i), high=0))
    seen: list[Decided] = []
    while page := await store.decided(
        after=seen[-1].id if seen else 0, limit=3, since=after(60)
    ):
        assert len(page) <= 3
        seen += page
    assert [(d.ref, d.n) for d in seen] == [(f"r{i}", n) for i in range(1, 5) for n in (1, 2)]
    assert [d.id for d in seen] == sorted({d.id for d in seen})
    first, second = seen[:2]
    assert (first.verdict, first.reason, first.cite) == ("allow", "consent", "Tw 11.7(1)")
    assert (second.verdict, second.reason) == ("block", "suppressed")
    assert (first.stream, first.sender, first.mode) == ("newsletter", "acme", "enforce")
    assert (first.facts, first.decided_at, first.pack) == (
        '{"v":1}', after(60), "nl@2026.11#0123abcd",
    )  # fmt: skip
    assert (first.at_rcpt, first.null) == (False, False)


async def test_of_a_row_decided_twice_the_newest_decision_counts(stores: Stores) -> None:
    store = await stores.open()
    fate = only(await store.claim(intake("r", row("k"))))
    await store.reclaim([again(fate, state=State.BLOCKED)], high=0, at=after(30))
    [one] = await store.decided(after=0, limit=10, since=T0)
    assert (one.verdict, one.facts, one.decided_at) == ("block", '{"v":2}', after(30))
    assert await store.decided(after=0, limit=10, since=after(31)) == []


async def test_a_refusal_at_rcpt_and_the_null_sender_are_told_apart(stores: Stores) -> None:
    store = await stores.open()
    for name in ("rcpt", "null"):
        made = intake(name, row(name, person(name), state=State.BLOCKED))
        whole = made.submission
        submission = (
            replace(whole, content_hash="") if name == "rcpt" else replace(whole, mail_from="")
        )
        await store.claim(replace(made, submission=submission))
    found = await store.decided(after=0, limit=10, since=T0)
    assert [(d.ref, d.at_rcpt, d.null) for d in found] == [
        ("rcpt", True, False), ("null", False, True),
    ]  # fmt: skip
