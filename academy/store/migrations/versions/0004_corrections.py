"""A corrected lesson names the lesson with the wrong answer, which it replaces in any order of imports."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that is empty for lessons of before, and its index."""
    op.add_column("lessons", sa.Column("corrects", sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_lessons_corrects", "lessons", ["corrects"])
