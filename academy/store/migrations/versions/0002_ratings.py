"""Ratings, stars, conversations; tombstones of forgotten lessons."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """New columns with defaults, and one table."""
    for column in (
        sa.Column("rating", sa.Integer, nullable=False, server_default="0"),
        sa.Column("gold", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("model_made", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("thread", sa.String(200), nullable=False, server_default=""),
        sa.Column("context", sa.JSON, nullable=False, server_default="[]"),
    ):
        op.add_column("lessons", column)
    op.create_table(
        "forgotten",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("because", sa.Text, nullable=False),
    )
