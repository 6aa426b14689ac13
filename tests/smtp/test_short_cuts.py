"""What the front door does in fewer steps, against the long way, and how much it holds."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from front_door import PATIENCE, Loop, Submitted, front_door
from hypothesis import given
from hypothesis import strategies as st

from proxy import replies as words
from proxy.replies import Reply, printable
from proxy.smtp import replies
from proxy.smtp.server import RelaySMTP

LOOPS: list[Loop] = ["asyncio", "uvloop"]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=80) | st.text(
    st.sampled_from(" ~aZ0<>\x7f\x00\r\n\té\u2028"), max_size=80
)


@given(TEXTS, st.integers(0, 90))
def test_printable_is_character_by_character(text: str, limit: int) -> None:
    slow = "".join(c if 32 <= ord(c) < 127 else "?" for c in text[:limit])
    assert printable(text, limit) == slow


def test_a_reply_made_once_is_the_reply_made_anew() -> None:
    constants = [reply for reply in vars(replies).values() if isinstance(reply, Reply)]
    assert len(constants) > 50
    for reply in constants:
        anew = Reply(reply.code, reply.enhanced, reply.text)
        assert replies.octets(reply) == replies.octets(anew) == f"{reply}\r\n".encode("ascii")


@given(TEXTS)
def test_a_reply_is_one_line_whatever_its_text(text: str) -> None:
    octets = replies.octets(Reply(250, "2.0.0", text))
    assert octets.endswith(b"\r\n")
    assert octets[:-2].decode("ascii").isprintable()


def test_replies_of_other_modules_are_made_each_time() -> None:
    first, second = words.our_fault("A"), words.our_fault("B")
    assert replies.octets(first) != replies.octets(second)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_has_none_of_the_command_loop_that_is_not_used(loop: Loop) -> None:
    with front_door(loop=loop) as door, door.connect() as client:
        client.hello()
        [connection] = door.call(lambda: list(door.listener._house._connections))
        assert isinstance(connection, RelaySMTP)
        assert (connection._smtp_methods, connection._auth_methods) == ({}, {})


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_talks_on_has_to_wait(loop: Loop) -> None:
    """What is sent ahead while a mail is under way stays in the sockets, and none of it is lost."""
    go = asyncio.Event()

    async def held(_: Submitted) -> Reply:
        await go.wait()
        return Reply(250, "2.0.0", "done")

    with front_door(loop=loop) as door, door.connect() as client:
        door.gate.on_submit = held
        client.open()
        assert client.code("DATA") == 354
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        door.wait(lambda: len(door.gate.submitted) == 1)
        [connection] = door.call(lambda: list(door.listener._house._connections))
        assert isinstance(connection, RelaySMTP)
        client.plug.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 1 << 26:
                sent += client.plug.send(b"NOOP\r\n" * 10_000)
        assert sent < 1 << 26, "the listener read on and on"
        assert door.call(lambda: len(connection._in)) < 1 << 20
        client.plug.settimeout(PATIENCE)
        door.call(go.set)
        assert client.reply() == "250 2.0.0 done"
        assert [client.reply()[:3] for _ in range(101)] == ["250"] * 100 + ["421"]


@pytest.mark.parametrize("loop", LOOPS)
def test_all_that_came_before_a_half_close_is_answered(loop: Loop) -> None:
    with front_door(loop=loop) as door, door.connect() as client:
        client.send(b"EHLO client.example\r\n" + b"NOOP\r\n" * 50 + b"NOO")
        client.plug.shutdown(socket.SHUT_WR)
        assert [client.reply()[:3] for _ in range(51)] == ["250"] * 51
        assert client.at_end()
