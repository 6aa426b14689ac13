"""The PROXY protocol and XCLIENT: who the client is, told by those who may."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

import pytest
from front_door import PATIENCE, Client, Door, front_door
from hypothesis import given
from hypothesis import strategies as st

from proxy.smtp import proxied
from proxy.smtp.limits import Admission

BALANCER = {"proxy_protocol": ("127.0.0.1/32",)}
V1 = b"PROXY TCP4 127.0.0.9 192.0.2.1 4711 25\r\n"
V2_START = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return V2_START + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def v4(source: str) -> bytes:
    return socket.inet_aton(source) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 4711, 25)


def v6(source: str) -> bytes:
    ends = [socket.inet_pton(socket.AF_INET6, end) for end in (source, "2001:db8::1")]
    return b"".join(ends) + struct.pack("!HH", 4711, 25)


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (V1, "127.0.0.9"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 25\r\n", "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:127.0.0.9 ::1 4711 25\r\n", "127.0.0.9"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
        (v2(1, 0x11, v4("127.0.0.9")), "127.0.0.9"),
        (v2(1, 0x11, v4("127.0.0.9") + b"\x04\0\1x"), "127.0.0.9"),
        (v2(1, 0x21, v6("2001:db8::9")), "2001:db8::9"),
        (v2(1, 0x21, v6("::ffff:127.0.0.9")), "127.0.0.9"),
        (v2(1, 0x31, bytes(216)), ""),
        (v2(1, 0x00, b""), ""),
        (v2(0, 0x11, v4("127.0.0.9")), ""),
    ],
)
def test_each_header_octet_by_octet(header: bytes, peer: str) -> None:
    for n in range(len(header)):
        assert proxied.read_header(header[:n]) is None
    found = proxied.read_header(header + b"EHLO")
    assert found is not None
    assert (str(found.client or ""), found.size) == (peer, len(header))
    with front_door(more=BALANCER) as door, door.connect(greet=False) as client:
        client.send(header)
        assert client.reply().startswith("220 ")
        client.hello()
        assert client.code("MAIL FROM:<a@b.example>") == 250
        submitter = door.gate.mails[0].submitter
        assert (submitter.peer, submitter.may_relay) == (peer, peer.startswith("127."))


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO c.example\r\n",
        b"PROXY TCP4 127.0.0.9\r\n",
        b"PROXY TCP4 127.0.0.9 ::1 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4 127.0.0.9 192.0.2.1 1 70000\r\n",
        b"PROXY TCP4 127.0.0.9 192.0.2.1 1 x\r\n",
        b"PROXY TCP4 127.0.0.\xe9 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 127.0.0.9  192.0.2.1 1 2\r\n",
        b"PROXY TCP9 127.0.0.9 192.0.2.1 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 100,
        V2_START + b"\x31\x11\0\x0c" + v4("127.0.0.9"),
        V2_START + b"\x22\x11\0\x0c" + v4("127.0.0.9"),
        V2_START + b"\x21\x11\0\x04" + bytes(4),
        V2_START + b"\x21\x11\xff\xff",
    ],
)
def test_a_header_that_is_none_is_not_answered(header: bytes) -> None:
    with front_door(more=BALANCER) as door, door.connect(greet=False) as client:
        client.send(header)
        assert client.at_end()
        door.wait(lambda: door.counters.closed == 1)
        assert ("connect", 421) in door.counters.replies


@given(st.binary(max_size=300))
def test_any_octets_are_a_header_or_none(octets: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", V2_START, V2_START + b"\x21\x11"):
        with contextlib.suppress(ValueError):
            proxied.read_header(start + octets)


@given(st.binary(max_size=300))
def test_any_octets_are_attributes_or_none(octets: bytes) -> None:
    for start in (b"", b"ADDR=", b"LOGIN=", b"ADDR=IPV6:"):
        try:
            found = proxied.read_xclient(start + octets)
        except ValueError:
            continue
        assert found.client is None or str(found.client)


def test_what_comes_with_the_header_comes_too_early() -> None:
    with front_door(more=BALANCER) as door, door.connect(greet=False) as client:
        client.send(V1 + b"EHLO c.example\r\n")
        assert client.reply().startswith("554 5.5.0 ")
        assert client.at_end()


def test_implicit_tls_follows_the_header_in_the_same_segment(tmp_path: Path) -> None:
    with front_door(tmp_path, tls="implicit", more=BALANCER) as door:
        plug = socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE)
        # What TLS says first is held until it can leave together with the header.
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        theirs.settimeout(PATIENCE)
        carried = threading.Thread(target=carry, args=(theirs, plug, V1))
        carried.start()
        with Client(door.client_tls.wrap_socket(ours, server_hostname="localhost")) as client:
            assert client.reply().startswith("220 ")
            client.open("anna@example.nl")
            assert door.gate.mails[0].submitter.peer == "127.0.0.9"
            assert door.gate.mails[0].submitter.tls
            client.say("QUIT")
        theirs.close()
        plug.close()
        carried.join(PATIENCE)


def carry(client: socket.socket, server: socket.socket, header: bytes) -> None:
    """Between the two, both ways, until one ends; `header` goes with the first octets."""

    def back() -> None:
        try:
            while octets := server.recv(65536):
                client.sendall(octets)
        except OSError:
            pass

    backwards = threading.Thread(target=back, daemon=True)
    backwards.start()
    try:
        while octets := client.recv(65536):
            server.sendall(header + octets)
            header = b""
    except OSError:
        pass


def test_clients_of_a_balancer_are_counted_one_by_one() -> None:
    kept: list[Admission] = []

    def keep(limits: object) -> Admission:
        kept.append(Admission(limits))  # type: ignore[arg-type]
        return kept[0]

    with front_door(
        trusted=False, more=BALANCER, connections_per_network=1, admission=keep
    ) as door:
        clients = []
        for source in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
            client = door.connect(greet=False)
            client.send(b"PROXY TCP4 %b 192.0.2.9 1 25\r\n" % source.encode())
            clients.append(client)
            assert client.reply()[:3] == ("220" if len(clients) < 3 else "421")
        assert clients[2].at_end()
        assert kept[0].total == 2
        for client in clients:
            client.close()
        door.wait(lambda: kept[0].total == 0)
        assert kept[0]._networks == {}


def test_a_balancer_that_goes_before_its_header_leaves_nothing() -> None:
    with front_door(more=BALANCER) as door:
        with door.connect(greet=False) as client:
            client.send(b"PROXY TC")
            client.plug.shutdown(socket.SHUT_WR)
            assert client.at_end()
        door.wait(lambda: door.counters.closed == door.counters.opened == 1)


def test_xclient_remains_the_right_of_the_peer_itself() -> None:
    more = {"xclient_networks": ("127.0.0.0/8",)}
    with front_door(trusted=False, more=more) as door, door.connect() as client:
        assert "XCLIENT NAME ADDR" in client.hello()
        assert client.say("XCLIENT ADDR=192.0.2.9 LOGIN=app").startswith("220 ")
        client.open("anna@example.nl")
        submitter = door.gate.mails[0].submitter
        assert (submitter.peer, submitter.network) == ("192.0.2.9", "")
        assert (submitter.credential, submitter.helo) == ("app", "client.example")
        assert client.code("RSET") == 250
        assert client.say("XCLIENT ADDR=127.0.0.1 LOGIN=[unavailable]").startswith("220 ")
        client.hello()
        assert client.code("MAIL FROM:<a@b.example>") == 250
        assert client.code("RCPT TO:<anna@example.nl>") == 550


def test_pre_banner_talk_is_refused() -> None:
    """The loop is held until connection and talk are both in the kernel."""
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert go.wait(PATIENCE)

    with front_door() as door:
        talk_early(door, hold, held, go)
        assert ("connect", 554) in door.counters.replies
        assert door.gate.mails == []


def talk_early(door: Door, hold: object, held: threading.Event, go: threading.Event) -> None:
    door.loop.call_soon_threadsafe(hold)  # type: ignore[arg-type]
    assert held.wait(PATIENCE)
    with door.connect(greet=False) as client:
        client.send(b"EHLO spam.example\r\nMAIL FROM:<a@b.example>\r\n")
        go.set()
        assert client.reply().startswith("554 5.5.0 ")
        assert client.at_end()
