"""How a session ends: clients that leave, our own trouble, and the drain at shutdown."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from front_door import PATIENCE, Client, Door, Loop, RecordingGate, Submitted, Tls, front_door

from policy.address import Address
from proxy import log
from proxy.envelope import Envelope
from proxy.replies import Reply
from proxy.smtp.data import Incoming

LOOPS: list[Loop] = ["asyncio", "uvloop"]


class Latch:
    """A gate's answer that waits until the test lets it go."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self._go: asyncio.Event | None = None

    async def __call__(self, _: Submitted) -> Reply:
        self.begun += 1
        self._go = self._go or asyncio.Event()
        try:
            await self._go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Reply(250, "2.0.0", "done")

    def release(self, door: Door) -> None:
        def go() -> None:
            assert self._go is not None
            self._go.set()

        door.call(go)


def reset(client: Client) -> None:
    """Drop the connection with RST."""
    client.plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def hand_over(client: Client, door: Door, latch: Latch) -> None:
    """A message whose final dot is out, and which the gate has."""
    client.open()
    assert client.code("DATA") == 354
    client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
    door.wait(lambda: latch.begun == 1)


# -- Clients that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_half_closed_client_gets_its_answers(loop: Loop) -> None:
    latch = Latch()
    with (
        front_door(gate=RecordingGate(on_submit=latch), loop=loop) as door,
        door.connect() as client,
    ):
        hand_over(client, door, latch)
        client.send(b"QUIT\r\n")
        client.plug.shutdown(socket.SHUT_WR)
        latch.release(door)
        assert client.reply() == "250 2.0.0 done"
        assert client.reply().startswith("221 ")
        assert client.at_end()


