"""Where bundles are, at a glance: what a reconcile asks of the store, in one snapshot and however large they are.

A controller that starts asks this of every bundle. So it is asked of many at once, in as many statements as of one, and
DAGs are counted and not read.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.rollout.model import BundleKey
from dagbundle.store import bundles, jobs, outcomes, state
from dagbundle.store.records import Head, Pass, RolloutState
from dagbundle.store.tables import Tables


def heads(connection: Connection, tables: Tables, wanted: Collection[BundleKey]) -> dict[BundleKey, Head]:
    """See `DagReader.heads`."""
    bundle = tables.bundle
    place = sa.tuple_(bundle.c.cluster, bundle.c.namespace, bundle.c.name)
    keys = sorted({(key.cluster, key.namespace, key.name) for key in wanted})
    rows = {bundles.key_of(row): row for row in connection.execute(_owners(tables).where(place.in_(keys)))}
    newest = [name for row in rows.values() for name in (row.rollout, row.amending) if name is not None]
    rollouts = bundles.rollouts(connection, tables, newest)
    made = jobs.jobs_of(connection, tables, newest)
    states = outcomes.states_of(connection, tables, made, newest)
    found = {
        key: Head(
            bundle=key,
            revision=row.revision,
            version=row.version,
            template_hash=row.template_hash,
            dags=row.dags,
            kept=row.kept,
            holds=state.holds(connection, tables, row.id) if row.holds else (),
            counts=row.counts,
            requested=bool(row.requested) and row.files is None,
            asked=tuple(row.files or ()),
            amending=Pass(rollouts[row.amending], made.get(row.amending, ()), states.get(row.amending, ()))
            if row.amending in rollouts and rollouts[row.amending].is_pass
            else None,
            rollout=rollouts.get(row.rollout),
            jobs=made.get(row.rollout, ()),
            states=states.get(row.rollout, ()),
        )
        for key, row in rows.items()
    }
    return {key: found.get(key) or Head(key) for key in wanted}


@functools.cache
def _owners(tables: Tables) -> sa.Select[Any]:
    """Read bundles' rows, with what their newest publish did and how much is live. Built once: it is asked often."""
    bundle, publication = tables.bundle, tables.publication
    dag, pin, hold, request = tables.dag, tables.pin, tables.hold, tables.parse_request
    mine = dag.c.bundle_id == bundle.c.id
    rollout = tables.rollout
    amending = (
        sa.select(sa.func.max(rollout.c.id))  # there is one at most
        .where(
            rollout.c.bundle_id == bundle.c.id, rollout.c.state == RolloutState.OPEN, rollout.c.id != bundle.c.rollout
        )
        .scalar_subquery()
    )
    kept = sa.select(sa.func.count()).select_from(dag.join(pin, state.pin_of(dag, pin))).where(mine, pin.c.kept)
    return sa.select(
        bundle.c.id,
        bundle.c.cluster,
        bundle.c.namespace,
        bundle.c.name,
        bundle.c.revision,
        bundle.c.version,
        bundle.c.template_hash,
        bundle.c.rollout,
        publication.c.counts,
        sa.select(sa.func.count()).select_from(dag).where(mine).scalar_subquery().label("dags"),
        kept.scalar_subquery().label("kept"),
        sa.exists().where(hold.c.bundle_id == bundle.c.id).label("holds"),
        request.c.bundle_id.is_not(None).label("requested"),
        request.c.files,
        amending.label("amending"),
    ).select_from(
        bundle.outerjoin(
            publication, sa.and_(publication.c.bundle_id == bundle.c.id, publication.c.revision == bundle.c.revision)
        ).outerjoin(request, request.c.bundle_id == bundle.c.id)
    )
