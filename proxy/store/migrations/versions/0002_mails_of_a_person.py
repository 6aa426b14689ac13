"""An index by which the marketing mails of a person are counted for frequency caps."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MARKETING_ATTEMPTS = sa.text("marketing = 1 AND last_attempt_at IS NOT NULL")


def upgrade() -> None:
    """Index what is there; nothing else changes."""
    op.create_index(
        "ix_delivery_person",
        "delivery",
        ["wide", "last_attempt_at"],
        unique=False,
        sqlite_where=_MARKETING_ATTEMPTS,
        postgresql_where=_MARKETING_ATTEMPTS,
    )
