"""What an operator forbids beyond the law (`docs/decision.md`, overlays). It can only tighten.

Own terms are one more condition of a basis. The rest is asked of a mail that the law allows, in
this order: blocked products, frequency caps of the stream and the sender, quiet hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

from policy.basis import NO, UNKNOWN, YES, Case, Condition
from policy.ledger import lies_within
from policy.model import (
    NO_OVERLAY,
    Answer,
    Cap,
    Event,
    Facts,
    OptIn,
    Overlay,
    Published,
    QuietHours,
    Reason,
    Relationship,
    Sent,
    Stage,
)

if TYPE_CHECKING:
    from policy.pack import Rule

#: What the conditions of this module are called in a trace.
RULE = "overlay"
BLOCKED_PRODUCTS = "blocked-products"

_LAST = datetime.max.replace(tzinfo=UTC, microsecond=0)
#: What a rule must allow to have a term: what rests on something that the person did or published.
TERMS = frozenset(
    {Reason.CONSENT, Reason.SOFT_OPT_IN, Reason.IMPLIED_CONSENT, Reason.PUBLISHED_ADDRESS}
)

_NO_TERMS = frozenset[str]()
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": _DAY}
_CAP = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})([mhd])", re.ASCII)
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Held:
    """Why a mail that the law allows may not leave: `condition` and `detail` are for the trace.

    `until` is the first whole second, in UTC, at which nothing of this module holds it any more;
    None where time mends nothing, or never before the end of the calendar.
    """

    reason: Reason
    condition: str
    answer: Answer
    detail: str
    until: datetime | None = None


def held(facts: Facts, home: tzinfo | None) -> Held | None:
    """The first thing that holds this mail. `home` is the zone of the recipient's country."""
    overlays = (facts.message.overlay, facts.sender.overlay)
    if overlays[0] is NO_OVERLAY and overlays[1] is NO_OVERLAY:
        return None
    for overlay in overlays:
        blocked = _blocked_product(facts, overlay)
        if blocked is not None:
            return blocked
    full = [(cap, seen) for cap, seen in _counted(facts) if len(seen) >= cap.most]
    quiet = [(hours, facts.zone or home or hours.zone) for hours in _quiet_hours(overlays)]
    if full:
        cap, seen = full[0]
        reason = Reason.FREQUENCY_CAP
        words = f"{len(seen)} of at most {cap.most} within {_span(cap.window)}"
    else:
        now = [(hours, zone) for hours, zone in quiet if _is_quiet(hours, zone, facts.at)]
        if not now:
            return None
        hours, zone = now[0]
        reason = Reason.QUIET_HOURS
        wall = _wall(facts.at, zone)
        words = f"{hours.start:%H:%M} to {hours.end:%H:%M} in {zone}, now {wall:%H:%M}"
    return Held(reason, reason, NO, words, _opening(facts.at, full, quiet))


def cap_from(text: str) -> Cap | None:
    """`2/7d` is two mails within seven times 24 hours; None when it is not of this form."""
    found = _CAP.fullmatch(text)
    if found is None:
        return None
    return Cap(most=int(found[1]), window=int(found[2]) * _UNITS[found[3]])


def hours_from(text: str) -> tuple[time, time] | None:
    """`21:00-08:00`, over midnight where the end is the earlier; None when not of this form."""
    found = _HOURS.fullmatch(text)
    if found is None:
        return None
    hour, minute, end_hour, end_minute = (int(part) for part in found.groups())
    start, end = time(hour, minute), time(end_hour, end_minute)
    return None if start == end else (start, end)


def caps(facts: Facts) -> list[tuple[str, Cap]]:
    """The caps that a marketing mail must keep: each with the stream it counts, "" for all."""
    found = ((facts.message.stream, facts.message.overlay), ("", facts.sender.overlay))
    return [(stream, overlay.cap) for stream, overlay in found if overlay.cap is not None]


def own_terms(facts: Facts) -> frozenset[str]:
    """What rules must allow for an own term to be asked of them."""
    terms = (facts.message.overlay.valid_months, facts.sender.overlay.valid_months)
    return frozenset[str]().union(*terms) if terms[0] or terms[1] else _NO_TERMS


