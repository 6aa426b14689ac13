"""The tables of the store (docs/store.md), once, as SQLAlchemy Core.

Only integers (microseconds since the epoch, UTC; booleans as 0 and 1) and text (JSON where a value
has parts) are stored, because statements run on the raw driver without SQLAlchemy's type
processors. Migrations create the tables; a test holds the two equal. What PostgreSQL wants to know
of a partial index is in them only.

For development and migrations: what runs reads the texts in `proxy/store/sql`, and never this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    func,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement, Select

from proxy.store.query import Query

#: Rows of these tables are written once; triggers forbid any UPDATE and DELETE.
APPEND_ONLY = ("event", "suppression", "submission", "decision", "attempt", "outcome")

metadata = MetaData()

_DIALECT = sqlite.dialect(paramstyle="qmark")
_Int = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> Column[int]:
    return Column("id", _Int, primary_key=True)


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _int(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, _Int, nullable=null)


_ROWID: dict[str, Any] = {"sqlite_strict": True}
_SERIAL: dict[str, Any] = {"sqlite_strict": True, "sqlite_autoincrement": True}
_KEYED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}

meta = Table("meta", metadata, Column("key", Text, primary_key=True), _text("value"), **_KEYED)

instance = Table(
    "instance",
    metadata,
    Column("id", Text, primary_key=True),
    _int("epoch"),
    _int("opened_at"),
    **_KEYED,
)

event = Table(
    "event",
    metadata,
    _id(),
    Column("uid", Text, nullable=False, unique=True),
    _text("sender"),
    _text("exact"),
    _text("wide"),
    _text("type"),
    _int("at"),
    _int("recorded_at"),
    _text("evidence"),
    _text("fields"),
    CheckConstraint("uid <> ''", name="event_uid"),
    Index("ix_event_wide", "wide"),
    Index("ix_event_exact", "exact", "sender"),
    **_SERIAL,
)

suppression = Table(
    "suppression",
    metadata,
    _id(),  # the id of its event: ids are never used twice, also after that event was erased
    Column("uid", Text, nullable=False, unique=True),
    _text("sender"),
    _text("exact"),
    _text("wide"),
    _text("type"),
    _text("scope"),
    _text("topics"),
    _text("stream", null=True),
    _text("via", null=True),
    _int("at"),
    _int("recorded_at"),
    Index("ix_suppression_wide", "wide"),
    Index("ix_suppression_exact", "exact", "sender"),
    **_ROWID,
)

address = Table(
    "address", metadata, Column("exact", Text, primary_key=True), _text("address"), **_KEYED
)

recipient = Table(
    "recipient",
    metadata,
    _text("exact"),
    _text("sender"),
    _text("attributes"),
    PrimaryKeyConstraint("exact", "sender"),
    **_KEYED,
)

last_marketing = Table(
    "last_marketing",
    metadata,
    _text("exact"),
    _text("sender"),
    _int("at"),
    PrimaryKeyConstraint("exact", "sender"),
    **_KEYED,
)

submission = Table(
    "submission",
    metadata,
    _id(),
    _text("ref"),
    _int("received_at"),
    _text("submitter"),
    _text("listener"),
    _text("mail_from"),
    _text("message_id"),
    _text("content_hash"),
    _int("size"),
    _text("stream"),
    _text("sender"),
    _text("category"),
    _text("mode"),
    _text("class_source"),
    _text("campaign"),
    _text("variant"),
    _text("template"),
    _text("forward"),
    _text("marks"),
    Column("forward_by", Text, nullable=False, server_default=""),
    Index("ix_submission_ref", "ref"),
    **_SERIAL,
)

delivery = Table(
    "delivery",
    metadata,
    _id(),
    Column("submission", _Int, ForeignKey("submission.id"), nullable=False),
    _int("n"),
    _int("copy"),
    _text("sender"),
    _text("exact"),
    _text("wide"),
    _text("copy_key"),
    _int("marketing"),
    _text("state"),
    _int("owed"),
    _int("maybe_sent"),
    _int("attempts"),
    _text("instance", null=True),
    _int("epoch", null=True),
    _int("last_attempt_at", null=True),
    _int("next_try", null=True),
    _text("reply"),
    _int("ended_at", null=True),
    _int("lease", null=True),
    # Not IN: SQLite builds a table of three members or more, for each row that it writes.
    CheckConstraint(
        "state = 'attempting' OR state = 'relayed' OR state = 'blocked' OR state = 'waiting'"
        " OR state = 'failed' OR state = 'returned' OR state = 'unknown' OR state = 'held'",
        name="delivery_state",
    ),
    CheckConstraint(
        "state <> 'attempting' OR (attempts > 0 AND instance IS NOT NULL AND epoch IS NOT NULL)",
        name="delivery_owner",
    ),
    Index("ix_delivery_submission", "submission"),
    # A copy is one person's, so that one index finds both.
    Index("ix_delivery_copy", "exact", "copy_key"),
    Index(
        "ix_delivery_person",
        "wide",
        "last_attempt_at",
        sqlite_where=text("marketing = 1 AND last_attempt_at IS NOT NULL"),
    ),
    Index(
        "ux_delivery_live",
        "copy_key",
        unique=True,
        sqlite_where=text("state = 'attempting' OR state = 'waiting' OR state = 'held'"),
    ),
    Index(
        "ix_delivery_attempting",
        "instance",
        "epoch",
        sqlite_where=text("state = 'attempting'"),
    ),
    Index(
        "ix_delivery_due",
        "next_try",
        sqlite_where=text("state IN ('waiting', 'held')"),
    ),
    **_SERIAL,
)

#: The mail as it came, while one of its recipients is owed.
body = Table(
    "body",
    metadata,
    Column("submission", _Int, ForeignKey("submission.id"), primary_key=True),
    _text("envelope"),
    Column("content", LargeBinary, nullable=False),
    **_ROWID,
)

#: An opt-out that is passed on to the opt-out that a mail came with, once per copy.
forward = Table(
    "forward",
    metadata,
    _id(),
    Column("submission", _Int, ForeignKey("submission.id"), nullable=False),
    _int("copy"),
    _int("asked_at"),
    _text("state"),
    _int("attempts"),
    _int("next_try", null=True),
    _text("answer"),
    _int("ended_at", null=True),
    CheckConstraint(
        "state IN ('waiting', 'passed', 'refused', 'expired', 'dropped')", name="forward_state"
    ),
    Index("ux_forward_copy", "submission", "copy", unique=True),
    Index(
        "ix_forward_due",
        "next_try",
        sqlite_where=text("state = 'waiting'"),
    ),
    **_SERIAL,
)

#: Of which copy, in which state, its submitter was told in a notice of ours, and when.
notice = Table(
    "notice",
    metadata,
    _text("copy_key"),
    _text("state"),
    _int("at"),
    PrimaryKeyConstraint("copy_key", "state"),
    **_KEYED,
)

decision = Table(
    "decision",
    metadata,
    _id(),
    Column("delivery", _Int, ForeignKey("delivery.id"), nullable=False),
    _int("at"),
    _text("verdict"),
    _text("reason"),
    _text("cite"),
    _text("pack"),
    _text("rule"),
    _text("jurisdiction"),
    _text("basis"),
    _text("event"),
    _text("obligations"),
    _text("expires_at"),
    _int("needs_review"),
    _text("facts"),
    Index("ix_decision_delivery", "delivery"),
    **_SERIAL,
)

attempt = Table(
    "attempt",
    metadata,
    Column("delivery", _Int, ForeignKey("delivery.id"), nullable=False),
    _int("no"),
    Column("decision", _Int, ForeignKey("decision.id"), nullable=False),
    _text("instance"),
    _int("epoch"),
    _int("committed_at"),
    _int("ambiguous_retry"),
    PrimaryKeyConstraint("delivery", "no"),
    **_KEYED,
)

outcome = Table(
    "outcome",
    metadata,
    _id(),
    _int("delivery"),
    _int("attempt"),
    _text("result"),
    _text("reply"),
    _int("at"),
    # "", "late" (its owner was fenced), "recovered" (its owner died), "held" (its decision was too
    # old)
    _text("note"),
    ForeignKeyConstraint(["delivery", "attempt"], ["attempt.delivery", "attempt.no"]),
    Index("ix_outcome_attempt", "delivery", "attempt"),
    **_SERIAL,
)


def triggers() -> list[str]:
    """What SQLite itself refuses: rewriting history, and forgetting that a copy may be out."""
    refuse = "BEGIN SELECT RAISE(ABORT, '{}'); END"
    made = []
    for table in APPEND_ONLY:
        words = refuse.format(f"{table} is append-only")
        made += [
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {words}",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {words}",
        ]
    return [
        *made,
        "CREATE TRIGGER delivery_no_delete BEFORE DELETE ON delivery "
        + refuse.format("delivery is never deleted"),
        "CREATE TRIGGER delivery_identity BEFORE UPDATE OF id, submission, n, copy, sender, exact,"
        " wide, copy_key, marketing ON delivery " + refuse.format("a delivery keeps its identity"),
        "CREATE TRIGGER delivery_relayed BEFORE UPDATE OF state ON delivery"
        " WHEN OLD.state = 'relayed' AND NEW.state <> 'relayed' "
        + refuse.format("relayed is final"),
        "CREATE TRIGGER delivery_maybe_sent BEFORE UPDATE OF maybe_sent ON delivery"
        " WHEN OLD.maybe_sent > NEW.maybe_sent " + refuse.format("maybe_sent is never cleared"),
    ]


def compiled(statement: ClauseElement) -> Query:
    """Compile a Core statement. SQLite's LIMIT brings an OFFSET of its own as a constant."""
    made = statement.compile(dialect=_DIALECT)
    names = tuple(made.positiontup or ())  # type: ignore[attr-defined]
    constants = {name: made.params[name] for name in names if made.params[name] is not None}
    text_ = " ".join(line.strip() for line in str(made).splitlines())
    return Query(text_, names, constants)


def inserting(table: Table, columns: Sequence[str] | None = None) -> Query:
    """A plain INSERT of all columns (without a serial id), in the order of the table."""
    names = columns or [c.name for c in table.columns if c.name != "id"]
    values: Mapping[str, Any] = {name: bindparam(name) for name in names}
    return compiled(table.insert().inline().values(values))


def each(name: str) -> Select[Any]:
    """The members of the JSON array bound to `name`, for IN: any number in one statement."""
    members = func.json_each(bindparam(name)).table_valued("value")
    return select(members.c.value)
