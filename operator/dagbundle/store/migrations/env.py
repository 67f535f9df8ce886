"""What Alembic runs around the migrations: the connection and its transaction belong to `dagbundle.store.schema`."""

from __future__ import annotations

from alembic import context

from dagbundle.store import tables

connection = context.config.attributes["connection"]
ours = tables.tables_of(connection.dialect.name)
context.configure(
    connection=connection,
    target_metadata=ours.metadata,
    version_table=ours.version_table,
    version_table_schema=ours.schema,
    transactional_ddl=True,  # the caller's transaction holds all steps, on SQLite too
    transaction_per_migration=False,
)
context.run_migrations()
