"""The duties of a message that has a basis (`docs/decision.md`, duties).

`exempt` mail owes its sender's identity only; everything else that is marketing owes all.
"""

from __future__ import annotations

from collections.abc import Sequence

from policy.model import Message, Reason, Unsubscribe
from policy.pack import Duties, Label

#: What the duties are called in a trace.
RULE = "duties"


def unmet(
    duties: Duties, message: Message, reasons: Sequence[Reason], obligations: dict[str, None]
) -> tuple[Reason, str] | None:
    """The first duty that is neither met nor can be injected, with its article.

    `reasons` are those for which each product of the message is allowed. What is missing and in
    `message.can_inject` is added to `obligations`.
    """
    missing: list[tuple[Reason, str, str]] = []
    if not message.sender_identity:
        missing.append((Reason.NO_IDENTITY, duties.identity, "identity"))
    if any(reason is not Reason.EXEMPT for reason in reasons):
        if duties.postal_address and not message.postal_address:
            missing.append((Reason.NO_POSTAL_ADDRESS, duties.postal_address, "postal_address"))
        opt_out = _opt_out(message, duties.valid_days)
        if opt_out is not None:
            missing.append((opt_out, duties.unsubscribe, "unsubscribe"))
        if message.fake_reply is not False or not _labelled(duties.label, message, reasons):
            missing.append((Reason.MISLEADING_SUBJECT, duties.subject, ""))
        seen = message.visible_recipients
        if not message.visible_recipients_allowed and (seen is None or seen > 1):
            missing.append((Reason.VISIBLE_RECIPIENTS, duties.recipients, ""))
    for reason, cite, obligation in missing:
        if obligation not in message.can_inject:
            return reason, cite
        obligations[obligation] = None
    return None


def _opt_out(message: Message, valid_days: int) -> Reason | None:
    shown = message.unsubscribe
    if shown is Unsubscribe.LOGIN:
        return Reason.UNSUBSCRIBE_NOT_EASY
    if shown is not Unsubscribe.LINK and shown is not Unsubscribe.REPLY:
        return Reason.NO_UNSUBSCRIBE
    if valid_days:
        days = message.unsubscribe_valid_days
        if days is None or 0 < days < valid_days:  # 0 is without limit
            return Reason.UNSUBSCRIBE_NOT_EASY
    return None


def _labelled(label: Label, message: Message, reasons: Sequence[Reason]) -> bool:
    if label is Label.NEVER:
        return True
    if label is Label.UNLESS_CONSENT and all(reason is Reason.CONSENT for reason in reasons):
        return True
    return bool(message.advertisement_label)
