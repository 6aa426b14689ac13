"""Written by `make statements`: change `proxy/store/statements/ledger.py` instead."""

from proxy.store.query import Query

ADD_EVENT = Query(
    """INSERT INTO event (uid, sender, exact, wide, type, at, recorded_at, evidence, fields)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (uid) DO NOTHING RETURNING id""",
    ("uid", "sender", "exact", "wide", "type", "at", "recorded_at", "evidence", "fields"),
)

ADD_SUPPRESSION = Query(
    """INSERT INTO suppression (id, uid, sender, exact, wide, type, scope, topics, stream, via, at,
      recorded_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    (
        "id", "uid", "sender", "exact", "wide", "type", "scope", "topics", "stream", "via",
        "at", "recorded_at",
    ),
)

IN_FORCE = Query(
    """SELECT 1
    FROM suppression AS o
    WHERE o.exact = ? AND o.sender = ? AND o.wide = ? AND o.type = ? AND o.scope = ? AND
      o.topics = ? AND o.stream IS ? AND (o.via IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) OR ? = 0) AND NOT (EXISTS (SELECT *
    FROM event
    WHERE event.sender = o.sender AND event.type = 'opt-in' AND (event.exact = o.exact OR
      event.wide = o.wide) AND (event.id > o.id OR event.at > o.at)))""",
    ("exact", "sender", "wide", "type", "scope", "topics", "stream", "vias", "taken"),
)

ADD_ADDRESS = Query(
    """INSERT INTO address (exact, address)
    VALUES (?, ?)
    ON CONFLICT (exact) DO NOTHING""",
    ("exact", "address"),
)

ATTRIBUTES = Query(
    """SELECT recipient.attributes
    FROM recipient
    WHERE recipient.exact = ? AND recipient.sender = ?""",
    ("exact", "sender"),
)

SET_ATTRIBUTES = Query(
    """INSERT INTO recipient (exact, sender, attributes)
    VALUES (?, ?, ?)
    ON CONFLICT (exact, sender) DO UPDATE
    SET attributes = excluded.attributes""",
    ("exact", "sender", "attributes"),
)

MARK_MAIL = Query(
    """INSERT INTO last_marketing (exact, sender, at)
    VALUES (?, ?, ?)
    ON CONFLICT (exact, sender) DO UPDATE
    SET at = max(last_marketing.at, excluded.at)""",
    ("exact", "sender", "at"),
)

HIGH = Query(
    """SELECT coalesce(max(event.id), 0) AS coalesce_1
    FROM event""",
)

TOUCHED = Query(
    """SELECT 1
    FROM event
    WHERE event.id > ? AND (event.wide IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) OR event.exact IN (SELECT anon_2.value
    FROM json_each(?) AS anon_2))""",
    ("high", "wides", "exacts"),
)

LOOKUP = Query(
    """SELECT 0, event.id, event.uid, event.sender, event.exact, event.wide, event.type, event.at,
      event.recorded_at, event.evidence, event.fields
    FROM event
    WHERE event.wide IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1) OR event.exact IN (SELECT anon_2.value
    FROM json_each(?) AS anon_2)
    UNION ALL
    SELECT 1, suppression.id, suppression.uid, suppression.sender, suppression.exact,
      suppression.wide, suppression.type, suppression.at, suppression.recorded_at, '', CASE WHEN
      (suppression.type = ?) THEN json_object(?, suppression.via) ELSE json_object(?,
      suppression.scope, ?, json(suppression.topics), ?, suppression.stream, ?, suppression.via)
      END AS anon_3
    FROM suppression
    WHERE suppression.wide IN (SELECT anon_4.value
    FROM json_each(?) AS anon_4) OR suppression.exact IN (SELECT anon_5.value
    FROM json_each(?) AS anon_5)
    UNION ALL
    SELECT 2, NULL, NULL, recipient.sender, recipient.exact, NULL, NULL, NULL, NULL, NULL,
      recipient.attributes
    FROM recipient
    WHERE recipient.exact IN (SELECT anon_6.value
    FROM json_each(?) AS anon_6)
    UNION ALL
    SELECT 3, NULL, NULL, last_marketing.sender, last_marketing.exact, NULL, NULL,
      last_marketing.at, NULL, NULL, NULL
    FROM last_marketing
    WHERE last_marketing.exact IN (SELECT anon_7.value
    FROM json_each(?) AS anon_7)
    UNION ALL
    SELECT 4, max(event.id) AS max_1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM event""",
    (
        "wides", "exacts", "type_1", "json_object_1", "json_object_2", "json_object_3",
        "json_object_4", "json_object_5", "wides", "exacts", "exacts", "exacts",
    ),
    {
        "type_1": "complaint", "json_object_1": "via", "json_object_2": "scope",
        "json_object_3": "topics", "json_object_4": "stream", "json_object_5": "via",
    },
)

LOOKUP_ONE = Query(
    """SELECT 0, event.id, event.uid, event.sender, event.exact, event.wide, event.type, event.at,
      event.recorded_at, event.evidence, event.fields
    FROM event
    WHERE event.wide = ? OR event.exact = ?
    UNION ALL
    SELECT 1, suppression.id, suppression.uid, suppression.sender, suppression.exact,
      suppression.wide, suppression.type, suppression.at, suppression.recorded_at, '', CASE WHEN
      (suppression.type = ?) THEN json_object(?, suppression.via) ELSE json_object(?,
      suppression.scope, ?, json(suppression.topics), ?, suppression.stream, ?, suppression.via)
      END AS anon_1
    FROM suppression
    WHERE suppression.wide = ? OR suppression.exact = ?
    UNION ALL
    SELECT 2, NULL, NULL, recipient.sender, recipient.exact, NULL, NULL, NULL, NULL, NULL,
      recipient.attributes
    FROM recipient
    WHERE recipient.exact = ?
    UNION ALL
    SELECT 3, NULL, NULL, last_marketing.sender, last_marketing.exact, NULL, NULL,
      last_marketing.at, NULL, NULL, NULL
    FROM last_marketing
    WHERE last_marketing.exact = ?
    UNION ALL
    SELECT 4, max(event.id) AS max_1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM event""",
    (
        "wides", "exacts", "type_1", "json_object_1", "json_object_2", "json_object_3",
        "json_object_4", "json_object_5", "wides", "exacts", "exacts", "exacts",
    ),
    {
        "type_1": "complaint", "json_object_1": "via", "json_object_2": "scope",
        "json_object_3": "topics", "json_object_4": "stream", "json_object_5": "via",
    },
)

SUBJECTS = Query(
    """SELECT event.id, event.sender, event.exact, event.wide
    FROM event
    WHERE event.id > ? AND NOT (EXISTS (SELECT *
    FROM event AS earlier
    WHERE earlier.exact = event.exact AND earlier.sender = event.sender AND earlier.id <
      event.id))
    ORDER BY event.id LIMIT ? OFFSET ?""",
    ("after", "limit", "param_1"),
    {"param_1": 0,},
)

ADDRESSES = Query(
    """SELECT address.exact, address.address
    FROM address
    WHERE address.exact IN (SELECT anon_1.value
    FROM json_each(?) AS anon_1)""",
    ("exacts",),
)
