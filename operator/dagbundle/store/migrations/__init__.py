"""Alembic's migrations of our own tables; `dagbundle.store.schema` runs them."""
