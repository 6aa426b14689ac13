"""Answers held back from those who fail again and again, across connections."""

from __future__ import annotations

import base64

from front_door import Door, front_door

from proxy.smtp import limits
from proxy.smtp.limits import Failures

RIGHT = base64.b64encode(b"\0app\0correct horse").decode()


def guess(door: Door, user: str, *, source: str = "127.0.0.1", password: str = "wrong") -> str:
    """One AUTH on a connection of its own; its answer."""
    with door.connect(source=source) as client:
        client.hello()
        said = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        return client.say(f"AUTH PLAIN {said}")


def test_a_network_that_guesses_waits_longer_each_time_and_is_shut_out() -> None:
    with front_door(auth="optional", trusted=False) as door:
        for n in range(limits.AUTH_SHUT):
            assert guess(door, f"user{n}").startswith("535 5.7.8 ")
        assert door.pauses[:8] == [0, 0, 0, 1, 2, 4, 8, 16]
        assert door.pauses[8:] == [16] * (limits.AUTH_SHUT - 8)
        assert guess(door, "app", password="correct horse").startswith("421 4.7.0 ")
        assert len(door.pauses) == limits.AUTH_SHUT
        # Another network is not concerned.
        assert guess(door, "app", source="127.0.0.2", password="correct horse").startswith("235 ")


def test_guesses_at_one_user_add_up_over_networks_and_the_user_may_enter() -> None:
    with front_door(auth="optional", trusted=False) as door:
        for user in ("app", "nobody"):
            for n in range(2, 8):
                assert guess(door, user, source=f"127.0.0.{n}").startswith("535 5.7.8 ")
        one, other = door.pauses[:6], door.pauses[6:]
        assert one == [0, 0, 0, 1, 2, 4]
        assert other == one  # whether a user exists makes no difference
        before = len(door.pauses)
        assert guess(door, "app", password="correct horse").startswith("235 ")
        assert len(door.pauses) == before
        assert guess(door, "app").startswith("535 ")
        assert door.pauses[before:] == [0]  # the right password forgave


def test_a_trusted_network_is_held_back_but_not_shut_out() -> None:
    with front_door(auth="optional") as door:
        for _ in range(limits.AUTH_SHUT + 2):
            assert guess(door, "app").startswith("535 ")
        assert guess(door, "app", password="correct horse").startswith("235 ")


def test_failures_are_forgotten_and_bounded() -> None:
    now = 0.0
    failures = Failures(lambda: now)
    for _ in range(limits.AUTH_SHUT):
        failures.note("2001:db8::1", "app")
    assert failures.is_shut_out("2001:db8::2")  # the same /64
    assert not failures.is_shut_out("2001:db8:0:1::1")
    now += limits.AUTH_MEMORY
    assert not failures.is_shut_out("2001:db8::1")
    assert failures.note("2001:db8::1", "app") == 0
    for n in range(Failures.KEPT):
        failures.note("192.0.2.1", f"user{n}")
    assert len(failures._seen) == Failures.KEPT


def test_errors_beyond_the_free_ones_are_answered_slowly() -> None:
    with front_door(errors=15) as door, door.connect() as client:
        for _ in range(limits.ERRORS_FREE):
            assert client.code("NONSENSE") == 500
        assert door.pauses == []
        for _ in range(4):
            assert client.code("NONSENSE") == 500
        assert client.code("NONSENSE") == 421
        assert door.pauses == [limits.ERROR_PAUSE] * 5


def test_nobody_waits_for_a_held_back_answer_at_shutdown() -> None:
    """The fixture drains, and fails where that takes longer than its patience allows."""
    with front_door(auth="optional", trusted=False, waits=True) as door:
        door.call(lambda: None)
        for _ in range(3):
            assert guess(door, "app").startswith("535 ")
        client = door.connect()
        client.hello()
        client.send(b"AUTH PLAIN " + base64.b64encode(b"\0app\0wrong") + b"\r\n")
        door.wait(lambda: len(door.gate.mails) == 0)
        door.run(door.listener.drain(5))
        answers = [client.reply(), client.reply()]
        assert answers[0].startswith("535 ")
        client.close()
