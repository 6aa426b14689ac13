"""What the outbox needs: bodies of mail that is owed, what was reported, and what is due when."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    """Add two tables and an index; nothing that is there changes."""
    op.create_table(
        "body",
        sa.Column("submission", _INT, nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["submission"], ["submission.id"]),
        sa.PrimaryKeyConstraint("submission"),
        sqlite_strict=True,
    )
    op.create_table(
        "notice",
        sa.Column("copy_key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("copy_key", "state"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_delivery_due",
        "delivery",
        ["next_try"],
        unique=False,
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
