"""Deletion: a finalizer that touches only the database, and gives up after a while rather than hold a namespace.

When a namespace goes, its RoleBindings go first, so nothing here acts as the tenant. Jobs are the garbage collector's:
a DagBundle owns them. What is missed (the database was gone for too long, somebody removed the finalizer) shows in the
metric `dagbundle_orphaned_bundles`, and `dagbundle prune` deactivates it.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

from dagbundle import errors
from dagbundle.controller import announce
from dagbundle.engine import engine
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)

FINALIZER = "dagbundle.dev/deactivate"
PATIENCE = 300.0
"""Seconds that a deletion waits for the database before it goes on without it."""


def guard(body: Mapping[str, Any], cluster: Cluster) -> None:
    """Add the finalizer. Raises `StaleError` when the resource changed meanwhile."""
    cluster.write_finalizers(body, [*(body["metadata"].get("finalizers") or ()), FINALIZER])


def patience_left(body: Mapping[str, Any], now: dt.datetime) -> float:
    """Return for how many seconds a deletion still waits for the database."""
    since = dt.datetime.fromisoformat(body["metadata"]["deletionTimestamp"])
    return PATIENCE - (now - since).total_seconds()


def finish(
    body: Mapping[str, Any], store: DagStore, cluster: Cluster, *, cluster_name: str = "", now: dt.datetime
) -> None:
    """Deactivate the bundle's DAGs, if that is its policy, and let the resource go.

    Raises:
        DagBundleError: The database is gone or says no, and not for too long yet.
        StaleError: The resource changed meanwhile.
    """
    metadata = body["metadata"]
    others = [name for name in metadata.get("finalizers") or () if name != FINALIZER]
    if len(others) == len(metadata.get("finalizers") or ()):
        return
    key = BundleKey(metadata["namespace"], metadata["name"], cluster_name)
    kind, message = "Normal", "its DAGs stay as they are (deletionPolicy Orphan)"
    if (body.get("spec") or {}).get("deletionPolicy", "Deactivate") != "Orphan":
        try:
            gone = engine.Engine(store).deactivate(key).dag_ids
            message = f"{len(gone)} DAGs are deactivated"
        except errors.NotFoundError:
            message = "it had no DAGs"
        except (Exception, SystemExit) as error:
            # whatever it is, a namespace that waits for this finalizer can be deleted by nobody
            if patience_left(body, now) > 0:
                raise
            kind = "Warning"
            said = error.message if isinstance(error, errors.DagBundleError) else type(error).__name__
            message = f"its DAGs are still active, dagbundle prune deactivates them. The database: {said}"
            _LOG.warning("deleted without its DAGs", extra={"bundle": str(key), "error": said})
    cluster.write_finalizers(body, others)
    cluster.post_event(
        metadata["namespace"],
        announce.make(body, kind, "Deleted", message, now=now, reporter="dagbundle-controller"),
    )
