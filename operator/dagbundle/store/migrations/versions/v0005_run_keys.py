"""Keys of runs: a digest of what the parser of a pod proves by that it is the one that asked first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dagbundle.store.migrations.place import Place

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    place = Place(op.get_bind().dialect.name)
    op.create_table(
        place.table("run_key"),
        sa.Column("run_id", KEY, sa.ForeignKey(place.column("job.run_id")), primary_key=True),
        sa.Column("attempt", KEY, primary_key=True),
        sa.Column("digest", KEY, nullable=False),
        schema=place.schema,
    )


def downgrade() -> None:
    """Take it away: the older server asks for no keys."""
    place = Place(op.get_bind().dialect.name)
    op.drop_table(place.table("run_key"), schema=place.schema)
