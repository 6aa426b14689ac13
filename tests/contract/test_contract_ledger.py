"""What every store must do with the ledger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest
from store_values import ANNA, BRAM, T0, after, event, opt_in, person

from policy.model import (
    Bounce,
    Box,
    Complaint,
    ComplaintVia,
    Contact,
    ContactVia,
    Detail,
    Objection,
    ObjectionOffered,
    OptIn,
    Published,
    PublishedPurpose,
    Registry,
    Relationship,
    Scope,
    Severity,
    Stage,
    Via,
)
from proxy.errors import StoreUnavailable
from proxy.store.model import NewAttributes, NewEvent, Subject

if TYPE_CHECKING:
    from store_factories import Stores

pytest_plugins = ("store_factories",)

DETAILS: list[Detail] = [
    OptIn(),
    OptIn(
        box=Box.PAPER, topics=("news", "sale"), products=("shoes/running",), confirmed_at=after(60),
        text_version="v3", source="import", ip="192.0.2.1", valid_until=date(2027, 2, 28),
        third_parties=("B.V. Ünïcode",), channels=("email", "sms"), withdrawal_info_given=True,
    ),
    Relationship(),
    Relationship(
        stage=Stage.PURCHASE, paid=True, indirect_remuneration=False, products=("a", "b"),
        address_from_customer=True, informed=False, objection_offered=ObjectionOffered.BOX,
        ended_at=after(-60),
    ),
    Published(purpose=PublishedPurpose.PRESS, no_spam_notice=False, informed_at_collection=True),
    Objection(),
    Objection(scope=Scope.TOPIC, topics=("news",), via=Via.PAGE),
    Objection(scope=Scope.STREAM, stream="newsletter", via=Via.IMPORT),
    Objection(scope=Scope.EVERYTHING, via=Via.ERASURE),
    Contact(via=ContactVia.ORDER),
    Bounce(severity=Severity.SOFT, status="4.2.2"),
    Complaint(via=ComplaintVia.ARF),
    Registry(registry="ECG"),
]  # fmt: skip


@pytest.mark.parametrize("detail", DETAILS, ids=lambda d: type(d).__name__)
async def test_an_event_comes_back_as_it_was_recorded(stores: Stores, detail: Detail) -> None:
    store = await stores.open()
    at = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    new = NewEvent(
        uid="u", subject=ANNA, detail=detail, at=at, recorded_at=after(0.000001), evidence="é:1"
    )
    assert await store.append([new]) == [True]
    (found,) = (await store.lookup([ANNA])).known[ANNA].events
    assert found.detail == detail
    assert (found.at, found.recorded_at) == (at, after(0.000001))
    assert (found.sender, found.evidence, found.uid, found.exact) == ("acme", "é:1", "u", True)


async def test_appending_the_same_uid_again_adds_nothing(stores: Stores) -> None:
    store = await stores.open()
    assert await store.append([opt_in("u"), opt_in("u")]) == [True, False]
    assert await store.append([event("u", BRAM)]) == [False]
    await store.close()
    store = await stores.open()
    assert await store.append([opt_in("u"), opt_in("v")]) == [False, True]
    known = (await store.lookup([ANNA, BRAM])).known
    assert [e.uid for e in known[ANNA].events] == ["u", "v"]
    assert known[BRAM].events == ()


async def test_one_append_is_all_or_nothing_and_hurts_no_other(stores: Stores) -> None:
    store = await stores.open()
    bad = event("", BRAM)  # an event without a uid cannot be told from another
    results = await asyncio.gather(
        store.append([event("good")]),
        store.append([opt_in("beside", BRAM), bad]),
        store.append([event("also good", BRAM)]),
        return_exceptions=True,
    )
    assert results[0] == results[2] == [True]
    assert isinstance(results[1], StoreUnavailable)
    known = (await store.lookup([ANNA, BRAM])).known
    assert [e.uid for e in known[ANNA].events] == ["good"]
    assert [e.uid for e in known[BRAM].events] == ["also good"]


async def test_events_are_in_the_order_of_their_commit(stores: Stores) -> None:
    store = await stores.open()
    for i in range(20):
        await store.append([opt_in(f"u{i}", at=after(-i))])
    snapshot = await store.lookup([ANNA])
    assert [e.uid for e in snapshot.known[ANNA].events] == [f"u{i}" for i in range(20)]


# -- unless_in_force -------------------------------------------------------------------------------


async def click(
    stores: Stores,
    before: list[NewEvent],
    subject: Subject = ANNA,
    detail: Detail | None = None,
) -> bool:
    store = await stores.open()
    for earlier in before:
        await store.append([earlier])
    (new,) = await store.append(
        [event("click", subject, detail, at=after(100), unless_in_force=True)]
    )
    found = (await store.lookup([subject])).known[subject].events
    assert ("click" in {e.uid for e in found}) is new
    return new


async def test_the_first_click_counts(stores: Stores) -> None:
    assert await click(stores, [])


async def test_a_repeated_click_adds_nothing_whatever_its_channel(stores: Stores) -> None:
    assert not await click(stores, [event("o")], detail=Objection(via=Via.PAGE))


async def test_a_click_adds_to_an_objection_that_came_another_way(stores: Stores) -> None:
    imported = event("o", detail=Objection(via=Via.IMPORT))
    assert await click(stores, [imported])


async def test_an_objection_that_came_another_way_adds_nothing_to_a_click(stores: Stores) -> None:
    assert not await click(stores, [event("o")], detail=Objection(via=Via.FORM))


async def test_a_repeated_click_is_recorded_without_the_flag(stores: Stores) -> None:
    store = await stores.open()
    assert await store.append([event("o"), event("p")]) == [True, True]


async def test_a_click_after_a_new_opt_in_counts_once(stores: Stores) -> None:
    store = await stores.open()
    await store.append([event("o", at=T0)])
    await store.append([opt_in("i", at=after(10))])
    clicks = [event(f"c{i}", at=after(20 + i), unless_in_force=True) for i in range(3)]
    assert await store.append(clicks) == [True, False, False]


async def test_an_opt_in_recorded_earlier_with_a_later_time_counts_as_after(stores: Stores) -> None:
    assert await click(stores, [opt_in("i", at=after(200)), event("o", at=after(50))])


async def test_an_older_opt_in_changes_nothing(stores: Stores) -> None:
    assert not await click(stores, [opt_in("i", at=after(-1)), event("o", at=T0)])


@pytest.mark.parametrize(
    ("subject", "earlier"),
    [
        (person("anna", tag="x"), event("o")),
        (ANNA, event("o", person("anna", tag="x"))),
        (person("anna", sender="other"), event("o")),
        (ANNA, event("o", BRAM)),
        (ANNA, event("o", detail=Objection(scope=Scope.TOPIC, topics=("news",)))),
        (ANNA, event("o", detail=Objection(scope=Scope.STREAM, stream="newsletter"))),
        (ANNA, event("o", detail=Complaint(via=ComplaintVia.ARF))),
    ],
)
async def test_only_the_very_same_objection_is_the_same(
    stores: Stores, subject: Subject, earlier: NewEvent
) -> None:
    assert await click(stores, [earlier], subject)


async def test_topics_are_compared_as_a_set(stores: Stores) -> None:
    one = Objection(scope=Scope.TOPIC, topics=("b", "a"))
    assert not await click(
        stores, [event("o", detail=one)], detail=Objection(scope=Scope.TOPIC, topics=("a", "b"))
    )


async def test_two_clicks_at_once_are_one(stores: Stores) -> None:
    store = await stores.open()
    clicks = [store.append([event(f"c{i}", unless_in_force=True)]) for i in range(10)]
    news = [new for (new,) in await asyncio.gather(*clicks)]
    assert sorted(news) == [False] * 9 + [True]


# -- lookup ----------------------------------------------------------------------------------------


async def test_blocking_reaches_over_the_wide_key_and_permission_does_not(stores: Stores) -> None:
    store = await stores.open()
    tagged = person("anna", tag="list")
    await store.append([opt_in("plain"), event("tagged", tagged), event("other", BRAM)])
    known = (await store.lookup([ANNA, tagged])).known
    assert [(e.uid, e.exact) for e in known[ANNA].events] == [("plain", True), ("tagged", False)]
    assert [(e.uid, e.exact) for e in known[tagged].events] == [("plain", False), ("tagged", True)]


async def test_events_of_every_sender_are_seen(stores: Stores) -> None:
    store = await stores.open()
    await store.append([event("o", person("anna", sender="other"))])
    (found,) = (await store.lookup([ANNA])).known[ANNA].events
    assert (found.sender, found.exact) == ("other", True)


async def test_an_objection_is_found_by_its_exact_key_when_widening_has_changed(
    stores: Stores,
) -> None:
    store = await stores.open()
    await store.append([event("o", ANNA)])
    rewidened = Subject(ANNA.sender, ANNA.exact, "wide:anna-by-new-rules")
    (found,) = (await store.lookup([rewidened])).known[rewidened].events
    assert (found.uid, found.exact) == ("o", True)


async def test_an_unknown_person_has_nothing(stores: Stores) -> None:
    store = await stores.open()
    snapshot = await store.lookup([ANNA])
    assert snapshot.high == 0
    assert snapshot.known[ANNA].events == ()
    assert dict(snapshot.known[ANNA].attributes) == {}
    assert snapshot.known[ANNA].last_marketing_at is None


async def test_concurrent_lookups_each_get_their_own(stores: Stores) -> None:
    store = await stores.open()
    people = [person(f"p{i}") for i in range(100)]
    await store.append([opt_in(f"u{i}", p) for i, p in enumerate(people)])
    snapshots = await asyncio.gather(*(store.lookup([p]) for p in people))
    for i, (who, snapshot) in enumerate(zip(people, snapshots, strict=True)):
        assert list(snapshot.known) == [who]
        assert [e.uid for e in snapshot.known[who].events] == [f"u{i}"]
        assert snapshot.high == 100


async def test_a_thousand_recipients_are_one_lookup(stores: Stores) -> None:
    store = await stores.open()
    people = [person(f"p{i}") for i in range(1000)]
    await store.append([opt_in(f"u{i}", p) for i, p in enumerate(people)])
    known = (await store.lookup(people)).known
    assert [known[p].events[0].uid for p in people] == [f"u{i}" for i in range(1000)]


async def test_high_is_the_last_event_of_anyone(stores: Stores) -> None:
    store = await stores.open()
    await store.append([opt_in("a"), opt_in("b", BRAM)])
    first = (await store.lookup([ANNA])).high
    await store.append([opt_in("b"), opt_in("c", BRAM)])
    assert (await store.lookup([ANNA])).high > first


# -- attributes ------------------------------------------------------------------------------------


def columns(at: datetime, subject: Subject = ANNA, **values: object) -> NewAttributes:
    return NewAttributes(subject=subject, at=at, values=values)


async def test_the_latest_attribute_wins_key_by_key(stores: Stores) -> None:
    store = await stores.open()
    await store.append([], [columns(after(5), country="NL", kind="consumer")])
    await store.append([], [columns(after(1), country="DE", language="de")])
    await store.append([], [columns(after(9), kind="sole-trader")])
    known = (await store.lookup([ANNA])).known[ANNA]
    assert known.attributes == {"country": "NL", "kind": "sole-trader", "language": "de"}


async def test_at_the_same_time_the_later_written_attribute_wins(stores: Stores) -> None:
    store = await stores.open()
    await store.append([], [columns(T0, country="NL"), columns(T0, country="BE")])
    assert (await store.lookup([ANNA])).known[ANNA].attributes == {"country": "BE"}


async def test_an_attribute_can_become_unknown_again(stores: Stores) -> None:
    store = await stores.open()
    await store.append([], [columns(T0, country="NL", legal_person=True)])
    await store.append([], [columns(after(1), country=None)])
    assert (await store.lookup([ANNA])).known[ANNA].attributes == {"legal_person": True}


async def test_attributes_belong_to_one_sender_and_one_exact_address(stores: Stores) -> None:
    store = await stores.open()
    await store.append([], [columns(T0, country="NL")])
    others = [person("anna", sender="other"), person("anna", tag="x")]
    known = (await store.lookup([ANNA, *others])).known
    assert known[ANNA].attributes == {"country": "NL"}
    assert [known[o].attributes for o in others] == [{}, {}]


# -- subjects --------------------------------------------------------------------------------------


async def test_subjects_are_paged_once_each(stores: Stores) -> None:
    store = await stores.open()
    people = [person(f"p{i}", sender=s) for i in range(7) for s in ("acme", "other")]
    for turn in range(3):
        await store.append([opt_in(f"{turn}.{i}", p) for i, p in enumerate(people)])
    found: list[Subject] = []
    position = 0
    while page := await store.subjects(after=position, limit=4):
        assert len(page) <= 4
        position = page[-1][0]
        found += [subject for _, subject in page]
    assert found == people


# -- life ------------------------------------------------------------------------------------------


async def test_a_cancelled_caller_does_not_undo_its_event(stores: Stores) -> None:
    store = await stores.open()
    calls = [asyncio.ensure_future(store.append([event(f"u{i}")])) for i in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await store.append([event("last")])
    found = (await store.lookup([ANNA])).known[ANNA].events
    assert [e.uid for e in found] == [f"u{i}" for i in range(20)] + ["last"]


async def test_close_writes_what_waits_and_then_refuses(stores: Stores) -> None:
    store = await stores.open()
    call = asyncio.ensure_future(store.append([event("u")]))
    await asyncio.sleep(0)
    await store.close()
    assert await call == [True]
    for refused in (store.append([event("v")]), store.lookup([ANNA]), store.ping()):
        with pytest.raises(StoreUnavailable):
            await refused
    store = await stores.open()
    assert [e.uid for e in (await store.lookup([ANNA])).known[ANNA].events] == ["u"]


async def test_two_connections_see_each_others_commits(stores: Stores) -> None:
    first, second = await stores.open("a"), await stores.open("b", owner=False)
    await first.append([opt_in("u")])
    assert (await second.lookup([ANNA])).known[ANNA].events[0].uid == "u"
    await second.append([event("o")])
    assert len((await first.lookup([ANNA])).known[ANNA].events) == 2


async def test_ping_passes_on_a_healthy_store(stores: Stores) -> None:
    store = await stores.open()
    before = await store.lookup([ANNA])
    await store.ping()
    assert await store.lookup([ANNA]) == before


async def test_addresses_are_found_by_their_exact_keys(stores: Stores) -> None:
    store = await stores.open()
    await store.append([replace(opt_in("1", ANNA), address="anna@example.nl"), opt_in("2", BRAM)])
    assert await store.addresses([ANNA.exact, BRAM.exact, "nobody"]) == {
        ANNA.exact: "anna@example.nl"
    }
    assert await store.addresses([]) == {}
