"""Messages on disk while they come in, and the budget that all of them share."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest
from front_door import Door, RecordingGate, Submitted, front_door
from hypothesis import given
from hypothesis import strategies as st

from proxy.content import SPOOL_AT, Budget, Spool
from proxy.replies import Reply
from proxy.smtp import session
from proxy.smtp.limits import SPOOLED_TAKES, Admission

TMP = Path(tempfile.gettempdir())
LINE = b"x" * 98 + b"\r\n"


@given(st.lists(st.integers(0, SPOOL_AT), max_size=4))
def test_what_went_in_comes_out_once(sizes: list[int]) -> None:
    spool_ = Spool(TMP)
    pieces = [bytes([n]) * size for n, size in enumerate(sizes)]
    for piece in pieces:
        spool_.write(piece, ascii_only=True, dots=False)
    taken = spool_.take()
    assert isinstance(taken, bytes) == (sum(sizes) <= SPOOL_AT)
    assert bytes(taken) == b"".join(pieces)
    assert spool_.take() == b""


def files(door: Door) -> list[str]:
    """The nameless files that this process has open."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(number.readlink()))
    return [name for name in found if name.startswith(str(TMP)) and name.endswith(" (deleted)")]


def test_a_large_message_is_in_a_file_while_it_comes_in_and_gone_afterwards() -> None:
    with front_door() as door:
        already = len(files(door))
        with door.connect() as client:
            client.open()
            assert client.code("DATA") == 354
            client.send(LINE * 3000)
            door.wait(lambda: len(files(door)) == already + 1)
            client.send(b"end\r\n.\r\n")
            assert client.reply().startswith("250 ")
            assert len(files(door)) == already
            assert door.gate.submitted[0].content == LINE * 3000 + b"end\r\n"
            # One that turns out to be faulty, and one whose client leaves.
            client.open()
            assert client.code("DATA") == 354
            client.send(LINE * 3000)
            door.wait(lambda: len(files(door)) == already + 1)
            client.send(b"bare\n\r\n")
            door.wait(lambda: len(files(door)) == already)
            client.send(b".\r\n")
            assert client.reply().startswith("550 5.5.2 ")
            client.open()
            assert client.code("DATA") == 354
            client.send(LINE * 3000)
            door.wait(lambda: len(files(door)) == already + 1)
        door.wait(lambda: len(files(door)) == already)


def test_a_full_disk_is_a_temporary_refusal_after_the_whole_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FullSpool(Spool):
        def write(self, octets: bytes | memoryview, *, ascii_only: bool, dots: bool) -> None:
            super().write(octets, ascii_only=ascii_only, dots=dots)
            if self.on_disk:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "Spool", FullSpool)
    with front_door() as door, door.connect() as client:
        for body, answer in ((LINE * 3000, "452 4.3.1 "), (LINE, "250 2.0.0 ")):
            client.open()
            assert client.code("DATA") == 354
            client.send(body + b".\r\n")
            assert client.reply().startswith(answer)
            client.say("RSET")


def test_the_budget_is_kept_and_given_back() -> None:
    kept: list[Admission] = []

    def keep(limits: object) -> Admission:
        kept.append(Admission(limits))  # type: ignore[arg-type]
        return kept[0]

    go = asyncio.Event()

    async def slowly(_: Submitted) -> Reply:
        await go.wait()
        return Reply(250, "2.0.0", "ok")

    room = 2 * SPOOL_AT + SPOOLED_TAKES
    with front_door(memory=room, message_size=1_000_000, admission=keep) as door:
        memory = kept[0].memory
        door.gate.on_submit = slowly
        with door.connect() as one, door.connect() as two, door.connect() as three:
            for client in (one, two, three):
                client.open()
            assert one.code("DATA") == 354
            one.send(LINE * 9000 + b".\r\n")  # 900,000 octets on disk, in the gate's hands
            door.wait(lambda: memory.taken == SPOOL_AT + SPOOLED_TAKES)
            assert kept[0].disk.taken == 900_000
            assert two.code("DATA") == 354
            assert three.say("DATA").startswith("452 4.3.1 ")
            two.send(LINE * 4000 + b".\r\n")
            assert two.reply().startswith("452 4.3.1 ")
            door.call(go.set)
            assert one.reply().startswith("250 ")
            door.wait(lambda: memory.taken == kept[0].disk.taken == 0)
            # The transaction that was refused at DATA is over, as after any other refusal there.
            three.open()
            assert three.code("DATA") == 354
            three.send(LINE * 4000 + b".\r\n")
            assert three.reply().startswith("250 ")
        door.wait(lambda: memory.taken == kept[0].disk.taken == 0)


def test_strangers_never_take_the_room_of_those_who_may_relay() -> None:
    kept: list[Admission] = []

    def keep(limits: object) -> Admission:
        kept.append(Admission(limits))  # type: ignore[arg-type]
        return kept[0]

    gate = RecordingGate(strangers=frozenset({"leave@acme.example"}))
    room = SPOOL_AT + SPOOLED_TAKES  # the least that strangers have: one large message
    with (
        front_door(
            gate=gate,
            memory=2 * room,
            spool=8_000_000,
            message_size=4_000_000,
            admission=keep,
            trusted=("127.0.0.2/32",),
        ) as door,
        door.connect() as one,
        door.connect() as two,
        door.connect(source="127.0.0.2") as app,
    ):
        memory, disk = kept[0].strangers
        for client in (one, two):
            client.open("leave@acme.example")
        assert one.code("DATA") == 354
        one.send(LINE * 9000)
        door.wait(lambda: disk.taken > 890_000)
        assert memory.taken == SPOOL_AT
        assert two.code("DATA") == 354
        two.send(LINE * 3000 + b".\r\n")
        assert two.reply().startswith("452 4.3.1 "), "together they have an eighth"
        assert (kept[0].memory.taken, kept[0].disk.taken) == (0, 0)
        app.open()
        assert app.code("DATA") == 354
        app.send(LINE * 20_000 + b".\r\n")
        assert app.reply().startswith("250 "), "all of its room is there"
        one.send(LINE * 2000 + b".\r\n")
        assert one.reply().startswith("552 5.3.4 "), "larger than all the room that strangers have"
        door.wait(lambda: memory.taken == disk.taken == 0)


def test_large_messages_share_the_room_on_disk() -> None:
    with front_door(spool=1_000_000) as door, door.connect() as one, door.connect() as two:
        for client in (one, two):
            client.open()
            assert client.code("DATA") == 354
        one.send(LINE * 6000)
        two.send(LINE * 3000 + b".\r\n")  # there is room for it beside what came of the first
        assert two.reply().startswith("250 ")
        two.open()
        assert two.code("DATA") == 354
        two.send(LINE * 5000 + b".\r\n")
        assert two.reply().startswith("452 4.3.1 ")
        one.send(b".\r\n")
        assert one.reply().startswith("250 ")


def test_the_budget_itself() -> None:
    memory = Budget(10)
    room = memory.room(6)
    assert room is not None
    assert room.grow(4)
    assert not room.grow(1)
    assert memory.room(1) is None
    assert memory.taken == 10
    del room
    assert memory.taken == 0
    assert memory.room(10) is not None
