"""Between values and columns: times as microseconds, parts as JSON."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import orjson

from policy.events import detail_from
from policy.model import Decision, Detail

#: What a row of the lookup is, in its first column.
EVENT, SUPPRESSION, ATTRIBUTE, MAIL, TOP = range(5)

#: Stands among the marks of a submission whose history was not asked, and finds it again.
UNDEDUPED = "undeduped"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Microseconds since the epoch, exactly. A naive time is a programming error (`TypeError`)."""
    return (at - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=32768)
def instant(us: int) -> datetime:
    """The inverse of `micros`. Cached: a recipient is read at RCPT, and again before the dot."""
    return _EPOCH + us * _MICROSECOND  # twice as fast as timedelta(microseconds=us)


def to_json(value: object) -> str:
    """Compact JSON with sorted keys, so that equal values are equal text."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def array(values: Collection[str]) -> str:
    """A JSON array for `schema.each`."""
    return orjson.dumps(list(values)).decode()


@lru_cache(maxsize=8192)
def detail(type_: str, fields: str) -> Detail:
    """The frozen detail of a stored event. Cached: most of a ledger is a few texts repeated.

    Raises `policy.events.FieldError` for what this version cannot read.
    """
    return detail_from(type_, orjson.loads(fields))


def basis_json(decision: Decision) -> str:
    """The ledger entry an allowed mail rests on, "" for none."""
    return to_json(decision.basis) if decision.basis is not None else ""


def day_or_instant(value: datetime | date | None) -> str:
    """ISO 8601, "" for none."""
    return value.isoformat() if value is not None else ""
