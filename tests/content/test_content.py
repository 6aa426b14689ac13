"""A message in a file against the same octets in memory: every answer is the same."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import content
from proxy.content import Spool, Spooled, blocks, stretch
from proxy.message import canonical, placeholders, transfer
from proxy.message.canonical import BodyHash
from proxy.message.header import HeaderRefused, index
from proxy.message.mime import OpaqueError, Part, Value, scan

TMP = Path(tempfile.gettempdir())


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is a file, and a block is a few octets: all that can be cut in two is."""
    monkeypatch.setattr(content, "SPOOL_AT", 0)
    monkeypatch.setattr(content, "BLOCK", 7)
    monkeypatch.setattr(content, "STRETCH", 9)


def filed(octets: bytes) -> Spooled:
    spool = Spool(TMP)
    for at in range(0, len(octets), 11):
        part = octets[at : at + 11]
        spool.write(part, ascii_only=part.isascii(), dots=True)
    found = spool.take()
    if isinstance(found, bytes):  # nothing was written
        file = tempfile.TemporaryFile(dir=TMP)  # noqa: SIM115  closed with `found`
        return Spooled(content._File(os.dup(file.fileno()), None), 0, 0, ascii_only=None)
    return found


text = st.lists(
    st.sampled_from([b"\r\n", b"--", b"a", b" ", b"\xe9", b"xyz", b"\r", b"\n", b"\r\n--b"]),
    max_size=25,
).map(b"".join)
at = st.integers(-3, 60)


@given(text, at, at | st.none(), st.sampled_from([b"\r\n--", b"\r\n", b"a", b"xyz\r\n"]))
def test_it_answers_as_bytes_do(
    octets: bytes, start: int, end: int | None, wanted: bytes
) -> None:
    one = filed(octets)
    assert len(one) == len(octets)
    assert one[start:end] == octets[start:end]
    assert one.find(wanted, start, end) == octets.find(wanted, start, end)
    assert one.isascii() == octets.isascii()
    assert b"".join(one.blocks()) == bytes(one) == octets
    if start >= 0:
        assert one.startswith((wanted, b"--"), start) == octets.startswith((wanted, b"--"), start)
    part, view = stretch(one, start, end), octets[start:end]
    assert isinstance(part, Spooled)
    assert (bytes(part), part.isascii(), len(part)) == (view, view.isascii(), len(view))
    assert part.find(wanted) == view.find(wanted)
    assert part[1:4] == view[1:4]
    assert b"".join(map(bytes, blocks(part))) == view


@given(text, st.integers(0, 60))
def test_what_was_hashed_on_the_way_is_known_of_that_stretch_only(
    octets: bytes, mark: int
) -> None:
    spool = Spool(TMP, hash_from=lambda _: mark)
    for at in range(0, len(octets), 11):
        spool.write(octets[at : at + 11], ascii_only=False, dots=True)
    one = spool.take()
    for start in range(len(octets)):
        assert isinstance(one, Spooled)
        part = stretch(one, start)
        assert isinstance(part, Spooled)
        # What lies behind the octets that were there at first cannot be hashed on the way.
        known = start == mark <= min(11, len(octets))
        assert part.sha256 == (hashlib.sha256(octets[start:]).hexdigest() if known else None)
        assert start + 1 == len(octets) or one.part(start, len(octets) - 1).sha256 is None


@given(text.filter(bool))
def test_reading_in_the_loop(octets: bytes) -> None:
    async def all_of(one: Spooled) -> bytes:
        read = [await one.read(n, 17) for n in range(0, len(one), 17)]
        return b"".join(itertools.chain.from_iterable(read))

    assert asyncio.run(all_of(filed(octets))) == octets


def test_reading_where_the_kernel_cannot_tell_takes_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "preadv", cannot)
    assert asyncio.run(filed(b"0123456789").read(3, 4)) == [b"3456"]


def test_a_disk_that_fails_is_an_error_and_no_end() -> None:
    one = filed(b"0123456789" * 5)
    os.ftruncate(one._file.number, 20)
    assert one[:20] == b"0123456789" * 2
    for look in (
        lambda: one[:50],
        lambda: one.find(b"x"),
        lambda: list(one.blocks()),
        lambda: asyncio.run(one.read(10, 30)),
    ):
        with pytest.raises(OSError, match="too early"):
            look()


def test_the_file_goes_with_its_last_reader() -> None:
    one = filed(b"0123456789")
    part, number = one.part(2, 5), one._file.number
    del one
    assert bytes(part) == b"234"
    del part
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


# -- what reads a message --------------------------------------------------------------------------

