"""Bundles and their rollouts: who there is, and which rollout is the newest. Starting one fences every older one."""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.content import storable
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, Judgement
from dagbundle.store import bulk, database
from dagbundle.store.records import RolloutRow, RolloutState
from dagbundle.store.tables import AnyRow, Tables


def now() -> dt.datetime:
    """Return this moment in UTC, by the trusted side's clock."""
    return dt.datetime.now(dt.UTC)


def matches(tables: Tables, bundle: BundleKey) -> sa.ColumnElement[bool]:
    """Select one bundle by its identity."""
    table = tables.bundle
    return sa.and_(
        table.c.cluster == bundle.cluster, table.c.namespace == bundle.namespace, table.c.name == bundle.name
    )


def key_of(row: AnyRow) -> BundleKey:
    """Read a bundle's identity from a row that has its three columns."""
    found = row._mapping  # noqa: SLF001 - public in SQLAlchemy despite its name
    return BundleKey(namespace=found["namespace"], name=found["name"], cluster=found["cluster"])


def find(connection: Connection, tables: Tables, bundle: BundleKey, *, lock: bool = False) -> AnyRow:
    """Return the bundle's row; with `lock`, nobody else publishes it or starts a rollout until this transaction ends.

    Raises:
        NotFoundError: It was never registered.
    """
    names = {"of_cluster": bundle.cluster, "of_namespace": bundle.namespace, "of_name": bundle.name}
    row = connection.execute(_find(tables, lock=lock), names).first()
    if row is None:
        raise errors.NotFoundError(f"There is no bundle {bundle}", hint="Apply its DagBundle first")
    return row


@functools.cache
def _find(tables: Tables, *, lock: bool) -> sa.Select[Any]:
    table = tables.bundle
    columns = (table.c.cluster, table.c.namespace, table.c.name)
    statement = sa.select(table).where(*(column == sa.bindparam(f"of_{column.name}") for column in columns))
    # its key stays: rows that refer to it are inserted meanwhile
    return statement.with_for_update(key_share=True) if lock else statement


def register(connection: Connection, tables: Tables, bundle: BundleKey, airflow_name: str) -> None:
    """See `DagStore.register_bundle`."""
    table = tables.bundle
    row = connection.execute(sa.select(table.c.id, table.c.airflow_name).where(matches(tables, bundle))).first()
    if row is not None and row.airflow_name == airflow_name:
        return
    owner = connection.execute(sa.select(table).where(table.c.airflow_name == airflow_name)).first()
    if owner is not None:
        raise errors.OwnershipError(
            f"Bundle {bundle} cannot be named {airflow_name!r} in Airflow: bundle {key_of(owner)} is",
            hint="Choose another name, or have the platform grant one",
        )
    if row is not None:
        connection.execute(sa.update(table).where(table.c.id == row.id).values(airflow_name=airflow_name))
        return
    connection.execute(
        sa.insert(table).values(
            cluster=bundle.cluster,
            namespace=bundle.namespace,
            name=bundle.name,
            airflow_name=airflow_name,
            revision=0,
            oldest=0,
            version="",
            template_hash="",
            created_at=now(),
        )
    )


def start_rollout(
    connection: Connection,
    tables: Tables,
    bundle: BundleKey,
    rollout_id: str,
    *,
    version: str,
    template_hash: str,
    subdirs: Sequence[str],
    document: RolloutDocument,
) -> RolloutRow:
    """See `DagStore.start_rollout`. Calling it again with the same `rollout_id` changes nothing."""
    owner = find(connection, tables, bundle, lock=True)
    table = tables.rollout
    if owner.rollout != rollout_id:
        connection.execute(
            sa.update(table)
            .where(table.c.bundle_id == owner.id, table.c.state == RolloutState.OPEN)
            .values(
                state=RolloutState.SUPERSEDED,
                reason="Superseded",
                message=f"A newer rollout, of version {version}, took its place",
                finished_at=now(),
            )
        )
        insert_rollout(
            connection, tables, owner, rollout_id, version=version, template_hash=template_hash, subdirs=subdirs,
            document=document,
        )  # fmt: skip
        connection.execute(sa.update(tables.bundle).where(tables.bundle.c.id == owner.id).values(rollout=rollout_id))
        connection.execute(sa.delete(tables.parse_request).where(tables.parse_request.c.bundle_id == owner.id))
    return rollout(connection, tables, rollout_id)


def insert_rollout(
    connection: Connection,
    tables: Tables,
    owner: AnyRow,
    rollout_id: str,
    *,
    version: str,
    template_hash: str,
    subdirs: Sequence[str],
    document: RolloutDocument,
) -> None:
    """Insert an open rollout of a bundle, whose row is locked."""
    connection.execute(
        sa.insert(tables.rollout).values(
            id=rollout_id,
            bundle_id=owner.id,
            version=version,
            template_hash=template_hash,
            state=RolloutState.OPEN,
            reason="",
            message="",
            base_revision=owner.revision,
            subdirs=list(subdirs),
            spec=document.to_json(),
            created_at=now(),
        )
    )


def rollout(connection: Connection, tables: Tables, rollout_id: str, *, lock: bool = False) -> RolloutRow:
    """See `DagStore.rollout`; with `lock`, no attempt at one of its subdirs is replaced until this transaction ends."""
    table = tables.rollout
    statement = _select_rollouts(tables).where(table.c.id == rollout_id)
    row = connection.execute(statement.with_for_update(of=table) if lock else statement).first()
    if row is None:
        raise errors.NotFoundError(f"There is no rollout {rollout_id}")
    return _read_rollout(row)


