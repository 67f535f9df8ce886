"""Lists in pages: every list that grows with use has a limit and a cursor.

A cursor is the last row's key, so a page costs the same wherever it starts, and what comes or goes between two pages
shifts none of the others.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import BundleKey, ParseWarning, Problem
from dagbundle.store import bulk, bundles, reading, state
from dagbundle.store.bundles import key_of
from dagbundle.store.records import (
    BundleRow,
    DagRow,
    DagVersionRow,
    ImportErrorRow,
    Page,
    PublicationKind,
    PublicationRow,
    TaskRow,
    WaitingClaim,
    WarningRow,
)
from dagbundle.store.tables import Tables

T = TypeVar("T")

MAX_LIMIT = 1000
"""Rows of a page at most."""


def list_bundles(connection: Connection, tables: Tables, *, limit: int, cursor: str | None) -> Page[BundleRow]:
    """See `DagStore.list_bundles`."""
    bundle, live, error, hold = tables.bundle, tables.dag, tables.import_error, tables.hold
    statement = sa.select(
        bundle,
        _count(live, live.c.bundle_id == bundle.c.id).label("dags"),
        _count(error, error.c.bundle_id == bundle.c.id, error.c.to_revision.is_(None)).label("import_errors"),
        _count(hold, hold.c.bundle_id == bundle.c.id).label("holds"),
    )
    return _page(
        connection,
        statement,
        [bundle.c.cluster, bundle.c.namespace, bundle.c.name],
        limit=limit,
        cursor=cursor,
        build=lambda row: BundleRow(
            bundle=key_of(row),
            airflow_name=row.airflow_name,
            revision=row.revision,
            version=row.version,
            template_hash=row.template_hash,
            dags=row.dags,
            import_errors=row.import_errors,
            holds=row.holds,
        ),
    )


def list_dags(
    connection: Connection, tables: Tables, bundle: BundleKey | None, *, limit: int, cursor: str | None
) -> Page[DagRow]:
    """See `DagStore.list_dags`."""
    live, content, owner, pin = tables.dag, tables.dag_content, tables.bundle, tables.pin
    statement = (
        sa.select(
            live.c.dag_id,
            live.c.subdir,
            live.c.path,
            live.c.number,
            content.c.sha256,
            owner.c.cluster,
            owner.c.namespace,
            owner.c.name,
            owner.c.version,
            pin.c.bundle_version,
            pin.c.kept,
        )
        .join(content, content.c.id == live.c.content_id)
        .join(owner, owner.c.id == live.c.bundle_id)
        .outerjoin(pin, state.pin_of(live, pin))
    )
    return _page(
        connection,
        _of_bundle(connection, tables, statement, live, bundle),
        [live.c.dag_id],
        limit=limit,
        cursor=cursor,
        build=lambda row: DagRow(
            dag_id=row.dag_id,
            bundle=key_of(row),
            subdir=row.subdir,
            path=row.path,
            sha256=row.sha256,
            number=row.number,
            bundle_version=row.bundle_version or row.version,
            kept=bool(row.kept),
        ),
    )


def list_versions(
    connection: Connection, tables: Tables, dag_id: str, *, limit: int, cursor: str | None
) -> Page[DagVersionRow]:
    """See `DagStore.list_versions`."""
    version, content, owner, publication = tables.dag_version, tables.dag_content, tables.bundle, tables.publication
    statement = (
        sa.select(
            version,
            content.c.sha256,
            owner.c.cluster,
            owner.c.namespace,
            owner.c.name,
            publication.c.version,
            publication.c.created_at,
        )
        .join(content, content.c.id == version.c.content_id)
        .join(owner, owner.c.id == version.c.bundle_id)
        .join(publication, _published_at(publication, version))
        .where(version.c.dag_id == dag_id)
    )
    page = _page(
        connection,
        statement,
        [version.c.number],
        limit=limit,
        cursor=cursor,
        newest_first=True,
        build=lambda row: DagVersionRow(
            dag_id=row.dag_id,
            number=row.number,
            bundle=key_of(row),
            subdir=row.subdir,
            path=row.path,
            sha256=row.sha256,
            bundle_version=row.version,
            from_revision=row.from_revision,
            to_revision=row.to_revision,
            created_at=row.created_at,
        ),
    )
    if not page.items and not _was_ever(connection, tables, dag_id):
        raise errors.NotFoundError(
            f"There is no DAG {dag_id}, and no revision that is kept had one",
            hint="`dagbundle get dags` lists the live DAGs",
        )
    return page


def _was_ever(connection: Connection, tables: Tables, dag_id: str) -> bool:
    version = tables.dag_version
    return (
        connection.execute(sa.select(version.c.number).where(version.c.dag_id == dag_id).limit(1)).first() is not None
    )


def list_errors(
    connection: Connection, tables: Tables, bundle: BundleKey | None, *, limit: int, cursor: str | None
) -> Page[ImportErrorRow]:
    """See `DagStore.list_errors`."""
    return _page(
        connection,
        _findings(connection, tables, tables.import_error, bundle),
        [tables.import_error.c.id],
        limit=limit,
        cursor=cursor,
        build=lambda row: ImportErrorRow(
            bundle=key_of(row),
            subdir=row.subdir,
            path=row.path,
            problem=Problem(row.kind, row.message, row.line),
            since_revision=row.from_revision,
            since=row.since,
        ),
    )


def list_warnings(
    connection: Connection, tables: Tables, bundle: BundleKey | None, *, limit: int, cursor: str | None
) -> Page[WarningRow]:
    """See `DagStore.list_warnings`."""
    return _page(
        connection,
        _findings(connection, tables, tables.parse_warning, bundle),
        [tables.parse_warning.c.id],
        limit=limit,
        cursor=cursor,
        build=lambda row: WarningRow(
            bundle=key_of(row),
            subdir=row.subdir,
            path=row.path,
            warning=ParseWarning(row.kind, row.message, row.line),
            since_revision=row.from_revision,
        ),
    )


def list_tasks(connection: Connection, tables: Tables, dag_id: str, *, limit: int, cursor: str | None) -> Page[TaskRow]:
    """See `DagStore.list_tasks`."""
    live, task = tables.dag, tables.task
    content_id = connection.execute(sa.select(live.c.content_id).where(live.c.dag_id == dag_id)).scalar()
    if content_id is None:
        raise reading.no_dag(dag_id)
    return _page(
        connection,
        sa.select(task.c.task_id, task.c.group_id, task.c.sha256).where(task.c.content_id == content_id),
        [task.c.task_id],
        limit=limit,
        cursor=cursor,
        build=lambda row: TaskRow(row.task_id, row.group_id, row.sha256),
    )


def history(
    connection: Connection, tables: Tables, bundle: BundleKey, *, limit: int, cursor: str | None
) -> Page[PublicationRow]:
    """See `DagStore.history`."""
    owner = bundles.find(connection, tables, bundle)
    table = tables.publication
    return _page(
        connection,
        sa.select(table).where(table.c.bundle_id == owner.id, table.c.revision >= owner.oldest),
        [table.c.revision],
        limit=limit,
        cursor=cursor,
        newest_first=True,
        build=lambda row: PublicationRow(
            bundle=bundle,
            revision=row.revision,
            kind=PublicationKind(row.kind),
            rollout_id=row.rollout,
            restored=row.restored,
            version=row.version,
            template_hash=row.template_hash,
            counts=row.counts,
            created_at=row.created_at,
        ),
    )


def waiting_claims(connection: Connection, tables: Tables, dag_ids: Collection[str]) -> tuple[WaitingClaim, ...]:
    """See `DagStore.waiting_claims`."""
    claim, owner = tables.claim, tables.bundle
    rows = connection.execute(
        sa.select(claim, owner.c.cluster, owner.c.namespace, owner.c.name)
        .join(owner, owner.c.id == claim.c.bundle_id)
        .where(bulk.is_in(connection, claim.c.dag_id, dag_ids))
        .order_by(claim.c.dag_id, claim.c.bundle_id)
    )
    return tuple([WaitingClaim(key_of(row), row.dag_id, row.subdir, row.path, row.rollout) for row in rows])


def _findings(connection: Connection, tables: Tables, table: sa.Table, bundle: BundleKey | None) -> sa.Select[Any]:
    owner, publication = tables.bundle, tables.publication
    statement = (
        sa.select(
            table,
            owner.c.cluster,
            owner.c.namespace,
            owner.c.name.label("name"),
            publication.c.created_at.label("since"),
        )
        .join(owner, owner.c.id == table.c.bundle_id)
        .join(publication, _published_at(publication, table))
        .where(state.during(table, None))
    )
    return _of_bundle(connection, tables, statement, table, bundle)


def _published_at(publication: sa.Table, interval: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(publication.c.bundle_id == interval.c.bundle_id, publication.c.revision == interval.c.from_revision)


def _of_bundle(
    connection: Connection, tables: Tables, statement: sa.Select[Any], table: sa.Table, bundle: BundleKey | None
) -> sa.Select[Any]:
    if bundle is None:
        return statement
    return statement.where(table.c.bundle_id == bundles.find(connection, tables, bundle).id)


def _count(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(table).where(*conditions).scalar_subquery()


def _page(
    connection: Connection,
    statement: sa.Select[Any],
    keys: Sequence[sa.ColumnElement[Any]],
    *,
    limit: int,
    cursor: str | None,
    build: Callable[[Any], T],
    newest_first: bool = False,
) -> Page[T]:
    """Return the rows after the cursor's key, and one key more to tell whether others follow."""
    if not 1 <= limit <= MAX_LIMIT:
        raise errors.UsageError(f"A page has 1 to {MAX_LIMIT} rows, not {limit}")
    if cursor is not None:
        after = _decode_cursor(cursor, len(keys))
        place = sa.tuple_(*keys)
        values = sa.tuple_(*[sa.literal(value, key.type) for value, key in zip(after, keys, strict=True)])
        statement = statement.where(place < values if newest_first else place > values)
    statement = statement.order_by(*[key.desc() if newest_first else key for key in keys])
    marked = statement.add_columns(*[key.label(f"_key{index}") for index, key in enumerate(keys)])
    rows = connection.execute(marked.limit(limit + 1)).all()
    following = _encode_cursor(rows[limit - 1][-len(keys) :]) if len(rows) > limit else None
    return Page(tuple([build(row) for row in rows[:limit]]), following)


def _encode_cursor(values: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(values)).encode()).decode()


def _decode_cursor(cursor: str, length: int) -> list[Any]:
    try:
        values = json.loads(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error) as error:
        raise errors.UsageError("The cursor is not one that a list gave out") from error
    if not isinstance(values, list) or len(values) != length or not all(isinstance(item, str | int) for item in values):
        raise errors.UsageError("The cursor is not one that a list gave out")
    return values
