"""Alembic's entry: the caller gives an open connection; all migrations are one transaction."""

from alembic import context

from proxy.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
