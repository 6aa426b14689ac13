"""Written by `make statements`: change `proxy/store/statements/counting.py` instead."""

from proxy.store.query import Query

MAILS = Query(
    """SELECT delivery.sender, delivery.wide, submission.stream, delivery.copy_key, delivery.state,
      delivery.last_attempt_at
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.marketing = 1 AND delivery.wide IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) AND delivery.last_attempt_at > ? AND (delivery.state IN
      ('attempting', 'relayed') OR delivery.maybe_sent = 1)""",
    ("wides", "since"),
)
