"""Every ceiling of `[limits]`, each with the reply it earns."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from datetime import timedelta
from ipaddress import ip_network

import pytest
from front_door import Client, Door, Loop, RecordingGate, Submitted, front_door

from proxy.config import Limits
from proxy.replies import Reply
from proxy.smtp import server
from proxy.smtp.limits import (
    IDLE_COMMANDS,
    MIN_RATE,
    Admission,
    data_deadline,
    read_peer,
    trusted_network,
)

LOOPS: list[Loop] = ["asyncio", "uvloop"]


def moment(milliseconds: int = 150) -> timedelta:
    return timedelta(milliseconds=milliseconds)


def refused(door: Door, source: str = "127.0.0.1") -> str:
    with door.connect(greet=False, source=source) as client:
        answer = client.reply()
        assert client.at_end()
        return answer


def test_connections_in_all() -> None:
    with front_door(connections=2) as door:
        with door.connect() as one, door.connect() as two:
            assert refused(door).startswith("421 4.3.2 ")
            assert one.code("NOOP") == two.code("NOOP") == 250
            two.close()
            door.wait(lambda: door.counters.closed == 1)
            with door.connect() as three:
                assert three.code("NOOP") == 250
                assert refused(door).startswith("421 4.3.2 ")
        door.wait(lambda: door.counters.closed == 3)
        assert door.counters.opened == 3
        assert door.counters.replies.count(("connect", 421)) == 2


def test_connections_of_one_network() -> None:
    with (
        front_door(trusted=False, connections_per_network=1) as door,
        door.connect() as one,
        door.connect(source="127.0.0.2") as other,
    ):
        assert refused(door).startswith("421 4.3.2 ")
        assert refused(door, "127.0.0.2").startswith("421 4.3.2 ")
        one.close()
        door.wait(lambda: door.counters.closed == 1)
        with door.connect() as again:
            assert again.code("NOOP") == other.code("NOOP") == 250


def test_a_trusted_network_counts_in_all_only() -> None:
    with (
        front_door(connections_per_network=1) as door,
        door.connect() as one,
        door.connect() as two,
    ):
        assert one.code("NOOP") == two.code("NOOP") == 250


def test_two_listeners_share_one_admission() -> None:
    shared: list[Admission] = []

    def share(limits: Limits) -> Admission:
        shared.append(shared[0] if shared else Admission(limits))
        return shared[0]

    with (
        front_door(connections=1, admission=share) as a,
        front_door(connections=1, admission=share) as b,
        a.connect() as client,
    ):
        assert client.code("NOOP") == 250
        assert refused(b).startswith("421 4.3.2 ")


def test_admission_counts_and_forgets() -> None:
    admission = Admission(Limits(connections=100, connections_per_network=2))
    one, near, far = (
        ipaddress.ip_address(a) for a in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    )
    assert admission.enter(one, trusted=False) is None
    assert admission.enter(near, trusted=False) is None
    assert admission.enter(one, trusted=False) is not None  # one /64 is one customer
    assert admission.enter(far, trusted=False) is None
    assert admission.enter(one, trusted=True) is None
    for address, trusted in ((one, False), (near, False), (far, False), (one, True)):
        admission.leave(address, trusted=trusted)
    assert admission.total == 0
    assert admission._networks == {}


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.1", 25), "192.0.2.1"),
        (("::ffff:192.0.2.1", 25, 0, 0), "192.0.2.1"),
        (("fe80::1%eth0", 25, 0, 2), "fe80::1"),
        (("2001:db8::1", 25, 0, 0), "2001:db8::1"),
        ("/run/socket", "None"),
        (None, "None"),
        ((), "None"),
        (("nonsense", 1), "None"),
    ],
)
def test_the_peer(peername: object, address: str) -> None:
    assert str(read_peer(peername)) == address


def test_the_narrowest_trusted_network() -> None:
    networks = [ip_network(n) for n in ("10.0.0.0/8", "10.1.0.0/16", "::1/128")]
    assert trusted_network(ipaddress.ip_address("10.1.2.3"), networks) == "10.1.0.0/16"
    assert trusted_network(ipaddress.ip_address("10.2.2.3"), networks) == "10.0.0.0/8"
    assert trusted_network(ipaddress.ip_address("::1"), networks) == "::1/128"
    assert trusted_network(ipaddress.ip_address("192.0.2.1"), networks) == ""
    assert trusted_network(None, networks) == ""


def test_recipients() -> None:
    with front_door(recipients=100) as door, door.connect() as client:
        client.open(*(f"r{n}@y.example" for n in range(100)))
        for n in (100, 101):
            assert client.say(f"RCPT TO:<r{n}@y.example>").startswith("452 4.5.3 ")
        assert client.code("RCPT TO:<r5@y.example>") == 250  # already in it
        assert client.code("DATA") == 354
        client.send(b".\r\n")
        assert client.reply().startswith("250 ")
        assert len(door.gate.submitted[0].envelope.recipients) == 100
        client.open("r100@y.example")


def test_who_is_one_too_many_was_named_too() -> None:
    """A link for one person in it is not known to be that of the one who gets this copy."""
    with front_door(recipients=1) as door, door.connect() as client:
        client.open("a@y.example")
        assert client.code("RCPT TO:<b@y.example>") == 452
        assert client.code("DATA") == 354
        client.send(b".\r\n")
        assert client.reply().startswith("250 ")
        assert door.gate.submitted[0].envelope.turned_away


def test_a_stranger_does_not_name_its_one_recipient_for_ever() -> None:
    gate = RecordingGate(strangers=frozenset({"u@fb.acme.example"}))
    with front_door(gate=gate, trusted=False) as door, door.connect() as client:
        client.open("u@fb.acme.example")
        for _ in range(IDLE_COMMANDS - 1):  # EHLO was one
            assert client.code("RCPT TO:<u@fb.acme.example>") == 250
        assert client.say("RCPT TO:<u@fb.acme.example>").startswith("421 4.7.0 ")
        assert client.at_end()


def test_a_burst_of_commands_leaves_others_their_turn() -> None:
    counts = [0]
    with front_door() as door, door.connect() as client:
        client.open()

        def look() -> None:
            counts.append(len(door.gate.admitted))
            if counts[-1] < 800:
                door.loop.call_soon(look)

        door.call(look)
        client.send(b"".join(b"RCPT TO:<r%d@y.example>\r\n" % n for n in range(800)))
        assert [client.reply()[:3] for _ in range(800)] == ["250"] * 800
        door.wait(lambda: counts[-1] >= 800)
    assert max(b - a for a, b in itertools.pairwise(counts)) <= 100


def test_messages() -> None:
    with front_door(messages_per_connection=2) as door, door.connect() as client:
        for _ in range(2):
            client.open()
            assert client.code("DATA") == 354
            client.send(b".\r\n")
            assert client.reply().startswith("250 ")
        assert client.say("MAIL FROM:<a@b.example>").startswith("421 4.7.0 ")
        assert client.at_end()
        assert len(door.gate.submitted) == 2


def test_errors() -> None:
    with front_door(errors=5) as door, door.connect() as client:
        client.hello()
        for line in ("FOO", "RCPT TO:<x@y.example>", "MAIL FROM:<a b>", "QUIT x"):
            assert client.code(line) in (500, 501, 503, 553)
        assert client.code("NOOP") == 250
        assert client.say("FOO").startswith("421 4.7.0 ")
        assert client.at_end()
        assert door.counters.replies[-1] == ("other", 421)


def test_an_accepted_message_forgives_errors_and_refused_recipients_are_none() -> None:
    gate = RecordingGate(on_admit=lambda a: Reply(550, "5.7.1", "no") if a.local == "no" else None)
    with front_door(gate=gate, errors=2) as door, door.connect() as client:
        for _ in range(3):
            assert client.code("FOO") == 500
            client.open()
            for n in range(5):
                assert client.code(f"RCPT TO:<no@y{n}.example>") == 550
            assert client.code("DATA") == 354
            client.send(b".\r\n")
            assert client.reply().startswith("250 ")
        assert len(door.gate.submitted) == 3


def test_commands_without_mail() -> None:
    with front_door() as door, door.connect() as client:
        for n in range(IDLE_COMMANDS):
            assert client.code(("NOOP", "RSET", "EHLO c.example", "VRFY x", "HELP")[n % 5]) in (
                250,
                252,
                214,
            )
        assert client.say("NOOP").startswith("421 4.7.0 ")
        assert client.at_end()
        assert door.gate.mails == []


def test_person_after_person_refused_by_law_is_work() -> None:
    gate = RecordingGate(on_admit=lambda _: Reply(550, "5.7.1", "no-basis"))
    with front_door(gate=gate) as door, door.connect() as client:
        client.hello()
        for n in range(IDLE_COMMANDS + 10):
            assert client.code("MAIL FROM:<a@b.example>") == 250
            assert client.code(f"RCPT TO:<x@y{n}.example>") == 550
            assert client.code("RSET") == 250


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("typed", [b"", b"EHL", b"EHLO c.example\r\nNO"])
def test_a_silent_client(loop: Loop, typed: bytes) -> None:
    with front_door(loop=loop, command_timeout=moment()) as door, door.connect() as client:
        client.send(typed)
        if b"\n" in typed:
            assert client.reply().startswith("250")
        assert client.reply().startswith("421 4.4.2 ")
        assert client.at_end()
        door.wait(lambda: door.counters.closed == 1)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("typed", [b"", b"half a li", b"line\r\n."])
def test_a_client_that_falls_silent_in_data(loop: Loop, typed: bytes) -> None:
    with front_door(loop=loop, data_timeout=moment()) as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.send(typed)
        assert client.reply().startswith("421 4.4.2 ")
        assert client.at_end()
        assert door.gate.submitted == []


def test_a_client_that_trickles_in_data() -> None:
    with front_door(data_timeout=moment()) as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        # Ever again an octet, each within the time-out: not enough to go on for ever.
        client.plug.settimeout(0.02)
        answer = b""
        while not answer:
            client.send(b"x")
            try:
                answer = client.plug.recv(100)
            except TimeoutError:
                continue
        assert answer.startswith(b"421 4.4.2 ")
        assert door.gate.submitted == []


def test_data_may_take_long_while_it_comes_fast_enough() -> None:
    idle = timedelta(seconds=180)
    # 30 MB in half an hour: far more than one time-out, and never late.
    for second in range(0, 1800, 10):
        deadline = data_deadline(
            started=0, now=second, received=second * 30_000_000 // 1800, idle=idle
        )
        assert deadline == second + 180
    # One octet each ten seconds: cut soon after the first time-out.
    late = [
        s
        for s in range(0, 400, 10)
        if data_deadline(started=0, now=s, received=s // 10, idle=idle) < s
    ]
    assert late[0] == 190
    assert data_deadline(started=0, now=1000, received=1000 * MIN_RATE, idle=idle) == 1180


@pytest.mark.parametrize("loop", LOOPS)
def test_a_session_that_never_ends(loop: Loop) -> None:
    with front_door(loop=loop, session_timeout=moment()) as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.plug.settimeout(0.02)
        answer = b""
        while not answer:
            client.send(b"x" * 900 + b"\r\n")
            try:
                answer = client.plug.recv(100)
            except TimeoutError:
                continue
        assert answer.startswith(b"421 4.4.2 session")
        assert door.gate.submitted == []


def test_no_deadline_runs_while_it_is_our_turn() -> None:
    async def slowly(_: Submitted) -> Reply:
        await asyncio.sleep(2.5 * short.total_seconds())  # time itself is what is tested
        return Reply(250, "2.0.0", "at last")

    gate = RecordingGate(on_submit=slowly)
    short = moment(200)
    with (
        front_door(
            gate=gate, command_timeout=short, data_timeout=short, session_timeout=short
        ) as door,
        door.connect() as client,
    ):
        client.open()
        assert client.code("DATA") == 354
        client.send(b"x\r\n.\r\n")
        assert client.reply() == "250 2.0.0 at last"
        assert client.reply().startswith("421 4.4.2 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_never_reads_is_cut(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GOODBYE_SECONDS", 0.05)
    with (
        front_door(loop=loop, errors=10**9, command_timeout=moment()) as door,
        door.connect() as client,
    ):
        client.plug.settimeout(0.05)
        with pytest.raises(OSError):  # noqa: PT011, PT012 - a reset, a broken pipe, or no more room
            while True:
                client.send(b"FOO\r\n" * 2000)
        door.wait(lambda: door.counters.closed == 1)


def test_many_at_once() -> None:
    clients: list[Client] = []
    with front_door() as door:
        try:
            clients += [door.connect() for _ in range(200)]
            assert all("PIPELINING" in c.hello() for c in clients)
        finally:
            for client in clients:
                client.close()
        door.wait(lambda: door.counters.closed == 200)
