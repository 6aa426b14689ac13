"""The mail itself: kept once per submission, and deleted with the last row that owes it.

For `proxy/store/bodies.py`.
"""

from __future__ import annotations

from sqlalchemy import bindparam, exists, func, literal_column, select

from proxy.store.schema import body, compiled, delivery

HAS = compiled(
    select(literal_column("1"))
    .select_from(body)
    .where(body.c.submission == bindparam("submission"))
)
ADD = compiled(
    body.insert()
    .inline()
    .values(
        submission=bindparam("submission"),
        envelope=bindparam("envelope"),
        content=bindparam("content"),
    )
)
ADD_EMPTY = compiled(
    body.insert()
    .inline()
    .values(
        submission=bindparam("submission"),
        envelope=bindparam("envelope"),
        content=func.zeroblob(bindparam("size")),
    )
)
_others = delivery.alias("others")
DROP = compiled(
    body.delete().where(
        body.c.submission.in_(
            select(delivery.c.submission).where(
                delivery.c.exact == bindparam("exact"), delivery.c.copy_key == bindparam("copy")
            )
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
