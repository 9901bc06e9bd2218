"""Whether a lesson's source is trusted; ratings of the gateway's users and their keys."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that is true for lessons of before, and three tables."""
    op.add_column("lessons", sa.Column("trusted", sa.Boolean, nullable=False, server_default=sa.true()))
    op.create_table(
        "ratings",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.String(40), nullable=False, index=True),
        sa.Column("completion", sa.String(200), nullable=False, index=True),
        sa.Column("source", sa.String(64), nullable=False, index=True),
        sa.Column("asker", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64), nullable=False, index=True),
        sa.Column("remark", sa.String(200), nullable=False),
        sa.Column("lesson", sa.String(64), nullable=False, index=True),
        sa.Column("rated", sa.String(64), nullable=False, index=True),
        sa.Column("line", sa.JSON, nullable=False),
        sa.Column("over", sa.JSON, nullable=False),
        sa.Column("adapter", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("row", sa.Integer, nullable=False),
        sa.Column("standing", sa.String(16), nullable=False, index=True),
        sa.Column("because", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "kept_out",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("because", sa.String(200), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "user_keys",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("at", sa.String(40), nullable=False),
    )