def rollouts(connection: Connection, tables: Tables, rollout_ids: Collection[str]) -> dict[str, RolloutRow]:
    """Return rollouts by their ids; the ones that are not there are left out."""
    statement = _select_rollouts(tables).where(bulk.is_in(connection, tables.rollout.c.id, rollout_ids))
    return {row.id: _read_rollout(row) for row in connection.execute(statement)}


def _select_rollouts(tables: Tables) -> sa.Select[tuple[object, ...]]:
    table, owner = tables.rollout, tables.bundle
    columns = (owner.c.cluster, owner.c.namespace, owner.c.name)
    return sa.select(table, *columns).join(owner, owner.c.id == table.c.bundle_id)


def _read_rollout(row: AnyRow) -> RolloutRow:
    return RolloutRow(
        id=row.id,
        bundle=key_of(row),
        version=row.version,
        template_hash=row.template_hash,
        state=RolloutState(row.state),
        reason=row.reason,
        message=row.message,
        base_revision=row.base_revision,
        revision=row.revision,
        subdirs=tuple(row.subdirs),
        document_json=row.spec,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def latest_rollout(connection: Connection, tables: Tables, bundle: BundleKey) -> RolloutRow | None:
    """See `DagReader.latest_rollout`."""
    newest = connection.execute(sa.select(tables.bundle.c.rollout).where(matches(tables, bundle))).scalar()
    return None if newest is None else rollout(connection, tables, newest)


def attach_version(connection: Connection, tables: Tables, rollout_id: str, version: str) -> None:
    """See `DagStore.attach_version`."""
    table = tables.rollout
    changed = connection.execute(
        sa.update(table).where(table.c.id == rollout_id, table.c.state == RolloutState.OPEN).values(version=version)
    ).rowcount
    if not changed:
        _refuse_over(rollout(connection, tables, rollout_id))


def known(connection: Connection, tables: Tables, *, of_clusters: bool = False) -> tuple[BundleKey, ...]:
    """See `DagReader.bundles_known`."""
    bundle, dag, claim, error = tables.bundle, tables.dag, tables.claim, tables.import_error
    left = sa.or_(
        bundle.c.rollout.is_not(None),
        sa.exists().where(dag.c.bundle_id == bundle.c.id),
        sa.exists().where(claim.c.bundle_id == bundle.c.id),
        sa.exists().where(error.c.bundle_id == bundle.c.id, error.c.to_revision.is_(None)),
    )
    columns = (bundle.c.cluster, bundle.c.namespace, bundle.c.name)
    statement = sa.select(*columns).where(left, _is_of_cluster(tables) if of_clusters else sa.true())
    return tuple([key_of(row) for row in connection.execute(statement.order_by(*columns))])


def _is_of_cluster(tables: Tables) -> sa.ColumnElement[bool]:
    """Select bundles whose newest rollout a controller started, as its document has it (`rollout.document`)."""
    bundle, newest, other = tables.bundle, tables.rollout.alias(), tables.rollout.alias()
    last = sa.select(other.c.id).where(other.c.bundle_id == bundle.c.id)
    # a bundle that was deactivated has no rollout, and a rollback may have brought it back since
    last_id = last.order_by(other.c.created_at.desc(), other.c.id).limit(1).correlate(bundle).scalar_subquery()
    return sa.exists().where(
        newest.c.id == sa.func.coalesce(bundle.c.rollout, last_id),
        sa.or_(*[newest.c.spec[name].as_string().is_not(None) for name in ("requestedAt", "image")]),
    )


def forget_rollout(connection: Connection, tables: Tables, owner: AnyRow) -> None:
    """End a bundle's open rollout, and let no rollout publish until a new one starts. `owner` is locked."""
    table = tables.rollout
    connection.execute(
        sa.update(table)
        .where(table.c.bundle_id == owner.id, table.c.state == RolloutState.OPEN)
        .values(
            state=RolloutState.SUPERSEDED,
            reason="Deactivated",
            message="The bundle was deactivated",
            finished_at=now(),
        )
    )
    connection.execute(sa.update(tables.bundle).where(tables.bundle.c.id == owner.id).values(rollout=None))


def published(connection: Connection, tables: Tables, rollout_id: str, judgement: Judgement, revision: int) -> None:
    """End a rollout that is published."""
    table = tables.rollout
    connection.execute(
        sa.update(table)
        .where(table.c.id == rollout_id)
        .values(
            state=RolloutState.PUBLISHED,
            reason=judgement.reason,
            message=judgement.message,
            revision=revision,
            # one that a pass amended ended before; its failed runs are tried again as if there had been no pass
            finished_at=sa.case(
                (table.c.state == RolloutState.OPEN, sa.func.coalesce(table.c.finished_at, now())), else_=now()
            ),
        )
    )
    database.notify(connection, rollout_id)


def block(connection: Connection, tables: Tables, rollout_id: str, reason: str, message: str) -> RolloutRow:
    """See `DagStore.block`; returns the rollout that is blocked now."""
    table = tables.rollout
    changed = connection.execute(
        sa.update(table)
        .where(table.c.id == rollout_id, table.c.state.in_([RolloutState.OPEN, RolloutState.BLOCKED]))
        .values(state=RolloutState.BLOCKED, reason=reason, message=storable(message), finished_at=now())
    ).rowcount
    found = rollout(connection, tables, rollout_id)
    if not changed:
        _refuse_over(found)
    return found


def _refuse_over(found: RolloutRow) -> NoReturn:
    kind = errors.SupersededError if found.state is RolloutState.SUPERSEDED else errors.ConflictError
    raise kind(f"Rollout {found.id} of bundle {found.bundle} is {found.state} already")


def new_id() -> str:
    """Return a fresh identifier for a rollout, a run or a publication."""
    return uuid.uuid4().hex
