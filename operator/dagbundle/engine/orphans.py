"""Finds bundles whose DAGs are live although nothing stands for them any more."""

from __future__ import annotations

from collections.abc import Collection

from dagbundle.rollout.model import BundleKey


def orphans(
    known: Collection[BundleKey], there: Collection[tuple[str, str]], *, cluster: str = ""
) -> tuple[BundleKey, ...]:
    """Return the bundles that the store knows and that are not among those that are there, sorted.

    Args:
        known: What `DagStore.bundles_known` returned of clusters, asked before the cluster: else a bundle that was made
            in between looks like one that is gone. What a command line applied stands for itself, and is not among it.
        there: (namespace, name) of every DagBundle of the cluster.
        cluster: Its name; bundles of other clusters are none of its business.

    A bundle that was deleted with deletionPolicy Orphan is among them: nothing tells it apart from one that was missed.
    """
    return tuple(sorted(key for key in known if key.cluster == cluster and (key.namespace, key.name) not in there))
