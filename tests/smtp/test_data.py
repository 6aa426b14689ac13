"""`Incoming` against a plain model that sees the whole stream at once, however it is cut."""

from __future__ import annotations

import re
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import content as content_
from proxy.content import Spool, Spooled
from proxy.smtp import data, replies
from proxy.smtp.data import Incoming

SIZE, LINE = 60, 12
TMP = Path(tempfile.gettempdir())


def model(stream: bytes, *, normalise: bool = False) -> tuple[object, bytes]:
    """(content or the refusal, what follows the end) of a stream that has an end."""
    text = b"\r\n" + stream
    end = text.index(b"\r\n.\r\n")
    body, rest = text[2 : end + 2], text[end + 5 :]
    if normalise:
        body = re.sub(rb"\r(?!\n)", b" ", re.sub(rb"(?<!\r)\n", b"\r\n", body))
    lines = [line[1:] if line[:1] == b"." else line for line in body.split(b"\r\n")]
    content = b"\r\n".join(lines)
    if len(content) > SIZE:
        return replies.TOO_BIG, rest
    if re.search(rb"(?<!\r)\n|\r(?!\n)", body):
        return replies.BARE_IN_DATA, rest
    if b"\0" in body:
        return replies.NUL_IN_DATA, rest
    if any(len(line) > LINE for line in lines):
        return replies.LONG_LINE, rest
    return content, rest


def read(stream: bytes, cuts: list[int], *, normalise: bool = False) -> tuple[object, bytes]:
    """The same by `Incoming`, in the pieces between `cuts`."""
    incoming = Incoming(size_limit=SIZE, line_limit=LINE, spool=Spool(TMP), normalise=normalise)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        if incoming.feed(stream[start:stop]):
            return incoming.fault or incoming.content(), incoming.rest + stream[stop:]
    raise AssertionError("no end found")


pieces = st.sampled_from(
    [
        b".",
        b"..",
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"a",
        b"ab",
        b"x" * 5,
        b"y" * 11,
        b"z" * 12,
        b"w" * 13,
    ]
)
good_pieces = st.sampled_from([b".", b"..", b"\r\n", b"a", b"ab", b"x" * 5])


@settings(max_examples=500)
@given(st.lists(pieces, max_size=14).map(b"".join), st.lists(st.integers(0, 200), max_size=6))
def test_any_stream_any_cuts(body: bytes, cuts: list[int]) -> None:
    stream = body + b"\r\n.\r\nNOOP\r\n"
    assert read(stream, cuts) == model(stream)
    assert read(stream, cuts, normalise=True) == model(stream, normalise=True)


@settings(max_examples=200)
@given(st.lists(pieces, max_size=10).map(b"".join))
def test_octet_by_octet(body: bytes) -> None:
    stream = body + b"\r\n.\r\nQUIT\r\n"
    each = list(range(len(stream)))
    assert read(stream, each) == model(stream)
    assert read(stream, each, normalise=True) == model(stream, normalise=True)


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"", b".", b"..a", b"x" * 5, b"y" * 11, b"z" * 12, b"w" * 13, b"a\nb"]
            ),
            st.integers(1, 6),
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 400), max_size=4),
    st.booleans(),
)
def test_lines_that_are_alike(
    runs: list[tuple[bytes, int]], cuts: list[int], normalise: bool
) -> None:
    stream = b"".join((line + b"\r\n") * times for line, times in runs) + b".\r\nNOOP\r\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_NARROW", 2)
        patch.setattr(sys.modules[__name__], "SIZE", 400)
        assert read(stream, cuts, normalise=normalise) == model(stream, normalise=normalise)


@settings(max_examples=300)
@given(
    st.lists(pieces | st.sampled_from([b"\xe9", b"\r\n.", b"\n."]), max_size=12).map(b"".join),
    st.lists(st.integers(0, 200), max_size=6),
    st.booleans(),
)
def test_what_is_told_of_a_file_holds(
    body: bytes, cuts: list[int], normalise: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_, "SPOOL_AT", 4)
        got, _ = read(body + b"\r\n.\r\n", cuts, normalise=normalise)
    if isinstance(got, Spooled):
        octets = bytes(got)
        assert got.isascii() == octets.isascii()
        assert got.dots or b"\r\n." not in octets
        assert got.part(1, None).dots == got.dots


@given(st.lists(pieces, max_size=14).map(b"".join))
def test_what_was_normalised_is_read_in_one_way_only(body: bytes) -> None:
    content, _ = read(body + b"\r\n.\r\n", [], normalise=True)
    if isinstance(content, bytes):
        assert content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n")


@given(st.lists(good_pieces, max_size=8).map(b"".join), st.lists(st.integers(0, 99), max_size=4))
def test_stuffing_and_unstuffing_is_exact(text: bytes, cuts: list[int]) -> None:
    content = text + b"\r\n"
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    got, rest = read(stuffed + b".\r\n", cuts)
    if max(map(len, content.split(b"\r\n"))) <= LINE and len(content) <= SIZE:
        assert (got, rest) == (content, b"")


@pytest.mark.parametrize("length", range(LINE - 2, LINE + 4))
@pytest.mark.parametrize("dot", [b"", b"."])
def test_the_longest_line(length: int, dot: bytes) -> None:
    line = (dot + b"x" * length)[:length]
    stream = dot + line + b"\r\n.\r\n"
    for cut in range(len(stream)):
        got, _ = read(stream, [cut])
        assert got == (line + b"\r\n" if length <= LINE else replies.LONG_LINE)


def test_the_largest_message() -> None:
    line = b"x" * 8 + b"\r\n"
    exact = line * 6
    assert len(exact) == SIZE
    assert read(exact + b".\r\n", [])[0] == exact
    # A stuffed dot is no octet of the message (RFC 1870 section 5).
    dotted = b"..xxxxxxx\r\n" * 6
    assert read(dotted + b".\r\n", [])[0] == b".xxxxxxx\r\n" * 6
    assert read(b"a\r\n" + exact + b".\r\n", [])[0] is replies.TOO_BIG


def test_the_message_is_handed_over_once() -> None:
    incoming = Incoming(size_limit=SIZE, line_limit=LINE, spool=Spool(TMP))
    assert incoming.feed(b"one\r\n.\r\n")
    assert incoming.content() == b"one\r\n"
    assert incoming.content() == b""


def test_nothing_is_kept_of_what_is_refused() -> None:
    incoming = Incoming(size_limit=1 << 20, line_limit=LINE, spool=Spool(TMP))
    assert not incoming.feed(b"good\r\n" * 1000)
    for _ in range(100):
        assert not incoming.feed(b"x" * 10000)
        assert len(incoming._carry) < 100
    assert incoming.fault is replies.LONG_LINE
    assert incoming.content() == b""
    assert not incoming.overrun
    assert not incoming.feed(b"x" * (1 << 21))
    assert incoming.overrun
