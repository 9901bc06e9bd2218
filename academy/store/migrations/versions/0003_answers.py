"""The hold-out keeps a name for each request's answer: it shows whether similar requests are one question."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that is empty for requests of before."""
    op.add_column("register", sa.Column("answer", sa.String(16), nullable=False, server_default=""))
