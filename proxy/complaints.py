"""Complaints of recipients, as their mailbox providers report them to our mailbox (RFC 9477).

The token in the returned mail says whose mail it was, and is all that is believed: whoever has it
could stop that person's mail by its link as well. A report without one changes nothing.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from policy.address import AddressError, parse
from policy.model import Complaint, ComplaintVia
from proxy import log
from proxy.config import Settings
from proxy.content import Content
from proxy.errors import TokenError
from proxy.feedback.arf import read_report
from proxy.keys import Keys
from proxy.replies import Reply
from proxy.store.model import Added, NewEvent, Store
from proxy.tokens import OptOut, open_
from proxy.web.record import Clock, passes_on


class ComplaintEvents(Protocol):
    """What is told to telemetry."""

    def complaint(self) -> None:
        """One new complaint is durable."""
        ...


async def take_report(
    content: Content,
    *,
    ref: str,
    keys: Keys,
    store: Store,
    settings: Settings,
    telemetry: ComplaintEvents,
    clock: Clock,
) -> Reply:
    """Record what a report complains about; 250 once it is durable, or known, or no complaint.

    Raises `StoreError`, and `KeysError` as `Keys.open` does.
    """
    report = read_report(content)
    if report is None:
        return Reply(550, "5.6.0", "no feedback report (RFC 5965)")
    if not report.complaint:
        return Reply(250, "2.0.0", f"no complaint, nothing recorded (ref {ref})")
    events: dict[OptOut, NewEvent] = {}
    for token in report.tokens:
        try:
            optout = open_(keys, token)
            events.setdefault(optout, _event(optout, keys, settings, clock))
        except (TokenError, AddressError):
            continue
    if not events:
        return Reply(550, "5.6.0", "no valid reference to a mail of ours in the report")
    for optout, event in events.items():
        # Like an opt-out: binding beside a store that cannot be written.
        if await store.oppose(event) is not Added.KNOWN:
            telemetry.complaint()
            log.complaint_recorded(
                ref=optout.ref, sender=optout.sender, stream=optout.stream, type=report.type
            )
    return Reply(250, "2.0.0", f"complaint recorded (ref {ref})")


def _event(optout: OptOut, keys: Keys, settings: Settings, clock: Clock) -> NewEvent:
    """A complaint is an objection to all marketing of the sender, and is passed on like one."""
    address = parse(optout.address, smtputf8=True, subaddress=settings.policy.subaddress)
    now = clock()
    return NewEvent(
        uid=secrets.token_hex(16),
        subject=keys.subject(optout.sender, address),
        detail=Complaint(via=ComplaintVia.ARF),
        at=now,
        recorded_at=now,
        evidence=f"arf:{optout.ref}",
        unless_in_force=True,
        forward=optout.ref if passes_on(settings, optout) else "",
    )
