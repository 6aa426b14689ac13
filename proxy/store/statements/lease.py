"""Whose an attempt is, and how it ends. For `proxy/store/lease.py`."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, exists, func, literal_column, or_, select

from proxy.store import schema
from proxy.store.schema import compiled, delivery, inserting, outcome, submission

EPOCH = compiled(
    select(schema.instance.c.epoch).where(schema.instance.c.id == bindparam("instance"))
)
ADD_OUTCOME = inserting(outcome)
END = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(
        state=bindparam("state"),
        reply=bindparam("reply"),
        maybe_sent=func.max(delivery.c.maybe_sent, bindparam("unknown")),
        next_try=bindparam("next_try"),
        ended_at=bindparam("ended_at"),
    )
)
#: The same where the result is known: then nothing is to be remembered of the copy.
END_KNOWN = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(
        state=bindparam("state"),
        reply=bindparam("reply"),
        next_try=bindparam("next_try"),
        ended_at=bindparam("ended_at"),
    )
)
_OTHERS = or_(
    delivery.c.instance != bindparam("instance"), delivery.c.epoch != bindparam("epoch")
)
_open = delivery.alias("open")
ORPHANS = compiled(
    select(delivery.c.id, delivery.c.attempts, delivery.c.owed, submission.c.received_at)
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(
        # The journal is never scanned for it: the index alone says what is under way.
        delivery.c.id.in_(
            # Both its columns and its predicate: among the live rows most may be waiting.
            select(_open.c.id).where(
                _open.c.instance > literal_column("''"),
                _open.c.state == literal_column("'attempting'"),
            )
        ),
        or_(
            exists(
                select(literal_column("1"))
                .select_from(schema.instance)
                .where(
                    schema.instance.c.id == delivery.c.instance,
                    schema.instance.c.epoch > delivery.c.epoch,
                )
            ),
            and_(_OTHERS, delivery.c.lease <= bindparam("now")),
            delivery.c.lease <= bindparam("long_ago"),
        ),
    )
    .order_by(delivery.c.id)
)
