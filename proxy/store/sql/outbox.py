"""Written by `make statements`: change `proxy/store/statements/outbox.py` instead."""

from proxy.store.query import Query

DUE = Query(
    """SELECT delivery.id, delivery.attempts, submission.ref, delivery.n, submission.stream,
      submission.received_at, delivery.next_try
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.state IN ('waiting', 'held') AND delivery.next_try <= ?
    ORDER BY delivery.next_try, delivery.id LIMIT ? OFFSET ?""",
    ("at", "limit", "param_1"),
    {"param_1": 0,},
)

OWED = Query(
    """SELECT delivery.attempts, delivery.n, delivery.copy, delivery.copy_key, delivery.sender,
      delivery.exact, delivery.wide, coalesce(address.address, '') AS coalesce_1,
      delivery.reply, body.envelope, CASE WHEN (length(body.content) <= 262144) THEN
      body.content END AS anon_1, body.submission, delivery.state, delivery.last_attempt_at,
      EXISTS (SELECT *
    FROM outcome
    WHERE outcome.delivery = delivery.id AND outcome.attempt = delivery.attempts AND
      outcome.result = 'temporary' AND outcome.reply = delivery.reply) AS anon_2,
      submission.ref, submission.received_at, submission.submitter, submission.listener,
      submission.mail_from, submission.message_id, submission.content_hash, submission.size,
      submission.stream, submission.sender AS sender_1, submission.category, submission.mode,
      submission.class_source, submission.campaign, submission.variant, submission.template,
      submission.forward, submission.marks, submission.forward_by
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    JOIN body ON body.submission = delivery.submission
    LEFT OUTER
    JOIN address ON address.exact = delivery.exact
    WHERE delivery.id = ? AND delivery.state IN ('waiting', 'held')""",
    ("row",),
)

RELAYED = Query(
    """SELECT delivery.reply, submission.ref
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.exact = ? AND delivery.copy_key = ? AND delivery.state = 'relayed' AND
      delivery.last_attempt_at >= ?
    ORDER BY delivery.id LIMIT ? OFFSET ?""",
    ("exact", "copy", "since", "limit", "param_1"),
    {"param_1": 0,},
)

HASTEN = Query(
    """UPDATE delivery
    SET state='waiting', next_try=?
    WHERE delivery.id IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) AND delivery.state IN ('waiting', 'held')""",
    ("next_try", "rows"),
)

COUNTS = Query(
    """SELECT delivery.state, count(*) AS count_1, min(submission.received_at) AS min_1
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.id IN (SELECT live.id
    FROM delivery AS live
    WHERE live.state = 'attempting' OR live.state = 'waiting' OR live.state = 'held') GROUP BY
      delivery.state""",
)

ALL = Query(
    """SELECT delivery.id, submission.ref, delivery.n, delivery.state, delivery.owed,
      submission.stream, submission.received_at, delivery.attempts, delivery.next_try,
      delivery.maybe_sent, delivery.reply, submission.size
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.id IN (SELECT live.id
    FROM delivery AS live
    WHERE live.state = 'attempting' OR live.state = 'waiting' OR live.state = 'held')
    ORDER BY delivery.id LIMIT ? OFFSET ?""",
    ("limit", "param_1"),
    {"param_1": 0,},
)

ONE = Query(
    """SELECT delivery.id, submission.ref, delivery.n, delivery.state, delivery.owed,
      submission.stream, submission.received_at, delivery.attempts, delivery.next_try,
      delivery.maybe_sent, delivery.reply, submission.size
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.id IN (SELECT live.id
    FROM delivery AS live
    WHERE live.state = 'attempting' OR live.state = 'waiting' OR live.state = 'held') AND
      submission.ref = ?
    ORDER BY delivery.id LIMIT ? OFFSET ?""",
    ("ref", "limit", "param_1"),
    {"param_1": 0,},
)

TOLD = Query(
    """SELECT notice.copy_key, notice.state
    FROM notice
    WHERE notice.copy_key IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) AND notice.at >= ?""",
    ("copies", "since"),
)
