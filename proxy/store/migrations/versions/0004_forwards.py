"""Opt-outs that are passed on to the opt-out of the app that handed the mail in."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    """Add a table, and a column that tells how; of mail from before, nothing is passed on."""
    op.add_column(
        "submission", sa.Column("forward_by", sa.Text(), nullable=False, server_default="")
    )
    op.create_table(
        "forward",
        sa.Column("id", _INT, nullable=False),
        sa.Column("submission", _INT, nullable=False),
        sa.Column("copy", _INT, nullable=False),
        sa.Column("asked_at", _INT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", _INT, nullable=False),
        sa.Column("next_try", _INT, nullable=True),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("ended_at", _INT, nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'passed', 'refused', 'expired', 'dropped')", name="forward_state"
        ),
        sa.ForeignKeyConstraint(["submission"], ["submission.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("ux_forward_copy", "forward", ["submission", "copy"], unique=True)
    op.create_index(
        "ix_forward_due",
        "forward",
        ["next_try"],
        unique=False,
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
