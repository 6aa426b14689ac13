"""Commit C1: earlier rows of the same copies, and the rows of a new submission.

For `proxy/store/claim.py`.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select

from proxy.store.schema import (
    attempt,
    compiled,
    decision,
    delivery,
    each,
    inserting,
    notice,
    submission,
)

PRIOR = compiled(
    select(
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
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(delivery.c.copy_key.in_(each("copy_keys")))
    .order_by(delivery.c.id)
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
