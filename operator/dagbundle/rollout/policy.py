"""What the judge holds a changeset against: the spec's policy narrowed by the platform's grant, as plain values.

The resource models stay at the edge; the judge sees only this, so that a test can state a policy in one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dagbundle import errors
from dagbundle.resources import base
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
    connections: Sequence[str] = ()
    """Names, or beginnings of names and `*`, of the Connections that may be read while files are parsed."""
    variables: Sequence[str] = ()
    """Likewise Variables."""


def limit_of(limit: Limit, base: int) -> int | None:
    """Return how many are allowed: a percentage is of `base`, rounded up. None is no limit."""
    if isinstance(limit, str):
        return math.ceil(int(limit.removesuffix("%")) * base / 100)
    return limit


def allows(patterns: Sequence[str], name: str) -> bool:
    """Tell whether a name, or all that a pattern stands for, is among patterns.

    No pattern allows a name that leads elsewhere in a backend that makes a path of it: `sales_*` is not
    `sales_x/../hr_payroll`.
    """
    return base.is_straight(name) and any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns
    )


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
    connections = variables = ["*"]
    if grants is not None:
        tenant = tenant_of(name, namespace, grants)
        granted = tuple(tenant.dag_id_prefixes)
        connections, variables = tenant.connections, tenant.variables
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
        connections=narrowed(name, "connections", spec.parser.connections, connections),
        variables=narrowed(name, "variables", spec.parser.variables, variables),
        scope=spec.rollout.scope,
        on_import_error=spec.rollout.on_import_error,
        max_import_errors=spec.rollout.max_import_errors,
        max_removed_dags=spec.rollout.max_removed_dags,
        prefixes={subdir.path: subdir.dag_id_prefix for subdir in spec.subdirs if subdir.dag_id_prefix},
        granted_prefixes=granted,
    )


def tenant_of(name: str, namespace: str, grants: grant_models.Grants) -> grant_models.Tenant:
    """Return what a namespace is granted.

    Args:
        name: Whose namespace it is, for messages: `DagBundle team-sales/sales`.
        namespace: The namespace.
        grants: All grants.

    Raises:
        ResourceError: The namespace is not listed.
    """
    tenant = grants.tenant(namespace)
    if tenant is None:
        raise errors.ResourceError(
            f"{name}: namespace {namespace!r} is not enabled: no grant lists it (NamespaceNotEnabled)",
            hint=f"ask the platform team to add {namespace!r} to the tenants",
            reason="NamespaceNotEnabled",
        )
    return tenant


def narrowed(bundle: str, kind: str, wanted: Sequence[str] | None, granted: Sequence[str]) -> tuple[str, ...]:
    """Return which values of a kind may be read.

    Raises:
        ResourceError: The spec asks for more than is granted.
    """
    outside = [name for name in wanted or () if not allows(granted, name)]
    if outside:
        raise errors.ResourceError(
            f"{bundle}: spec.parser.{kind} names {outside[0]!r}, which is outside of the grant "
            f"(tenants[].{kind}: {', '.join(granted) or 'none'})",
            hint="a spec can only narrow the grant: remove it, or ask the platform team to grant it",
            reason="NotGranted",
        )
    return tuple(granted if wanted is None else wanted)
