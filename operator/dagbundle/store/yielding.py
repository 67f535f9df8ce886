"""Which live DAGs give way to another bundle that defines them.

A DAG is kept while its file is broken. Where the file is broken only because it waits for something that another
bundle owns, and the bundle defines the DAG nowhere any more, the DAG is kept until that wait ends. Two bundles that
exchange dag_ids wait for each other's kept DAG. So a DAG that is kept for that reason gives way.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle.store import bulk, outcomes
from dagbundle.store.tables import Tables

_WAITS = ("DagIdOwned", "AssetOwned")
"""Kinds of problems that end when another bundle lets go."""


def yielding(connection: Connection, tables: Tables, dag_ids: Collection[str]) -> frozenset[str]:
    """Return which of these live DAGs give way."""
    dag, pin, claim, error = tables.dag.c, tables.pin.c, tables.claim.c, tables.import_error.c
    kept = sa.exists().where(
        pin.dag_id == dag.dag_id, pin.bundle_id == dag.bundle_id, pin.to_revision.is_(None), pin.kept
    )
    otherwise_broken = sa.exists().where(
        error.bundle_id == dag.bundle_id,
        error.subdir == dag.subdir,
        error.path == dag.path,
        error.to_revision.is_(None),
        error.kind.not_in(_WAITS),
    )
    rows = connection.execute(
        sa.select(dag.dag_id, claim.rollout)
        .distinct()
        .join(
            tables.claim,
            sa.and_(claim.bundle_id == dag.bundle_id, claim.subdir == dag.subdir, claim.path == dag.path),
        )
        .where(bulk.is_in(connection, dag.dag_id, dag_ids), kept, ~otherwise_broken)
    ).all()
    wanted = {rollout: _defined(connection, tables, rollout) for rollout in {row.rollout for row in rows}}
    return frozenset(row.dag_id for row in rows if row.dag_id not in wanted[row.rollout])


def _defined(connection: Connection, tables: Tables, rollout: str) -> frozenset[str]:
    """Return every dag_id that a rollout's files define, broken ones too."""
    runs = outcomes.outcomes(connection, tables, rollout)
    return frozenset(dag.dag_id for run in runs for file in run.files for dag in file.dags)
