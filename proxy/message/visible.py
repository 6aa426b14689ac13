"""How many recipients a mail shows to every reader."""

from __future__ import annotations

from proxy.message import mailboxes
from proxy.message.header import VISIBLE, Header


def count_visible(header: Header) -> int | None:
    """Mailboxes in To, Cc, Resent-To and Resent-Cc, at most 101; None where one cannot be read.

    None and one are fine, whoever it is: `undisclosed-recipients:;` shows none.
    """
    total = 0
    for name in VISIBLE:
        for value in header.values(name) if name in header.by_name else ():
            try:
                total += mailboxes.count(value, mailboxes.ENOUGH - total)
            except mailboxes.AmbiguousError:
                return None
            if total >= mailboxes.ENOUGH:
                return mailboxes.ENOUGH
    return total
