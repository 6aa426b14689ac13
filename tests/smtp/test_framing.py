"""Line ends, on the wire: only CRLF ends a line, and the cut into segments changes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from front_door import Client, front_door

INNER = b"MAIL FROM:<evil@d.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\nsmuggled\r\n.\r\n"

# What some server takes, or took, for the end of data (CVE-2023-51764 and its family).
ENDINGS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\n",
    b"\n.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\x00\r\n.\x00\r\n",
]


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
@pytest.mark.parametrize("before", [b"Subject: x\r\n\r\nhello", b""], ids=["body", "empty"])
def test_no_other_end_of_data(ending: bytes, before: bytes) -> None:
    with front_door() as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.send(before + ending + INNER)
        answer = client.reply()
        assert re.match(r"(550 5\.5\.2|554 5\.6\.0) ", answer), answer
        # It was all one message, refused; the session goes on in step, and nothing was passed on.
        assert client.code("NOOP") == 250
        assert door.gate.submitted == []
        assert len(door.gate.mails) == 1


def test_bare_cr_before_a_true_end() -> None:
    with front_door() as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.send(b"x\r\r\n.\r\n")
        assert client.reply().startswith("550 5.5.2 ")
        assert client.code("NOOP") == 250
        assert door.gate.submitted == []


@pytest.mark.parametrize(
    "wire", [b".\r\n", b"\r\n.\r\n", b"..\r\n.\r\n", b"..x\r\n...\r\n.y\r\n.\r\n"]
)
def test_dots_are_unstuffed_exactly(wire: bytes) -> None:
    with front_door() as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.send(wire)
        assert client.code("NOOP") == 250  # the reply to the data
        lines = wire.removesuffix(b".\r\n").split(b"\r\n")
        want = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
        assert [s.content for s in door.gate.submitted] == [want]


TRANSACTION = (
    b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@y.example>\r\nDATA\r\n"
    b"Subject: s\r\n\r\n..dot\r\nlast\r\n.\r\nRSET\r\nQUIT\r\n"
)
CODES = ["250", "250", "250", "354", "250", "250", "221"]
CONTENT = b"Subject: s\r\n\r\n.dot\r\nlast\r\n"


def codes_until_close(client: Client) -> list[str]:
    codes = []
    while answer := client.reply():
        codes.append(answer[:3])
    return codes


def test_every_split_of_a_transaction() -> None:
    with front_door() as door:
        for cut in range(len(TRANSACTION) + 1):
            with door.connect() as client:
                client.send(TRANSACTION[:cut])
                door.call(lambda: None)  # a turn of the loop: mostly the first part is read alone
                client.send(TRANSACTION[cut:])
                assert codes_until_close(client) == CODES, cut
        assert [s.content for s in door.gate.submitted] == [CONTENT] * (len(TRANSACTION) + 1)


def test_octet_by_octet() -> None:
    with front_door() as door, door.connect() as client:
        for n in range(len(TRANSACTION)):
            client.send(TRANSACTION[n : n + 1])
        assert codes_until_close(client) == CODES
        assert [s.content for s in door.gate.submitted] == [CONTENT]


def test_a_pipelined_burst_is_answered_in_order() -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        one = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<x@y.example>\r\nRCPT TO:<>\r\nDATA\r\n"
        client.send(one)
        assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "553", "354"]
        # The end of one message and the start of the next in one segment (RFC 2920).
        client.send(b"one\r\n.\r\n" + one)
        assert [client.reply()[:3] for _ in range(5)] == ["250", "250", "250", "553", "354"]
        client.send(b"two\r\n.\r\nQUIT\r\n")
        assert codes_until_close(client) == ["250", "221"]
        assert [s.content for s in door.gate.submitted] == [b"one\r\n", b"two\r\n"]


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        (b"NOOP\n", ["500 5.5.2"]),
        (b"NOOP\r\r\n", ["500 5.5.2"]),
        (b"NO\rOP\r\n", ["500 5.5.2"]),
        (b"\n", ["500 5.5.2"]),
        (b"NOOP\0\r\n", ["501 5.5.2"]),
        (b"\0\r\n", ["501 5.5.2"]),
        (b"NOOP\nNOOP\n", ["500 5.5.2", "500 5.5.2"]),
        (b"\r\n", ["500 5.5.1"]),
        (b" NOOP\r\n", ["500 5.5.1"]),
        (b"\xff\xfe\r\n", ["500 5.5.1"]),
        (b"N\xc3\x96OP\r\n", ["500 5.5.1"]),
        (b"noop \xff ignored\r\n", ["250 2.0.0"]),
    ],
    ids=repr,
)
def test_command_lines(line: bytes, answers: list[str]) -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        client.send(line)
        assert [client.reply()[:9] for _ in answers] == answers
        assert client.code("NOOP") == 250


def test_a_bare_line_feed_drops_the_transaction_and_counts() -> None:
    with front_door(errors=3) as door, door.connect() as client:
        client.open()
        client.send(b"RCPT TO:<x@y.example>\n")
        assert client.reply().startswith("500 5.5.2 ")
        assert client.code("DATA") == 503
        client.send(b"NOOP\n")
        assert client.reply().startswith("421 4.7.0 ")
        assert client.at_end()
        assert door.gate.submitted == []


@pytest.mark.parametrize(
    ("command", "most"),
    [(b"NOOP ", 512), (b"EHLO ", 512), (b"MAIL FROM:<a@b.example> AUTH=", 2048)],
)
def test_the_longest_command_line(command: bytes, most: int) -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        fits = command + b"x" * (most - len(command) - 2)
        assert client.code(fits) == 250
        assert client.code("RSET") == 250
        assert client.say(fits + b"x").startswith("500 5.5.2 ")
        assert client.code("NOOP") == 250


def test_limits_of_line_length_belong_to_one_connection() -> None:
    """aiosmtpd shares and grows its table: EHLOs of others changed what a client may send."""
    with front_door() as door, door.connect() as client:
        client.hello()
        long = "MAIL FROM:<a@b.example> AUTH=" + "x" * 1900
        for _ in range(8):
            with door.connect() as other:
                other.hello()
        assert client.code(long) == 250


def test_an_endless_command_line_ends_the_session() -> None:
    with front_door() as door, door.connect() as client:
        client.send(b"x" * 200_000)
        assert client.reply().startswith("421 4.7.0 ")
        assert client.at_end()


def resident() -> int:
    """Octets of memory in use by this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"x" * 500 + b"\r\n", b"x" * 60000 + b"\r\n"])
