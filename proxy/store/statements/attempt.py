"""Attempts: the row they are of, and what it becomes. For `proxy/store/attempt.py`."""

from __future__ import annotations

from sqlalchemy import bindparam, func, literal_column, select

from proxy.store.schema import compiled, delivery, outcome, submission

ROW = compiled(
    select(
        delivery.c.state,
        delivery.c.attempts,
        delivery.c.owed,
        delivery.c.marketing,
        delivery.c.sender,
        delivery.c.exact,
        delivery.c.copy_key,
        delivery.c.n,
        delivery.c.instance,
        delivery.c.epoch,
        delivery.c.submission,
    ).where(delivery.c.id == bindparam("row"))
)
_asked = func.json_each(bindparam("rows")).table_valued("value").alias("asked")
#: Of several rows what ends an attempt that nobody was promised.
ROWS = compiled(
    select(
        delivery.c.id,
        delivery.c.state,
        delivery.c.attempts,
        delivery.c.owed,
        delivery.c.marketing,
        delivery.c.sender,
        delivery.c.exact,
    ).select_from(_asked.join(delivery, delivery.c.id == _asked.c.value))
)
OWE = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(owed=literal_column("1"))
)
SAME_OUTCOME = compiled(
    select(outcome.c.note)
    .where(
        outcome.c.delivery == bindparam("row"),
        outcome.c.attempt == bindparam("attempt"),
        outcome.c.result == bindparam("result"),
        outcome.c.reply == bindparam("reply"),
    )
)
SETTLE_COPY = compiled(
    delivery.update()
    .where(
        delivery.c.exact == bindparam("exact"),
        delivery.c.copy_key == bindparam("copy"),
        delivery.c.state.in_([literal_column("'waiting'"), literal_column("'held'")]),
    )
    .values(
        state=literal_column("'relayed'"),
        reply=bindparam("reply"),
        next_try=literal_column("NULL"),
        ended_at=bindparam("ended_at"),
    )
)
MAYBE_SENT = compiled(
    select(func.coalesce(func.max(delivery.c.maybe_sent), literal_column("0"))).where(
        delivery.c.exact == bindparam("exact"), delivery.c.copy_key == bindparam("copy")
    )
)
ATTEMPT_AGAIN = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(
        state=literal_column("'attempting'"),
        attempts=bindparam("no"),
        instance=bindparam("instance"),
        epoch=bindparam("epoch"),
        last_attempt_at=bindparam("at"),
        lease=bindparam("lease"),
    )
)
RECEIVED_AT = compiled(
    select(submission.c.received_at)
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(delivery.c.id == bindparam("row"))
)
#: Another row of the same copy that is under way, or was relayed: nothing of it may wait beside it.
_others = delivery.alias("others")
TAKEN_UP = compiled(
    select(literal_column("1"))
    .select_from(_others)
    .where(
        _others.c.exact == bindparam("exact"),
        _others.c.copy_key == bindparam("copy"),
        _others.c.id != bindparam("row"),
        _others.c.state.in_(
            [literal_column(f"'{s}'") for s in ("attempting", "waiting", "held", "relayed")]
        ),
    )
)
WAIT = compiled(
    delivery.update()
    .where(delivery.c.id == bindparam("row"))
    .values(
        state=literal_column("'waiting'"),
        owed=literal_column("1"),
        next_try=bindparam("next_try"),
        ended_at=literal_column("NULL"),
    )
)