def own_end(case: Case, rule: Rule, event: Event) -> datetime | None:
    """The instant from which an own term has run out for this event; None is never."""
    facts = case.facts
    terms = (facts.message.overlay.valid_months, facts.sender.overlay.valid_months)
    given = [months[rule.allows] for months in terms if rule.allows in months]
    if not given:
        return None
    detail = event.detail
    if (
        isinstance(detail, Relationship)
        and detail.stage is Stage.SUBSCRIPTION
        and (detail.ended_at is None or detail.ended_at > facts.at)
    ):
        return None  # while a subscription runs the clock stands still
    start = max(event.at, case.ledger.last_act)
    return case.after_months(start, min(given))


def _in_own_term(case: Case, rule: Rule, event: Event) -> Answer:
    end = own_end(case, rule, event)
    return YES if end is None or case.facts.at < end else NO


def _tell_own_term(case: Case, event: Event) -> str:
    last = max(event.at, case.ledger.last_act)
    return f"last act {last:%Y-%m-%d}"


#: Asked after all conditions of a pack's rule, where `own_terms` names what the rule allows.
OWN_TERM = Condition(
    "own-term", 8, Reason.EXPIRED, _in_own_term, _tell_own_term, (OptIn, Relationship, Published),
    moves=True,
)


def _blocked_product(facts: Facts, overlay: Overlay) -> Held | None:
    if not overlay.blocked_products:
        return None
    products = facts.message.products
    if not products:  # whatever they are, one of them may be blocked
        words = "products unknown"
        return Held(Reason.NOT_AUTHORISED, BLOCKED_PRODUCTS, UNKNOWN, words)
    for product in products:
        if any(lies_within(product, blocked) for blocked in overlay.blocked_products):
            words = f"product {product}"
            return Held(Reason.NOT_AUTHORISED, BLOCKED_PRODUCTS, NO, words)
    return None


def _counted(facts: Facts) -> Iterator[tuple[Cap, list[Sent]]]:
    """Each cap with the mails in its window, oldest first."""
    for stream, cap in caps(facts):
        seen = [
            s for s in facts.sent if facts.at - s.at < cap.window and stream in ("", s.stream)
        ]
        yield cap, sorted(seen, key=lambda s: s.at)


def _quiet_hours(overlays: tuple[Overlay, ...]) -> list[QuietHours]:
    return [overlay.quiet_hours for overlay in overlays if overlay.quiet_hours is not None]


def _opening(
    at: datetime, full: list[tuple[Cap, list[Sent]]], quiet: list[tuple[QuietHours, tzinfo]]
) -> datetime | None:
    """When every cap has room and no quiet hours hold, if nothing else is sent meanwhile."""
    frees = [_plus(seen[-cap.most].at, cap.window) for cap, seen in full if cap.most > 0]
    if len(frees) < len(full):
        return None
    opens = max([at, *frees])
    if opens.microsecond:
        opens = _plus(opens.replace(microsecond=0), _SECOND)
    # Hours of sender and stream may take turns; what never opens is not answered.
    for _ in range(8):
        later = max((_quiet_end(hours, zone, opens) for hours, zone in quiet), default=opens)
        if later == opens:
            return opens
        opens = later
    return None


def _is_quiet(hours: QuietHours, zone: tzinfo, at: datetime) -> bool:
    wall = _wall(at, zone).time()
    if hours.start < hours.end:
        return hours.start <= wall < hours.end
    return wall >= hours.start or wall < hours.end


def _quiet_end(hours: QuietHours, zone: tzinfo, at: datetime) -> datetime:
    """The first instant from `at` on that is not in quiet hours, in UTC, by the clock on the wall.

    Where the clock is put back, hours that end within the repeated hour end twice: the first
    counts. Where it is put forward over the end, they end with the leap.
    """
    at = at.astimezone(UTC)
    for _ in range(4):
        if not _is_quiet(hours, zone, at):
            return at
        try:
            wall = at.astimezone(zone)
            ahead = datetime.combine(wall, hours.end) - wall.replace(tzinfo=None)
            end = at + (ahead if ahead > timedelta() else ahead + _DAY)
            changed = end.astimezone(zone).utcoffset() != wall.utcoffset()
        except OverflowError:
            return at
        at = _change(zone, at, end) if changed else end
    return at


def _change(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """The first second between two instants at which the zone's offset is that of the second."""
    offset = after.astimezone(zone).utcoffset()
    before = before.replace(microsecond=0)
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle <= before:
            break
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _wall(at: datetime, zone: tzinfo) -> datetime:
    try:
        return at.astimezone(zone)
    except OverflowError:
        return at


def _plus(at: datetime, span: timedelta) -> datetime:
    try:
        return at + span
    except OverflowError:
        return _LAST


def _span(span: timedelta) -> str:
    seconds = span // _SECOND
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
