"""Reads Jobs, pods and Events as the API server shows them, and says what is wrong in words that help.

Pure functions over decoded JSON. What is read here was written by a tenant's pod or by its account in parts, so it is
shown to people, bounded, and decides nothing but whether to go on waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dagbundle.rollout.steps import JobSeen
from dagbundle.runtime.kubernetes import jobs

Object = Mapping[str, Any]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_TEXT = 1000
_WAITING_IS_TROUBLE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
     "CreateContainerError", "RunContainerError", "RegistryUnavailable"}
)  # fmt: skip
_HINTS = {
    "ErrImagePull": "check the image's name, and spec.pod.imagePullSecrets",
    "ImagePullBackOff": "check the image's name, and spec.pod.imagePullSecrets",
    "CreateContainerConfigError": "a Secret or ConfigMap that the pod names is missing, or the image runs as root",
    "OOMKilled": "raise spec.pod.resources.limits.memory, or lower spec.parser.processes",
    "DeadlineExceeded": "raise spec.timeout, or see why the parser takes so long",
}


def digest_of(image_id: str) -> str:
    """Return the digest in a container's imageID, which runtimes spell in different ways; empty where it has none.

    Docker writes `docker-pullable://repo@sha256:…`, containerd `repo@sha256:…`, and for an image that was never pulled
    a bare `sha256:…`, which is the digest of its configuration and of no use to a puller.
    """
    repository, _, digest = image_id.rpartition("@")
    return digest if repository and _DIGEST.fullmatch(digest) else ""


def job_seen(job: Object, pods: Iterable[Object], events: Sequence[Object] = ()) -> JobSeen:
    """Read a Job with its pods, and with its Events where it has no pod.

    Args:
        job: A batch/v1 Job.
        pods: Its pods.
        events: Events about the Job, newest last.
    """
    metadata, conditions = job["metadata"], _conditions(job)
    mine = list(pods)
    failed = conditions.get("Failed")
    return JobSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        ended=ended(job),
        failure=_failure(failed, mine) if failed else "",
        trouble="" if conditions else _trouble(mine, events),
        digests=frozenset(digest for pod in mine if (digest := _digest(pod))),
    )


def ended(job: Object) -> bool:
    """Return whether a Job has no pod any more and gets none.

    It has conditions for other things too: that it is suspended, or about to fail.
    """
    return not {"Complete", "Failed"}.isdisjoint(_conditions(job))


def _conditions(job: Object) -> Mapping[str, Object]:
    """Return the conditions that hold, by type."""
    listed = (job.get("status") or {}).get("conditions") or ()
    return {item["type"]: item for item in listed if item.get("status") == "True" and "type" in item}


def _failure(condition: Object, pods: Sequence[Object]) -> str:
    """Say why a Job failed: what its pods say is nearer to the cause than what the Job says."""
    reason = str(condition.get("reason", "Failed"))
    if reason == "DeadlineExceeded":
        trouble = _trouble(pods, ())
        return _hinted(reason, "the Job ran into its deadline" + (f" ({trouble})" if trouble else ""))
    for pod in sorted(pods, key=_created, reverse=True):
        if text := _pod_failure(pod):
            return text
    return _hinted(reason, str(condition.get("message", "")))


def _pod_failure(pod: Object) -> str:
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        return _hinted("Evicted", str(status.get("message", "")))
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        ended = container.get("state", {}).get("terminated") or {}
        if ended and ended.get("exitCode"):
            reason = str(ended.get("reason", "Error"))
            said = str(ended.get("message", "")).strip()
            return _hinted(reason, f"container {container.get('name')} ended with {ended['exitCode']}: {said}")
    return ""


def _trouble(pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Say what keeps a Job from running; empty when nothing does."""
    for pod in pods:
        status = pod.get("status", {})
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            waiting = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in _WAITING_IS_TROUBLE:
                return _hinted(str(waiting["reason"]), str(waiting.get("message", "")))
            ended = container.get("lastState", {}).get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                return _hinted("OOMKilled", f"container {container.get('name')} used more memory than its limit")
        for condition in status.get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
                return _hinted("Unschedulable", str(condition.get("message", "")))
    if not pods:
        for event in reversed(events):
            if event.get("reason") == "FailedCreate":
                return _hinted(_refusal(str(event.get("message", ""))), str(event.get("message", "")))
    return ""


def _refusal(message: str) -> str:
    """Name what refused a pod, from the Job controller's words."""
    if "exceeded quota" in message:
        return "QuotaExceeded"
    return "PodSecurity" if "violates PodSecurity" in message else "PodRefused"


def _hinted(reason: str, message: str) -> str:
    hint = _HINTS.get(reason, "")
    text = f"{reason}: {message[:_MAX_TEXT].strip()}" if message.strip() else f"{reason}:"
    return f"{text} ({hint})" if hint else text.rstrip(":")


def _digest(pod: Object) -> str:
    for container in pod.get("status", {}).get("containerStatuses", ()):
        if container.get("name") == jobs.CONTAINER:
            return digest_of(str(container.get("imageID", "")))
    return ""


def _created(pod: Object) -> str:
    return str(pod.get("metadata", {}).get("creationTimestamp", ""))
