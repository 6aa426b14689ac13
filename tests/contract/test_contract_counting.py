"""What every store must do for frequency caps: count each mail once, and never let one too many."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from store_process import lines
from store_values import (
    ANNA,
    BRAM,
    WINDOW,
    after,
    again,
    high,
    intake,
    only,
    outcome,
    person,
    relayed,
    row,
    states,
)

from proxy.store.model import Counted, Fate, Result, Room, RowFate, State, Store, Subject

if TYPE_CHECKING:
    from store_factories import Stores

pytest_plugins = ("store_factories",)

SINCE = after(-7 * 86400)
ONE = (Room("newsletter", SINCE, 1),)


async def mails(
    store: Store, who: Subject = ANNA, since: datetime = SINCE
) -> tuple[Counted, ...]:
    return (await store.lookup([who], mails_since=since)).known[who].mails


async def claimed(
    store: Store,
    ref: str,
    copy_key: str = "",
    *,
    who: Subject = ANNA,
    stream: str = "newsletter",
    marketing: bool = True,
    second: float = 0,
) -> RowFate:
    new = row(copy_key or ref, who, marketing=marketing)
    mail = intake(ref, new, high=await high(store), at=after(second), stream=stream)
    return only(await store.claim(mail))


# -- what counts -----------------------------------------------------------------------------------


async def test_a_relayed_mail_counts_once_at_the_commit_of_its_attempt(stores: Stores) -> None:
    store = await stores.open()
    fate = await claimed(store, "r", second=5)
    assert await mails(store) == (Counted("newsletter", after(5), "r", relayed=False),)
    await store.record([outcome(fate, at=after(9))])
    assert await mails(store) == (Counted("newsletter", after(5), "r", relayed=True),)
    await store.record([outcome(fate, at=after(9))])
    assert len(await mails(store)) == 1


@pytest.mark.parametrize(
    ("result", "counts"),
    [
        (Result.ACCEPTED, 1),
        (Result.UNKNOWN, 1),  # it may have arrived
        (Result.TEMPORARY, 0),
        (Result.UNSENT, 0),
        (Result.PERMANENT, 0),
    ],
)
async def test_only_what_left_or_may_have_left_counts(
    stores: Stores, result: Result, counts: int
) -> None:
    store = await stores.open()
    await store.record([outcome(await claimed(store, "r"), result)])
    assert len(await mails(store)) == counts


@pytest.mark.parametrize("state", [State.BLOCKED, State.RETURNED])
async def test_what_was_not_attempted_does_not_count(stores: Stores, state: State) -> None:
    store = await stores.open()
    await store.claim(intake("r", row("k", state=state)))
    assert await mails(store) == ()


async def test_other_mail_than_marketing_does_not_count(stores: Stores) -> None:
    store = await stores.open()
    await store.record([outcome(await claimed(store, "r", marketing=False))])
    assert await mails(store) == ()


async def test_a_try_that_may_have_arrived_and_its_retry_are_one_mail(stores: Stores) -> None:
    store = await stores.open()
    await store.record([outcome(await claimed(store, "a", "k"), Result.UNKNOWN)])
    retry = await claimed(store, "b", "k", second=60)
    assert await mails(store) == (Counted("newsletter", after(60), "k", relayed=False),)
    await store.record([outcome(retry)])
    assert await mails(store) == (Counted("newsletter", after(60), "k", relayed=True),)


async def test_a_refused_retry_of_what_may_have_arrived_still_counts(stores: Stores) -> None:
    store = await stores.open()
    await store.record([outcome(await claimed(store, "a", "k"), Result.UNKNOWN)])
    await store.record([outcome(await claimed(store, "b", "k", second=60), Result.PERMANENT)])
    assert [m.copy_key for m in await mails(store)] == ["k"]


async def test_the_same_copy_relayed_again_after_the_window_is_a_second_mail(
    stores: Stores,
) -> None:
    store = await stores.open()
    await relayed(store, "a", "k")
    later = WINDOW.total_seconds() + 1
    await store.record([outcome(await claimed(store, "b", "k", second=later), Result.UNKNOWN)])
    found = [(m.relayed, m.at) for m in await mails(store)]
    assert found == [(True, after(0)), (False, after(later))]


async def test_a_late_acceptance_counts(stores: Stores) -> None:
    store = await stores.open()
    fate = await claimed(store, "r")
    await store.record([outcome(fate, Result.TEMPORARY)])
    assert await mails(store) == ()
    await store.record([outcome(fate)])
    assert [m.relayed for m in await mails(store)] == [True]


async def test_a_crash_counts_what_was_on_its_way(stores: Stores) -> None:
    store = await stores.open()
    await claimed(store, "r")
    await store.close()
    store = await stores.open()
    assert await store.recover() == 1
    assert [m.relayed for m in await mails(store)] == [False]


async def test_a_person_is_all_spellings_of_one_address_at_one_sender(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "a", "a", person("anna", tag="x"))
    await relayed(store, "b", "b", person("anna", sender="other"))
    await relayed(store, "c", "c", BRAM)
    assert [m.copy_key for m in await mails(store)] == ["a"]


async def test_only_mails_after_the_time_asked_for_are_read_and_only_when_asked(
    stores: Stores,
) -> None:
    store = await stores.open()
    for second in (20, 10, 30):
        await store.record([outcome(await claimed(store, f"r{second}", second=second))])
    assert [m.at for m in await mails(store, since=after(10))] == [after(20), after(30)]
    wide, narrow, none = await asyncio.gather(  # in one batch, each its own
        mails(store), mails(store, since=after(20)), store.lookup([ANNA])
    )
    assert [len(wide), len(narrow), len(none.known[ANNA].mails)] == [3, 1, 0]


# -- room ------------------------------------------------------------------------------------------


async def capped(
    store: Store,
    ref: str,
    *,
    copy_key: str = "",
    who: Subject = ANNA,
    room: tuple[Room, ...] = ONE,
    stream: str = "newsletter",
    second: float = 0,
) -> RowFate | None:
    """None when there was no room."""
    new = row(copy_key or ref, who, room=room)
    result = await store.claim(
        intake(ref, new, high=await high(store), at=after(second), stream=stream)
    )
    return None if result.stale else only(result)


async def test_an_attempt_without_room_is_stale_and_writes_nothing(stores: Stores) -> None:
    store = await stores.open()
    assert await capped(store, "a") is not None
    assert await capped(store, "b") is None
    assert await store.journal(ref="b") == []
    assert await capped(store, "c", who=BRAM) is not None


async def test_a_failed_attempt_gives_its_room_back(stores: Stores) -> None:
    store = await stores.open()
    first = await capped(store, "a")
    assert first is not None
    await store.record([outcome(first, Result.TEMPORARY)])
    assert await capped(store, "b") is not None


async def test_a_row_that_starts_no_attempt_needs_no_room(stores: Stores) -> None:
    store = await stores.open()
    await capped(store, "a")
    new = row("b", state=State.RETURNED, room=ONE)
    assert only(await store.claim(intake("b", new))).fate is Fate.RECORDED


async def test_room_of_a_stream_and_of_the_sender(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "a", "a")
    offers = (Room("offers", SINCE, 1),)
    assert await capped(store, "b", stream="offers", room=(*offers, Room("", SINCE, 1))) is None
    assert await capped(store, "c", stream="offers", room=(*offers, Room("", SINCE, 2))) is not None
    assert await capped(store, "d", stream="offers", room=offers) is None


async def test_room_counts_what_lies_after_its_own_time(stores: Stores) -> None:
    store = await stores.open()
    await relayed(store, "a", "a")
    assert await capped(store, "b", room=(Room("newsletter", after(0), 1),)) is not None
    assert await capped(store, "c", room=(Room("newsletter", after(-1), 2),)) is None


async def test_the_retry_of_what_may_have_arrived_does_not_stand_in_its_own_way(
    stores: Stores,
) -> None:
    store = await stores.open()
    first = await capped(store, "a", copy_key="k")
    assert first is not None
    await store.record([outcome(first, Result.UNKNOWN)])
    assert await capped(store, "b") is None
    retry = await capped(store, "c", copy_key="k")
    assert retry is not None
    assert retry.ambiguous_retry


async def test_a_retry_of_what_was_relayed_is_answered_though_there_is_no_room(
    stores: Stores,
) -> None:
    store = await stores.open()
    await relayed(store, "a", "k")
    fate = await capped(store, "b", copy_key="k")
    assert fate is not None
    assert (fate.fate, fate.ref) == (Fate.ANSWERED, "a")


async def test_two_spellings_in_one_submission_share_the_room(stores: Stores) -> None:
    store = await stores.open()
    rows = [row("a", room=ONE), row("b", person("anna", tag="x"), n=2, room=ONE)]
    assert (await store.claim(intake("r", rows))).stale
    assert await store.journal(ref="r") == []
    two = (Room("newsletter", SINCE, 2),)
    rows = [row("a", room=two), row("b", person("anna", tag="x"), n=2, room=two)]
    assert not (await store.claim(intake("r", rows))).stale


async def test_an_attempt_decided_again_keeps_its_own_room(stores: Stores) -> None:
    store = await stores.open()
    fate = await capped(store, "a")
    assert fate is not None
    new = only(
        await store.reclaim([again(fate, room=ONE)], high=await high(store), at=after(9))
    )
    assert new.fate is Fate.CLAIMED
    assert [m.at for m in await mails(store)] == [after(9)]
    narrower = again(new, room=(Room("newsletter", SINCE, 0),))
    assert (await store.reclaim([narrower], high=await high(store), at=after(9))).stale
    stopped = again(new, state=State.RETURNED)
    await store.reclaim([stopped], high=await high(store), at=after(9))
    assert await mails(store) == ()


async def test_of_many_at_once_only_so_many_leave_as_there_is_room_for(stores: Stores) -> None:
    first, second = await stores.open("a"), await stores.open("b")
    room = (Room("", SINCE, 3),)
    fates = await asyncio.gather(
        *(
            capped(store, f"{name}{i}", room=room)
            for i in range(15)
            for name, store in (("a", first), ("b", second))
        )
    )
    assert sum(fate is not None for fate in fates) == 3
    assert len(await mails(first)) == 3


async def test_processes_at_once_never_send_one_too_many(stores: Stores) -> None:
    store = await stores.open()
    printed = await asyncio.gather(
        *(asyncio.to_thread(stores.elsewhere, "capped", "12", "5") for _ in range(3))
    )
    said = Counter(key for text in printed for line in lines(text) for key in line)
    assert (said["left"], said["held"]) == (5, 31)
    assert len(await mails(store)) == 5
    for text in printed:
        for line in lines(text):
            if "left" in line:
                assert await states(store, str(line["left"])) == [State.RELAYED]
