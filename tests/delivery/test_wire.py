"""The bytes of the client: dot-stuffing, replies, extensions. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.delivery import wire

_TOKENS = st.lists(
    st.sampled_from([b".", b"..", b"\r\n", b"\r\n.", b"\r", b"\n", b"a", b"\r\n.\r\n", b"\xff"]),
    max_size=30,
)
_BODIES = _TOKENS.map(b"".join)


def stuffed(content: bytes) -> bytes:
    """The oracle: line by line, as RFC 5321 4.5.2 words it."""
    lines = content.split(b"\r\n")
    wire_lines = [b"." + line if line.startswith(b".") else line for line in lines]
    text = b"\r\n".join(wire_lines)
    end = b".\r\n" if not content or content.endswith(b"\r\n") else b"\r\n.\r\n"
    return text + end


def through(parts: list[bytes]) -> bytes:
    stuffer = wire.Stuffer()
    return b"".join([*(stuffer.feed(part) for part in parts), stuffer.end()])


@given(body=_BODIES, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_stuffing_is_the_same_however_the_content_is_cut(body: bytes, cuts: list[int]) -> None:
    places = sorted(min(cut, len(body)) for cut in cuts)
    parts = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    assert through(parts) == stuffed(body)
    views = wire.Stuffer()
    assert b"".join([views.feed(memoryview(p)) for p in parts]) + views.end() == stuffed(body)


@given(
    parts=st.lists(
        st.tuples(_BODIES, st.sampled_from([bytes, bytearray, memoryview])), max_size=6
    )
)
def test_what_is_told_to_have_no_dots_is_stuffed_where_the_parts_meet(
    parts: list[tuple[bytes, type]],
) -> None:
    stuffer = wire.Stuffer()
    sent = [stuffer.feed(kind(part), dots=b"\r\n." in part) for part, kind in parts]
    assert b"".join([*sent, stuffer.end()]) == stuffed(b"".join(part for part, _ in parts))


@given(body=_BODIES)
def test_every_single_cut_and_octet_by_octet(body: bytes) -> None:
    expected = stuffed(body)
    for n in range(len(body) + 1):
        assert through([body[:n], body[n:]]) == expected
    assert through([bytes([octet]) for octet in body]) == expected


@given(body=_BODIES)
def test_the_final_dot_is_the_only_end_of_data(body: bytes) -> None:
    """However the content looks, a server that looks for CRLF.CRLF finds it once, at the end."""
    assert (b"\r\n" + through([body])).index(b"\r\n.\r\n") == 2 + len(through([body])) - 5


_TEXT = st.binary(max_size=40).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))
_REPLIES = st.lists(
    st.tuples(
        st.integers(200, 559).filter(lambda code: code // 10 % 10 < 6),
        st.lists(_TEXT, min_size=1),
    ),
    min_size=1,
    max_size=5,
)


def written(code: int, lines: list[bytes]) -> bytes:
    raw = b"".join(b"%d-%b\r\n" % (code, line) for line in lines[:-1])
    return raw + b"%d %b\r\n" % (code, lines[-1])


@given(replies=_REPLIES, step=st.integers(1, 50))
def test_replies_are_read_however_the_stream_is_cut(
    replies: list[tuple[int, list[bytes]]], step: int
) -> None:
    raw = b"".join(written(code, lines) for code, lines in replies)
    parser = wire.Replies()
    for start in range(0, len(raw), step):
        parser.feed(raw[start : start + step])
    assert [(a.code, list(a.lines)) for a in parser.ready] == replies
    for answer in parser.ready:
        assert answer.line.isascii()
        assert answer.line.isprintable()
    parser.ready.clear()
    assert parser.between


@given(junk=st.binary(max_size=200), step=st.integers(1, 50))
def test_junk_is_refused_or_waits_for_more_and_never_piles_up(junk: bytes, step: int) -> None:
    parser = wire.Replies()
    refused = False
    try:
        for start in range(0, len(junk), step):
            parser.feed(junk[start : start + step])
    except wire.GarbageError:
        refused = True
    whole = junk.rpartition(b"\n")[0]
    read_all = all(line[3:4] in b" -\r" and line[-1:] == b"\r" for line in whole.split(b"\n"))
    assert refused or not whole or read_all


@pytest.mark.parametrize(
    "raw",
    [
        b"250 " + b"x" * wire.LINE,
        b"250 " + b"x" * wire.LINE + b"\r\n",
        b"250-x\r\n" * wire.LINES,
        b"250 ok\n",
        b"\n250 ok\r\n",
        b"250\rok\r\n",
        b"199 ok\r\n",
        b"600 ok\r\n",
        b"260 ok\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"\xb2\xb5\xb0 ok\r\n",
        b"\r\n",
    ],
)
def test_what_is_no_reply_is_refused(raw: bytes) -> None:
    with pytest.raises(wire.GarbageError):
        wire.Replies().feed(raw)


def test_a_reply_before_the_garbage_is_kept() -> None:
    parser = wire.Replies()
    with pytest.raises(wire.GarbageError):
        parser.feed(b"250 2.0.0 ok\r\n<html>\r\n")
    assert [answer.line for answer in parser.ready] == ["250 2.0.0 ok"]


@pytest.mark.parametrize("raw", [b"250\r\n", b"250 \r\n", b"250-\r\n250\r\n"])
def test_a_reply_without_text_is_a_reply(raw: bytes) -> None:
    parser = wire.Replies()
    parser.feed(raw)
    assert parser.ready[0].code == 250


def test_extensions_are_read_whatever_their_case_and_form() -> None:
    parser = wire.Replies()
    parser.feed(
        b"250-relay.example greets you\r\n250-size 1000\r\n250-AUTH PLAIN\r\n"
        b"250-AUTH=LOGIN PLAIN\r\n250-\r\n250 Pipelining\r\n"
    )
    offered = wire.extensions(parser.ready[0])
    assert offered == {"SIZE": "1000", "AUTH": "PLAIN LOGIN PLAIN", "PIPELINING": ""}
    assert wire.max_size(offered) == 1000


@pytest.mark.parametrize("size", ["", "0", "-1", "many", "9" * 40, "²"])
def test_a_size_that_says_nothing_is_no_limit(size: str) -> None:
    assert wire.max_size({"SIZE": size}) == 0


def test_a_path_is_verbatim_or_an_error() -> None:
    assert wire.path(b"") == b"<>"
    assert wire.path("jürgen@example.de".encode()) == "<jürgen@example.de>".encode()
    for octet in [*range(0x21), 0x3C, 0x3E, 0x7F]:
        with pytest.raises(ValueError, match="address"):
            wire.path(b"a%cb@example.nl" % octet)


@pytest.mark.parametrize(
    ("text", "code"),
    [("2.0.0 ok", "2.0.0"), ("5.7.26", "5.7.26"), ("3.0.0 no", ""), ("2.0.0ok", ""), ("", "")],
)
def test_enhanced_codes(text: str, code: str) -> None:
    assert wire.enhanced(text) == code


@given(st.binary(max_size=12))
def test_plain_is_what_neither_check_has_anything_against(address: bytes) -> None:
    try:
        wire.refuse_controls(address)
    except ValueError:
        assert not wire.plain(address)
    else:
        assert wire.plain(address) == wire.unambiguous(address)
