"""Run by alembic for `chatflow migrate`, on the connection that the command has opened."""

from alembic import context

from chatflow.adapters.sql.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
