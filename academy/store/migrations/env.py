"""Alembic's environment: always on the connection that `Database.migrate` hands over."""

from alembic import context

from academy.store.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
