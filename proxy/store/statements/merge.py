"""What was written down beside the store, brought into it. For `proxy/store/merge.py`."""

from __future__ import annotations

from sqlalchemy import bindparam, exists, func, literal_column, or_, select

from proxy.store.codec import UNDEDUPED
from proxy.store.schema import compiled, delivery, inserting, submission

ADD_DELIVERY = inserting(
    delivery,
    [
        "submission", "n", "copy", "sender", "exact", "wide", "copy_key", "marketing", "state",
        "owed", "maybe_sent", "attempts", "instance", "epoch", "last_attempt_at", "reply",
        "ended_at",
    ],
)  # fmt: skip
MERGED = compiled(
    select(literal_column("1"))
    .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
    .where(
        delivery.c.exact == bindparam("exact"),
        delivery.c.copy_key == bindparam("copy"),
        submission.c.ref == bindparam("ref"),
        exists(
            select(literal_column("1"))
            .select_from(func.json_each(submission.c.marks).table_valued("value").alias("mark"))
            .where(literal_column("mark.value") == literal_column(f"'{UNDEDUPED}'"))
        ),
    )
)
# What may have left, or may be leaving: this copy is then the second one, or may be.
OTHERS = compiled(
    select(literal_column("1"))
    .select_from(delivery)
    .where(
        delivery.c.exact == bindparam("exact"),
        delivery.c.copy_key == bindparam("copy"),
        or_(
            delivery.c.state.in_([literal_column("'relayed'"), literal_column("'unknown'")]),
            delivery.c.state == literal_column("'attempting'"),
            delivery.c.maybe_sent == literal_column("1"),
        ),
    )
)
