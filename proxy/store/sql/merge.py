"""Written by `make statements`: change `proxy/store/statements/merge.py` instead."""

from proxy.store.query import Query

ADD_DELIVERY = Query(
    """INSERT INTO delivery (submission, n, copy, sender, exact, wide, copy_key, marketing, state,
      owed, maybe_sent, attempts, instance, epoch, last_attempt_at, reply, ended_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    (
        "submission", "n", "copy", "sender", "exact", "wide", "copy_key", "marketing", "state",
        "owed", "maybe_sent", "attempts", "instance", "epoch", "last_attempt_at", "reply",
        "ended_at",
    ),
)

MERGED = Query(
    """SELECT 1
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.exact = ? AND delivery.copy_key = ? AND submission.ref = ? AND (EXISTS
      (SELECT 1
    FROM json_each(submission.marks) AS mark
    WHERE mark.value = 'undeduped'))""",
    ("exact", "copy", "ref"),
)

OTHERS = Query(
    """SELECT 1
    FROM delivery
    WHERE delivery.exact = ? AND delivery.copy_key = ? AND (delivery.state IN ('relayed',
      'unknown') OR delivery.state = 'attempting' OR delivery.maybe_sent = 1)""",
    ("exact", "copy"),
)
