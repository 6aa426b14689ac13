"""Written by `make statements`: change `proxy/store/statements/forwarding.py` instead."""

from proxy.store.query import Query

ADD = Query(
    """INSERT INTO forward (submission, copy, asked_at, state, attempts, next_try, answer)
    SELECT submission.id, delivery.copy, ? AS anon_1, 'waiting', 0, ? AS anon_2, ''
    FROM delivery
    JOIN submission ON submission.id = delivery.submission
    WHERE submission.ref = ? AND submission.sender = ? AND submission.forward_by != '' AND
      delivery.copy = ? AND delivery.exact = ?
    ORDER BY submission.id DESC LIMIT ? OFFSET ?
    ON CONFLICT (submission, copy) DO NOTHING""",
    ("at", "at", "ref", "sender", "copy", "exact", "limit", "param_1"),
    {"param_1": 0,},
)

DUE = Query(
    """SELECT forward.id, submission.ref, forward.copy, submission.stream, submission.sender,
      submission.forward, submission.forward_by, forward.state, forward.attempts,
      forward.asked_at, forward.next_try, forward.answer, forward.ended_at
    FROM forward
    JOIN submission ON submission.id = forward.submission
    WHERE forward.state = 'waiting' AND forward.next_try <= ?
    ORDER BY forward.next_try, forward.id LIMIT ? OFFSET ?""",
    ("at", "limit", "param_1"),
    {"param_1": 0,},
)

WAITING = Query(
    """SELECT forward.id, submission.ref, forward.copy, submission.stream, submission.sender,
      submission.forward, submission.forward_by, forward.state, forward.attempts,
      forward.asked_at, forward.next_try, forward.answer, forward.ended_at
    FROM forward
    JOIN submission ON submission.id = forward.submission
    WHERE forward.state = 'waiting'
    ORDER BY forward.id LIMIT ? OFFSET ?""",
    ("limit", "param_1"),
    {"param_1": 0,},
)

WAITING_OF = Query(
    """SELECT forward.id, submission.ref, forward.copy, submission.stream, submission.sender,
      submission.forward, submission.forward_by, forward.state, forward.attempts,
      forward.asked_at, forward.next_try, forward.answer, forward.ended_at
    FROM forward
    JOIN submission ON submission.id = forward.submission
    WHERE submission.ref = ? AND forward.state = 'waiting'
    ORDER BY forward.id LIMIT ? OFFSET ?""",
    ("ref", "limit", "param_1"),
    {"param_1": 0,},
)

ALL = Query(
    """SELECT forward.id, submission.ref, forward.copy, submission.stream, submission.sender,
      submission.forward, submission.forward_by, forward.state, forward.attempts,
      forward.asked_at, forward.next_try, forward.answer, forward.ended_at
    FROM forward
    JOIN submission ON submission.id = forward.submission
    ORDER BY forward.id LIMIT ? OFFSET ?""",
    ("limit", "param_1"),
    {"param_1": 0,},
)

ALL_OF = Query(
    """SELECT forward.id, submission.ref, forward.copy, submission.stream, submission.sender,
      submission.forward, submission.forward_by, forward.state, forward.attempts,
      forward.asked_at, forward.next_try, forward.answer, forward.ended_at
    FROM forward
    JOIN submission ON submission.id = forward.submission
    WHERE submission.ref = ?
    ORDER BY forward.id LIMIT ? OFFSET ?""",
    ("ref", "limit", "param_1"),
    {"param_1": 0,},
)

COUNT = Query(
    """SELECT count(*) AS count_1
    FROM forward
    WHERE forward.state = 'waiting'""",
)

PASS = Query(
    """UPDATE forward
    SET state=?, attempts=?, next_try=?, answer=?, ended_at=?
    WHERE forward.id = ? AND forward.state = 'waiting' AND forward.attempts = ?""",
    ("state", "attempts", "next_try", "answer", "ended_at", "id_", "attempts_"),
)
