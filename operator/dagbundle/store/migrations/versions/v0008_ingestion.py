"""How a run was carried out: its bundle parser, how many files at a time, and what decided that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dagbundle.store.migrations.place import Place

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column: nothing is known of the runs so far."""
    place = Place(op.get_bind().dialect.name)
    op.add_column(place.table("parse_run"), sa.Column("ingestion", sa.JSON()), schema=place.schema)


def downgrade() -> None:
    """Take it away."""
    place = Place(op.get_bind().dialect.name)
    op.drop_column(place.table("parse_run"), "ingestion", schema=place.schema)
