"""Every reply of the front door has its enhanced code and is one line of ASCII."""

from __future__ import annotations

import pytest

from proxy.replies import Reply
from proxy.smtp import replies

TABLE = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}

# The enumerated status codes of RFC 3463, RFC 4954, RFC 5248 and RFC 6531 that we use.
REGISTERED = {
    *("0.0", "1.0", "1.3", "1.5", "3.1", "3.2", "3.4", "4.2", "5.0", "5.1", "5.2", "5.3", "5.4"),
    *("5.6", "6.0", "7.0", "7.1", "7.8", "7.11"),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_reply(name: str) -> None:
    reply = TABLE[name]
    line = str(reply)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 510
    kind, _, rest = reply.enhanced.partition(".")
    assert kind == str(reply.code)[0]
    assert rest in REGISTERED


def test_our_own_faults_are_never_permanent() -> None:
    ours = {"SHUTTING_DOWN", "TOO_MANY_CONNECTIONS", "TOO_MANY_FROM_YOU"}
    assert all(TABLE[name].temporary for name in ours)


def test_the_last_line_of_ehlo_has_a_space() -> None:
    assert replies.extensions("h.example", []) == b"250 h.example\r\n"
    assert replies.extensions("h.example", ["A", "B"]) == b"250-h.example\r\n250-A\r\n250 B\r\n"
