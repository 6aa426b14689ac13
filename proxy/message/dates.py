"""Dates as mail writes them; English whatever the locale."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def rfc5322(at: datetime) -> str:
    """An aware time as RFC 5322 section 3.3 has it, in UTC. Raises `ValueError` for a naive one."""
    if at.tzinfo is None:
        raise ValueError("a date field needs an aware time")
    return _written(at.astimezone(UTC).replace(microsecond=0))


@lru_cache(maxsize=64)
def _written(utc: datetime) -> str:
    """A whole second: a busy relay writes each many times."""
    day, month = _DAYS[utc.weekday()], _MONTHS[utc.month - 1]
    clock = f"{utc.hour:02}:{utc.minute:02}:{utc.second:02}"
    return f"{day}, {utc.day} {month} {utc.year:04} {clock} +0000"
