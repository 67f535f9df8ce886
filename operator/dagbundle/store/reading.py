"""Reading one DAG: all of it, or with only one of its tasks.

One task is read by primary keys alone: the DAG, its header, the task, and the task's groups from parent to parent. No
query here touches rows in proportion to the DAG's size unless it was asked for the whole DAG (AIP-45).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.content import join, slice_task
from dagbundle.rollout.model import DagContent, Edge, Json, Task, TaskGroup
from dagbundle.store import bulk, state
from dagbundle.store.bundles import key_of
from dagbundle.store.records import DagDetails
from dagbundle.store.tables import AnyRow, Tables


def serialized_dag(connection: Connection, tables: Tables, dag_id: str, task_id: str | None) -> Json:
    """See `DagStore.get_serialized_dag`."""
    if task_id is None:
        dag, content = tables.dag, tables.dag_content
        sha = connection.execute(
            sa.select(content.c.sha256).join(dag, dag.c.content_id == content.c.id).where(dag.c.dag_id == dag_id)
        ).scalar()
        if sha is None:
            raise no_dag(dag_id)
        return join(contents(connection, tables, [sha])[sha])
    row = connection.execute(_one_task(tables), {"dag_id": dag_id, "task_id": task_id}).first()
    if row is None:
        raise no_dag(dag_id)
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
    around = connection.execute(_groups_around(tables), {"content_id": row.id, "group_id": row.group_id})
    return slice_task(row.header, [TaskGroup(*item) for item in around], one)


@functools.cache
def _one_task(tables: Tables) -> sa.Select[Any]:
    """Read a DAG's header and one of its tasks by three primary keys. Built once: that takes longer than running it."""
    dag, content, task = tables.dag, tables.dag_content, tables.task
    return (
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
        .outerjoin(
            task,
            sa.and_(task.c.content_id == dag.c.content_id, task.c.task_id == sa.bindparam("task_id", type_=sa.Text)),
        )
        .where(dag.c.dag_id == sa.bindparam("dag_id", type_=sa.Text))
    )


@functools.cache
def _groups_around(tables: Tables) -> sa.Select[Any]:
    """Read a group and the groups around it, up to the root, each by its primary key."""
    table = tables.task_group
    content_id = sa.bindparam("content_id", type_=sa.BigInteger)
    columns = ("group_id", "parent_id", "position", "data")
    around = (
        sa.select(*[table.c[name] for name in columns])
        .where(table.c.content_id == content_id, table.c.group_id == sa.bindparam("group_id", type_=sa.Text))
        .cte("around", recursive=True)
    )
    parent = table.alias()
    around = around.union_all(
        sa.select(*[parent.c[name] for name in columns]).where(
            parent.c.content_id == content_id, parent.c.group_id == around.c.parent_id
        )
    )
    return sa.select(around)


def contents(connection: Connection, tables: Tables, shas: Collection[str]) -> dict[str, DagContent]:
    """See `DagStore.contents`. Two statements, however many contents."""
    return whole(connection, tables, heads(connection, tables, shas))


def heads(connection: Connection, tables: Tables, shas: Collection[str]) -> Sequence[AnyRow]:
    """Return the rows of some contents, without their groups, tasks and edges."""
    dialect = connection.dialect.name
    return connection.execute(_heads(tables, dialect), {"shas": bulk.among(dialect, set(shas))}).all()


@functools.cache
def _heads(tables: Tables, dialect: str) -> sa.Select[Any]:
    table = tables.dag_content.c
    columns = (table.id, table.sha256, table.dag_id, table.dag_hash, table.relative_fileloc, table.header)
    return sa.select(*columns).where(bulk.is_among(dialect, table.sha256, "shas"))


def whole(connection: Connection, tables: Tables, rows: Iterable[AnyRow]) -> dict[str, DagContent]:
    """Return the contents of which these are the `heads`, by sha256."""
    groups: dict[int, list[TaskGroup]] = {row.id: [] for row in rows}
    tasks: dict[int, list[Task]] = {row.id: [] for row in rows}
    edges: dict[int, list[Edge]] = {row.id: [] for row in rows}
    dialect = connection.dialect.name
    for kind, number, one, other, sha256, position, group_position, data in connection.execute(
        _parts(tables, dialect), {"numbers": bulk.among(dialect, groups)}
    ):
        if kind == _GROUP:
            groups[number].append(TaskGroup(one, other, position, data))
        elif kind == _TASK:
            tasks[number].append(Task(one, other, position, group_position, sha256, data))
        else:
            edges[number].append(Edge(one, other))
    return {
        row.sha256: DagContent(
            dag_id=row.dag_id,
            sha256=row.sha256,
            dag_hash=row.dag_hash,
            relative_fileloc=row.relative_fileloc,
            header=row.header,
            groups=tuple(sorted(groups[row.id], key=lambda item: (item.group_id != "", item.group_id))),
            tasks=tuple(sorted(tasks[row.id], key=lambda item: item.position)),
            edges=tuple(sorted(edges[row.id])),
        )
        for row in rows
    }


_GROUP, _TASK, _EDGE = range(3)


@functools.cache
def _parts(tables: Tables, dialect: str) -> sa.CompoundSelect[Any]:
    """Read the groups, tasks and edges of some contents at once."""
    group, task, edge, text = tables.task_group.c, tables.task.c, tables.edge.c, sa.cast(sa.null(), sa.Text)
    number, data = sa.cast(sa.null(), sa.Integer), sa.cast(sa.null(), sa.JSON)
    parts = (
        (_GROUP, group.content_id, group.group_id, group.parent_id, text, group.position, number, group.data),
        (
            _TASK,
            task.content_id,
            task.task_id,
            task.group_id,
            task.sha256,
            task.position,
            task.group_position,
            task.data,
        ),
        (_EDGE, edge.content_id, edge.upstream, edge.downstream, text, number, number, data),
    )
    return sa.union_all(
        *(
            sa.select(sa.literal_column(str(kind), sa.Integer), *columns).where(
                bulk.is_among(dialect, columns[0], "numbers")
            )
            for kind, *columns in parts
        )
    )


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
        .outerjoin(pin, state.pin_of(live, pin))
        .where(live.c.dag_id == dag_id)
    ).first()
    if row is None:
        raise no_dag(dag_id)
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
        raise no_dag(dag_id)
    if row.text is None:
        raise errors.NotFoundError(f"No source text was submitted for DAG {dag_id}")
    return str(row.text)


def no_dag(dag_id: str) -> errors.NotFoundError:
    """Say that nothing is live under a dag_id."""
    return errors.NotFoundError(f"There is no live DAG {dag_id}", hint="`dagbundle get dags` lists the live DAGs")
