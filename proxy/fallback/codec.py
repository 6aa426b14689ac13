"""The bytes of `data_dir/fallback`: records one after another, each with its length and a digest.

A record is `SLR1`, the payload's length and the record's number (big-endian, 4 octets each), a
CRC-32 of these, the payload, and 16 octets of BLAKE2b over the head and the payload. So a torn
tail (a crash in the middle of an append) can be told from damage: what is cut short, or ends in
nothing but zeros, was never acknowledged; whatever else does not fit was changed after it was
written.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

_MARK = b"SLR1"
_HEAD = struct.Struct(">4sIII")
_DIGEST = 16

#: What a record costs beside its payload, in octets.
FRAME = _HEAD.size + _DIGEST


class Damaged(ValueError):
    """Octets that were acknowledged once are not what was written; `offset` says where."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"damaged at octet {offset}")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Read:
    """The payloads of whole records, how many octets they take, and whether a torn one follows."""

    payloads: tuple[bytes, ...]
    good: int
    torn: bool


def encode(payload: bytes, number: int) -> bytes:
    """One record; `number` is how many stand before it."""
    fields = struct.pack(">4sII", _MARK, len(payload), number)
    head = fields + struct.pack(">I", zlib.crc32(fields))
    return head + payload + _digest(head, payload)


def decode(data: bytes) -> Read:
    """All whole records of a file. Raises `Damaged`."""
    payloads: list[bytes] = []
    at = 0
    while at < len(data):
        rest = len(data) - at
        if rest < FRAME:
            break
        mark, length, number, crc = _HEAD.unpack_from(data, at)
        head = data[at : at + _HEAD.size]
        if mark != _MARK or crc != zlib.crc32(head[:-4]) or number != len(payloads):
            if not data[at + _HEAD.size :].strip(b"\0"):
                break
            raise Damaged(at)
        if rest < FRAME + length:
            break
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        end = at + FRAME + length
        if data[end - _DIGEST : end] != _digest(head, payload):
            # Its end never came to the disk, nor anything after it: torn; else it was changed.
            if not data[end - _DIGEST :].strip(b"\0"):
                break
            raise Damaged(at)
        payloads.append(payload)
        at = end
    return Read(tuple(payloads), at, torn=at < len(data))


def _digest(head: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(head + payload, digest_size=_DIGEST).digest()
