"""Written by `make statements`: change `proxy/store/statements/attempt.py` instead."""

from proxy.store.query import Query

ROW = Query(
    """SELECT delivery.state, delivery.attempts, delivery.owed, delivery.marketing,
      delivery.sender, delivery.exact, delivery.copy_key, delivery.n, delivery.instance,
      delivery.epoch, delivery.submission
    FROM delivery
    WHERE delivery.id = ?""",
    ("row",),
)

ROWS = Query(
    """SELECT delivery.id, delivery.state, delivery.attempts, delivery.owed, delivery.marketing,
      delivery.sender, delivery.exact
    FROM json_each(?) AS asked
    JOIN delivery ON delivery.id = asked.value""",
    ("rows",),
)

OWE = Query(
    """UPDATE delivery
    SET owed=1
    WHERE delivery.id = ?""",
    ("row",),
)

SAME_OUTCOME = Query(
    """SELECT outcome.note
    FROM outcome
    WHERE outcome.delivery = ? AND outcome.attempt = ? AND outcome.result = ? AND outcome.reply
      = ?""",
    ("row", "attempt", "result", "reply"),
)

SETTLE_COPY = Query(
    """UPDATE delivery
    SET state='relayed', next_try=NULL, reply=?, ended_at=?
    WHERE delivery.exact = ? AND delivery.copy_key = ? AND delivery.state IN ('waiting', 'held')""",
    ("reply", "ended_at", "exact", "copy"),
)

MAYBE_SENT = Query(
    """SELECT coalesce(max(delivery.maybe_sent), 0) AS coalesce_1
    FROM delivery
    WHERE delivery.exact = ? AND delivery.copy_key = ?""",
    ("exact", "copy"),
)

ATTEMPT_AGAIN = Query(
    """UPDATE delivery
    SET state='attempting', attempts=?, instance=?, epoch=?, last_attempt_at=?, lease=?
    WHERE delivery.id = ?""",
    ("no", "instance", "epoch", "at", "lease", "row"),
)

RECEIVED_AT = Query(
    """SELECT submission.received_at
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.id = ?""",
    ("row",),
)

TAKEN_UP = Query(
    """SELECT 1
    FROM delivery AS others
    WHERE others.exact = ? AND others.copy_key = ? AND others.id != ? AND others.state IN
      ('attempting', 'waiting', 'held', 'relayed')""",
    ("exact", "copy", "row"),
)

WAIT = Query(
    """UPDATE delivery
    SET state='waiting', owed=1, next_try=?, ended_at=NULL
    WHERE delivery.id = ?""",
    ("next_try", "row"),
)
