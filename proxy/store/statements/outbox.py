"""The outbox: rows that wait, those that are due, and their lists. For `proxy/store/outbox.py`."""

from __future__ import annotations

from sqlalchemy import Text, bindparam, case, exists, func, literal_column, or_, select

from proxy.content import SPOOL_AT
from proxy.store import schema
from proxy.store.query import Query
from proxy.store.schema import body, compiled, delivery, each, notice, outcome, submission

# In the words of the partial indexes `ix_delivery_due` and `ux_delivery_live`: the journal is never
# scanned for them.
_WAITING = delivery.c.state.in_([literal_column("'waiting'"), literal_column("'held'")])
_live = delivery.alias("live")
_UNFINISHED = delivery.c.id.in_(
    select(_live.c.id).where(
        or_(*[_live.c.state == literal_column(f"'{s}'") for s in ("attempting", "waiting", "held")])
    )
)
_OF_SUBMISSION = delivery.join(submission, submission.c.id == delivery.c.submission)
DUE = compiled(
    select(
        delivery.c.id, delivery.c.attempts, submission.c.ref, delivery.c.n, submission.c.stream,
        submission.c.received_at, delivery.c.next_try,
    )
    .select_from(_OF_SUBMISSION)
    .where(_WAITING, delivery.c.next_try <= bindparam("at"))
    .order_by(delivery.c.next_try, delivery.c.id)
    .limit(bindparam("limit"))
)  # fmt: skip
_SUBMISSION_COLUMNS = [c for c in submission.columns if c.name != "id"]
# A large mail is not read with its row. SQLite knows the length without reading the octets.
_SMALL = case((func.length(body.c.content) <= literal_column(str(SPOOL_AT)), body.c.content))
#: Whether what the row says is what the upstream said at its last attempt, and no word of ours.
_SAID = (
    exists()
    .where(
        outcome.c.delivery == delivery.c.id,
        outcome.c.attempt == delivery.c.attempts,
        outcome.c.result == literal_column("'temporary'"),
        outcome.c.reply == delivery.c.reply,
    )
    .correlate(delivery)
)
OWED = compiled(
    select(
        delivery.c.attempts, delivery.c.n, delivery.c.copy, delivery.c.copy_key,
        delivery.c.sender, delivery.c.exact, delivery.c.wide,
        func.coalesce(schema.address.c.address, literal_column("''", Text)), delivery.c.reply,
        body.c.envelope, _SMALL, body.c.submission, delivery.c.state, delivery.c.last_attempt_at,
        _SAID, *_SUBMISSION_COLUMNS,
    )
    .select_from(
        _OF_SUBMISSION.join(body, body.c.submission == delivery.c.submission)
        .outerjoin(schema.address, schema.address.c.exact == delivery.c.exact)
    )
    .where(delivery.c.id == bindparam("row"), _WAITING)
)  # fmt: skip
RELAYED = compiled(
    select(delivery.c.reply, submission.c.ref)
    .select_from(_OF_SUBMISSION)
    .where(
        delivery.c.exact == bindparam("exact"),
        delivery.c.copy_key == bindparam("copy"),
        delivery.c.state == literal_column("'relayed'"),
        delivery.c.last_attempt_at >= bindparam("since"),
    )
    .order_by(delivery.c.id)
    .limit(bindparam("limit"))
)
HASTEN = compiled(
    delivery.update()
    .where(delivery.c.id.in_(each("rows")), _WAITING)
    .values(state=literal_column("'waiting'"), next_try=bindparam("next_try"))
)
COUNTS = compiled(
    select(delivery.c.state, func.count(), func.min(submission.c.received_at))
    .select_from(_OF_SUBMISSION)
    .where(_UNFINISHED)
    .group_by(delivery.c.state)
)


def _listing(*, one: bool) -> Query:
    chosen = select(
        delivery.c.id, submission.c.ref, delivery.c.n, delivery.c.state, delivery.c.owed,
        submission.c.stream, submission.c.received_at, delivery.c.attempts, delivery.c.next_try,
        delivery.c.maybe_sent, delivery.c.reply, submission.c.size,
    ).select_from(_OF_SUBMISSION)  # fmt: skip
    where = chosen.where(_UNFINISHED)
    if one:
        where = where.where(submission.c.ref == bindparam("ref"))
    return compiled(where.order_by(delivery.c.id).limit(bindparam("limit")))


ALL, ONE = _listing(one=False), _listing(one=True)
TOLD = compiled(
    select(notice.c.copy_key, notice.c.state).where(
        notice.c.copy_key.in_(each("copies")), notice.c.at >= bindparam("since")
    )
)
