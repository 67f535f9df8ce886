"""Targets: how far a copy of what is live, elsewhere in the database, has followed each bundle; what it asks for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dagbundle.store.migrations.place import Place

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    place = Place(op.get_bind().dialect.name)
    op.create_table(
        place.table("target"),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("name", KEY, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        schema=place.schema,
    )
    op.create_table(
        place.table("parse_request"),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        schema=place.schema,
    )


def downgrade() -> None:
    """Take them away: a target that is told again is told all that is live."""
    place = Place(op.get_bind().dialect.name)
    op.drop_table(place.table("parse_request"), schema=place.schema)
    op.drop_table(place.table("target"), schema=place.schema)
