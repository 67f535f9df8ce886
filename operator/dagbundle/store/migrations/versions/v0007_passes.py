"""Passes: which files of a bundle are asked for, where that is not the whole bundle."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dagbundle.store.migrations.place import Place

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    place = Place(op.get_bind().dialect.name)
    op.add_column(place.table("parse_request"), sa.Column("files", sa.JSON()), schema=place.schema)


def downgrade() -> None:
    """Take it away: the older controller parses the whole bundle."""
    place = Place(op.get_bind().dialect.name)
    op.drop_column(place.table("parse_request"), "files", schema=place.schema)
