"""Taking DAGs out of what is live, as a revision: of a bundle that was deleted, by name, or since they give way."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import BundleKey
from dagbundle.store import bulk, bundles, database, following, pointers, state, yielding
from dagbundle.store.pointers import Next
from dagbundle.store.records import PublicationKind
from dagbundle.store.tables import Tables
from dagbundle.store.target import Target


def deactivate(
    connection: Connection,
    tables: Tables,
    bundle: BundleKey,
    dag_ids: Collection[str],
    token: str,
    *,
    findings: bool = True,
    target: Target | None = None,
) -> tuple[str, ...]:
    """Remove these DAGs, as far as they are the bundle's, as a revision of its own; return which those were.

    Import errors and warnings stay visible with `findings`.
    """
    owner = bundles.find(connection, tables, bundle, lock=True)
    done = state.published_as(connection, tables, token)
    if done is not None:
        version = tables.dag_version
        ended = sa.select(version.c.dag_id).where(version.c.bundle_id == owner.id, version.c.to_revision == done)
        return tuple(sorted(connection.execute(ended).scalars()))
    now = state.present(connection, tables, owner)
    after = {dag_id: item for dag_id, item in now.definitions.items() if dag_id not in dag_ids}
    step = Next(
        kind=PublicationKind.DEACTIVATE,
        token=token,
        version=owner.version,
        template_hash=owner.template_hash,
        definitions=after,
        pins={dag_id: pin for dag_id, pin in now.pins.items() if dag_id in after},
        errors=now.errors if findings else (),
        warnings=now.warnings if findings else (),
        counts=pointers.compare(now.definitions, after),
    )
    pointers.write(connection, tables, owner, now, step, target=target)
    return tuple(sorted(now.definitions.keys() - after.keys()))


def deactivate_bundle(
    connection: Connection, tables: Tables, bundle: BundleKey, token: str, *, target: Target | None = None
) -> tuple[str, ...]:
    """See `DagStore.deactivate_bundle`."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    bundles.forget_rollout(connection, tables, owner)
    following.retire(connection, tables, owner)
    connection.execute(sa.delete(tables.claim).where(tables.claim.c.bundle_id == owner.id))
    database.notify(connection, owner.rollout)
    if not owner.revision:
        return ()  # it never published: there is nothing to make a revision of
    dag_ids = state.definitions(connection, tables, owner.id).keys()
    return deactivate(connection, tables, bundle, dag_ids, token, findings=False, target=target)


def lock_givers(
    connection: Connection, tables: Tables, bundle: BundleKey, taken: Collection[str]
) -> Collection[BundleKey]:
    """Lock the bundles whose kept DAGs give way, and this one, in one order for everybody."""
    if not taken:
        return ()
    owners = set(state.owners(connection, tables, bulk.is_in(connection, tables.dag.c.dag_id, taken)).values())
    for key in sorted({*owners, bundle}):
        bundles.find(connection, tables, key, lock=True)
    return sorted(owners - {bundle})


def take(
    connection: Connection,
    tables: Tables,
    taken: Collection[str],
    givers: Collection[BundleKey],
    *,
    token: str,
    target: Target | None,
) -> None:
    """Remove DAGs from the bundles that give way with them, as a revision of each.

    Raises:
        ConflictError: One of them does not give way any more.
    """
    if taken and (kept := set(taken) - yielding.yielding(connection, tables, taken)):
        raise errors.ConflictError(
            f"DAG {min(kept)} belongs to another bundle, and does not give way any more", hint="Judge again"
        )
    for giver in givers:
        deactivate(connection, tables, giver, taken, f"{token}:{giver}", target=target)
