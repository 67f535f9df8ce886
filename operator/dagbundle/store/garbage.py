"""Collecting what nothing points at any more: old revisions, their content and sources, and rollouts that are over.

Content is shared, so it goes only when no live DAG, kept version, staged submission or remembered file refers to it.
While it is decided nobody may begin to refer to more: on PostgreSQL a lock says so, SQLite has one writer at a time.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.store import bulk, staging
from dagbundle.store.records import Garbage, RolloutState
from dagbundle.store.tables import Tables


def collect(connection: Connection, tables: Tables, *, keep_revisions: int) -> Garbage:
    """See `DagStore.collect_garbage`."""
    if keep_revisions < 1:
        raise errors.UsageError(f"At least the live revision is kept, so keep_revisions cannot be {keep_revisions}")
    staging.hold_content(connection, exclusive=True)
    versions = _end_history(connection, tables, keep_revisions)
    rollouts = _delete_rollouts(connection, tables)
    contents = _delete_contents(connection, tables)
    sources = _delete_sources(connection, tables)
    return Garbage(rollouts=rollouts, versions=versions, contents=contents, sources=sources)


def _end_history(connection: Connection, tables: Tables, keep_revisions: int) -> int:
    """Forget the state at revisions below each bundle's oldest kept one; return how many DAG versions went."""
    bundle = tables.bundle
    oldest = bundle.c.revision - (keep_revisions - 1)
    connection.execute(sa.update(bundle).where(bundle.c.oldest < oldest).values(oldest=oldest))
    for table in (tables.pin, tables.import_error, tables.parse_warning):
        connection.execute(sa.delete(table).where(_ended(table, bundle)))
    gone = connection.execute(sa.delete(tables.dag_version).where(_ended(tables.dag_version, bundle))).rowcount
    publication = tables.publication
    told = [  # since when a DAG or an error is there is read from its revision's row
        sa.exists().where(table.c.bundle_id == publication.c.bundle_id, table.c.from_revision == publication.c.revision)
        for table in (tables.dag_version, tables.import_error, tables.parse_warning)
    ]
    before = sa.select(bundle.c.oldest).where(bundle.c.id == publication.c.bundle_id).scalar_subquery()
    connection.execute(sa.delete(publication).where(publication.c.revision < before, sa.not_(sa.or_(*told))))
    return gone


def _ended(table: sa.Table, bundle: sa.Table) -> sa.ColumnElement[bool]:
    oldest = sa.select(bundle.c.oldest).where(bundle.c.id == table.c.bundle_id).scalar_subquery()
    return table.c.to_revision <= oldest


def _delete_rollouts(connection: Connection, tables: Tables) -> int:
    """Delete finished rollouts but each bundle's newest one, and those that claims would be judged again from.

    The row alone stays of one that a kept revision came from: it says on what, and as whom, that revision's tasks run.
    """
    rollout, run, submission, publication = tables.rollout, tables.parse_run, tables.submission, tables.publication
    is_told = sa.exists().where(publication.c.bundle_id == rollout.c.bundle_id, publication.c.rollout == rollout.c.id)
    has_more = sa.or_(*[sa.exists().where(table.c.rollout == rollout.c.id) for table in (run, tables.job)])
    over = sa.and_(
        rollout.c.state != RolloutState.OPEN,
        ~sa.exists().where(tables.bundle.c.rollout == rollout.c.id),
        ~sa.exists().where(tables.claim.c.rollout == rollout.c.id),
        sa.or_(~is_told, has_more),
    )
    gone = connection.execute(sa.select(rollout.c.id).where(over)).scalars().all()
    if gone:
        runs = sa.select(run.c.id).where(bulk.is_in(connection, run.c.rollout, gone))
        connection.execute(sa.delete(submission).where(submission.c.run.in_(runs)))
        mine = sa.select(tables.job.c.run_id).where(bulk.is_in(connection, tables.job.c.rollout, gone))
        for table in (tables.lookup, tables.run_key):
            connection.execute(sa.delete(table).where(table.c.run_id.in_(mine)))
        for table in (run, tables.job):
            connection.execute(sa.delete(table).where(bulk.is_in(connection, table.c.rollout, gone)))
        connection.execute(sa.delete(rollout).where(bulk.is_in(connection, rollout.c.id, gone), ~is_told))
    return len(gone)


def _delete_contents(connection: Connection, tables: Tables) -> int:
    content = tables.dag_content
    pointed = sa.union(*[sa.select(table.c.content_id) for table in (tables.dag, tables.dag_version)])
    idle = set(connection.execute(sa.select(content.c.sha256).where(content.c.id.not_in(pointed))).scalars())
    if not idle:
        return 0  # as usual: then what is staged and remembered need not be read
    for table in (tables.submission, tables.source_file):
        for outcome in connection.execute(sa.select(table.c.outcome)).scalars():
            idle.difference_update(sha256 for _, sha256 in outcome["dags"])
    if idle:
        numbers = sa.select(content.c.id).where(bulk.is_in(connection, content.c.sha256, idle))
        for part in (tables.edge, tables.task, tables.task_group, tables.asset):
            connection.execute(sa.delete(part).where(part.c.content_id.in_(numbers)))
        connection.execute(sa.delete(content).where(bulk.is_in(connection, content.c.sha256, idle)))
    return len(idle)


def _delete_sources(connection: Connection, tables: Tables) -> int:
    source = tables.source_code
    pointed = sa.union(
        *[sa.select(table.c.source).where(table.c.source.is_not(None)) for table in (tables.dag, tables.dag_version)]
    )
    idle: set[str] = set(
        connection.execute(sa.select(source.c.sha256).where(source.c.sha256.not_in(pointed))).scalars()
    )
    if not idle:
        return 0
    for table in (tables.submission, tables.source_file):
        for sources in connection.execute(sa.select(table.c.sources)).scalars():
            idle.difference_update(_hashes(sources))
    if idle:
        connection.execute(sa.delete(source).where(bulk.is_in(connection, source.c.sha256, idle)))
    return len(idle)


def _hashes(sources: dict[str, str]) -> Collection[str]:
    return sources.values()
