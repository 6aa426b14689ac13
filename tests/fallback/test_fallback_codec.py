"""The bytes of the fallback file: a torn tail loses the torn record alone, damage is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fallback.codec import FRAME, Damaged, decode, encode

PAYLOADS = st.lists(st.binary(max_size=60), max_size=6)


def written(payloads: list[bytes]) -> bytes:
    return b"".join(encode(payload, n) for n, payload in enumerate(payloads))


@given(PAYLOADS)
def test_what_was_written_is_read(payloads: list[bytes]) -> None:
    data = written(payloads)
    read = decode(data)
    assert (list(read.payloads), read.good, read.torn) == (payloads, len(data), False)


@given(PAYLOADS, st.data())
def test_any_cut_loses_the_torn_record_alone(payloads: list[bytes], data: st.DataObject) -> None:
    whole = written(payloads)
    cut = data.draw(st.integers(0, len(whole)))
    read = decode(whole[:cut])
    ends = [len(written(payloads[:n])) for n in range(len(payloads) + 1)]
    kept = max(n for n, end in enumerate(ends) if end <= cut)
    assert list(read.payloads) == payloads[:kept]
    assert read.good == ends[kept]
    assert read.torn == (cut > ends[kept])


@given(PAYLOADS.filter(bool), st.data())
def test_every_flipped_bit_is_seen(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(written(payloads))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        decode(bytes(whole))


@given(PAYLOADS, st.integers(1, 200), st.data())
def test_zeros_after_the_last_sync_are_a_torn_tail(
    payloads: list[bytes], zeros: int, data: st.DataObject
) -> None:
    """A file system may grow a file before its blocks come to the disk."""
    whole = written(payloads)
    # What stands of the record being written: nothing, or all but its end.
    next_ = encode(b"next", len(payloads))
    begun = data.draw(st.integers(0, len(next_) - 16))
    read = decode(whole + next_[:begun] + bytes(max(zeros, len(next_) - begun)))
    assert list(read.payloads) == payloads
    assert read.torn


@given(st.lists(st.binary(max_size=20), min_size=2, max_size=5, unique=True), st.data())
def test_a_record_out_of_its_place_is_damage(payloads: list[bytes], data: st.DataObject) -> None:
    records = [encode(payload, n) for n, payload in enumerate(payloads)]
    gone = data.draw(st.integers(0, len(records) - 2))
    with pytest.raises(Damaged):
        decode(b"".join(records[:gone] + records[gone + 1 :]))
    with pytest.raises(Damaged):
        decode(b"".join(records[: gone + 1] + records[gone:]))


def test_a_record_costs_little() -> None:
    assert len(encode(b"", 0)) == FRAME == 32
