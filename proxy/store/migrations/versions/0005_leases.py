"""Leases of attempts, and held mail: it is live as waiting mail is, and due when it expires."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LIVE = sa.text("state IN ('attempting', 'waiting', 'held')")
_DUE = sa.text("state IN ('waiting', 'held')")

#: How long what is under way now may still be its owner's, in microseconds.
_AN_HOUR = 3_600_000_000


def upgrade() -> None:
    """Add a column, and widen two indexes; no row of a version before is in state `held`."""
    op.add_column("delivery", sa.Column("lease", _INT, nullable=True))
    op.execute(
        "UPDATE delivery SET lease = last_attempt_at + "  # noqa: S608  a number of ours
        f"{_AN_HOUR} WHERE state = 'attempting'"
    )
    op.drop_index("ux_delivery_live", "delivery")
    op.create_index(
        "ux_delivery_live",
        "delivery",
        ["copy_key"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.drop_index("ix_delivery_due", "delivery")
    op.create_index(
        "ix_delivery_due",
        "delivery",
        ["next_try"],
        unique=False,
        sqlite_where=_DUE,
        postgresql_where=_DUE,
    )
