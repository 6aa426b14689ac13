"""The first tables: ledger, journal, and the triggers that keep history as it was written."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_APPEND_ONLY = ("event", "suppression", "submission", "decision", "attempt", "outcome")


def upgrade() -> None:
    """Create everything; in one transaction with the mark that it was done."""
    op.create_table(
        "address",
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("exact"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "event",
        sa.Column("id", _INT, nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("wide", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("at", _INT, nullable=False),
        sa.Column("recorded_at", _INT, nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.CheckConstraint("uid <> ''", name="event_uid"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("uid"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("ix_event_exact", "event", ["exact", "sender"], unique=False)
    op.create_index("ix_event_wide", "event", ["wide"], unique=False)
    op.create_table(
        "instance",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("epoch", _INT, nullable=False),
        sa.Column("opened_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "last_marketing",
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("exact", "sender"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "recipient",
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("exact", "sender"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "submission",
        sa.Column("id", _INT, nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("received_at", _INT, nullable=False),
        sa.Column("submitter", sa.Text(), nullable=False),
        sa.Column("listener", sa.Text(), nullable=False),
        sa.Column("mail_from", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("size", _INT, nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("class_source", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("forward", sa.Text(), nullable=False),
        sa.Column("marks", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("ix_submission_ref", "submission", ["ref"], unique=False)
    op.create_table(
        "suppression",
        sa.Column("id", _INT, nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("wide", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("topics", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=True),
        sa.Column("via", sa.Text(), nullable=True),
        sa.Column("at", _INT, nullable=False),
        sa.Column("recorded_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("uid"),
        sqlite_strict=True,
    )
    op.create_index("ix_suppression_exact", "suppression", ["exact", "sender"], unique=False)
    op.create_index("ix_suppression_wide", "suppression", ["wide"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("id", _INT, nullable=False),
        sa.Column("submission", _INT, nullable=False),
        sa.Column("n", _INT, nullable=False),
        sa.Column("copy", _INT, nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("wide", sa.Text(), nullable=False),
        sa.Column("copy_key", sa.Text(), nullable=False),
        sa.Column("marketing", _INT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("owed", _INT, nullable=False),
        sa.Column("maybe_sent", _INT, nullable=False),
        sa.Column("attempts", _INT, nullable=False),
        sa.Column("instance", sa.Text(), nullable=True),
        sa.Column("epoch", _INT, nullable=True),
        sa.Column("last_attempt_at", _INT, nullable=True),
        sa.Column("next_try", _INT, nullable=True),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("ended_at", _INT, nullable=True),
        sa.CheckConstraint(
            "state <> 'attempting' OR (attempts > 0 AND instance IS NOT NULL AND epoch IS NOT NULL)",
            name="delivery_owner",
        ),
        sa.CheckConstraint(
            "state IN ('attempting', 'waiting', 'held', 'relayed', 'blocked', 'failed', 'returned', 'unknown')",
            name="delivery_state",
        ),
        sa.ForeignKeyConstraint(
            ["submission"],
            ["submission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index(
        "ix_delivery_attempting",
        "delivery",
        ["instance", "epoch"],
        unique=False,
        sqlite_where=sa.text("state = 'attempting'"),
        postgresql_where=sa.text("state = 'attempting'"),
    )
    op.create_index("ix_delivery_copy", "delivery", ["copy_key"], unique=False)
    op.create_index("ix_delivery_exact", "delivery", ["exact"], unique=False)
    op.create_index("ix_delivery_submission", "delivery", ["submission"], unique=False)
    op.create_index(
        "ux_delivery_live",
        "delivery",
        ["copy_key"],
        unique=True,
        sqlite_where=sa.text("state IN ('attempting', 'waiting')"),
        postgresql_where=sa.text("state IN ('attempting', 'waiting')"),
    )
    op.create_table(
        "decision",
        sa.Column("id", _INT, nullable=False),
        sa.Column("delivery", _INT, nullable=False),
        sa.Column("at", _INT, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("cite", sa.Text(), nullable=False),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("jurisdiction", sa.Text(), nullable=False),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("obligations", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Text(), nullable=False),
        sa.Column("needs_review", _INT, nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery"],
            ["delivery.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("ix_decision_delivery", "decision", ["delivery"], unique=False)
    op.create_table(
        "attempt",
        sa.Column("delivery", _INT, nullable=False),
        sa.Column("no", _INT, nullable=False),
        sa.Column("decision", _INT, nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("epoch", _INT, nullable=False),
        sa.Column("committed_at", _INT, nullable=False),
        sa.Column("ambiguous_retry", _INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["decision"],
            ["decision.id"],
        ),
        sa.ForeignKeyConstraint(
            ["delivery"],
            ["delivery.id"],
        ),
        sa.PrimaryKeyConstraint("delivery", "no"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outcome",
        sa.Column("id", _INT, nullable=False),
        sa.Column("delivery", _INT, nullable=False),
        sa.Column("attempt", _INT, nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("at", _INT, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery", "attempt"],
            ["attempt.delivery", "attempt.no"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("ix_outcome_attempt", "outcome", ["delivery", "attempt"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()


def _sqlite_triggers() -> None:
    def refuse(words: str) -> str:
        return f"BEGIN SELECT RAISE(ABORT, '{words}'); END"

    for table in _APPEND_ONLY:
        for verb in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
                + refuse(f"{table} is append-only")
            )
    op.execute(
        "CREATE TRIGGER delivery_no_delete BEFORE DELETE ON delivery "
        + refuse("delivery is never deleted")
    )
    op.execute(
        "CREATE TRIGGER delivery_identity BEFORE UPDATE OF id, submission, n, copy, sender, exact,"
        " wide, copy_key, marketing ON delivery " + refuse("a delivery keeps its identity")
    )
    op.execute(
        "CREATE TRIGGER delivery_relayed BEFORE UPDATE OF state ON delivery"
        " WHEN OLD.state = 'relayed' AND NEW.state <> 'relayed' " + refuse("relayed is final")
    )
    op.execute(
        "CREATE TRIGGER delivery_maybe_sent BEFORE UPDATE OF maybe_sent ON delivery"
        " WHEN OLD.maybe_sent > NEW.maybe_sent " + refuse("maybe_sent is never cleared")
    )
