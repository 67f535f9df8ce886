"""What is remembered of files between rollouts, so that an unchanged one is not parsed again.

The memory is copied from the submissions inside the database, when they are published: what was refused is not
remembered.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.rollout.model import BundleKey, FileOutcome, KnownFile
from dagbundle.store import bulk, bundles, staging
from dagbundle.store.records import RolloutRow, RunState
from dagbundle.store.state import Finding
from dagbundle.store.tables import REMEMBERED, Tables

_NO_WARNINGS = '%"warnings":[]}'
"""How the canonical text of an outcome without warnings ends (`staging.outcome_document`, keys sorted)."""


def known_files(connection: Connection, tables: Tables, bundle: BundleKey, subdir: str) -> dict[str, KnownFile]:
    """See `DagStore.known_files`."""
    table, owner = tables.source_file, tables.bundle
    rows = connection.execute(
        sa.select(table.c.path, table.c.fingerprint, table.c.closure, table.c.parsed_at)
        .join(owner, owner.c.id == table.c.bundle_id)
        .where(bundles.matches(tables, bundle), table.c.subdir == subdir)
    )
    return {row.path: KnownFile(row.path, row.fingerprint, row.closure, row.parsed_at.timestamp()) for row in rows}


def remembered(connection: Connection, tables: Tables, bundle: BundleKey, subdir: str) -> dict[str, FileOutcome]:
    """See `DagReader.remembered`."""
    table, owner = tables.source_file, tables.bundle
    rows = connection.execute(
        sa.select(table.c.path, table.c.outcome, table.c.duration)
        .join(owner, owner.c.id == table.c.bundle_id)
        .where(bundles.matches(tables, bundle), table.c.subdir == subdir)
    )
    return {
        row.path: staging.read_outcome(row.path, row.outcome, unchanged=True, duration=row.duration) for row in rows
    }


def sources(
    connection: Connection, tables: Tables, rollout_id: str, subdirs: Collection[str], moved: Collection[str]
) -> dict[tuple[str, str], dict[str, str]]:
    """Return the hashes of the source texts behind staged files, by (subdir, path) and then by file location.

    Those are the files that were parsed, and the `moved` ones.
    """
    run, submission = tables.parse_run, tables.submission
    rows = connection.execute(
        sa.select(run.c.subdir, submission.c.path, submission.c.sources).where(
            *_staged(connection, tables, rollout_id, subdirs),
            sa.or_(sa.not_(submission.c.unchanged), bulk.is_in(connection, submission.c.path, moved)),
        )
    )
    return {(row.subdir, row.path): row.sources for row in rows}


def warnings(connection: Connection, tables: Tables, rollout_id: str, subdirs: Collection[str]) -> set[Finding]:
    """Return the warnings of the staged files."""
    run, submission = tables.parse_run, tables.submission
    rows = connection.execute(
        sa.select(run.c.subdir, submission.c.path, submission.c.outcome).where(
            *_staged(connection, tables, rollout_id, subdirs),
            sa.cast(submission.c.outcome, sa.Text).not_like(_NO_WARNINGS),
        )
    )
    return {Finding(row.subdir, row.path, *item) for row in rows for item in row.outcome["warnings"]}


def remember(
    connection: Connection,
    tables: Tables,
    bundle_id: int,
    rollout: RolloutRow,
    *,
    revision: int,
    subdirs: Collection[str],
) -> None:
    """Remember the published files that were parsed, and forget the ones that are gone."""
    run, submission, table = tables.parse_run, tables.submission, tables.source_file
    staged = _staged(connection, tables, rollout.id, subdirs)
    listed = sa.exists().where(*staged, run.c.subdir == table.c.subdir, submission.c.path == table.c.path)
    connection.execute(
        sa.delete(table).where(
            table.c.bundle_id == bundle_id,
            sa.or_(
                sa.and_(bulk.is_in(connection, table.c.subdir, subdirs), sa.not_(listed)),
                sa.not_(bulk.is_in(connection, table.c.subdir, rollout.subdirs)),
            ),
        )
    )
    columns: list[Any] = [submission.c[name] for name in REMEMBERED]
    _upsert(
        connection,
        table,
        ["bundle_id", "subdir", "path", "revision", "parsed_at", *REMEMBERED],
        sa.select(
            sa.literal(bundle_id), run.c.subdir, submission.c.path, sa.literal(revision), run.c.started_at, *columns
        ).where(*staged, sa.not_(submission.c.unchanged)),
    )


def forget_after(connection: Connection, tables: Tables, bundle_id: int, revision: int) -> None:
    """Forget what was learnt after a revision that is being restored."""
    table = tables.source_file
    connection.execute(sa.delete(table).where(table.c.bundle_id == bundle_id, table.c.revision > revision))


def _staged(
    connection: Connection, tables: Tables, rollout_id: str, subdirs: Collection[str]
) -> list[sa.ColumnElement[bool]]:
    run, submission = tables.parse_run, tables.submission
    return [
        submission.c.run == run.c.id,
        run.c.rollout == rollout_id,
        run.c.state == RunState.CLOSED,
        bulk.is_in(connection, run.c.subdir, subdirs),
    ]


def _upsert(connection: Connection, table: sa.Table, columns: list[str], rows: sa.Select[Any]) -> None:
    keys = [column.name for column in table.primary_key]
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert  # noqa: PLC0415 - only one dialect's is ever needed
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # noqa: PLC0415 - likewise
    statement = insert(table).from_select(columns, rows)
    settings = {name: statement.excluded[name] for name in columns if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=settings))
