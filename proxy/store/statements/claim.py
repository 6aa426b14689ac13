"""Commit C1: earlier rows of the same copies, and the rows of a new submission.

For `proxy/store/claim.py`.
"""

from __future__ import annotations

from sqlalchemy import and_, bindparam, func, literal_column, select

from proxy.store.schema import (
    attempt,
    compiled,
    decision,
    delivery,
    inserting,
    notice,
    submission,
)

_PRIOR = (
    select(
        delivery.c.exact,
        delivery.c.copy_key,
        delivery.c.id,
        delivery.c.state,
        delivery.c.owed,
        delivery.c.maybe_sent,
        delivery.c.last_attempt_at,
        delivery.c.attempts,
        delivery.c.instance,
        delivery.c.epoch,
        delivery.c.reply,
        submission.c.ref,
    )
    .order_by(delivery.c.id)
)
_OF_SUBMISSION = submission.c.id == delivery.c.submission
_asked = func.json_each(bindparam("copies")).table_valued("value").alias("asked")
#: `copies` is a JSON array of [exact, copy_key].
PRIOR = compiled(
    _PRIOR.select_from(
        _asked.join(
            delivery,
            and_(
                delivery.c.exact == _asked.c.value.op("->>")(literal_column("0")),
                delivery.c.copy_key == _asked.c.value.op("->>")(literal_column("1")),
            ),
        ).join(submission, _OF_SUBMISSION)
    )
)
#: For one row: without tables of its keys, and in the order of the index.
PRIOR_ONE = compiled(
    _PRIOR.select_from(delivery.join(submission, _OF_SUBMISSION)).where(
        delivery.c.exact == bindparam("exact"), delivery.c.copy_key == bindparam("copy_key")
    )
)
ADD_SUBMISSION = inserting(submission)
ADD_DELIVERY = inserting(delivery)
ADD_DECISION = inserting(decision)
ADD_ATTEMPT = inserting(attempt)
TOLD_AT = compiled(
    select(notice.c.at).where(
        notice.c.copy_key == bindparam("copy"), notice.c.state == bindparam("state")
    )
)
DONT_TELL = compiled(
    notice.delete().where(
        notice.c.copy_key == bindparam("copy"), notice.c.state == bindparam("state")
    )
)
TELL = inserting(notice)
