"""Finds bundles whose files read Variables or Connections that are others now.

What a file may read is decided by today's grants: taking one away counts as a change, and so does giving it.
"""

from __future__ import annotations

from dagbundle import errors
from dagbundle.resources import grants as grant_models
from dagbundle.rollout import policy
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, LookupKind, LookupValue
from dagbundle.store.dagstore import DagStore
from dagbundle.store.lookups import Lookup, digest


def changed(store: DagStore, grants: grant_models.Grants, *, cluster: str) -> tuple[frozenset[BundleKey], int]:
    """Compare what was given with what would be given now. Each value is looked up once.

    Args:
        store: Has the target, whose values they are; without one nothing has changed.
        grants: Today's.
        cluster: Whose bundles are ours.

    Returns:
        The bundles to be parsed again, and how many values could not be looked up: those count as unchanged.
    """
    read = store.lookups(cluster=cluster) if store.target is not None else ()
    if not read:
        return frozenset(), 0
    key = store.digest_key()
    values: dict[tuple[LookupKind, str], LookupValue | errors.DagBundleError | None] = {}
    found: set[BundleKey] = set()
    for item in read:
        if item.bundle in found:
            continue
        value = None
        try:
            granted = _granted(grants, item)
        except errors.StoreError:
            continue  # a newer program started its rollout; what its files read is that program's to compare
        if policy.allows(granted, item.key):
            if (item.kind, item.key) not in values:
                values[item.kind, item.key] = _looked_up(store, item.kind, item.key)
            value = values[item.kind, item.key]
        if not isinstance(value, errors.DagBundleError) and digest(key, item.kind, item.key, value) != item.digest:
            found.add(item.bundle)
    return frozenset(found), sum(isinstance(value, errors.DagBundleError) for value in values.values())


def _looked_up(store: DagStore, kind: LookupKind, key: str) -> LookupValue | errors.DagBundleError | None:
    try:
        return store.look_up(kind, key)
    except errors.StoreUnavailableError:
        raise
    except errors.DagBundleError as error:
        return error


def _granted(grants: grant_models.Grants, item: Lookup) -> tuple[str, ...]:
    """Return what a bundle may read today; nothing where it asks for more than it is granted.

    Raises:
        StoreError: A newer version of this program started the rollout.
    """
    tenant = grants.tenant(item.bundle.namespace)
    if tenant is None:
        return ()
    name = f"{item.kind}s"
    try:
        wanted = RolloutDocument.from_json(item.document_json).wanted(item.kind)
        return policy.narrowed(str(item.bundle), name, wanted, getattr(tenant, name))
    except errors.ResourceError:
        return ()
