"""What is remembered of files between rollouts, so that an unchanged one is not parsed again.

The memory is copied from the submissions inside the database, when they are published: what was refused is not
remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.rollout import budgets
from dagbundle.rollout.model import BundleKey, FileOutcome, KnownFile
from dagbundle.store import bulk, bundles, staging, texts
from dagbundle.store.records import RolloutRow, RunState
from dagbundle.store.state import Finding
from dagbundle.store.tables import REMEMBERED, Tables

PAGE_BYTES = 4 << 20
"""What a page of remembered files takes in memory, roughly; it may be over it by one file."""
_FILE_BYTES = 300
_ENTRY_BYTES = 250
_ROWS = 8
_NO_WARNINGS = '%"warnings":[]}'
"""How the canonical text of an outcome without warnings ends (`staging.outcome_document`, keys sorted)."""


@dataclass(frozen=True, slots=True)
class KnownPage:
    """Some of what is remembered of a subdir's files.

    Attributes:
        files: In the order of their paths.
        last: The last path.
        more: Whether others may follow.
        counted: What this page and the ones before have taken of the subdir's bounds.
    """

    files: tuple[KnownFile, ...]
    last: str
    more: bool
    counted: budgets.Known


def known_files(connection: Connection, tables: Tables, bundle: BundleKey, subdir: str) -> dict[str, KnownFile]:
    """See `DagStore.known_files`."""
    return {file.path: file for file in _known(connection, tables, bundle, subdir, after="", counted=budgets.Known())}


def known_page(
    connection: Connection, tables: Tables, bundle: BundleKey, subdir: str, *, after: str, counted: budgets.Known
) -> KnownPage:
    """See `DagReader.known_page`."""
    page: list[KnownFile] = []
    counted = counted.copy()  # a read that is repeated counts once
    size = 0
    for file in _known(connection, tables, bundle, subdir, after=after, counted=counted):
        page.append(file)
        size += _FILE_BYTES + sum(len(path) + _ENTRY_BYTES for path in file.closure)
        if size >= PAGE_BYTES:
            return KnownPage(tuple(page), file.path, more=True, counted=counted)
    return KnownPage(tuple(page), page[-1].path if page else after, more=False, counted=counted)


def knows_files(connection: Connection, tables: Tables, bundle: BundleKey, subdir: str) -> bool:
    """See `DagReader.knows_files`."""
    table, owner = tables.source_file, tables.bundle
    known = sa.select(table.c.path).join(owner, owner.c.id == table.c.bundle_id)
    return bool(
        connection.execute(
            sa.select(known.where(bundles.matches(tables, bundle), table.c.subdir == subdir).exists())
        ).scalar()
    )


def _known(
    connection: Connection, tables: Tables, bundle: BundleKey, subdir: str, *, after: str, counted: budgets.Known
) -> Iterator[KnownFile]:
    """Yield what is remembered of files, by path; a few are in memory at a time.

    A file whose closure cannot be used, or that is over the subdir's bounds, has no closure: it is parsed again.
    """
    table, owner = tables.source_file, tables.bundle
    text = sa.cast(table.c.closure, sa.Text)
    statement = (
        sa.select(
            table.c.path,
            table.c.fingerprint,
            sa.case((sa.func.length(text) <= budgets.CLOSURE_BYTES, text), else_="{}").label("closure"),
            texts.size_of(table.c.outcome).label("texts"),
            table.c.parsed_at,
        )
        .join(owner, owner.c.id == table.c.bundle_id)
        .where(bundles.matches(tables, bundle), table.c.subdir == subdir, table.c.path > after)
        .order_by(table.c.path)
    )
    with connection.execute(statement, execution_options={"yield_per": _ROWS}) as rows:
        for row in rows:
            closure = budgets.flat(row.closure) or {}
            if not (counted.takes_texts(row.texts) and counted.takes(len(row.closure), len(closure))):
                closure = {}
            yield KnownFile(row.path, row.fingerprint, closure, row.parsed_at.timestamp())


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
    dialect = connection.dialect.name
    rows = connection.execute(
        _select_staged(tables, dialect),
        {**_of(dialect, rollout_id, subdirs), "moved": bulk.among(dialect, moved)},
    ).all()
    return (
        {(row.subdir, row.path): row.sources for row in rows if not row.unchanged or row.path in moved},
        {Finding(row.subdir, row.path, *item) for row in rows for item in row.outcome["warnings"]},
    )


@functools.cache
def _select_staged(tables: Tables, dialect: str) -> sa.Select[Any]:
    run, submission = tables.parse_run, tables.submission
    return sa.select(
        run.c.subdir, submission.c.path, submission.c.unchanged, submission.c.sources, submission.c.outcome
    ).where(
        *_staged(tables, dialect),
        sa.or_(
            sa.not_(submission.c.unchanged),
            bulk.is_among(dialect, submission.c.path, "moved"),
            sa.cast(submission.c.outcome, sa.Text).not_like(_NO_WARNINGS),
        ),
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
    dialect = connection.dialect.name
    known = {
        **_of(dialect, rollout.id, subdirs),
        "bundle_id": bundle_id,
        "revision": revision,
        "all_subdirs": bulk.among(dialect, rollout.subdirs),
    }
    for statement in _renew(tables, dialect):
        connection.execute(statement, known)


@functools.cache
def _renew(tables: Tables, dialect: str) -> tuple[sa.Delete, Any]:
    run, submission, table = tables.parse_run, tables.submission, tables.source_file
    bundle_id = sa.bindparam("bundle_id", type_=sa.BigInteger)
    found = _staged(tables, dialect)
    # asked for all at once: file by file takes five times as long
    listed = sa.select(run.c.subdir, submission.c.path).where(*found)
    forget = sa.delete(table).where(
        table.c.bundle_id == bundle_id,
        sa.or_(
            sa.and_(
                bulk.is_among(dialect, table.c.subdir, "subdirs"),
                sa.tuple_(table.c.subdir, table.c.path).not_in(listed),
            ),
            sa.not_(bulk.is_among(dialect, table.c.subdir, "all_subdirs")),
        ),
    )
    columns: list[Any] = [submission.c[name] for name in REMEMBERED]
    revision = sa.bindparam("revision", type_=sa.Integer)
    renew = _upsert(
        dialect,
        table,
        ["bundle_id", "subdir", "path", "revision", "parsed_at", *REMEMBERED],
        sa.select(bundle_id, run.c.subdir, submission.c.path, revision, run.c.started_at, *columns).where(
            *found,
            sa.not_(submission.c.unchanged),
            # a rollout that is published again, because a pass amended it, remembers only what is another one
            ~sa.exists().where(
                table.c.bundle_id == bundle_id,
                table.c.subdir == run.c.subdir,
                table.c.path == submission.c.path,
                table.c.parsed_at == run.c.started_at,
            ),
        ),
    )
    return forget, renew


def forget_after(connection: Connection, tables: Tables, bundle_id: int, revision: int) -> None:
    """Forget what was learnt after a revision that is being restored."""
    table = tables.source_file
    connection.execute(sa.delete(table).where(table.c.bundle_id == bundle_id, table.c.revision > revision))


def _of(dialect: str, rollout_id: str, subdirs: Collection[str]) -> dict[str, Any]:
    """Return the parameters of `_staged`."""
    return {"rollout": rollout_id, "subdirs": bulk.among(dialect, subdirs)}


def _staged(tables: Tables, dialect: str) -> list[sa.ColumnElement[bool]]:
    run, submission = tables.parse_run, tables.submission
    return [
        submission.c.run == run.c.id,
        run.c.rollout == sa.bindparam("rollout", type_=sa.Text),
        run.c.state == RunState.CLOSED,
        bulk.is_among(dialect, run.c.subdir, "subdirs"),
    ]


def _upsert(dialect: str, table: sa.Table, columns: list[str], rows: sa.Select[Any]) -> Any:
    keys = [column.name for column in table.primary_key]
    statement = bulk.dialect_insert(dialect, table).from_select(columns, rows)
    settings = {name: statement.excluded[name] for name in columns if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=settings)
