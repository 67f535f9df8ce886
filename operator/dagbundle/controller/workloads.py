"""Finds the image that a bundle is to be parsed from, and whether its workload has come to run it.

An image source names its image. A workloadRef names a Deployment or StatefulSet: its template's image is parsed as soon
as the template is seen, and published when the workload's own rollout is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagbundle.resources import bundle as bundle_models
from dagbundle.runtime.kubernetes.client import Cluster


@dataclass(frozen=True, slots=True)
class Source:
    """What to parse.

    Attributes:
        image: The image; empty where there is none, see `reason`.
        gate: Why its result must not be published yet; empty when it may.
    """

    image: str = ""
    reason: str = ""
    message: str = ""
    gate: str = ""
    gate_message: str = ""


def resolve(resource: bundle_models.DagBundle, cluster: Cluster) -> Source:
    """Resolve a bundle's source. Raises `ClusterError`."""
    if resource.spec.source.image is not None:
        return Source(resource.spec.source.image.reference)
    reference = resource.spec.source.workload_ref
    assert reference is not None  # noqa: S101 - the model's promise, for the type checker
    body = cluster.workload(reference.kind, resource.metadata.namespace, reference.name)
    return source_of(reference, body)


def source_of(reference: bundle_models.WorkloadRef, body: Mapping[str, Any] | None) -> Source:
    """Read a workload: its image, and whether its rollout is complete."""
    what = f"{reference.kind} {reference.name}"
    if body is None:
        return Source(reason="WorkloadNotFound", message=f"there is no {what} in this namespace: correct spec.source")
    containers = body["spec"]["template"]["spec"].get("containers", ())
    wanted = reference.container
    found = next((item for item in containers if wanted is None or item.get("name") == wanted), None)
    if found is None or not found.get("image"):
        names = ", ".join(str(item.get("name")) for item in containers)
        return Source(reason="ContainerNotFound", message=f"{what} has no container {wanted!r} (it has {names})")
    gate, message = _gate(what, body)
    return Source(str(found["image"]), gate=gate, gate_message=message)


def _gate(what: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Say why a workload's rollout is not complete, as `kubectl rollout status` decides it."""
    spec, status = body["spec"], body.get("status", {})
    if spec.get("paused"):
        return "WorkloadPaused", f"the rollout of {what} is paused: what was parsed is published when it is complete"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return "WorkloadFailed", f"the rollout of {what} failed: {condition.get('message', '')}"
    replicas = int(spec.get("replicas", 1))
    behind = int(status.get("observedGeneration", 0)) < int(body["metadata"].get("generation", 0))
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    if behind or updated < replicas or int(status.get("replicas", 0)) > updated or available < updated:
        return (
            "WaitingForWorkload",
            f"{updated} of {replicas} replicas of {what} run the new image, {available} are available",
        )
    return "", ""
