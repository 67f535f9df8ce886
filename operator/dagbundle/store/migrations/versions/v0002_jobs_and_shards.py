"""Runs that are Kubernetes Jobs: which Job a subdir's run is, and several shards of one subdir."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import SchemaItem

from dagbundle.store.migrations.place import Place

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
UTC = sa.DateTime(timezone=True)
OLD_COLUMNS = "id, rollout, subdir, attempt, state, failure, files, airflow, python, started_at, closed_at"
_LOST = "The tables were downgraded to a version that knows no shards: what they reported is gone"


def upgrade() -> None:
    """Add the Jobs, and shards and counts to the runs: every run so far is the only shard of its subdir."""
    place = Place(op.get_bind().dialect.name)
    op.create_table(
        place.table("job"),
        sa.Column("run_id", KEY, primary_key=True),
        sa.Column("rollout", KEY, sa.ForeignKey(place.column("rollout.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("shards", sa.Integer, nullable=False),
        sa.Column("namespace", KEY, nullable=False),
        sa.Column("service_account", KEY, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("uid", KEY, nullable=False),
        sa.Column("image_id", KEY, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.UniqueConstraint("rollout", "subdir"),
        schema=place.schema,
    )
    if place.schema is None:
        _make_runs_anew(place, _new_runs(), f"{OLD_COLUMNS}, 0, 0, 0")
        return
    for name in ("shard", "dags", "import_errors"):
        op.add_column("parse_run", sa.Column(name, sa.Integer, nullable=False, server_default="0"), schema=place.schema)
        op.alter_column("parse_run", name, server_default=None, schema=place.schema)
    op.drop_constraint(op.f("parse_run_rollout_subdir_attempt_key"), "parse_run", type_="unique", schema=place.schema)
    op.create_unique_constraint(
        op.f("parse_run_rollout_subdir_shard_attempt_key"),
        "parse_run",
        ["rollout", "subdir", "shard", "attempt"],
        schema=place.schema,
    )


def downgrade() -> None:
    """Take both away. A subdir of several shards has no place there: its run then counts as failed, never as whole."""
    place = Place(op.get_bind().dialect.name)
    run = sa.table(
        place.table("parse_run"),
        *[sa.column(name) for name in ("id", "rollout", "subdir", "shard", "attempt", "state", "failure", "files")],
        schema=place.schema,
    )
    submission = sa.table(place.table("submission"), sa.column("run"), schema=place.schema)
    other = run.alias()
    sharded = sa.exists().where(other.c.rollout == run.c.rollout, other.c.subdir == run.c.subdir, other.c.shard > 0)
    op.execute(sa.delete(submission).where(submission.c.run.in_(sa.select(run.c.id).where(sharded))))
    op.execute(sa.update(run).where(sharded, run.c.state != "Fenced").values(state="Failed", failure=_LOST, files=0))
    op.execute(sa.delete(run).where(run.c.shard > 0))
    if place.schema is None:
        _make_runs_anew(place, [*_old_runs(), sa.UniqueConstraint("rollout", "subdir", "attempt")], OLD_COLUMNS)
    else:
        op.drop_constraint(
            op.f("parse_run_rollout_subdir_shard_attempt_key"), "parse_run", type_="unique", schema=place.schema
        )
        for name in ("shard", "dags", "import_errors"):
            op.drop_column("parse_run", name, schema=place.schema)
        op.create_unique_constraint(
            op.f("parse_run_rollout_subdir_attempt_key"),
            "parse_run",
            ["rollout", "subdir", "attempt"],
            schema=place.schema,
        )
    op.drop_table(place.table("job"), schema=place.schema)


def _old_runs() -> list[SchemaItem]:
    return [
        sa.Column("id", KEY, primary_key=True),
        sa.Column("rollout", KEY, sa.ForeignKey(Place("sqlite").column("rollout.id")), nullable=False),
        sa.Column("subdir", KEY, nullable=False),
        sa.Column("attempt", KEY, nullable=False),
        sa.Column("state", KEY, nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("airflow", KEY),
        sa.Column("python", KEY, nullable=False),
        sa.Column("started_at", UTC, nullable=False),
        sa.Column("closed_at", UTC),
    ]


def _new_runs() -> list[SchemaItem]:
    return [
        *_old_runs(),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("dags", sa.Integer, nullable=False),
        sa.Column("import_errors", sa.Integer, nullable=False),
        sa.UniqueConstraint("rollout", "subdir", "shard", "attempt"),
    ]


def _make_runs_anew(place: Place, items: Sequence[SchemaItem], values: str) -> None:
    """Give SQLite's table another constraint, which only a new table of the same name can have.

    Submissions refer to its rows by that name: they are looked for when the transaction commits, not in between.
    """
    name = place.table("parse_run")
    op.execute("PRAGMA defer_foreign_keys=ON")
    op.execute(f"CREATE TEMPORARY TABLE runs_before AS SELECT {values} FROM {name}")  # noqa: S608 - constants
    op.drop_table(name)
    op.create_table(name, *items)
    op.execute(f"INSERT INTO {name} SELECT * FROM runs_before")  # noqa: S608 - likewise
    op.execute("DROP TABLE runs_before")
