"""The relaxed forms and the shared body hash, against dkimpy and against hashing all at once."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence

from dkim.canonicalization import Relaxed
from hypothesis import given
from hypothesis import strategies as st

from proxy.content import Piece
from proxy.message.canonical import BodyHash, relaxed_field


def expected(body: bytes) -> bytes:
    """RFC 6376 section 3.4.4, line by line and slowly."""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return hashlib.sha256(b"".join(line + b"\r\n" for line in lines)).digest()


def in_pieces(pieces: Sequence[Piece]) -> bytes:
    """The hash of a copy that is not the first: piece by piece."""
    hasher = BodyHash()
    hasher.digest([b"the first"])
    return hasher.digest(pieces)


def test_every_short_body() -> None:
    alphabet = (b" ", b"\t", b"a", b"\r\n")
    tried = 0
    for length in range(7):
        for letters in itertools.product(alphabet, repeat=length):
            body = b"".join(letters)
            assert BodyHash().digest([body]) == expected(body), body
            assert in_pieces([body]) == expected(body), body
            tried += 1
    assert tried == 5_461


def test_an_empty_body_is_nothing() -> None:
    for body in (b"", b"\r\n", b" \r\n\t\r\n\r\n", b"  "):
        assert BodyHash().digest([body]) == hashlib.sha256(b"").digest()
        assert in_pieces([body]) == hashlib.sha256(b"").digest()
    assert BodyHash().digest([]) == in_pieces([]) == hashlib.sha256(b"").digest()


LINES = st.lists(
    st.sampled_from([b"a", b"bc  d", b"\r\n", b" ", b"\t", b"\r\n\r\n", b"x" * 90, b"\xc3\xa9"]),
    max_size=40,
).map(b"".join)


@given(LINES)
def test_equal_to_dkimpy(body: bytes) -> None:
    body += b"\r\n"  # what is sent ends with one always; dkimpy keeps white space at an open end
    want = hashlib.sha256(Relaxed.canonicalize_body(body)).digest()
    assert BodyHash().digest([body]) == want


@given(LINES, st.lists(st.integers(0, 400), max_size=8))
def test_cuts_do_not_matter(body: bytes, at: list[int]) -> None:
    edges = [0, *sorted(min(n, len(body)) for n in at), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    views = [memoryview(body)[a:b] for a, b in itertools.pairwise(edges)]
    want = expected(body)
    hasher = BodyHash()
    for _ in range(3):
        assert hasher.digest(pieces) == want
    assert hasher.digest(views) == want
    assert in_pieces(pieces) == in_pieces(views) == want


def test_the_first_copy_comes_again() -> None:
    whole = memoryview(b"one  line\r\nand another \r\n")
    own: list[list[Piece]] = [[whole], [whole[:9], b" x", whole[9:]], [whole], [b"", whole]]
    hasher = BodyHash()
    for pieces in own + own[::-1]:
        assert hasher.digest(pieces) == expected(b"".join(map(bytes, pieces)))


@given(
    st.lists(LINES, min_size=1, max_size=5),
    st.lists(st.lists(LINES, min_size=4, max_size=4), min_size=2, max_size=5),
)
def test_copies_that_share_pieces(fixed: list[bytes], own: list[list[bytes]]) -> None:
    whole = memoryview(b"".join(fixed))
    edges = [0, *itertools.accumulate(map(len, fixed))]
    hasher = BodyHash()
    for copy in own:
        pieces: list[Piece] = []
        for n, (start, end) in enumerate(itertools.pairwise(edges)):
            pieces += [whole[start:end], *copy[n : n + 1]]
        assert hasher.digest(pieces) == expected(b"".join(map(bytes, pieces)))


@given(
    st.lists(
        st.sampled_from([b"a", b" ", b"\t", b"\r\n ", b"\r\n\t", b"\xff", b":"]),
        max_size=20,
    ).map(b"".join)
)
def test_a_field_equal_to_dkimpy(value: bytes) -> None:
    ((name, want),) = Relaxed.canonicalize_headers([(b"SubJect ", value + b"\r\n")])
    assert name == b"subject"
    assert relaxed_field(b"subject", value + b"\r\n") + b"\r\n" == name + b":" + want


def test_long_runs_of_white_space_cost_little_work() -> None:
    for digest in (BodyHash().digest, in_pieces):
        body = b" " * 5_000_000 + b"x\r\n"
        assert digest([body]) == hashlib.sha256(b" x\r\n").digest()
        blank = b"x" + b"\r\n" * 2_000_000
        assert digest([blank]) == hashlib.sha256(b"x\r\n").digest()
