"""A lesson keeps the steps of an assistant: its calls of tools, their results, the tools, thoughts and other parts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that is empty for lessons of before."""
    op.add_column("lessons", sa.Column("trace", sa.JSON, nullable=False, server_default="{}"))
