"""Reading what is published: whole DAGs, one task of one, and lists in pages.

One task is read by primary keys alone: the DAG, its header, the task, and the task's groups from parent to parent. No
query here touches rows in proportion to the DAG's size unless it was asked for the whole DAG (AIP-45).
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
from dagbundle.rollout.content import join, slice_task
from dagbundle.rollout.model import BundleKey, DagContent, Edge, Json, ParseWarning, Problem, Task, TaskGroup
from dagbundle.store import bulk, bundles, state
from dagbundle.store.bundles import key_of
from dagbundle.store.records import (
    BundleRow,
    DagDetails,
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


# --- One DAG --------------------------------------------------------------------------------------------------------


def serialized_dag(connection: Connection, tables: Tables, dag_id: str, task_id: str | None) -> Json:
    """See `DagStore.get_serialized_dag`."""
    dag, content, task = tables.dag, tables.dag_content, tables.task
    if task_id is None:
        sha = connection.execute(
            sa.select(content.c.sha256).join(dag, dag.c.content_id == content.c.id).where(dag.c.dag_id == dag_id)
        ).scalar()
        if sha is None:
            raise _no_dag(dag_id)
        return join(contents(connection, tables, [sha])[sha])
    row = connection.execute(
        sa.select(
            content.c.id,
            content.c.header,
            task.c.group_id,
            task.c.position,
            task.c.group_position,
            task.c.sha256,
            task.c.data,
        )
        .select_from(dag)
        .join(content, content.c.id == dag.c.content_id)
        .outerjoin(task, sa.and_(task.c.content_id == dag.c.content_id, task.c.task_id == task_id))
        .where(dag.c.dag_id == dag_id)
    ).first()
    if row is None:
        raise _no_dag(dag_id)
    if row.group_id is None:
        raise errors.NotFoundError(f"DAG {dag_id} has no task {task_id}")
    one = Task(
        task_id=task_id,
        group_id=row.group_id,
        position=row.position,
        group_position=row.group_position,
        sha256=row.sha256,
        data=row.data,
    )
    return slice_task(row.header, _ancestors(connection, tables, row.id, row.group_id), one)


def _ancestors(connection: Connection, tables: Tables, content_id: int, group_id: str) -> list[TaskGroup]:
    """Return a group and the groups around it, up to the root, in one statement."""
    table = tables.task_group
    around = (
        sa.select(table.c.group_id, table.c.parent_id, table.c.position, table.c.data)
        .where(table.c.content_id == content_id, table.c.group_id == group_id)
        .cte("around", recursive=True)
    )
    parent = table.alias()
    around = around.union_all(
        sa.select(parent.c.group_id, parent.c.parent_id, parent.c.position, parent.c.data).where(
            parent.c.content_id == content_id, parent.c.group_id == around.c.parent_id
        )
    )
    return [TaskGroup(*row) for row in connection.execute(sa.select(around))]


def contents(connection: Connection, tables: Tables, shas: Collection[str]) -> dict[str, DagContent]:
    """See `DagStore.contents`. Four statements, however many contents."""
    table = tables.dag_content
    rows = connection.execute(
        sa.select(
            table.c.id, table.c.sha256, table.c.dag_id, table.c.dag_hash, table.c.relative_fileloc, table.c.header
        ).where(bulk.is_in(connection, table.c.sha256, set(shas)))
    ).all()
    wanted = sa.select(table.c.id).where(bulk.is_in(connection, table.c.sha256, set(shas)))
    groups: dict[int, list[TaskGroup]] = {row.id: [] for row in rows}
    tasks: dict[int, list[Task]] = {row.id: [] for row in rows}
    edges: dict[int, list[Edge]] = {row.id: [] for row in rows}
    group, task, edge = tables.task_group, tables.task, tables.edge
    for item in connection.execute(
        sa.select(group.c.content_id, group.c.group_id, group.c.parent_id, group.c.position, group.c.data).where(
            group.c.content_id.in_(wanted)
        )
    ):
        groups[item[0]].append(TaskGroup(*item[1:]))
    for item in connection.execute(
        sa.select(
            task.c.content_id,
            task.c.task_id,
            task.c.group_id,
            task.c.position,
            task.c.group_position,
            task.c.sha256,
            task.c.data,
        )
        .where(task.c.content_id.in_(wanted))
        .order_by(task.c.content_id, task.c.position)
    ):
        tasks[item[0]].append(
            Task(
                task_id=item[1],
                group_id=item[2],
                position=item[3],
                group_position=item[4],
                sha256=item[5],
                data=item[6],
            )
        )
    for item in connection.execute(
        sa.select(edge.c.content_id, edge.c.upstream, edge.c.downstream)
        .where(edge.c.content_id.in_(wanted))
        .order_by(edge.c.content_id, edge.c.upstream, edge.c.downstream)
    ):
        edges[item[0]].append(Edge(*item[1:]))
    return {
        row.sha256: DagContent(
            dag_id=row.dag_id,
            sha256=row.sha256,
            dag_hash=row.dag_hash,
            relative_fileloc=row.relative_fileloc,
            header=row.header,
            groups=tuple(sorted(groups[row.id], key=lambda item: (item.group_id != "", item.group_id))),
            tasks=tuple(tasks[row.id]),
            edges=tuple(edges[row.id]),
        )
        for row in rows
    }


def dag(connection: Connection, tables: Tables, dag_id: str) -> DagDetails:
    """See `DagStore.get_dag`."""
    live, content, bundle, pin = tables.dag, tables.dag_content, tables.bundle, tables.pin
    version, publication = tables.dag_version, tables.publication
    row = connection.execute(
        sa.select(
            live.c.dag_id,
            live.c.subdir,
            live.c.path,
            live.c.number,
            bundle.c.cluster,
            bundle.c.namespace,
            bundle.c.name,
            bundle.c.airflow_name,
            bundle.c.version,
            content.c.relative_fileloc,
            content.c.sha256,
            content.c.dag_hash,
            content.c.task_count,
            pin.c.bundle_version,
            pin.c.kept,
            version.c.from_revision,
            publication.c.created_at,
        )
        .select_from(live)
        .join(content, content.c.id == live.c.content_id)
        .join(bundle, bundle.c.id == live.c.bundle_id)
        .join(version, sa.and_(version.c.dag_id == live.c.dag_id, version.c.number == live.c.number))
        .join(
            publication,
            sa.and_(publication.c.bundle_id == live.c.bundle_id, publication.c.revision == version.c.from_revision),
        )
        .outerjoin(pin, _pin_of(live, pin))
        .where(live.c.dag_id == dag_id)
    ).first()
    if row is None:
        raise _no_dag(dag_id)
    return DagDetails(
        dag_id=row.dag_id,
        bundle=key_of(row),
        airflow_name=row.airflow_name,
        subdir=row.subdir,
        path=row.path,
        relative_fileloc=row.relative_fileloc,
        sha256=row.sha256,
        dag_hash=row.dag_hash,
        number=row.number,
        bundle_version=row.bundle_version or row.version,
        kept=bool(row.kept),
        task_count=row.task_count,
        since_revision=row.from_revision,
        since=row.created_at,
    )


def source(connection: Connection, tables: Tables, dag_id: str) -> str:
    """See `DagStore.source`."""
    live, text = tables.dag, tables.source_code
    row = connection.execute(
        sa.select(text.c.text)
        .select_from(live)
        .outerjoin(text, text.c.sha256 == live.c.source)
        .where(live.c.dag_id == dag_id)
    ).first()
    if row is None:
        raise _no_dag(dag_id)
    if row.text is None:
        raise errors.NotFoundError(f"No source text was submitted for DAG {dag_id}")
    return str(row.text)


def _no_dag(dag_id: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"There is no live DAG {dag_id}")


def _pin_of(live: sa.Table, pin: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(pin.c.dag_id == live.c.dag_id, pin.c.bundle_id == live.c.bundle_id, pin.c.to_revision.is_(None))


# --- Lists ----------------------------------------------------------------------------------------------------------


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
        .outerjoin(pin, _pin_of(live, pin))
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
    return _page(
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
        raise _no_dag(dag_id)
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
    """Return the rows after the cursor's key: what comes or goes between two pages shifts none of the others."""
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
