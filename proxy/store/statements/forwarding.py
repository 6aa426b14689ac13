"""Opt-outs that are passed on to the opt-out that a mail came with.

For `proxy/store/forwarding.py`.
"""

from __future__ import annotations

from sqlalchemy import bindparam, func, literal_column, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql import Select

from proxy.store.query import Query
from proxy.store.schema import compiled, delivery, forward, submission

_WAITING = forward.c.state == literal_column("'waiting'")
# The newest mail of that reference which went to this very person, and can be answered so.
ADD = compiled(
    insert(forward)
    .from_select(
        ["submission", "copy", "asked_at", "state", "attempts", "next_try", "answer"],
        select(
            submission.c.id, delivery.c.copy, bindparam("at"), literal_column("'waiting'"),
            literal_column("0"), bindparam("at"), literal_column("''"),
        )
        .select_from(delivery.join(submission, submission.c.id == delivery.c.submission))
        .where(
            submission.c.ref == bindparam("ref"),
            submission.c.sender == bindparam("sender"),
            submission.c.forward_by != literal_column("''"),
            delivery.c.copy == bindparam("copy"),
            delivery.c.exact == bindparam("exact"),
        )
        .order_by(submission.c.id.desc())
        .limit(bindparam("limit")),
    )
    .on_conflict_do_nothing(index_elements=["submission", "copy"])
)  # fmt: skip
_COLUMNS = (
    forward.c.id, submission.c.ref, forward.c.copy, submission.c.stream, submission.c.sender,
    submission.c.forward, submission.c.forward_by, forward.c.state, forward.c.attempts,
    forward.c.asked_at, forward.c.next_try, forward.c.answer, forward.c.ended_at,
)  # fmt: skip


def _chosen() -> Select[tuple[object, ...]]:
    both = forward.join(submission, submission.c.id == forward.c.submission)
    return select(*_COLUMNS).select_from(both)


DUE = compiled(
    _chosen()
    .where(_WAITING, forward.c.next_try <= bindparam("at"))
    .order_by(forward.c.next_try, forward.c.id)
    .limit(bindparam("limit"))
)


def _listing(*, one: bool, ended: bool) -> Query:
    where = _chosen()
    if one:
        where = where.where(submission.c.ref == bindparam("ref"))
    if not ended:
        where = where.where(_WAITING)
    return compiled(where.order_by(forward.c.id).limit(bindparam("limit")))


WAITING = _listing(one=False, ended=False)
WAITING_OF = _listing(one=True, ended=False)
ALL = _listing(one=False, ended=True)
ALL_OF = _listing(one=True, ended=True)
COUNT = compiled(select(func.count()).select_from(forward).where(_WAITING))
#: Ends or postpones one that waits; `id_` and `attempts_` say which, as it was read.
PASS = compiled(
    forward.update()
    .where(forward.c.id == bindparam("id_"), _WAITING, forward.c.attempts == bindparam("attempts_"))
    .values(
        state=bindparam("state"),
        attempts=bindparam("attempts"),
        next_try=bindparam("next_try"),
        answer=bindparam("answer"),
        ended_at=bindparam("ended_at"),
    )
)
