"""Which Kubernetes Job carries out which run: whose reports are believed, and what its parser is asked to do.

The server asks here who may speak for a run, and takes identity from nothing else. Written by the controller, before
it creates the Job and again when it knows the Job's UID.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import BundleKey, Json
from dagbundle.store import bulk, staging
from dagbundle.store.bundles import now
from dagbundle.store.records import JobRow, RolloutState
from dagbundle.store.tables import AnyRow, Tables


def record(
    connection: Connection,
    tables: Tables,
    rollout_id: str,
    subdir: str,
    *,
    run_id: str,
    namespace: str,
    service_account: str,
    name: str,
    shards: int,
    request: Json,
) -> JobRow:
    """See `DagStore.record_job`."""
    staging.require_open(connection, tables, rollout_id, lock=True)
    table = tables.job
    known = connection.execute(
        sa.select(table.c.run_id).where(table.c.rollout == rollout_id, table.c.subdir == subdir)
    ).scalar()
    if known is None:
        known = run_id
        connection.execute(
            sa.insert(table).values(
                run_id=run_id,
                rollout=rollout_id,
                subdir=subdir,
                shards=shards,
                namespace=namespace,
                service_account=service_account,
                name=name,
                uid="",
                image_id="",
                request=request,
                created_at=now(),
            )
        )
    return job(connection, tables, known)


def created(connection: Connection, tables: Tables, run_id: str, uid: str) -> None:
    """See `DagStore.job_created`."""
    row = _find(connection, tables, run_id)
    connection.execute(  # the lock under which attempts are opened, so that none of the old Job slips in behind
        sa.select(tables.rollout.c.id).where(tables.rollout.c.id == row.rollout).with_for_update()
    )
    row = _find(connection, tables, run_id)
    if row.uid == uid:
        return
    if row.uid:
        run = tables.parse_run
        staging.fence(connection, tables, sa.and_(run.c.rollout == row.rollout, run.c.subdir == row.subdir))
    connection.execute(sa.update(tables.job).where(tables.job.c.run_id == run_id).values(uid=uid))


def image(connection: Connection, tables: Tables, run_id: str, image_id: str) -> None:
    """See `DagStore.job_image`."""
    _find(connection, tables, run_id)
    connection.execute(sa.update(tables.job).where(tables.job.c.run_id == run_id).values(image_id=image_id))


def job(connection: Connection, tables: Tables, run_id: str) -> JobRow:
    """See `DagReader.job`."""
    return _read(_find(connection, tables, run_id))


def jobs(connection: Connection, tables: Tables, rollout_id: str) -> tuple[JobRow, ...]:
    """See `DagReader.jobs`."""
    return jobs_of(connection, tables, [rollout_id]).get(rollout_id, ())


def jobs_of(connection: Connection, tables: Tables, rollouts: Collection[str]) -> dict[str, tuple[JobRow, ...]]:
    """Return the Jobs of rollouts that have some, by rollout and then by subdir."""
    statement = _select(tables).where(bulk.is_in(connection, tables.job.c.rollout, rollouts))
    found: dict[str, tuple[JobRow, ...]] = {}
    for row in connection.execute(statement.order_by(tables.job.c.rollout, tables.job.c.subdir)):
        found[row.rollout] = (*found.get(row.rollout, ()), _read(row))
    return found


def open_jobs(connection: Connection, tables: Tables, cluster: str) -> tuple[JobRow, ...]:
    """See `DagReader.open_jobs`."""
    mine = sa.and_(
        tables.bundle.c.cluster == cluster, tables.rollout.c.state == RolloutState.OPEN, tables.job.c.uid != ""
    )
    return tuple(_read(row) for row in connection.execute(_select(tables).where(mine).order_by(tables.job.c.run_id)))


def _select(tables: Tables) -> sa.Select[tuple[object, ...]]:
    table, rollout, bundle = tables.job, tables.rollout, tables.bundle
    return (
        sa.select(table, bundle.c.cluster, bundle.c.namespace.label("bundle_namespace"), bundle.c.name.label("bundle"))
        .join(rollout, rollout.c.id == table.c.rollout)
        .join(bundle, bundle.c.id == rollout.c.bundle_id)
    )


def _find(connection: Connection, tables: Tables, run_id: str) -> AnyRow:
    row = connection.execute(_select(tables).where(tables.job.c.run_id == run_id)).first()
    if row is None:
        raise errors.NotFoundError(f"There is no run {run_id}")
    return row


def _read(row: AnyRow) -> JobRow:
    return JobRow(
        run_id=row.run_id,
        rollout_id=row.rollout,
        bundle=BundleKey(namespace=row.bundle_namespace, name=row.bundle, cluster=row.cluster),
        subdir=row.subdir,
        shards=row.shards,
        namespace=row.namespace,
        service_account=row.service_account,
        name=row.name,
        uid=row.uid,
        image_id=row.image_id,
        request=row.request,
        created_at=row.created_at,
    )
