"""Written by `make statements`: change `proxy/store/statements/claim.py` instead."""

from proxy.store.query import Query

PRIOR = Query(
    """SELECT delivery.exact, delivery.copy_key, delivery.id, delivery.state, delivery.owed,
      delivery.maybe_sent, delivery.last_attempt_at, delivery.attempts, delivery.instance,
      delivery.epoch, delivery.reply, submission.ref
    FROM json_each(?) AS asked
    JOIN delivery ON delivery.exact = (asked.value ->> 0) AND delivery.copy_key = (asked.value
      ->> 1)
    JOIN submission ON submission.id = delivery.submission
    ORDER BY delivery.id""",
    ("copies",),
)

PRIOR_ONE = Query(
    """SELECT delivery.exact, delivery.copy_key, delivery.id, delivery.state, delivery.owed,
      delivery.maybe_sent, delivery.last_attempt_at, delivery.attempts, delivery.instance,
      delivery.epoch, delivery.reply, submission.ref
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE delivery.exact = ? AND delivery.copy_key = ?
    ORDER BY delivery.id""",
    ("exact", "copy_key"),
)

ADD_SUBMISSION = Query(
    """INSERT INTO submission (ref, received_at, submitter, listener, mail_from, message_id,
      content_hash, size, stream, sender, category, mode, class_source, campaign, variant,
      template, forward, marks, forward_by)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    (
        "ref", "received_at", "submitter", "listener", "mail_from", "message_id",
        "content_hash", "size", "stream", "sender", "category", "mode", "class_source",
        "campaign", "variant", "template", "forward", "marks", "forward_by",
    ),
)

ADD_DELIVERY = Query(
    """INSERT INTO delivery (submission, n, copy, sender, exact, wide, copy_key, marketing, state,
      owed, maybe_sent, attempts, instance, epoch, last_attempt_at, next_try, reply, ended_at,
      lease)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    (
        "submission", "n", "copy", "sender", "exact", "wide", "copy_key", "marketing", "state",
        "owed", "maybe_sent", "attempts", "instance", "epoch", "last_attempt_at", "next_try",
        "reply", "ended_at", "lease",
    ),
)

ADD_DECISION = Query(
    """INSERT INTO decision (delivery, at, verdict, reason, cite, pack, rule, jurisdiction, basis,
      event, obligations, expires_at, needs_review, facts)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    (
        "delivery", "at", "verdict", "reason", "cite", "pack", "rule", "jurisdiction", "basis",
        "event", "obligations", "expires_at", "needs_review", "facts",
    ),
)

ADD_ATTEMPT = Query(
    """INSERT INTO attempt (delivery, no, decision, instance, epoch, committed_at, ambiguous_retry)
    VALUES (?, ?, ?, ?, ?, ?, ?)""",
    ("delivery", "no", "decision", "instance", "epoch", "committed_at", "ambiguous_retry"),
)

TOLD_AT = Query(
    """SELECT notice.at
    FROM notice
    WHERE notice.copy_key = ? AND notice.state = ?""",
    ("copy", "state"),
)

DONT_TELL = Query(
    """DELETE FROM notice
    WHERE notice.copy_key = ? AND notice.state = ?""",
    ("copy", "state"),
)

TELL = Query(
    """INSERT INTO notice (copy_key, state, at)
    VALUES (?, ?, ?)""",
    ("copy_key", "state", "at"),
)
