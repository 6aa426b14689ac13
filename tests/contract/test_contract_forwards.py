"""Opt-outs that are passed on: made with the event, once per copy, tried until they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from store_factories import Stores
from store_values import after, event, high, intake, notice, person, row, states

from proxy.store.model import Forward, ForwardState, NewEvent, Passing, State, Store

pytest_plugins = ("store_factories",)

URI = "https://esp.example/u?id=1"


async def mail(
    store: Store, ref: str, *names: str, by: str = "post", uri: str = URI
) -> None:
    """A mail that came with an opt-out of its own."""
    rows = [row(f"{ref}-{name}", person(name), n=n) for n, name in enumerate(names or ("anna",), 1)]
    made = intake(ref, rows, high=await high(store))
    made = replace(made, submission=replace(made.submission, forward=uri, forward_by=by))
    assert not (await store.claim(made)).stale


def click(uid: str, ref: str = "REF.1", who: str = "anna", *, at: float = 10) -> NewEvent:
    asked = event(uid, person(who), at=after(at), evidence="token:x", unless_in_force=True)
    return replace(asked, forward=ref)


def passing(forward: Forward, state: ForwardState, **more: object) -> Passing:
    values: dict[str, object] = {"answer": "HTTP 200", "at": after(20), **more}
    return Passing(id=forward.id, attempts=forward.attempts, state=state, **values)  # type: ignore[arg-type]


async def test_it_is_made_in_the_commit_of_the_opt_out(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF")
    assert await store.append([click("a")]) == [True]
    other = await stores.open("b", owner=False)
    [found] = await other.forwards_due(after(10), 5)
    assert found == Forward(
        id=found.id, ref="REF", copy=1, stream="newsletter", sender="acme", uri=URI, by="post",
        state=ForwardState.WAITING, attempts=0, asked_at=after(10), next_try=after(10), answer="",
        ended_at=None,
    )  # fmt: skip
    assert await store.forwards_due(after(9), 5) == []
    assert await store.forwards_waiting() == 1


async def test_once_per_copy_however_often_it_is_clicked(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF")
    await store.append([click("a"), click("b")])
    assert await store.append([click("c", at=11)]) == [False]
    [one] = await store.forwards()
    assert await store.passed(passing(one, ForwardState.PASSED))
    await store.append([click("d", at=30)])
    assert await store.forwards_waiting() == 0
    assert [f.state for f in await store.forwards(ended=True)] == [ForwardState.PASSED]


async def test_another_mail_is_told_though_the_objection_is_in_force(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "ONE")
    await mail(store, "TWO", uri="https://other.example/u")
    assert await store.append([click("a", "ONE.1")]) == [True]
    assert await store.append([click("b", "TWO.1")]) == [False]
    assert [f.uri for f in await store.forwards()] == [URI, "https://other.example/u"]
    assert [f.ref for f in await store.forwards(ref="TWO")] == ["TWO"]


@pytest.mark.parametrize(
    ("ref", "who"),
    [("REF.1", "bram"), ("REF.2", "anna"), ("REF.3", "anna"), ("NONE.1", "anna"),
     ("REF", "anna"), ("REF.x", "anna"), ("REF.", "anna"), ("REF.99999999999999999999", "anna")],
)  # fmt: skip
async def test_a_mail_of_somebody_else_is_left_alone(
    stores: Stores, ref: str, who: str
) -> None:
    store = await stores.open()
    await mail(store, "REF", "anna", "bram")
    assert await store.append([click("a", ref, who)]) == [True]
    assert await store.forwards(ended=True) == []


async def test_another_senders_mail_is_left_alone(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF")
    asked = replace(click("a"), subject=person("anna", sender="globex"))
    assert await store.append([asked]) == [True]
    assert await store.forwards(ended=True) == []


async def test_nothing_to_tell_where_the_mail_names_no_way(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF", by="")
    await store.append([click("a")])
    assert await store.forwards(ended=True) == []


async def test_it_waits_longer_then_ends_and_stays_on_record(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF")
    await store.append([click("a")])
    [one] = await store.forwards()
    late = passing(one, ForwardState.WAITING, answer="HTTP 503", next_try=after(100))
    assert await store.passed(late)
    assert not await store.passed(late), "it moved on"
    assert await store.forwards_due(after(99), 5) == []
    [two] = await store.forwards_due(after(100), 5)
    assert (two.attempts, two.answer, two.ended_at) == (1, "HTTP 503", None)
    by_hand = passing(two, ForwardState.WAITING, answer="HTTP 503", tried=False, at=after(101))
    assert await store.passed(by_hand)
    [three] = await store.forwards_due(after(101), 5)
    assert three.attempts == 1
    gone = passing(three, ForwardState.REFUSED, answer="HTTP 410", at=after(102))
    assert await store.passed(gone)
    assert await store.forwards() == []
    [end] = await store.forwards(ended=True)
    assert (end.state, end.attempts, end.answer) == (ForwardState.REFUSED, 2, "HTTP 410")
    assert (end.next_try, end.ended_at) == (None, after(102))
    assert not await store.passed(passing(end, ForwardState.PASSED)), "an end is final"


async def test_a_mail_goes_with_it_in_one_commit(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF", by="mail", uri="mailto:leave@esp.example")
    await store.append([click("a")])
    [one] = await store.forwards()
    taken = passing(one, ForwardState.PASSED, answer="mail OUT", mail=notice(ref="OUT"))
    assert await store.passed(taken)
    assert not await store.passed(taken)
    assert await states(store, "OUT") == [State.WAITING], "one mail, not two"
    assert [due.ref for due in await store.due(after(60), 5)] == ["OUT"]
    with pytest.raises(ValueError, match="passed on"):
        await store.passed(passing(one, ForwardState.WAITING, mail=notice(ref="X")))


async def test_it_is_there_after_the_store_was_closed(stores: Stores) -> None:
    store = await stores.open()
    await mail(store, "REF")
    await store.append([click("a")])
    await store.close()
    again = await stores.open()
    assert [f.ref for f in await again.forwards()] == ["REF"]
