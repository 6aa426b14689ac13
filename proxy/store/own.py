"""What a store keeps about itself: under which keys it is written, its runs, the last proof of it.

Operations on a raw connection.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from proxy.errors import StoreMissing

#: Octets that must find room before a store that was full is believed in again.
MAIL_OF_ROOM = 256 * 1024


def bind(db: sqlite3.Connection, *, path: Path, keys: str) -> None:
    """Remember under which keys this store is written; never change them."""
    found = db.execute("SELECT value FROM meta WHERE key = 'keys'").fetchall()
    if not found:
        db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('keys', ?)", (keys,))
        found = db.execute("SELECT value FROM meta WHERE key = 'keys'").fetchall()
    if found != [(keys,)]:
        raise StoreMissing(
            f"{path} was written under other keys, so none of its opt-outs would be found: name the"
            " key file of the relay that made it (http.keys_file), the same for all that share it"
        )


def new_epoch(db: sqlite3.Connection, *, instance: str, at: int) -> int:
    """Begin another run of `instance`; its number."""
    row = db.execute(
        "INSERT INTO instance (id, epoch, opened_at) VALUES (?, 1, ?) ON CONFLICT (id)"
        " DO UPDATE SET epoch = epoch + 1, opened_at = excluded.opened_at RETURNING epoch",
        (instance, at),
    ).fetchall()
    epoch: int = row[0][0]
    return epoch


class Ping:
    """Write a row, and first one of `room` octets."""

    name = "ping"
    rank = 3
    rows = 0

    def __init__(self, at: int, room: int = 0) -> None:
        self._at = str(at)
        self._room = room

    def run(self, db: sqlite3.Connection) -> None:
        """A change in any case, so that it is committed."""
        for value in (self._at.ljust(self._room), self._at) if self._room else (self._at,):
            db.execute(
                "INSERT INTO meta (key, value) VALUES ('ping', ?) ON CONFLICT (key)"
                " DO UPDATE SET value = excluded.value",
                (value,),
            )
