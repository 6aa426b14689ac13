"""Mail of people: not marketing while it looks like theirs, also when it comes twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from running_sluis import World, message

pytest_plugins = ("running_sluis",)

Make = Callable[..., Coroutine[Any, Any, World]]

PEOPLE = '[[streams]]\nid = "people"\nsender = "acme"\ncategory = "personal"\n'


def _as_people(text: str) -> str:
    return text.replace("may_set_stream = true", 'stream = "people"')


def _mail(text: str = "See you at ten.\r\n") -> bytes:
    return message("orders", text=text, message_id="p").replace(b"orders.acme", b"acme")


async def test_a_deferred_mail_to_six_people_is_still_personal_at_its_retry(world: Make) -> None:
    w = await world(more=PEOPLE, edit=_as_people)
    to = [f"p{n}@example.nl" for n in range(6)]
    w.sink.once(".", "451 4.3.2 greylisted")
    reply = await w.send(to, _mail(), mail_from="jan@acme.example")
    assert reply.startswith("451 4.4.5 relayed 0 of 6"), reply
    reply = await w.send(to, _mail(), mail_from="jan@acme.example")
    assert reply.startswith("250 2.0.0 relayed 6 of 6"), reply


async def test_one_body_for_more_than_ten_people_a_day_is_marketing(world: Make) -> None:
    w = await world(more=PEOPLE, edit=_as_people)
    for n in range(10):
        reply = await w.send(f"p{n}@example.nl", _mail(), mail_from="jan@acme.example")
        assert reply.startswith("250 "), reply
    reply = await w.send("p10@example.nl", _mail(), mail_from="jan@acme.example")
    assert reply.startswith("550 5.7.1"), reply
    other = _mail("See you at eleven.\r\n")
    assert (await w.send("p10@example.nl", other, mail_from="jan@acme.example")).startswith("250 ")
