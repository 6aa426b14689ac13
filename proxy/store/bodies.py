"""The mail itself, once per submission, from the commit that owes one of its recipients until the
commit that ends the last of them."""

from __future__ import annotations

import sqlite3

from sqlalchemy import bindparam, exists, literal_column, select

from proxy.store.model import Body
from proxy.store.schema import body, compiled, delivery

_HAS = compiled(
    select(literal_column("1"))
    .select_from(body)
    .where(body.c.submission == bindparam("submission"))
)
_ADD = compiled(
    body.insert()
    .inline()
    .values(
        submission=bindparam("submission"),
        envelope=bindparam("envelope"),
        content=bindparam("content"),
    )
)
_others = delivery.alias("others")
_DROP = compiled(
    body.delete().where(
        body.c.submission.in_(
            select(delivery.c.submission).where(delivery.c.copy_key == bindparam("copy"))
        ),
        ~exists(
            select(literal_column("1"))
            .select_from(_others)
            .where(
                _others.c.submission == body.c.submission,
                _others.c.owed == literal_column("1"),
                _others.c.state.in_(
                    [literal_column(f"'{s}'") for s in ("attempting", "waiting", "held")]
                ),
            )
        ),
    )
)


def add(db: sqlite3.Connection, submission: int, kept: Body) -> None:
    """Keep the mail of a submission; once."""
    if db.execute(*_HAS(submission=submission)).fetchone() is None:
        db.execute(
            *_ADD(submission=submission, envelope=kept.envelope, content=kept.content)
        )


def drop(db: sqlite3.Connection, copy_key: str) -> None:
    """Forget the mail of each submission of this copy that owes nobody any more."""
    db.execute(*_DROP(copy=copy_key))
