"""Written by `make statements`: change `proxy/store/statements/lease.py` instead."""

from proxy.store.query import Query

EPOCH = Query(
    """SELECT instance.epoch
    FROM instance
    WHERE instance.id = ?""",
    ("instance",),
)

ADD_OUTCOME = Query(
    """INSERT INTO outcome (delivery, attempt, result, reply, at, note)
    VALUES (?, ?, ?, ?, ?, ?)""",
    ("delivery", "attempt", "result", "reply", "at", "note"),
)

END = Query(
    """UPDATE delivery
    SET state=?, maybe_sent=max(delivery.maybe_sent, ?), next_try=?, reply=?, ended_at=?
    WHERE delivery.id = ?""",
    ("state", "unknown", "next_try", "reply", "ended_at", "row"),
)

END_KNOWN = Query(
    """UPDATE delivery
    SET state=?, next_try=?, reply=?, ended_at=?
    WHERE delivery.id = ?""",
    ("state", "next_try", "reply", "ended_at", "row"),
)

ORPHANS = Query(
    """SELECT delivery.id, delivery.attempts, delivery.owed, submission.received_at
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.id IN (SELECT open.id
    FROM delivery AS open
    WHERE open.instance > '' AND open.state = 'attempting') AND ((EXISTS (SELECT 1
    FROM instance
    WHERE instance.id = delivery.instance AND instance.epoch > delivery.epoch)) OR
      (delivery.instance != ? OR delivery.epoch != ?) AND delivery.lease <= ? OR delivery.lease
      <= ?)
    ORDER BY delivery.id""",
    ("instance", "epoch", "now", "long_ago"),
)
