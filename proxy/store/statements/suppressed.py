"""What stops even mail that is no marketing. For `proxy/store/suppressed.py`."""

from __future__ import annotations

from sqlalchemy import ColumnElement, bindparam, literal_column, or_, select, union

from proxy.store.schema import compiled, each, event, suppression
from proxy.store.statements.ledger import opt_out_fields

_HARD = suppression.c.scope.in_([literal_column("'everything'"), literal_column("'stream'")])
ALL = compiled(
    union(
        select(event.c.wide).where(
            event.c.type == literal_column("'bounce'"), event.c.at >= bindparam("since")
        ),
        select(suppression.c.wide).where(_HARD),
    )
)
NEW = compiled(select(event.c.wide).distinct().where(event.c.id > bindparam("above")))
_TYPES: list[ColumnElement[str]] = [
    literal_column(f"'{type_}'") for type_ in ("bounce", "objection", "opt-in", "contact")
]
EVENTS = compiled(
    select(
        event.c.wide, event.c.exact, event.c.uid, event.c.sender, event.c.type, event.c.at,
        event.c.recorded_at, event.c.evidence, event.c.fields,
    ).where(event.c.wide.in_(each("wides")), event.c.type.in_(_TYPES))
)  # fmt: skip
SUPPRESSIONS = compiled(
    select(
        suppression.c.wide, suppression.c.exact, suppression.c.uid, suppression.c.sender,
        suppression.c.type, suppression.c.at, suppression.c.recorded_at,
        literal_column("''"), opt_out_fields(),
    ).where(
        suppression.c.wide.in_(each("wides")),
        or_(suppression.c.type == literal_column("'objection'"), _HARD),
    )
)  # fmt: skip
