"""The tables as SQLAlchemy Core sees them: one place that says what is stored, why, and under which constraint.

They are built once per dialect, because their place differs: a schema of their own on PostgreSQL, a prefix on
SQLite. Later they live inside Airflow's own database, and must meet none of its names.
Migrations repeat these definitions frozen in time; a test holds the two together.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Any, TypeAlias

import sqlalchemy as sa

SCHEMA = "dagbundle"
PREFIX = "dagbundle_"

_NAMING = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
}

Key = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
"""Text that is compared and sorted: by code point everywhere, as Python and SQLite do, whatever the server's locale."""
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits on both; only this spelling makes a SQLite primary key the row id."""


AnyRow: TypeAlias = "sa.Row[*tuple[Any, ...]]"
"""A row whose columns are known by name."""


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """A moment in UTC. Refuses naive values, and gives back aware ones on SQLite too, which keeps no zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Turn an aware time into what the database keeps."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        utc = value.astimezone(dt.UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> dt.datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Give every time back as aware UTC."""
        if value is None:
            return None
        moment: dt.datetime = value
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


class Tables:
    """All tables in one dialect's place."""

    def __init__(self, dialect: str) -> None:
        self.schema = SCHEMA if dialect == "postgresql" else None
        self.prefix = "" if self.schema else PREFIX
        self.metadata = sa.MetaData(schema=self.schema, naming_convention=_NAMING)
        self._bundles()
        self._contents()
        self._staging()
        self._jobs()
        self._files()
        self._live()

    @property
    def version_table(self) -> str:
        """Name of Alembic's version table, which is ours too."""
        return f"{self.prefix}alembic_version"

    def _table(self, name: str, *items: Any, **options: Any) -> sa.Table:
        return sa.Table(self.prefix + name, self.metadata, *items, **options)

    def _refers(self, target: str, *, ondelete: str | None = None) -> sa.ForeignKey:
        place = f"{self.schema}." if self.schema else self.prefix
        return sa.ForeignKey(f"{place}{target}", ondelete=ondelete)

    def _bundles(self) -> None:
        self.bundle = self._table(
            "bundle",
            sa.Column("id", Big, sa.Identity(), primary_key=True),
            sa.Column("cluster", Key, nullable=False),
            sa.Column("namespace", Key, nullable=False),
            sa.Column("name", Key, nullable=False),
            sa.Column("airflow_name", Key, nullable=False, unique=True),
            sa.Column("revision", sa.Integer, nullable=False),  # every publish compares and swaps it
            sa.Column("version", Key, nullable=False),
            sa.Column("template_hash", Key, nullable=False),
            sa.Column("oldest", sa.Integer, nullable=False),  # revisions below it were collected and cannot be restored
            sa.Column("rollout", Key),  # the newest one: only it may publish
            sa.Column("created_at", UtcDateTime, nullable=False),
            sa.UniqueConstraint("cluster", "namespace", "name"),
        )
        # One row per revision: history, and which version a revision was.
        self.publication = self._table(
            "publication",
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("revision", sa.Integer, primary_key=True),
            sa.Column("token", Key, nullable=False, unique=True),  # tells a repeated call from a competing one
            sa.Column("kind", Key, nullable=False),
            sa.Column("rollout", Key),
            sa.Column("restored", sa.Integer),
            sa.Column("version", Key, nullable=False),
            sa.Column("template_hash", Key, nullable=False),
            sa.Column("counts", sa.JSON, nullable=False),
            sa.Column("created_at", UtcDateTime, nullable=False),
        )
        # How far a target (a copy of what is live elsewhere in this database) has followed each bundle.
        self.target = self._table(
            "target",
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("name", Key, primary_key=True),
            sa.Column("revision", sa.Integer, nullable=False),
        )
        # Somebody asked for a bundle, or some of its files, to be parsed again, and nothing has started since.
        self.parse_request = self._table(
            "parse_request",
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("requested_at", UtcDateTime, nullable=False),
            sa.Column("files", sa.JSON(none_as_null=True)),  # their paths; NULL for the whole bundle
        )
        self.hold = self._table(
            "hold",
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("template_hash", Key, primary_key=True),
            sa.Column("version", Key, nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("created_at", UtcDateTime, nullable=False),
        )

    def _contents(self) -> None:
        # Immutable rows, addressed by SHA-256. The parts hang on the row's number, which is short and sequential.
        self.dag_content = self._table(
            "dag_content",
            sa.Column("id", Big, sa.Identity(), primary_key=True),
            sa.Column("sha256", Key, nullable=False, unique=True),
            sa.Column("dag_id", Key, nullable=False),
            sa.Column("dag_hash", Key, nullable=False),
            sa.Column("relative_fileloc", sa.Text, nullable=False),
            sa.Column("task_count", sa.Integer, nullable=False),
            sa.Column("header", sa.JSON, nullable=False),
        )
        self.task_group = self._table(
            "task_group",
            sa.Column("content_id", Big, self._refers("dag_content.id"), primary_key=True, autoincrement=False),
            sa.Column("group_id", Key, primary_key=True),
            sa.Column("parent_id", Key),
            sa.Column("position", sa.Integer, nullable=False),
            sa.Column("data", sa.JSON, nullable=False),
        )
        self.task = self._table(
            "task",
            sa.Column("content_id", Big, self._refers("dag_content.id"), primary_key=True, autoincrement=False),
            sa.Column("task_id", Key, primary_key=True),
            sa.Column("group_id", Key, nullable=False),
            sa.Column("position", sa.Integer, nullable=False),
            sa.Column("group_position", sa.Integer, nullable=False),
            sa.Column("sha256", Key, nullable=False),
            sa.Column("data", sa.JSON, nullable=False),
        )
        self.edge = self._table(
            "edge",
            sa.Column("content_id", Big, self._refers("dag_content.id"), primary_key=True, autoincrement=False),
            sa.Column("upstream", Key, primary_key=True),
            sa.Column("downstream", Key, primary_key=True),
            sqlite_with_rowid=False,  # the key is the whole row: one B-tree instead of two
        )
        # What a content says of Airflow's assets, beyond their names.
        self.asset = self._table(
            "asset",
            sa.Column("content_id", Big, self._refers("dag_content.id"), primary_key=True, autoincrement=False),
            sa.Column("key", Key, primary_key=True),
            sa.Column("digest", Key, nullable=False),
            sa.Column("owns", sa.Boolean, nullable=False),
            sa.Column("document", sa.JSON, nullable=False),
            sa.Index(None, "key"),
        )
        self.source_code = self._table(
            "source_code",
            sa.Column("sha256", Key, primary_key=True),
            sa.Column("text", sa.Text, nullable=False),
        )

    def _staging(self) -> None:
        self.rollout = self._table(
            "rollout",
            sa.Column("id", Key, primary_key=True),
            sa.Column("bundle_id", Big, self._refers("bundle.id"), nullable=False, index=True),
            sa.Column("version", Key, nullable=False),
            sa.Column("template_hash", Key, nullable=False),
            sa.Column("state", Key, nullable=False),
            sa.Column("reason", Key, nullable=False),
            sa.Column("message", sa.Text, nullable=False),
            sa.Column("base_revision", sa.Integer, nullable=False),
            sa.Column("revision", sa.Integer),
            sa.Column("subdirs", sa.JSON, nullable=False),
            sa.Column("spec", sa.JSON, nullable=False),
            sa.Column("created_at", UtcDateTime, nullable=False),
            sa.Column("finished_at", UtcDateTime),
        )
        self.parse_run = self._table(
            "parse_run",
            sa.Column("id", Key, primary_key=True),
            sa.Column("rollout", Key, self._refers("rollout.id"), nullable=False),
            sa.Column("subdir", Key, nullable=False),
            sa.Column("attempt", Key, nullable=False),
            sa.Column("state", Key, nullable=False),
            sa.Column("failure", sa.Text, nullable=False),
            sa.Column("files", sa.Integer, nullable=False),
            sa.Column("airflow", Key),
            sa.Column("python", Key, nullable=False),
            sa.Column("started_at", UtcDateTime, nullable=False),
            sa.Column("closed_at", UtcDateTime),
            sa.Column("shard", sa.Integer, nullable=False),  # of its subdir, counted from 0; alone it is 0
            sa.Column(
                "dags", sa.Integer, nullable=False
            ),  # counted when it closes, for who only wants to know how many
            sa.Column("import_errors", sa.Integer, nullable=False),
            sa.Column("ingestion", sa.JSON(none_as_null=True)),  # `records.Ingestion`, where it was reported
            sa.UniqueConstraint("rollout", "subdir", "shard", "attempt"),
        )

    def _jobs(self) -> None:
        # Which Kubernetes Job a subdir's run is: whose reports count, and under which identity. None for local runs.
        self.job = self._table(
            "job",
            sa.Column("run_id", Key, primary_key=True),  # what a parser asks by; nobody can guess it
            sa.Column("rollout", Key, self._refers("rollout.id"), nullable=False),
            sa.Column("subdir", Key, nullable=False),
            sa.Column("shards", sa.Integer, nullable=False),
            sa.Column("namespace", Key, nullable=False),
            sa.Column("service_account", Key, nullable=False),
            sa.Column("name", Key, nullable=False),
            sa.Column("uid", Key, nullable=False),
            sa.Column("image_id", Key, nullable=False),
            sa.Column("request", sa.JSON, nullable=False),
            sa.Column("created_at", UtcDateTime, nullable=False),
            sa.UniqueConstraint("rollout", "subdir"),
        )
        # What was asked for while a run's files were parsed, with a keyed digest of the answer and never the answer.
        self.lookup = self._table(
            "lookup",
            sa.Column("run_id", Key, self._refers("job.run_id"), primary_key=True),
            sa.Column("kind", Key, primary_key=True),
            sa.Column("key", Key, primary_key=True),
            sa.Column("digest", Key),  # of the first answer in the run; NULL for none
        )
        # What the parser of a pod made before any DAG file ran, as a digest: without it the pod's token is of no use.
        self.run_key = self._table(
            "run_key",
            sa.Column("run_id", Key, self._refers("job.run_id"), primary_key=True),
            sa.Column("attempt", Key, primary_key=True),
            sa.Column("digest", Key, nullable=False),
        )
        self.digest_key = self._table(  # one row: without it a digest of a guess says nothing
            "digest_key",
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("key", Key, nullable=False),
        )

    def _files(self) -> None:
        self.submission = self._table(
            "submission",
            sa.Column("run", Key, self._refers("parse_run.id"), primary_key=True),
            sa.Column("path", Key, primary_key=True),
            sa.Column("digest", Key, nullable=False),  # over the whole submission: a repeated one is told from another
            sa.Column("unchanged", sa.Boolean, nullable=False),
            *_remembered(),
        )
        # What is remembered of a file's last published parse, so that it can be skipped.
        self.source_file = self._table(
            "source_file",
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("subdir", Key, primary_key=True),
            sa.Column("path", Key, primary_key=True),
            sa.Column("revision", sa.Integer, nullable=False),  # at which it was learnt; a rollback below it forgets it
            sa.Column("parsed_at", UtcDateTime, nullable=False),
            *_remembered(),
        )

    def _live(self) -> None:
        # The primary key is the ownership constraint: a dag_id belongs to one bundle, subdir and file.
        self.dag = self._table(
            "dag",
            sa.Column("dag_id", Key, primary_key=True),
            sa.Column("bundle_id", Big, self._refers("bundle.id"), nullable=False, index=True),
            sa.Column("subdir", Key, nullable=False),
            sa.Column("path", Key, nullable=False),
            sa.Column("content_id", Big, self._refers("dag_content.id"), nullable=False, index=True),
            sa.Column("number", sa.Integer, nullable=False),
            sa.Column("source", Key),
        )
        self.dag_version = self._table(
            "dag_version",
            sa.Column("dag_id", Key, primary_key=True),
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("bundle_id", Big, self._refers("bundle.id"), nullable=False),
            sa.Column("subdir", Key, nullable=False),
            sa.Column("path", Key, nullable=False),
            sa.Column("content_id", Big, self._refers("dag_content.id"), nullable=False, index=True),
            sa.Column("source", Key),
            sa.Column("from_revision", sa.Integer, nullable=False),
            sa.Column("to_revision", sa.Integer),
            sa.Index(None, "bundle_id", "to_revision"),
        )
        # A DAG runs the bundle's version unless it is pinned here to an older one: its file is broken (kept), or its
        # subdir was held back. So a publish that changes no DAG writes no row per DAG, and still a rollback knows
        # which code each DAG ran at any revision.
        self.pin = self._table(
            "pin",
            sa.Column("dag_id", Key, primary_key=True),
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("from_revision", sa.Integer, primary_key=True),
            sa.Column("to_revision", sa.Integer),
            sa.Column("bundle_version", Key, nullable=False),
            sa.Column("kept", sa.Boolean, nullable=False),
            sa.Index(None, "bundle_id", "to_revision"),
        )
        # Whose an asset is that some live DAG defines: the primary key is the ownership constraint.
        self.asset_owner = self._table(
            "asset_owner",
            sa.Column("key", Key, primary_key=True),
            sa.Column("bundle_id", Big, self._refers("bundle.id"), nullable=False, index=True),
            sa.Column("digest", Key, nullable=False),
            sa.Column("document", sa.JSON, nullable=False),
        )
        self.import_error = self._table("import_error", *self._finding())
        self.parse_warning = self._table("parse_warning", *self._finding())
        self.claim = self._table(
            "claim",
            sa.Column("bundle_id", Big, self._refers("bundle.id"), primary_key=True),
            sa.Column("dag_id", Key, primary_key=True),  # or `asset:KEY:DIGEST`
            sa.Column("subdir", Key, nullable=False),
            sa.Column("path", Key, nullable=False),
            sa.Column("rollout", Key, nullable=False),
            sa.Index(None, "dag_id"),
        )

    def _finding(self) -> list[Any]:
        return [
            sa.Column("id", Big, sa.Identity(), primary_key=True),
            sa.Column("bundle_id", Big, self._refers("bundle.id"), nullable=False),
            sa.Column("subdir", Key, nullable=False),
            sa.Column("path", Key, nullable=False),
            sa.Column("kind", Key, nullable=False),
            sa.Column("message", sa.Text, nullable=False),
            sa.Column("line", sa.Integer),
            sa.Column("from_revision", sa.Integer, nullable=False),
            sa.Column("to_revision", sa.Integer),
            sa.Index(None, "bundle_id", "to_revision"),
        ]


def _remembered() -> list[sa.Column[Any]]:
    """What a submission says and a remembered file repeats: the one is copied into the other inside the database."""
    return [
        sa.Column("outcome", sa.JSON, nullable=False),
        sa.Column("fingerprint", Key, nullable=False),
        sa.Column("closure", sa.JSON, nullable=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.Column("loader", Key, nullable=False),
        sa.Column("duration", sa.Float, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
    ]


REMEMBERED = tuple(column.name for column in _remembered())


@functools.cache
def tables_of(dialect: str) -> Tables:
    """Return the tables for `postgresql` or `sqlite`."""
    return Tables(dialect)
