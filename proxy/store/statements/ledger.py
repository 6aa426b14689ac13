"""The ledger: events, suppressions, attributes, and what is known of people.

For `proxy/store/ledger.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    Case,
    ColumnElement,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.sqlite import insert

from proxy.store import schema
from proxy.store.codec import ATTRIBUTE, EVENT, MAIL, SUPPRESSION, TOP
from proxy.store.query import Query
from proxy.store.schema import (
    compiled,
    each,
    event,
    inserting,
    last_marketing,
    recipient,
    suppression,
)

_EVENT_COLUMNS = (
    "uid",
    "sender",
    "exact",
    "wide",
    "type",
    "at",
    "recorded_at",
    "evidence",
    "fields",
)
ADD_EVENT = compiled(
    insert(event)
    .values({name: bindparam(name) for name in _EVENT_COLUMNS})
    .on_conflict_do_nothing(index_elements=["uid"])
    .returning(event.c.id)
)
ADD_SUPPRESSION = inserting(suppression, [c.name for c in suppression.columns])
_o = suppression.alias("o")
IN_FORCE = compiled(
    select(literal_column("1"))
    .select_from(_o)
    .where(
        _o.c.exact == bindparam("exact"),
        _o.c.sender == bindparam("sender"),
        _o.c.wide == bindparam("wide"),
        _o.c.type == bindparam("type"),
        _o.c.scope == bindparam("scope"),
        _o.c.topics == bindparam("topics"),
        _o.c.stream.is_not_distinct_from(bindparam("stream")),
        # A click adds to what was only imported: what was taken here blocks in observe mode, too.
        or_(_o.c.via.in_(each("vias")), bindparam("taken") == literal_column("0")),
        ~exists().where(
            event.c.sender == _o.c.sender,
            event.c.type == literal_column("'opt-in'"),
            or_(event.c.exact == _o.c.exact, event.c.wide == _o.c.wide),
            # "After" by ledger order or by its own time: when in doubt the click is recorded.
            or_(event.c.id > _o.c.id, event.c.at > _o.c.at),
        ),
    )
)
_new_address = insert(schema.address).values(exact=bindparam("exact"), address=bindparam("address"))
ADD_ADDRESS = compiled(_new_address.on_conflict_do_nothing(index_elements=["exact"]))
ATTRIBUTES = compiled(
    select(recipient.c.attributes).where(
        recipient.c.exact == bindparam("exact"), recipient.c.sender == bindparam("sender")
    )
)
_new_attributes = insert(recipient).values(
    {name: bindparam(name) for name in ("exact", "sender", "attributes")}
)
SET_ATTRIBUTES = compiled(
    _new_attributes.on_conflict_do_update(
        index_elements=["exact", "sender"],
        set_={"attributes": _new_attributes.excluded.attributes},
    )
)
_new_mail = insert(last_marketing).values(
    {name: bindparam(name) for name in ("exact", "sender", "at")}
)
MARK_MAIL = compiled(
    _new_mail.on_conflict_do_update(
        index_elements=["exact", "sender"],
        set_={"at": func.max(last_marketing.c.at, _new_mail.excluded.at)},
    )
)
HIGH = compiled(select(func.coalesce(func.max(event.c.id), literal_column("0"))))
TOUCHED = compiled(
    select(literal_column("1"))
    .select_from(event)
    .where(
        event.c.id > bindparam("high"),
        or_(event.c.wide.in_(each("wides")), event.c.exact.in_(each("exacts"))),
    )
)
_none = literal_column("NULL", Text)


def opt_out_fields() -> Case[Any]:
    """The fields of a suppression's event; they may be null.

    Suppressions repeat the objections of the ledger and outlive their erasure.
    """
    return case(
        (suppression.c.type == "complaint", func.json_object("via", suppression.c.via)),
        else_=func.json_object(
            "scope", suppression.c.scope,
            "topics", func.json(suppression.c.topics),
            "stream", suppression.c.stream,
            "via", suppression.c.via,
        ),
    )  # fmt: skip


def _lookup(of: Callable[[ColumnElement[str], str], ColumnElement[bool]]) -> Query:
    """ONE statement, so one snapshot of the database, for the subjects whose keys are `of` a name.

    Blocking reaches over the widened key; the exact key is read as well, so that an entry stays
    found when the rules of widening are changed later.
    """
    return compiled(
        union_all(
            select(
                literal_column(str(EVENT)), event.c.id, event.c.uid, event.c.sender, event.c.exact,
                event.c.wide, event.c.type, event.c.at, event.c.recorded_at, event.c.evidence,
                event.c.fields,
            ).where(or_(of(event.c.wide, "wides"), of(event.c.exact, "exacts"))),
            select(
                literal_column(str(SUPPRESSION)), suppression.c.id, suppression.c.uid,
                suppression.c.sender, suppression.c.exact, suppression.c.wide, suppression.c.type,
                suppression.c.at, suppression.c.recorded_at, literal_column("''"),
                opt_out_fields(),
            ).where(
                or_(of(suppression.c.wide, "wides"), of(suppression.c.exact, "exacts"))
            ),
            select(
                literal_column(str(ATTRIBUTE)), _none, _none, recipient.c.sender,
                recipient.c.exact, *[_none] * 5, recipient.c.attributes,
            ).where(of(recipient.c.exact, "exacts")),
            select(
                literal_column(str(MAIL)), _none, _none, last_marketing.c.sender,
                last_marketing.c.exact, _none, _none, last_marketing.c.at, _none, _none, _none,
            ).where(of(last_marketing.c.exact, "exacts")),
            select(
                literal_column(str(TOP)), func.max(event.c.id), *[_none] * 9,
            ).select_from(event),
        )
    )  # fmt: skip


LOOKUP = _lookup(lambda column, keys: column.in_(each(keys)))
#: For one subject: half the time of the other.
LOOKUP_ONE = _lookup(lambda column, key: column == bindparam(key))
_earlier = event.alias("earlier")
SUBJECTS = compiled(
    select(event.c.id, event.c.sender, event.c.exact, event.c.wide)
    .where(
        event.c.id > bindparam("after"),
        ~exists().where(
            and_(
                _earlier.c.exact == event.c.exact,
                _earlier.c.sender == event.c.sender,
                _earlier.c.id < event.c.id,
            )
        ),
    )
    .order_by(event.c.id)
    .limit(bindparam("limit"))
)
ADDRESSES = compiled(
    select(schema.address.c.exact, schema.address.c.address).where(
        schema.address.c.exact.in_(each("exacts"))
    )
)
