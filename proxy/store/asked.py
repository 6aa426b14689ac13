"""Calls of `lookup` that share one read."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.store import counting, ledger
from proxy.store.codec import micros
from proxy.store.model import Subject


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of `lookup`."""

    subjects: Sequence[Subject]
    mails_since: datetime | None


def looked_up(
    db: sqlite3.Connection, subjects: Collection[Subject], asked: Sequence[Asked]
) -> tuple[ledger.Read, counting.Mails]:
    """What is known of all `subjects`, and the mails of those for whom a call asks for them."""
    seen = ledger.read(db, subjects)
    since = [micros(some.mails_since) for some in asked if some.mails_since is not None]
    if not since:
        return seen, {}
    # A statement of its own: the count is taken again by the commit that rests on it.
    counted = (some.subjects for some in asked if some.mails_since is not None)
    wides = {s.wide for subjects_ in counted for s in subjects_}
    return seen, counting.mails(db, wides, min(since))
