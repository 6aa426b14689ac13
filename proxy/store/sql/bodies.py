"""Written by `make statements`: change `proxy/store/statements/bodies.py` instead."""

from proxy.store.query import Query

HAS = Query(
    """SELECT 1
    FROM body
    WHERE body.submission = ?""",
    ("submission",),
)

ADD = Query(
    """INSERT INTO body (submission, envelope, content)
    VALUES (?, ?, ?)""",
    ("submission", "envelope", "content"),
)

ADD_EMPTY = Query(
    """INSERT INTO body (submission, envelope, content)
    VALUES (?, ?, zeroblob(?))""",
    ("submission", "envelope", "size"),
)

DROP = Query(
    """DELETE FROM body
    WHERE body.submission IN (SELECT delivery.submission
    FROM delivery
    WHERE delivery.exact = ? AND delivery.copy_key = ?) AND NOT (EXISTS (SELECT 1
    FROM delivery AS others
    WHERE others.submission = body.submission AND others.owed = 1 AND others.state IN
      ('attempting', 'waiting', 'held')))""",
    ("exact", "copy"),
)
