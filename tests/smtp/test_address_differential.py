"""What was typed is what the gate looks up, byte for byte, or it was refused."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from front_door import Client, Door, front_door

USER = b"user@d.example"


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with front_door(errors=1_000_000) as running:
        yield running


@contextlib.contextmanager
def transaction(door: Door, options: str = "") -> Iterator[Client]:
    door.gate.admitted.clear()
    with door.connect() as client:
        client.hello()
        assert client.code(f"MAIL FROM:<app@acme.example>{options}") == 250
        yield client


@pytest.mark.parametrize(
    ("typed", "answers"),
    [
        # The three that carried a suppressed person's mail past a naive proxy.
        (b"us\rer@d.example", [500]),
        (b"us\ner@d.example", [500, 500]),
        (rb"us\er@d.example", [553]),
    ],
)
def test_finding_one(door: Door, typed: bytes, answers: list[int]) -> None:
    with transaction(door) as client:
        client.send(b"RCPT TO:<" + typed + b">\r\n")
        assert [int(client.reply()[:3]) for _ in answers] == answers
        assert door.gate.admitted == []
        assert client.code("NOOP") == 250


_CONTROLS = [bytes([n]) for n in (*range(0x20), 0x7F)]
_UNSEEN = [c.encode() for c in "\x80\x85\x9f\u00a0\u00ad\u200b\u200d\u2028\u2029\u202e\ufeff\u3164"]


@pytest.mark.parametrize("utf8", [False, True])
def test_no_control_or_invisible_character_in_any_position(door: Door, utf8: bool) -> None:
    with transaction(door, " SMTPUTF8" if utf8 else "") as client:
        for bad in _CONTROLS + _UNSEEN:
            for at in range(len(USER) + 1):
                client.send(b"RCPT TO:<" + USER[:at] + bad + USER[at:] + b">\r\n")
                code = int(client.reply()[:3])
                if bad == b"\n":  # the rest of the line is a command of its own, and none of ours
                    assert (code, int(client.reply()[:3])) == (500, 500)
                else:
                    assert code in (500, 501, 553), (bad, at)
                if bad in (b"\r", b"\n"):  # lines in doubt: the transaction is gone
                    assert client.code("MAIL FROM:<app@acme.example>" + " SMTPUTF8" * utf8) == 250
        assert door.gate.admitted == []


REFUSED = [
    # comments, folding, white space: every reader sees another mailbox
    b"user (c)@d.example",
    b"(c)user@d.example",
    b"user@d.example(c)",
    b"user @d.example",
    b"user@ d.example",
    b" user@d.example",
    b"user@d.example ",
    b'"us er"@d.example (c)',
    # separators
    b"a,b@d.example",
    b"a;b@d.example",
    b"a:b@d.example",
    b"x<user@d.example",
    b"<user@d.example",
    b"user@x@d.example",
    b'"user@d.example',
    b'user"@d.example',
    b'"us"er@d.example',
    b'"u"."ser"@d.example',
    b'""@d.example',
    b"\\@d.example",
    # domains
    b"user@",
    b"@d.example",
    b"user",
    b"postmaster",
    b"user@localhost",
    b"user@d..example",
    b"user@.d.example",
    b"user@-d.example",
    b"user@d_e.example",
    b"user@xn--a.example",
    b"user@127.0.0.1",
    b"user@2130706433",
    b"user@[127.0.0.1]",
    b"user@[IPv6:::1]",
    b"user@d.example]",
    # dots and lengths
    b".user@d.example",
    b"user.@d.example",
    b"us..er@d.example",
    b"u" * 65 + b"@d.example",
    b"u" * 300 + b"@d.example",
    b"u@" + b"d" * 64 + b".example",
    b"u@" + b"d." * 130 + b"example",
    # source routes that are none
    b"@h1:@h2:user@d.example",
    b"@h1,:user@d.example",
    # octets that are no UTF-8
    b"us\xffer@d.example",
    b"us\xc0\xafer@d.example",
    b"us\xed\xa0\x80er@d.example",
    b"user@d\xe9.example",
]


@pytest.mark.parametrize("typed", REFUSED, ids=repr)
def test_refused_and_never_seen_by_the_gate(door: Door, typed: bytes) -> None:
    with transaction(door) as client:
        for path in (typed, b"@relay.example:" + typed):
            answer = client.say(b"RCPT TO:<" + path + b">")
            assert re.match(r"553 5\.(1\.[23]|6\.7) invalid-address [ -~]+$", answer), answer
        assert door.gate.admitted == []
        assert client.code("RSET") == 250
        assert client.code(b"MAIL FROM:<" + typed + b">") == 553


@pytest.mark.parametrize(
    ("argument", "code", "enhanced"),
    [
        (b"TO:<>", 553, "5.1.3"),
        (b"TO:< >", 553, "5.1.3"),
        (b"TO:<<user@d.example>>", 501, "5.5.4"),
        (b'TO:<"user@d.example>', 553, "5.1.3"),
        (b"TO:<user@d.example", 553, "5.1.3"),
        (b"TO:user@d.example", 501, "5.5.4"),
        (b"TO:", 501, "5.5.4"),
        (b"", 501, "5.5.4"),
        (b"<user@d.example>", 501, "5.5.4"),
        (b"TO <user@d.example>", 501, "5.5.4"),
        (b"TO: Anna <user@d.example>", 501, "5.5.4"),
        (b"TO:\t<user@d.example>", 501, "5.5.4"),
        (b"TO:<x>user@d.example>", 501, "5.5.4"),
        (b"TO:<x@d.example><user@d.example>", 501, "5.5.4"),
        (b"TO:<user@d.example>\tX=1", 501, "5.5.4"),
        (b"TO:<user@d.example>,<x@d.example>", 501, "5.5.4"),
        (b"FROM:<user@d.example>", 501, "5.5.4"),
    ],
    ids=repr,
)
def test_malformed_commands(door: Door, argument: bytes, code: int, enhanced: str) -> None:
    with transaction(door) as client:
        assert client.say(b"RCPT " + argument).startswith(f"{code} {enhanced} ")
        assert door.gate.admitted == []


TAKEN = [
    # (typed, what the gate looks up and what goes on the wire)
    (b"user@d.example", "user@d.example"),
    (b"USER@D.Example", "USER@d.example"),
    (b"user@d.example.", "user@d.example"),
    (b"u+tag@d.example", "u+tag@d.example"),
    (b"+x@d.example", "+x@d.example"),
    (b"u%x@d.example", "u%x@d.example"),
    (b"x!u@d.example", "x!u@d.example"),
    (b"%@d.example", "%@d.example"),
    (b"_@d.example", "_@d.example"),
    (b"'--@d.example", "'--@d.example"),
    (b"=?x?q?=40?=@d.example", "=?x?q?=40?=@d.example"),
    (b"@h1.example,@h2.example:user@d.example", "user@d.example"),
    (b'"user"@d.example', "user@d.example"),
    (rb'"us\er"@d.example', "user@d.example"),
    (b'"us er"@d.example', '"us er"@d.example'),
    (b'"a>b"@d.example', '"a>b"@d.example'),
    (b'"a,b@c"@d.example', '"a,b@c"@d.example'),
    (rb'"a\"b\\c"@d.example', r'"a\"b\\c"@d.example'),
    (b"u" * 64 + b"@d.example", "u" * 64 + "@d.example"),
    (b"user@XN--BCHER-KVA.example", "user@xn--bcher-kva.example"),
]


@pytest.mark.parametrize(("typed", "exact"), TAKEN, ids=repr)
def test_taken_as_documented(door: Door, typed: bytes, exact: str) -> None:
    with transaction(door) as client:
        assert client.code(b"RCPT TO:<" + typed + b">") == 250
        assert [(a.exact, a.wire) for a in door.gate.admitted] == [(exact, exact.encode())]


def test_non_ascii_needs_smtputf8(door: Door) -> None:
    with transaction(door) as client:
        assert client.say("RCPT TO:<zoë@d.example>").startswith("553 5.6.7 ")
        assert client.say("RCPT TO:<zoe@bücher.example>").startswith("553 5.6.7 ")
        assert door.gate.admitted == []
    with transaction(door, " SMTPUTF8") as client:
        assert client.code("RCPT TO:<zoë@bücher.example>") == 250
        assert [a.wire for a in door.gate.admitted] == ["zoë@xn--bcher-kva.example".encode()]
    with door.connect() as client:
        client.hello()
        assert client.say("MAIL FROM:<zoë@d.example>").startswith("553 5.6.7 ")
        assert client.code("MAIL FROM:<zoë@d.example> SMTPUTF8") == 250


def test_the_same_mailbox_twice_is_asked_and_listed_once(door: Door) -> None:
    with transaction(door) as client:
        for typed in (
            "user@d.example",
            '"user"@D.EXAMPLE',
            "@r.example:user@d.example",
            "u@d.example",
        ):
            assert client.code(f"RCPT TO:<{typed}>") == 250
        assert [a.exact for a in door.gate.admitted] == ["user@d.example", "u@d.example"]
        assert client.code("DATA") == 354
        client.send(b".\r\n")
        assert client.reply().startswith("250 2.0.0 ")
    recipients = door.gate.submitted[-1].envelope.recipients
    assert [a.exact for a in recipients] == ["user@d.example", "u@d.example"]


def test_the_null_sender_is_none(door: Door) -> None:
    with door.connect() as client:
        client.hello()
        assert client.code("MAIL FROM:<>") == 250
    assert door.gate.mails[-1].mail_from is None
