"""Date and Message-ID (RFC 5322 section 3.6), where an application left them out."""

from __future__ import annotations

from datetime import datetime

from proxy.message.dates import rfc5322
from proxy.message.fold import fold

DATE = b"date"
MESSAGE_ID = b"message-id"


def date(at: datetime) -> bytes:
    """The time of acceptance: the same at each attempt."""
    return fold("Date", [rfc5322(at)])


def message_id(identifier: str) -> bytes:
    """`identifier` with its angle brackets; one for all copies."""
    return fold("Message-ID", [identifier])
