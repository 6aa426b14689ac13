"""How many marketing mails a person had: read for a decision, and once more where it is committed.

Nothing is counted up: the journal itself is asked, by an index over its marketing rows, so a count
cannot differ from what was sent, and is kept exactly as long as the journal.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from proxy.store.codec import array, instant, micros
from proxy.store.model import Counted, NewRow, Reattempt, State
from proxy.store.sql import counting as sql

#: (sender, wide): the person to whom mails of a sender are counted.
Person = tuple[str, str]
Mails = Mapping[Person, Sequence[Counted]]


def mails(db: sqlite3.Connection, wides: Collection[str], since: int) -> Mails:
    """Each person's mails after `since` (microseconds), oldest first.

    Every relayed row is one. The tries of a copy that were not relayed are one together, and none
    where a later one was.
    """
    relayed: defaultdict[Person, list[Counted]] = defaultdict(list)
    open_: dict[tuple[Person, str], Counted] = {}
    rows = db.execute(*sql.MAILS(wides=array(wides), since=since)).fetchall()
    for sender, wide, stream, copy_key, state, at in rows:
        person = (sender, wide)
        mail = Counted(stream, instant(at), copy_key, state == State.RELAYED)
        if mail.relayed:
            relayed[person].append(mail)
        else:
            other = open_.get((person, copy_key))
            if other is None or other.at < mail.at:
                open_[person, copy_key] = mail
    for (person, copy_key), mail in open_.items():
        if not any(m.copy_key == copy_key and m.at >= mail.at for m in relayed[person]):
            relayed[person].append(mail)
    return {person: sorted(found, key=lambda m: m.at) for person, found in relayed.items()}


def full(
    db: sqlite3.Connection, attempts: Sequence[tuple[NewRow | Reattempt, str]]
) -> bool:
    """Whether one of these attempts of one submission, given with copy keys, finds no room.

    New ones count for those after them; attempts that are taken up again stand in the journal.
    """
    limited = [row for row, _ in attempts if row.room]
    if not limited:
        return False
    since = min(micros(room.since) for row in limited for room in row.room)
    found = mails(db, {row.subject.wide for row in limited}, since)
    starting: Counter[Person] = Counter()
    for row, copy_key in attempts:
        person = (row.subject.sender, row.subject.wide)
        others = [m for m in found.get(person, ()) if m.relayed or m.copy_key != copy_key]
        for room in row.room:
            seen = sum(m.at > room.since and room.stream in ("", m.stream) for m in others)
            if seen + starting[person] >= room.most:
                return True
        starting[person] += isinstance(row, NewRow) and row.marketing
    return False
