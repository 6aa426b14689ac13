"""The marketing mails of a person, for frequency caps. For `proxy/store/counting.py`."""

from __future__ import annotations

from sqlalchemy import bindparam, literal_column, or_, select

from proxy.store.schema import compiled, delivery, each, submission

# A mail that was refused or not sent does not count, unless one try of it may have arrived.
MAILS = compiled(
    select(
        delivery.c.sender,
        delivery.c.wide,
        submission.c.stream,
        delivery.c.copy_key,
        delivery.c.state,
        delivery.c.last_attempt_at,
    )
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(
        delivery.c.marketing == literal_column("1"),
        delivery.c.wide.in_(each("wides")),
        delivery.c.last_attempt_at > bindparam("since"),
        or_(
            delivery.c.state.in_([literal_column("'attempting'"), literal_column("'relayed'")]),
            delivery.c.maybe_sent == literal_column("1"),
        ),
    )
)
