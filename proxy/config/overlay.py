"""What an operator forbids beyond the law, as written in the file and as the engine takes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, StrictStr

from policy.model import NO_OVERLAY, Overlay, QuietHours
from policy.overlay import TERMS, cap_from, hours_from
from proxy.config.values import FrozenCounts, wrong


@lru_cache(maxsize=1024)
def zone(name: str | None) -> ZoneInfo | None:
    """The zone of an IANA name, None where it is not known here."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not there, a directory, no name at all
        return None


@lru_cache(maxsize=256)
def overlay(
    max_per_person: str | None,
    quiet_hours: str | None,
    timezone: str | None,
    valid_months: tuple[tuple[str, int], ...],
    blocked_products: tuple[str, ...],
) -> Overlay:
    """The checked settings of a stream or sender as the engine takes them."""
    quiet, zone_ = hours_from(quiet_hours or ""), zone(timezone)
    made = Overlay(
        cap=cap_from(max_per_person or ""),
        quiet_hours=None
        if quiet is None or zone_ is None
        else QuietHours(start=quiet[0], end=quiet[1], zone=zone_),
        valid_months=dict(valid_months),
        blocked_products=blocked_products,
    )
    return NO_OVERLAY if made == NO_OVERLAY else made


def _cap(value: str) -> str:
    if cap_from(value) is None:
        raise wrong(
            "is no number of mails in a time",
            'write both with a unit of m, h or d: "2/7d" is at most two within seven days',
        )
    return value


def _hours(value: str) -> str:
    if hours_from(value) is None:
        raise wrong("is no span of hours", 'write two different times: "21:00-08:00"')
    return value


def _zone(value: str) -> str:
    if zone(value) is None:
        raise wrong("is no time zone", 'write a name of the IANA database: "Europe/Amsterdam"')
    return value


def _terms(value: Mapping[str, int]) -> Mapping[str, int]:
    for key in value:
        if key not in TERMS:
            raise wrong(f'names "{key}", which has no term', f"use {', '.join(sorted(TERMS))}")
    return value


CapText = Annotated[StrictStr, AfterValidator(_cap)]
HoursText = Annotated[StrictStr, AfterValidator(_hours)]
ZoneName = Annotated[StrictStr, AfterValidator(_zone)]
Terms = Annotated[FrozenCounts, AfterValidator(_terms)]
