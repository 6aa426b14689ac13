"""How many recipients a reader sees."""

from __future__ import annotations

import pytest
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from proxy.message.header import index
from proxy.message.visible import count_visible


def _count(fields: bytes) -> int | None:
    return count_visible(index(b"From: a@acme.example\r\n" + fields + b"\r\n"))


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        (b"", 0),
        (b"To:\r\n", 0),
        (b"To: undisclosed-recipients:;\r\n", 0),
        (b"To: undisclosed-recipients: ;\r\nCc: (nobody)\r\n", 0),
        (b"To: a@x.example\r\n", 1),
        (b"To: Anna <a@x.example>\r\n", 1),
        (b'To: "Anna, c/o b@y.example" <a@x.example>\r\n', 1),
        (b"To: a@x.example (b@y.example, c@z.example)\r\n", 1),
        (b"To: a@x.example <a@x.example>\r\n", 1),
        (b"To: <@r.example,@s.example:a@x.example>\r\n", 1),
        (b"To: our readers\r\n", 1),
        (b"To: [a,b]@x.example\r\n", 1),
        (b"To: ,, a@x.example ,,\r\n", 1),
        (b"To: a@x.example\r\nCc: b@x.example\r\n", 2),
        (b"To: a@x.example,\r\n b@x.example\r\n", 2),
        (b"To: a@x.example b@x.example\r\n", 2),
        (b"To: <a@x.example> <b@x.example>\r\n", 2),
        (b"To: <a@x.example, b@x.example>\r\n", 2),
        (b"To: a@x.example; b@x.example\r\n", 2),
        (b"To: Team: a@x.example, b@x.example;, c@x.example\r\n", 3),
        (b"To: a@x.example: b@x.example;\r\n", 2),
        (b"Resent-To: a@x.example\r\nResent-Cc: b@x.example\r\nResent-To: c@x.example\r\n", 3),
        (b"to : a@x.example\r\nTO: b@x.example\r\n", 2),
        (b"Bcc: a@x.example, b@x.example\r\nReply-To: a@x.example, b@x.example\r\n", 0),
        (b"To: " + b"a@x.example,\r\n " * 8_000 + b"a@x.example\r\n", 101),
        (b"To: (((a@x\r\n", None),
        (b'To: "a, b@x\r\n', None),
        (b"To: a@x (\\)\r\n", None),
        (b"To: <a@x.example, b@x.example\r\n", None),
    ],
)
def test_count(fields: bytes, number: int | None) -> None:
    assert _count(fields) == number


@pytest.mark.parametrize(
    "value",
    [
        b"(" * 200_000,
        b"()" * 100_000,
        b"(())" * 50_000,
        b"(" * 100_000 + b")" * 100_000,
        b'"' * 200_000,
        b'"\\' * 100_000,
        b"[" * 200_000,
        b"[a" * 100_000,
        b"<" * 200_000,
        b"(a" * 100_000,
        b"=?utf-8?q?x?= " * 15_000,
        b"a " * 100_000,
    ],
)
def test_work_is_bounded(value: bytes) -> None:
    assert _count(b"To: " + value + b"\r\n") in {None, 1}
    assert_linear(lambda text: _count(b"To: " + text + b"\r\n"), value)


@given(st.lists(st.sampled_from(["a@x.example", "A <a@x.example>", '"q, r" <a@x.example>'])))
def test_comma_separated_mailboxes_are_all_counted(items: list[str]) -> None:
    assert _count(f"To: {','.join(items)}\r\n".encode()) == min(len(items), 101)


@given(st.text('a@x.,;:<>()"\\[] ', max_size=40))
def test_never_fewer_than_what_stands_between_plain_commas(text: str) -> None:
    alone = _count(f"To: {text}\r\n".encode())
    both = _count(f"To: {text}, b@x.example\r\n".encode())
    assert alone is None or both is None or both >= alone
