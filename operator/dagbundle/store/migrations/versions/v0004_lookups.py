"""Lookups: which Variables and Connections runs read, so that their bundles are parsed again when one changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dagbundle.store.migrations.place import Place

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    place = Place(op.get_bind().dialect.name)
    op.create_table(
        place.table("lookup"),
        sa.Column("run_id", KEY, sa.ForeignKey(place.column("job.run_id")), primary_key=True),
        sa.Column("kind", KEY, primary_key=True),
        sa.Column("key", KEY, primary_key=True),
        sa.Column("digest", KEY),
        schema=place.schema,
    )
    op.create_table(
        place.table("digest_key"),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", KEY, nullable=False),
        schema=place.schema,
    )


def downgrade() -> None:
    """Take them away: what was read is known again after the next rollouts."""
    place = Place(op.get_bind().dialect.name)
    op.drop_table(place.table("digest_key"), schema=place.schema)
    op.drop_table(place.table("lookup"), schema=place.schema)
