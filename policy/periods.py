"""Periods in calendar units over dates in a pack's zone (`docs/decision.md`, periods).

The start date plus n months, clipped to the end of the month, is the last permitted day. Every
function is total: a result beyond the calendar is its last moment.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def local_day(at: datetime, zone: tzinfo) -> date:
    """The date of an aware instant on the wall in `zone`."""
    try:
        return at.astimezone(zone).date()
    except OverflowError:
        return at.date()


def add_months(day: date, months: int) -> date:
    """`day` plus `months`, clipped to the end of the month: 30 November + 3 is 28 February."""
    year, month0 = divmod(day.year * 12 + day.month - 1 + months, 12)
    if year > date.max.year:
        return date.max
    leap = month0 == 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return date(year, month0 + 1, min(day.day, 29 if leap else _DAYS[month0]))


def after_day(day: date, zone: tzinfo) -> datetime:
    """The first instant, in UTC, that no longer belongs to `day` in `zone`."""
    try:
        midnight = datetime.combine(day + timedelta(days=1), time(), zone)
        return midnight.astimezone(UTC)
    except OverflowError:
        return _LAST_MOMENT


def after_months(start: datetime, months: int, zone: tzinfo) -> datetime:
    """The first instant, in UTC, after the last permitted day of a period of `months`."""
    return after_day(add_months(local_day(start, zone), months), zone)
