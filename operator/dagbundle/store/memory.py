"""What is remembered of files between rollouts, so that an unchanged one is not parsed again.

The memory is copied from the submissions inside the database, when they are published: what was refused is not
remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


Sources = Mapping[tuple[str, str], Mapping[str, str]]
"""The hashes of source texts by (subdir, path) of a file and then by file location: in an archive there are several."""


def staged(
    connection: Connection, tables: Tables, rollout_id: str, subdirs: Collection[str], moved: Collection[str]
) -> tuple[Sources, set[Finding]]:
    """Return the sources of the staged files that were parsed, and of the `moved` ones; and the warnings of all."""
    run, submission = tables.parse_run, tables.submission
    rows = connection.execute(
        sa.select(
            run.c.subdir, submission.c.path, submission.c.unchanged, submission.c.sources, submission.c.outcome
        ).where(
            *_staged(connection, tables, rollout_id, subdirs),
            sa.or_(
                sa.not_(submission.c.unchanged),
                bulk.is_in(connection, submission.c.path, moved),
                sa.cast(submission.c.outcome, sa.Text).not_like(_NO_WARNINGS),
            ),
        )
    ).all()
    return (
        {(row.subdir, row.path): row.sources for row in rows if not row.unchanged or row.path in moved},
        {Finding(row.subdir, row.path, *item) for row in rows for item in row.outcome["warnings"]},
    )


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
    found = _staged(connection, tables, rollout.id, subdirs)
    # asked for all at once: file by file takes five times as long
    listed = sa.select(run.c.subdir, submission.c.path).where(*found)
    connection.execute(
        sa.delete(table).where(
            table.c.bundle_id == bundle_id,
            sa.or_(
                sa.and_(
                    bulk.is_in(connection, table.c.subdir, subdirs),
                    sa.tuple_(table.c.subdir, table.c.path).not_in(listed),
                ),
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
        ).where(*found, sa.not_(submission.c.unchanged)),
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
