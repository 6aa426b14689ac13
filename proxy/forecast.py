"""Whose basis ends when: the living bases of `living.py`, by the week in which they end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from policy.pack import Packs
from proxy.config import Settings
from proxy.inquiry import Inquiry
from proxy.living import Living, living
from proxy.sheets import Sheet, harmless
from proxy.store.model import Store

#: Pairs to a query.
_PAGE = 1000

COLUMNS = ("address", "sender", "basis", "rule", "cite", "pack", "evidence", "expires_at")


@dataclass(slots=True)
class Forecast:
    """`people` may be written to now; `ending` of them not for longer than asked about.

    `weeks` counts the latter by the Monday (UTC) of the week in which the basis ends, and by basis.
    """

    people: int = 0
    ending: int = 0
    weeks: Counter[tuple[date, str]] = field(default_factory=Counter)


async def forecast(
    settings: Settings,
    store: Store,
    packs: Packs,
    *,
    now: datetime,
    within: timedelta,
    inquiry: Inquiry | None = None,
    sheet: Sheet | None = None,
) -> Forecast:
    """Count, and write a row (`COLUMNS`) for each person whose basis ends. Raises `StoreError`.

    With `inquiry` for such a mail; else for whatever marketing mail of each sender.
    """
    found = Forecast()
    limit = now + within
    async for page in living(settings, store, packs, now, page=_PAGE, inquiry=inquiry):
        found.people += len(page)
        for pair in page:
            ends_at = pair.ends_at
            if ends_at is None or ends_at > limit:
                continue
            found.ending += 1
            day = ends_at.astimezone(UTC).date()
            found.weeks[day - timedelta(days=day.weekday()), pair.basis.reason.value] += 1
            if sheet is not None:
                sheet.write([harmless(cell) for cell in _row(pair, ends_at)])
    return found


def _row(pair: Living, ends_at: datetime) -> list[str]:
    decision = pair.basis
    return [
        pair.address,
        pair.subject.sender,
        decision.reason.value,
        decision.rule,
        decision.cite,
        decision.pack,
        decision.basis.evidence if decision.basis is not None else "",
        ends_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    ]