def test_memory_is_bounded_while_refused_data_comes_in(chunk: bytes) -> None:
    with front_door(message_size=8 << 20) as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        client.send(b"x" * 2000)
        before = resident()
        for _ in range((16 << 20) // len(chunk)):
            client.send(chunk)
        grown = resident() - before
        client.send(b"\r\n.\r\n")
        assert re.match(r"(554 5\.6\.0|552 5\.3\.4) ", client.reply())
        assert client.code("NOOP") == 250
        assert grown < 6 << 20, grown
        assert door.gate.submitted == []


def test_far_beyond_the_limit_the_session_ends() -> None:
    with front_door(message_size=100_000) as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.send(b"x" * 32_000_000)
        assert client.reply()[:9] in ("421 4.3.4", "")
        assert door.gate.submitted == []


@pytest.mark.parametrize(
    ("size", "code"),
    [("SIZE=100000", 250), ("SIZE=100001", 552), ("SIZE=99999999999999999999", 552)],
)
def test_a_declared_size(size: str, code: int) -> None:
    with front_door(message_size=100_000) as door, door.connect() as client:
        client.hello()
        assert client.code(f"MAIL FROM:<a@b.example> {size}") == code


def test_a_size_that_lies() -> None:
    with front_door(message_size=1000) as door, door.connect() as client:
        client.hello()
        assert client.code("MAIL FROM:<a@b.example> SIZE=10") == 250
        assert client.code("RCPT TO:<x@y.example>") == 250
        assert client.code("DATA") == 354
        client.send(b"12345678\r\n" * 101 + b".\r\n")
        assert client.reply().startswith("552 5.3.4 ")
        assert client.code("NOOP") == 250
        assert door.gate.submitted == []


@pytest.mark.parametrize("lines", [998, 999])
def test_line_length_with_eight_bits_at_the_edge(lines: int) -> None:
    with front_door() as door, door.connect() as client:
        client.open()
        assert client.code("DATA") == 354
        body = b"x" * (lines - 1) + b"\xe9\r\n"
        client.send(body + b".\r\n")
        answer = client.reply()
        if lines == 998:
            assert answer.startswith("250 ")
            assert door.gate.submitted[0].content == body
        else:
            assert answer.startswith("554 5.6.0 ")
            assert door.gate.submitted == []


@pytest.mark.parametrize("before", [b"", b"MAIL FROM:<a@b.example>\r\n"])
def test_content_after_a_refused_data_is_never_commands(before: bytes) -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        client.send(before + b"DATA\r\nMAIL FROM:<x@b.example>\r\nRCPT TO:<y@d.example>\r\n.\r\n")
        for _ in before.splitlines():
            assert client.reply().startswith("250 ")
        assert client.reply().startswith("554 5.5.0 ")
        assert client.at_end()
        assert door.gate.admitted == []


@pytest.mark.parametrize(
    "verb", ["BDAT 40 LAST", "GET / HTTP/1.1", "POST /x HTTP/1.1", "CONNECT a:1"]
)
def test_what_brings_octets_that_are_no_commands_ends_the_session(verb: str) -> None:
    with front_door() as door, door.connect() as client:
        client.hello()
        client.send(f"{verb}\r\nMAIL FROM:<x@b.example>\r\n".encode())
        assert client.reply()[:9] in ("502 5.5.1", "554 5.5.1")
        assert client.at_end()
        assert door.gate.mails == []


def test_replies_never_hold_what_the_client_typed() -> None:
    evil = [b"\x1b[31m", b"\r250 x", "é\u202e".encode(), b"%s%n", b"250-x"]
    with front_door(errors=10_000) as door, door.connect() as client:
        for text in evil:
            for verb in (b"EHLO ", b"HELO ", b"MAIL FROM:<", b"RCPT TO:<", b"VRFY ", b"HELP ", b""):
                answer = client.say(verb + text)
                assert text.decode("latin-1") not in answer
                assert "\x1b" not in answer
        assert client.code("NOOP") in (250, 421)
        assert door.gate.submitted == []
