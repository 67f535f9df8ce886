"""Grants: what the platform allows a namespace. A tenant writes the spec, so the spec grants nothing.

The same document is the chart's value `tenants` on a cluster and the file behind `--grants` on a laptop.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from dagbundle.resources import base, bundle


class Tenant(base.Model):
    """One namespace's grant. What is left out: any dag_id that nobody owns, the default bundle name, nothing else."""

    namespace: bundle.Name
    dag_id_prefixes: Annotated[list[bundle.DagIdPrefix], pydantic.Field(max_length=100)] = pydantic.Field(
        default_factory=list
    )
    """Every dag_id of the namespace must start with one of these; empty allows any that nobody owns."""
    bundle_names: Annotated[list[str], pydantic.Field(max_length=100)] = pydantic.Field(default_factory=list)
    """Names that `spec.bundleName` may take besides the default one."""
    connections: Annotated[list[base.NamePattern], pydantic.Field(max_length=1000)] = pydantic.Field(
        default_factory=list
    )
    """Airflow's Connections that its DAG files may read while they are parsed."""
    variables: Annotated[list[base.NamePattern], pydantic.Field(max_length=1000)] = pydantic.Field(default_factory=list)
    """Likewise Variables."""


class Grants(base.Model):
    """All tenants. A namespace that is not listed may publish nothing."""

    tenants: Annotated[list[Tenant], pydantic.Field(max_length=10_000)]

    @pydantic.field_validator("tenants")
    @classmethod
    def _unique_namespaces(cls, value: list[Tenant]) -> list[Tenant]:
        names = [tenant.namespace for tenant in value]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"namespace {repeated[0]!r} occurs more than once")
        return value

    def tenant(self, namespace: str) -> Tenant | None:
        """Return the namespace's grant, or None where it is not listed."""
        return next((tenant for tenant in self.tenants if tenant.namespace == namespace), None)
