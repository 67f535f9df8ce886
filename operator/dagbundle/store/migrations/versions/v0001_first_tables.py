"""The first tables."""

from __future__ import annotations

from alembic import op

from dagbundle.store import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    tables.tables_of(op.get_bind().dialect.name).metadata.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop everything."""
    tables.tables_of(op.get_bind().dialect.name).metadata.drop_all(op.get_bind(), checkfirst=False)