lines = st.sampled_from(
    [
        *(b"From: a@acme.example", b"Subject: x", b" folded", b"\tfolded", b"", b"no field"),
        *(b"From a@acme.example Tue", b">From: x", b"From : y", b"Content-Type: text/plain"),
        *(b'Content-Type: multipart/mixed; boundary="b"', b"--b", b"--b--", b"--c", b"text -- x"),
        *(b'Content-Type: multipart/alternative;\r\n boundary=c', b"--c--", b"-- ", b"x" * 30),
        b"Content-Transfer-Encoding: base64",
    ]
)
mails = st.lists(lines, max_size=25).map(b"\r\n".join)


def seen(mail: bytes | Spooled, most: int) -> object:
    try:
        header = index(mail, max_bytes=most, max_fields=6)
    except HeaderRefused as refused:
        return str(refused.reply)
    try:
        return header, scan(mail, header)
    except OpaqueError as opaque:
        return header, str(opaque)


@settings(max_examples=400)
@given(mails, st.integers(10, 120))
def test_header_and_structure(mail: bytes, most: int) -> None:
    assert seen(filed(mail), most) == seen(mail, most)


cuts = st.lists(st.integers(0, 80), max_size=4)


@settings(max_examples=300)
@given(text, cuts)
def test_hashes_of_the_canonical_forms(body: bytes, where: list[int]) -> None:
    for form in (canonical.relaxed, canonical.simple):
        sums = [hashlib.sha256(), hashlib.sha256()]
        form(body, sums[0])
        form(filed(body), sums[1])
        assert sums[0].digest() == sums[1].digest()
    edges = sorted({0, len(body), *(w % (len(body) + 1) for w in where)})
    one, whole = filed(body), memoryview(body)
    parts = list(itertools.pairwise(edges))
    in_file, in_memory = BodyHash(), BodyHash()
    for new in (b"", b"new \r\n", b"other"):  # several copies, which share what lies around it
        pieces = [[one.part(a, b), new] for a, b in parts]
        views = [[whole[a:b], new] for a, b in parts]
        made = in_file.digest([p for pair in pieces for p in pair])
        assert made == in_memory.digest([p for pair in views for p in pair])


def test_the_simple_form() -> None:
    for body, form in (
        (b"", b"\r\n"),
        (b"a", b"a\r\n"),
        (b"a\r\n\r\n", b"a\r\n"),
        (b"\r\n" * 20_000 + b"a\r", b"\r\n" * 20_000 + b"a\r\r\n"),
        (b"\r\n\n\r\n", b"\r\n\n\r\n"),
    ):
        made = hashlib.sha256()
        canonical.simple(body, made)
        assert made.digest() == hashlib.sha256(form).digest()


URL = b"{{sluis.unsubscribe_url}}"
words = st.lists(
    st.sampled_from(
        [
            *(URL, b"[[ sluis.unsubscribe_url ]]", b"%7B%7Bsluis.unsubscribe_url%7D%7D"),
            *(b"{{sluis.other", b"\x83" + URL, b"x" * 70, b"sluis.", b" ", b"\x83", b"\r\n", b"{{"),
        ]
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(words.map(b"".join), st.sampled_from(["utf-8", "shift_jis"]), st.integers(1, 300))
def test_placeholders_are_counted_across_blocks(octets: bytes, codec: str, size: int) -> None:
    found = placeholders.find(octets, codec)
    pieces = [octets[n : n + size] for n in range(0, len(octets), size)]
    assert placeholders.count(pieces, codec) == (len(found.spans), found.unknown)


def part_of(octets: bytes, encoding: str) -> Part:
    part = Part(
        type=Value("text/plain", {}), encoding=Value(encoding, {}), disposition=None, start=0
    )
    part.end = len(octets)
    return part


coded = st.lists(
    st.sampled_from([b"QUJD", b"QQ==", b"Q", b"=\r\n", b"=3D", b"\r\n", b" ", b"=", b"abcd", b"%"]),
    max_size=20,
).map(b"".join)


@settings(max_examples=300)
@given(coded, st.sampled_from(["8bit", "quoted-printable", "base64", "uuencode"]))
def test_a_part_decodes_alike_in_blocks(octets: bytes, encoding: str) -> None:
    def whole() -> Iterator[bytes]:
        yield transfer.read(octets, part_of(octets, encoding)).octets

    def in_blocks() -> Iterator[bytes]:
        yield from transfer.decoded(filed(octets), part_of(octets, encoding))

    results: list[bytes | None] = []
    for make in (whole, in_blocks):
        try:
            results.append(b"".join(make()))
        except transfer.ImpossibleError:
            results.append(None)
    assert results[0] == results[1]
