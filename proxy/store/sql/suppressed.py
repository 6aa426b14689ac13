"""Written by `make statements`: change `proxy/store/statements/suppressed.py` instead."""

from proxy.store.query import Query

ALL = Query(
    """SELECT event.wide
    FROM event
    WHERE event.type = 'bounce' AND event.at >= ?
    UNION
    SELECT suppression.wide
    FROM suppression
    WHERE suppression.scope IN ('everything', 'stream')""",
    ("since",),
)

NEW = Query(
    """SELECT DISTINCT event.wide
    FROM event
    WHERE event.id > ?""",
    ("above",),
)

EVENTS = Query(
    """SELECT event.wide, event.exact, event.uid, event.sender, event.type, event.at,
      event.recorded_at, event.evidence, event.fields
    FROM event
    WHERE event.wide IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) AND event.type IN ('bounce', 'objection', 'opt-in', 'contact')""",
    ("wides",),
)

SUPPRESSIONS = Query(
    """SELECT suppression.wide, suppression.exact, suppression.uid, suppression.sender,
      suppression.type, suppression.at, suppression.recorded_at, '', CASE WHEN (suppression.type
      = ?) THEN json_object(?, suppression.via) ELSE json_object(?, suppression.scope, ?,
      json(suppression.topics), ?, suppression.stream, ?, suppression.via) END AS anon_1
    FROM suppression
    WHERE suppression.wide IN (SELECT anon_2.value
    FROM json_each(?) AS anon_2) AND (suppression.type = 'objection' OR suppression.scope IN
      ('everything', 'stream'))""",
    (
        "type_1", "json_object_1", "json_object_2", "json_object_3", "json_object_4",
        "json_object_5", "wides",
    ),
    {
        "type_1": "complaint", "json_object_1": "via", "json_object_2": "scope",
        "json_object_3": "topics", "json_object_4": "stream", "json_object_5": "via",
    },
)
