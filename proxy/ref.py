"""References: the short names by which replies, journal and log speak of one transaction.

Sixteen characters of Crockford's base32: 48 bits of milliseconds since the epoch, then 32 random
bits. They sort as text in the order in which this process made them, also when the clock stands
still or goes back.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RANDOM_BITS = 32
_TOP = (1 << 80) - 1

LENGTH = 16

#: Octets drawn at a time.
_BLOCK = 4096


class Chance:
    """Random octets of the system's source, drawn by the block. Safe in threads, and after a fork.

    Each draw lets go of the interpreter lock, so that one for each mail costs a change of threads.
    What is not used yet lies in memory: for names, never for keys.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._block = b""
        self._used = 0
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, size: int) -> bytes:
        """So many octets that nobody had before, at most a block of 4096."""
        with self._lock:
            end = self._used + size
            if end > len(self._block):
                self._block, self._used, end = os.urandom(_BLOCK), 0, size
            drawn = self._block[self._used : end]
            self._used = end
            return drawn

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._block, self._used = b"", 0


chance = Chance()
"""The process's own source."""


class Refs:
    """A source of references; one per process (`new_ref`), more only in tests. Safe in threads."""

    def __init__(self) -> None:
        self._last = -1
        self._lock = threading.Lock()

    def __call__(self, at: datetime) -> str:
        """A reference later than every one before.

        `at` is aware. Raises `ValueError` for a naive time or one outside the years 1970 to 10889.
        """
        if at.tzinfo is None:
            raise ValueError("a reference needs an aware time")
        random = int.from_bytes(chance(_RANDOM_BITS // 8), "big")
        age = at - _EPOCH
        milliseconds = (age.days * 86_400 + age.seconds) * 1000 + age.microseconds // 1000
        fresh = (milliseconds << _RANDOM_BITS) | random
        if not 0 <= fresh <= _TOP:
            raise ValueError("time outside what a reference can hold")
        with self._lock:
            # Same millisecond or a clock set back: count on, so that order and uniqueness hold.
            self._last = value = max(fresh, self._last + 1)
        pairs = _PAIRS  # written out, as one is made for each mail: a loop takes twice as long
        return (
            pairs[value >> 70 & 0x3FF]
            + pairs[value >> 60 & 0x3FF]
            + pairs[value >> 50 & 0x3FF]
            + pairs[value >> 40 & 0x3FF]
            + pairs[value >> 30 & 0x3FF]
            + pairs[value >> 20 & 0x3FF]
            + pairs[value >> 10 & 0x3FF]
            + pairs[value & 0x3FF]
        )


new_ref = Refs()
"""The process's own source: order is a property of the process, so it is state of this module."""


def made_at(ref: str) -> datetime:
    """The time within a reference, to the millisecond. Raises `ValueError` for other text."""
    if len(ref) != LENGTH:
        raise ValueError("a reference has 16 characters")
    value = 0
    for char in ref:
        value = value << 5 | _ALPHABET.index(char)
    return _EPOCH + _MILLISECOND * (value >> _RANDOM_BITS)
