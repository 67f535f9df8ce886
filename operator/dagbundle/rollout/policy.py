"""What the judge holds a changeset against: the spec's policy narrowed by the platform's grant, as plain values.

The resource models stay at the edge; the judge sees only this, so that a test can state a policy in one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dagbundle import errors
from dagbundle.resources import bundle as bundle_models
from dagbundle.resources import grants as grant_models

Limit = int | str | None
"""A count, a percentage such as `10%`, or no limit."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One bundle's policy."""

    scope: str = "Bundle"
    on_import_error: str = "KeepLastGood"
    max_import_errors: Limit = None
    max_removed_dags: Limit = None
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Required dag_id prefix by subdir, where the spec gives one."""
    granted_prefixes: Sequence[str] = ()
    """Every dag_id must start with one of these; empty allows any."""


def limit_of(limit: Limit, base: int) -> int | None:
    """Return how many are allowed: a percentage is of `base`, rounded up. None is no limit."""
    if isinstance(limit, str):
        return math.ceil(int(limit.removesuffix("%")) * base / 100)
    return limit


def resolve(resource: bundle_models.DagBundle, grants: grant_models.Grants | None) -> Policy:
    """Narrow a spec by the grants of its namespace.

    Args:
        resource: The bundle.
        grants: All grants; None means that nothing is limited (a laptop without a grants file).

    Raises:
        ResourceError: The namespace is not listed, or the spec asks for more than it is granted.
    """
    namespace, spec = resource.metadata.namespace, resource.spec
    name = f"DagBundle {namespace}/{resource.metadata.name}"
    granted: tuple[str, ...] = ()
    if grants is not None:
        tenant = grants.tenant(namespace)
        if tenant is None:
            raise errors.ResourceError(
                f"{name}: namespace {namespace!r} is not enabled: no grant lists it (NamespaceNotEnabled)",
                hint=f"ask the platform team to add {namespace!r} to the tenants",
                reason="NamespaceNotEnabled",
            )
        granted = tuple(tenant.dag_id_prefixes)
        default_name = f"{namespace}.{resource.metadata.name}"
        if spec.bundle_name not in {None, default_name, *tenant.bundle_names}:
            raise errors.ResourceError(
                f"{name}: spec.bundleName {spec.bundle_name!r} is not granted to namespace {namespace!r}",
                hint="remove spec.bundleName, or ask the platform team to grant the name",
                reason="NotGranted",
            )
        for index, subdir in enumerate(spec.subdirs):
            prefix = subdir.dag_id_prefix
            if prefix and granted and not prefix.startswith(granted):
                raise errors.ResourceError(
                    f"{name}: spec.subdirs[{index}].dagIdPrefix {prefix!r} is outside what namespace {namespace!r} is "
                    f"granted (granted: {', '.join(granted)})",
                    hint="a spec can only narrow the grant: choose a prefix below a granted one",
                    reason="NotGranted",
                )
    return Policy(
        scope=spec.rollout.scope,
        on_import_error=spec.rollout.on_import_error,
        max_import_errors=spec.rollout.max_import_errors,
        max_removed_dags=spec.rollout.max_removed_dags,
        prefixes={subdir.path: subdir.dag_id_prefix for subdir in spec.subdirs if subdir.dag_id_prefix},
        granted_prefixes=granted,
    )
