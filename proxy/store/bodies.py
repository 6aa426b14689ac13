"""The mail itself, once per submission, from the commit that owes one of its recipients until the
commit that ends the last of them.

A large one goes in and out block by block; SQLite spills what its cache cannot hold into the log.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from proxy.content import BLOCK, Content, Spool
from proxy.store.model import Body
from proxy.store.sql import bodies as sql


def add(db: sqlite3.Connection, submission: int, kept: Body) -> None:
    """Keep the mail of a submission; once."""
    if db.execute(*sql.HAS(submission=submission)).fetchone() is not None:
        return
    envelope, content = kept.envelope, kept.content
    if isinstance(content, bytes):
        db.execute(*sql.ADD(submission=submission, envelope=envelope, content=content))
        return
    db.execute(*sql.ADD_EMPTY(submission=submission, envelope=envelope, size=len(content)))
    with db.blobopen("body", "content", submission) as blob:
        for block in content.blocks():
            blob.write(block)


def content_of(db: sqlite3.Connection, submission: int, directory: Path) -> Content | None:
    """The content of a large mail, in a file in `directory`; None where it is gone."""
    spool = Spool(directory)
    try:
        with db.blobopen("body", "content", submission, readonly=True) as blob:
            while block := blob.read(BLOCK):
                spool.write(block, ascii_only=block.isascii(), dots=True)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        return None  # no such row: all that it owed has ended just now
    return spool.take()


def drop(db: sqlite3.Connection, exact: str, copy_key: str) -> None:
    """Forget the mail of each submission of this person's copy that owes nobody any more."""
    db.execute(*sql.DROP(exact=exact, copy=copy_key))
