"""The key of a pod's parser: who asked first for a run is who speaks for it, and nobody else who can read its token.

The process that knows the server makes a key before any DAG file runs, and DAG files cannot read that process. Only a
digest of the key is stored, with the run and the pod, and it goes with the run. Called by the server.
"""

from __future__ import annotations

import hashlib
import hmac

import sqlalchemy as sa

from dagbundle.store import bulk
from dagbundle.store.dagstore import DagStore


def is_held(store: DagStore, run_id: str, attempt: str, key: str) -> bool:
    """Tell whether an attempt may go on with this key: it is the one that was claimed, or none was.

    Args:
        store: Where.
        run_id: The run's opaque id.
        attempt: Names the attempt at it.
        key: What came with the request; empty for none.
    """
    table = store.db.tables.run_key
    statement = sa.select(table.c.digest).where(table.c.run_id == run_id, table.c.attempt == attempt)
    known = store.db.read(lambda c: c.execute(statement).scalar())
    return known is None or hmac.compare_digest(known, _digest(key))


def claim(store: DagStore, run_id: str, attempt: str, key: str) -> bool:
    """Hold an attempt to this key from now on, unless it is held to one already; tell whether it is held to this one.

    Raises:
        StoreUnavailableError: The database is away.
    """
    row = (run_id, attempt, _digest(key))
    columns = ("run_id", "attempt", "digest")
    store.db.write(lambda c: bulk.insert_missing(c, store.db.tables.run_key, columns, [row]))
    return is_held(store, run_id, attempt, key)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
