"""The first tables: bundles and their revisions, immutable content, the staging area, and what is live."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from dagbundle.store.migrations.place import Place

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UTC = sa.DateTime(timezone=True)
TABLES = (
    "bundle",
    "dag_content",
    "source_code",
    "claim",
    "dag",
    "dag_version",
    "edge",
    "hold",
    "import_error",
    "parse_warning",
    "pin",
    "publication",
    "rollout",
    "source_file",
    "task",
    "task_group",
    "parse_run",
    "submission",
)
"""In the order of their foreign keys."""


def upgrade() -> None:
    """Create them. What each one is for is said in `dagbundle.store.tables`."""
    place = Place(op.get_bind().dialect.name)
    op.create_table(
        place.table("bundle"),
        sa.Column("id", BIG, sa.Identity(), primary_key=True),
        sa.Column("cluster", KEY, nullable=False),
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("airflow_name", KEY, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("version", KEY, nullable=False),
        sa.Column("template_hash", KEY, nullable=False),
        sa.Column("oldest", sa.Integer, nullable=False),
        sa.Column("rollout", KEY),
        sa.Column("created_at", UTC, nullable=False),
        sa.UniqueConstraint("airflow_name"),
        sa.UniqueConstraint("cluster", "namespace", "name"),
        schema=place.schema,
    )
    op.create_table(
        place.table("dag_content"),
        sa.Column("id", BIG, sa.Identity(), primary_key=True),
        sa.Column("sha256", KEY, nullable=False),
        sa.Column("dag_id", KEY, nullable=False),
        sa.Column("dag_hash", KEY, nullable=False),
        sa.Column("relative_fileloc", sa.Text, nullable=False),
        sa.Column("task_count", sa.Integer, nullable=False),
        sa.Column("header", sa.JSON, nullable=False),
        sa.UniqueConstraint("sha256"),
        schema=place.schema,
    )
    op.create_table(
        place.table("source_code"),
        sa.Column("sha256", KEY, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        schema=place.schema,
    )
    op.create_table(
        place.table("claim"),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("dag_id", KEY, primary_key=True),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("path", KEY, nullable=False),
        sa.Column("rollout", KEY, nullable=False),
        schema=place.schema,
    )
    op.create_index(op.f(f"{place.prefix}claim_dag_id_idx"), place.table("claim"), ["dag_id"], schema=place.schema)
    op.create_table(
        place.table("dag"),
        sa.Column("dag_id", KEY, primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("path", KEY, nullable=False),
        sa.Column("content_id", BIG, sa.ForeignKey(place.column("dag_content.id")), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("source", KEY),
        schema=place.schema,
    )
    op.create_index(op.f(f"{place.prefix}dag_bundle_id_idx"), place.table("dag"), ["bundle_id"], schema=place.schema)
    op.create_index(op.f(f"{place.prefix}dag_content_id_idx"), place.table("dag"), ["content_id"], schema=place.schema)
    op.create_table(
        place.table("dag_version"),
        sa.Column("dag_id", KEY, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("path", KEY, nullable=False),
        sa.Column("content_id", BIG, sa.ForeignKey(place.column("dag_content.id")), nullable=False),
        sa.Column("source", KEY),
        sa.Column("from_revision", sa.Integer, nullable=False),
        sa.Column("to_revision", sa.Integer),
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}dag_version_bundle_id_to_revision_idx"),
        place.table("dag_version"),
        ["bundle_id", "to_revision"],
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}dag_version_content_id_idx"),
        place.table("dag_version"),
        ["content_id"],
        schema=place.schema,
    )
    op.create_table(
        place.table("edge"),
        sa.Column(
            "content_id", BIG, sa.ForeignKey(place.column("dag_content.id")), primary_key=True, autoincrement=False
        ),
        sa.Column("upstream", KEY, primary_key=True),
        sa.Column("downstream", KEY, primary_key=True),
        schema=place.schema,
        sqlite_with_rowid=False,
    )
    op.create_table(
        place.table("hold"),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("template_hash", KEY, primary_key=True),
        sa.Column("version", KEY, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        schema=place.schema,
    )
    op.create_table(
        place.table("import_error"),
        sa.Column("id", BIG, sa.Identity(), primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("path", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("line", sa.Integer),
        sa.Column("from_revision", sa.Integer, nullable=False),
        sa.Column("to_revision", sa.Integer),
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}import_error_bundle_id_to_revision_idx"),
        place.table("import_error"),
        ["bundle_id", "to_revision"],
        schema=place.schema,
    )
    op.create_table(
        place.table("parse_warning"),
        sa.Column("id", BIG, sa.Identity(), primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("path", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("line", sa.Integer),
        sa.Column("from_revision", sa.Integer, nullable=False),
        sa.Column("to_revision", sa.Integer),
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}parse_warning_bundle_id_to_revision_idx"),
        place.table("parse_warning"),
        ["bundle_id", "to_revision"],
        schema=place.schema,
    )
    op.create_table(
        place.table("pin"),
        sa.Column("dag_id", KEY, primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("from_revision", sa.Integer, primary_key=True),
        sa.Column("to_revision", sa.Integer),
        sa.Column("bundle_version", KEY, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}pin_bundle_id_to_revision_idx"),
        place.table("pin"),
        ["bundle_id", "to_revision"],
        schema=place.schema,
    )
    op.create_table(
        place.table("publication"),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("token", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("rollout", KEY),
        sa.Column("restored", sa.Integer),
        sa.Column("version", KEY, nullable=False),
        sa.Column("template_hash", KEY, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.UniqueConstraint("token"),
        schema=place.schema,
    )
    op.create_table(
        place.table("rollout"),
        sa.Column("id", KEY, primary_key=True),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), nullable=False),
        sa.Column("version", KEY, nullable=False),
        sa.Column("template_hash", KEY, nullable=False),
        sa.Column("state", KEY, nullable=False),
        sa.Column("reason", KEY, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("base_revision", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer),
        sa.Column("subdirs", sa.JSON, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("finished_at", UTC),
        schema=place.schema,
    )
    op.create_index(
        op.f(f"{place.prefix}rollout_bundle_id_idx"), place.table("rollout"), ["bundle_id"], schema=place.schema
    )
    op.create_table(
        place.table("source_file"),
        sa.Column("bundle_id", BIG, sa.ForeignKey(place.column("bundle.id")), primary_key=True),
        sa.Column("subdir", KEY, primary_key=True),
        sa.Column("path", KEY, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("parsed_at", UTC, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
        sa.Column("fingerprint", KEY, nullable=False),
        sa.Column("closure", sa.JSON, nullable=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.Column("loader", KEY, nullable=False),
        sa.Column("duration", sa.Float, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        schema=place.schema,
    )
    op.create_table(
        place.table("task"),
        sa.Column(
            "content_id", BIG, sa.ForeignKey(place.column("dag_content.id")), primary_key=True, autoincrement=False
        ),
        sa.Column("task_id", KEY, primary_key=True),
        sa.Column("group_id", KEY, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("group_position", sa.Integer, nullable=False),
        sa.Column("sha256", KEY, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        schema=place.schema,
    )
    op.create_table(
        place.table("task_group"),
        sa.Column(
            "content_id", BIG, sa.ForeignKey(place.column("dag_content.id")), primary_key=True, autoincrement=False
        ),
        sa.Column("group_id", KEY, primary_key=True),
        sa.Column("parent_id", KEY),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        schema=place.schema,
    )
    op.create_table(
        place.table("parse_run"),
        sa.Column("id", KEY, primary_key=True),
        sa.Column("rollout", KEY, sa.ForeignKey(place.column("rollout.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("attempt", KEY, nullable=False),
        sa.Column("state", KEY, nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("airflow", KEY),
        sa.Column("python", KEY, nullable=False),
        sa.Column("started_at", UTC, nullable=False),
        sa.Column("closed_at", UTC),
        sa.UniqueConstraint("rollout", "subdir", "attempt"),
        schema=place.schema,
    )
    op.create_table(
        place.table("submission"),
        sa.Column("run", KEY, sa.ForeignKey(place.column("parse_run.id")), primary_key=True),
        sa.Column("path", KEY, primary_key=True),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("unchanged", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
        sa.Column("fingerprint", KEY, nullable=False),
        sa.Column("closure", sa.JSON, nullable=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.Column("loader", KEY, nullable=False),
        sa.Column("duration", sa.Float, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        schema=place.schema,
    )


def downgrade() -> None:
    """Drop them, with all that they hold."""
    place = Place(op.get_bind().dialect.name)
    for name in reversed(TABLES):
        op.drop_table(place.table(name), schema=place.schema)
