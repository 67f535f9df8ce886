"""Applies bundles whose parser says what a test wants, on a real store."""

from __future__ import annotations

from typing import Any

from dagbundle.engine import engine
from dagbundle.engine.applied import Applied
from dagbundle.resources import base, bundle
from dagbundle.rollout import policy
from dagbundle.rollout.model import BundleKey
from dagbundle.store.dagstore import DagStore
from support import reports


def resource(name: str = "sales", **spec: Any) -> bundle.DagBundle:
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"source": {"image": {"reference": "r/i:1"}}, **spec},
    }
    return base.validate(bundle.DagBundle, document, what="test")


def apply(
    store: DagStore,
    *files: dict[str, Any],
    version: str = "v1",
    name: str = "sales",
    script: reports.Script | dict[str, reports.Script] | None = None,
    **spec: Any,
) -> Applied:
    wanted = resource(name, **spec)
    runtime = reports.ScriptedRuntime(script or reports.whole(*files), version)
    return engine.Engine(store).apply(wanted, runtime=runtime, rules=policy.resolve(wanted, None))


def live(store: DagStore, name: str = "sales") -> dict[str, str]:
    """dag_id → bundle version of what is live."""
    return {dag.dag_id: dag.bundle_version for dag in store.live(BundleKey("team", name)).dags.values()}