def test_a_whole_session_in_one_go_and_half_closed() -> None:
    with front_door() as door, door.connect() as client:
        client.send(
            b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@y.example>\r\nDATA\r\nhi\r\n.\r\n"
            b"MAIL FROM:<a@b.example>\r\n"
        )
        client.plug.shutdown(socket.SHUT_WR)
        assert [client.reply()[:3] for _ in range(6)] == ["250", "250", "250", "354", "250", "250"]
        assert client.at_end()
        assert [s.content for s in door.gate.submitted] == [b"hi\r\n"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("tls", ["none", "starttls"])
def test_a_client_that_drops_after_the_dot_stops_nothing(
    tmp_path: Path, loop: Loop, how: str, tls: Tls
) -> None:
    latch = Latch()
    gate = RecordingGate(on_submit=latch)
    with front_door(tmp_path, gate=gate, loop=loop, tls=tls) as door:
        with door.connect() as client:
            if tls == "starttls":
                client.hello()
                assert client.code("STARTTLS") == 220
                client.start_tls(door.client_tls)
            hand_over(client, door, latch)
            if how == "reset":
                reset(client)
        if how == "reset":
            door.wait(lambda: door.counters.closed == 1)
        latch.release(door)
        door.wait(lambda: door.gate.finished == 1)
        door.wait(lambda: door.counters.closed == 1)
        assert (latch.begun, latch.cancelled) == (1, 0)


STEPS = [
    b"EHLO c.example\r\n",
    b"MAIL FROM:<a@b.example>\r\n",
    b"RCPT TO:<x@y.example>\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n",
    b"\r\nhalf",
    b"\r\n.",
    b"\r",
]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_a_client_that_leaves_before_the_end_sends_nothing(how: str, steps: int) -> None:
    with front_door() as door:
        with door.connect() as client:
            for step in STEPS[:steps]:
                client.send(step)
                if steps <= 4:
                    client.reply()
            if how == "reset":
                reset(client)
            elif how == "half":
                client.plug.shutdown(socket.SHUT_WR)
                while client.reply():
                    pass
        door.wait(lambda: door.counters.closed == 1)
        assert door.gate.submitted == []


# -- Our own trouble ------------------------------------------------------------------------------


@pytest.fixture
def events() -> Iterator[io.BytesIO]:
    """What is logged during the test."""
    stream = io.BytesIO()
    log.configure("debug", stream=stream)
    yield stream
    log.configure()


def fail(_: object) -> None:
    raise RuntimeError("secret path /etc/x of anna@example.nl")


def refuse_to_connect(_: object) -> None:
    raise ConnectionRefusedError("the store, not the client")


async def fail_later(_: Submitted) -> Reply:
    await asyncio.sleep(0)
    raise RuntimeError("secret path /etc/x of anna@example.nl")


@pytest.mark.parametrize("trouble", [fail, refuse_to_connect])
@pytest.mark.parametrize("where", ["mail", "admit", "submit"])
def test_trouble_is_temporary_and_tells_nothing(
    events: io.BytesIO, where: str, trouble: object
) -> None:
    gate = RecordingGate()
    with front_door(gate=gate) as door, door.connect() as client:
        client.hello()
        if where == "mail":
            gate.on_mail = trouble  # type: ignore[assignment]
            answer = client.say("MAIL FROM:<a@b.example>")
        elif where == "admit":
            assert client.code("MAIL FROM:<a@b.example>") == 250
            gate.on_admit = trouble  # type: ignore[assignment]
            answer = client.say("RCPT TO:<x@y.example>")
            gate.on_admit = lambda _: None
            assert client.code("RCPT TO:<z@y.example>") == 250  # the transaction goes on without it
        else:
            gate.on_submit = fail_later
            client.open()
            assert client.code("DATA") == 354
            client.send(b"x\r\n.\r\n")
            answer = client.reply()
        assert answer.startswith("451 4.3.0 temporary local problem (ref ")
        assert "secret" not in answer
        assert client.code("RSET") == 250
    ref = answer.removesuffix(")").rpartition(" ")[2]
    logged = [json.loads(line) for line in events.getvalue().splitlines()]
    incidents = [e for e in logged if e["event"] == "incident"]
    assert [e["ref"] for e in incidents] == [ref]
    assert "Error" in incidents[0]["traceback"]
    assert b"anna@example.nl" not in events.getvalue()


def test_trouble_in_the_middle_of_a_message_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left of the message would be read as commands, and whoever wrote it may not give
    any."""

    def no_memory(self: Incoming, chunk: bytes) -> bool:
        raise MemoryError

    monkeypatch.setattr(Incoming, "feed", no_memory)
    gate = RecordingGate()
    with front_door(gate=gate) as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.send(b"Subject: x\r\n\r\n")
        answer = client.reply()
        assert answer.startswith("451 4.3.0 temporary local problem (ref ")
        assert client.at_end()
        assert not gate.submitted


def test_a_421_of_the_gate_ends_the_session() -> None:
    gate = RecordingGate(on_admit=lambda _: Reply(421, "4.3.2", "not now"))
    with front_door(gate=gate) as door, door.connect() as client:
        client.hello()
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert client.say("RCPT TO:<x@y.example>") == "421 4.3.2 not now"
        assert client.at_end()
        assert len(door.gate.admitted) == 1


def test_a_reply_of_the_gate_is_one_line_of_ascii() -> None:
    gate = RecordingGate(
        on_mail=lambda _: Reply(550, "5.7.1", "a\r\n250 ok \u20ac\x1b[0m" + "x" * 900)
    )
    with front_door(gate=gate) as door, door.connect() as client:
        client.hello()
        assert client.say("MAIL FROM:<a@b.example>").startswith("550 5.7.1 a??250 ok ??[0mxxx")
        assert client.code("NOOP") == 250
        assert len(door.gate.mails) == 1


def test_no_address_is_logged(events: io.BytesIO, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with front_door() as door, door.connect() as client:
        client.open("anna@example.nl")
        for line in (
            "RCPT TO:<bram@@example.nl>",
            "VRFY cees@example.nl",
            "MAIL FROM:<d@example.nl>",
            "x@y.nl",
        ):
            client.say(line)
        assert client.code("DATA") == 354
        client.send(b"From: eva@example.nl\r\n\r\n.\r\n")
        assert client.reply().startswith("250 ")
        assert len(door.gate.submitted) == 1
    assert b"example.nl" not in events.getvalue()
    assert b"y.nl" not in events.getvalue()
    assert b"smtp.refused" in events.getvalue()
    assert "@" not in caplog.text
    assert "127.0.0.1" not in caplog.text


# -- Shutdown -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_drain_takes_leave_of_the_idle_and_accepts_nobody(loop: Loop) -> None:
    with front_door(loop=loop) as door:
        with door.connect() as fresh, door.connect() as open_, door.connect() as typing:
            open_.open()
            typing.send(b"EHLO c.exa")
            assert door.run(door.listener.drain(PATIENCE)) is True
            for client in (fresh, open_, typing):
                assert client.reply().startswith("421 4.3.2 ")
                assert client.at_end()
        with pytest.raises(ConnectionRefusedError):
            door.connect()
        assert door.gate.submitted == []


@pytest.mark.parametrize("loop", LOOPS)
def test_drain_lets_data_and_hand_overs_finish(loop: Loop) -> None:
    latch = Latch()
    gate = RecordingGate(on_submit=latch)
    with front_door(gate=gate, loop=loop) as door, door.connect() as busy, door.connect() as gone:
        busy.open()
        assert busy.code("DATA") == 354
        busy.send(b"first half\r\n")
        hand_over(gone, door, latch)
        reset(gone)
        door.wait(lambda: door.counters.closed == 1)
        draining = asyncio.run_coroutine_threadsafe(door.listener.drain(PATIENCE), door.loop)
        door.wait(lambda: not door.listener.is_serving)
        with pytest.raises(ConnectionRefusedError):
            door.connect()
        busy.send(b"second half\r\n.\r\nMAIL FROM:<a@b.example>\r\n")
        door.wait(lambda: latch.begun == 2)
        assert not draining.done()
        latch.release(door)
        assert busy.reply() == "250 2.0.0 done"
        assert busy.reply().startswith("421 4.3.2 ")
        assert busy.at_end()
        assert draining.result(PATIENCE) is True
        assert [s.content for s in gate.submitted][1] == b"first half\r\nsecond half\r\n"
        assert (gate.finished, latch.cancelled) == (2, 0)
        assert len(gate.mails) == 2


@pytest.mark.parametrize("loop", LOOPS)
def test_drain_waits_for_what_clients_left_behind(loop: Loop) -> None:
    latch = Latch()
    gate = RecordingGate(on_submit=latch)
    with front_door(gate=gate, loop=loop) as door:
        with door.connect() as gone:
            hand_over(gone, door, latch)
            reset(gone)
        door.wait(lambda: door.counters.closed == 1)
        draining = asyncio.run_coroutine_threadsafe(door.listener.drain(PATIENCE), door.loop)
        door.wait(lambda: not door.listener.is_serving)
        for _ in range(5):
            door.call(lambda: None)
        assert not draining.done()
        latch.release(door)
        assert draining.result(PATIENCE) is True
        assert (gate.finished, latch.cancelled) == (1, 0)


def test_drain_ends_at_its_deadline_and_close_ends_everything() -> None:
    latch = Latch()
    gate = RecordingGate(on_submit=latch)
    with front_door(gate=gate) as door, door.connect() as stuck, door.connect() as waiting:
        stuck.open()
        assert stuck.code("DATA") == 354
        stuck.send(b"half\r\n")
        hand_over(waiting, door, latch)
        assert door.run(door.listener.drain(0.05)) is False
        assert stuck.at_end()
        assert (latch.begun, latch.cancelled) == (1, 0)
        door.call(door.listener.close)
        door.wait(lambda: latch.cancelled == 1)
        assert door.gate.finished == 0


# -- What the gate is told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "options", "protocol"),
    [
        ("HELO c.example", "", "SMTP"),
        ("EHLO c.example", "", "ESMTP"),
        ("EHLO c.example", " BODY=8BITMIME", "ESMTP"),
        ("EHLO c.example", " SMTPUTF8", "UTF8SMTP"),
    ],
)
def test_protocol_keywords(hello: str, options: str, protocol: str) -> None:
    with front_door() as door, door.connect() as client:
        assert client.code(hello) == 250
        assert client.code(f"MAIL FROM:<a@b.example>{options}") == 250
        assert door.gate.mails[0].submitter.protocol == protocol


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("c.example", "c.example"),
        ("C.Example.", "C.Example."),
        ("localhost", "localhost"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
        ("[192.0.2.1", "unknown"),
        ("[192.0.2.256]", "unknown"),
        ("[IPv6:zz]", "unknown"),
        ("[x]", "unknown"),
        ("my_host", "unknown"),
        ("two words", "unknown"),
        ("-c.example", "unknown"),
        ("c..example", "unknown"),
        ("(c)", "unknown"),
        ("b\u00fccher.example", "unknown"),
        ("c.example\x1b[31m", "unknown"),
        ("c" * 256, "unknown"),
    ],
)
def test_the_name_of_the_client_is_harmless(typed: str, known: str) -> None:
    with front_door() as door, door.connect() as client:
        assert client.code(f"EHLO {typed}") == 250
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert door.gate.mails[0].submitter.helo == known


def test_options_reach_the_envelope() -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        for typed in (
            "MAIL FROM:<a@b.example> SIZE=1234 BODY=8bitmime SMTPUTF8 AUTH=<>",
            "mail from:<a@b.example> smtputf8 body=7BIT auth=a+40b.example size=0",
            "MAIL FROM: <a@b.example>  BODY=8BITMIME ",
        ):
            assert client.code(typed) == 250
            assert client.code("RSET") == 250
    found = [(e.declared_size, e.body_8bit, e.smtputf8) for e in door.gate.mails]
    assert found == [(1234, True, True), (0, False, True), (0, True, False)]
    refs = [e.ref for e in door.gate.mails]
    assert refs == sorted(set(refs))


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("SIZE", "501 5.5.4"),
        ("\tSIZE=1", "501 5.5.4"),
        ("SIZE=", "501 5.5.4"),
        ("SIZE=-1", "501 5.5.4"),
        ("SIZE=1e9", "501 5.5.4"),
        ("SIZE=0x10", "501 5.5.4"),
        ("SIZE=\u0661", "501 5.5.4"),
        ("SIZE=" + "1" * 21, "501 5.5.4"),
        ("SIZE=1 SIZE=1", "501 5.5.4"),
        ("SIZE=1 size=2", "501 5.5.4"),
        ("BODY", "501 5.5.4"),
        ("BODY=BINARYMIME", "501 5.5.4"),
        ("BODY=8BITMIME=7BIT", "501 5.5.4"),
        ("SMTPUTF8=1", "501 5.5.4"),
        ("AUTH", "501 5.5.4"),
        ("=1", "501 5.5.4"),
        ("X=\u00e9", "501 5.5.4"),
        ("X=a=b", "501 5.5.4"),
        ("RET=TEXT", "501 5.5.4"),
        ("RET", "501 5.5.4"),
        ("ENVID", "501 5.5.4"),
        ("ENVID=a+3", "501 5.5.4"),
        ("ENVID=" + "x" * 101, "501 5.5.4"),
        ("SOLICIT", "501 5.5.4"),
        ("SOLICIT=", "501 5.5.4"),
        ("SOLICIT=1.example", "501 5.5.4"),
        ("SOLICIT=a.example:ADV,", "501 5.5.4"),
        ("SOLICIT=a/b", "501 5.5.4"),
        ("SOLICIT=" + "a" * 1_001, "501 5.5.4"),
        ("NOTIFY=NEVER", "555 5.5.4"),
        ("ORCPT=rfc822;a@b.example", "555 5.5.4"),
        ("MT-PRIORITY=3", "555 5.5.4"),
        ("REQUIRETLS", "555 5.5.4"),
        ("X", "555 5.5.4"),
    ],
)
def test_options_are_read_strictly(options: str, answer: str) -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        assert client.say(f"MAIL FROM:<a@b.example> {options}").startswith(f"{answer} ")
        assert client.code("MAIL FROM:<a@b.example>") == 250
        for more in ("RET=HDRS", "ENVID=x", "SIZE=1", "X"):
            assert client.say(f"RCPT TO:<x@y.example> {more}").startswith("555 5.5.4 ")
        for more in ("ORCPT=utf-8;x@y.example=", "ORCPT=rfc822;" + "x" * 494, "NOTIFY", "ORCPT"):
            assert client.say(f"RCPT TO:<x@y.example> {more}").startswith("501 5.5.4 ")
        assert client.say("RCPT TO:<x@y.example> =").startswith("501 5.5.4 ")
        assert door.gate.admitted == []


def test_an_option_needs_its_space() -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        for typed in ("SIZE=10", "X", ">", " <b@b.example>"):
            assert client.say(f"MAIL FROM:<a@b.example>{typed}").startswith("501 5.5.4 ")
        assert door.gate.mails == []


def test_after_helo_no_option_is_known() -> None:
    with front_door() as door, door.connect() as client:
        assert client.code("HELO c.example") == 250
        assert client.say("MAIL FROM:<a@b.example> SIZE=1").startswith("555 5.5.4 ")
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert len(door.gate.mails) == 1


def test_the_gate_may_answer_in_its_own_words() -> None:
    def mail(envelope: Envelope) -> Reply | None:
        sender = envelope.mail_from
        assert sender is not None
        return (
            Reply(250, "2.1.0", "fine") if sender.local == "a" else Reply(550, "5.7.1", "not you")
        )

    def admit(recipient: Address) -> Reply | None:
        return (
            Reply(250, "2.1.5", "fine") if recipient.local == "x" else Reply(450, "4.7.1", "later")
        )

    gate = RecordingGate(on_mail=mail, on_admit=admit)
    with front_door(gate=gate) as door, door.connect() as client:
        client.hello()
        assert client.say("MAIL FROM:<b@b.example>") == "550 5.7.1 not you"
        assert client.code("RCPT TO:<x@y.example>") == 503
        assert client.say("MAIL FROM:<a@b.example>") == "250 2.1.0 fine"
        assert client.say("RCPT TO:<z@y.example>") == "450 4.7.1 later"
        assert client.code("DATA") == 503
        assert client.say("RCPT TO:<x@y.example>") == "250 2.1.5 fine"
        assert client.code("DATA") == 354
        client.send(b".\r\n")
        assert client.reply().startswith("250 ")
        assert [a.local for a in door.gate.submitted[0].envelope.recipients] == ["x"]
