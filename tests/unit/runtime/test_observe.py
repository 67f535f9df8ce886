"""What Jobs, pods and Events say, in words that help; objects as a real API server shows them, shortened."""

from __future__ import annotations

from typing import Any

import pytest

from dagbundle.runtime.kubernetes import observe

DIGEST = "sha256:" + "0" * 64


def job(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "sales-1", "uid": "u"}, "status": {"conditions": list(conditions)}}


def condition(kind: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status}


def container(name: str = "parser", *, state: dict[str, Any] | None = None, image: str = "") -> dict[str, Any]:
    return {"name": name, "state": state or {}, "imageID": image}


@pytest.mark.parametrize(
    ("image_id", "digest"),
    [
        (f"registry.test/sales@{DIGEST}", DIGEST),
        (f"docker-pullable://registry.test:5000/sales@{DIGEST}", DIGEST),
        (DIGEST, ""),
        ("registry.test/sales@sha256:short", ""),
        ("", ""),
    ],
)
def test_a_digest_is_read_from_whatever_a_runtime_writes(image_id: str, digest: str) -> None:
    assert observe.digest_of(image_id) == digest


def test_a_running_job_has_neither_trouble_nor_failure() -> None:
    running = pod(containerStatuses=[container(state={"running": {}}, image=f"r@{DIGEST}")])
    seen = observe.job_seen(job(), [running])
    assert (seen.ended, seen.failure, seen.trouble, seen.digests) == (False, "", "", frozenset({DIGEST}))


def test_the_digest_is_the_parsers_container_and_of_no_other() -> None:
    others = pod(containerStatuses=[container("sidecar", image=f"r@{DIGEST}")])
    assert observe.job_seen(job(), [others]).digests == frozenset()


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_be_pulled_is_trouble_with_a_hint(reason: str) -> None:
    waiting = pod(containerStatuses=[container(state={"waiting": {"reason": reason, "message": "no such image"}})])
    trouble = observe.job_seen(job(), [waiting]).trouble
    assert trouble == f"{reason}: no such image (check the image's name, and spec.pod.imagePullSecrets)"


def test_a_pod_that_no_node_takes_is_trouble() -> None:
    pending = pod(
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]
    )
    assert observe.job_seen(job(), [pending]).trouble == "Unschedulable: 0/1 nodes"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: team', "QuotaExceeded"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "PodSecurity"),
        ("admission webhook refused", "PodRefused"),
    ],
)
def test_a_job_without_pods_says_what_refused_them(message: str, reason: str) -> None:
    events = [{"reason": "FailedCreate", "message": message}]
    assert observe.job_seen(job(), [], events).trouble.startswith(f"{reason}: {message}")


def test_a_failed_job_says_what_its_last_pod_died_of() -> None:
    killed = pod(
        containerStatuses=[container(state={"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "x"}})]
    )
    failed = job(condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    seen = observe.job_seen(failed, [killed])
    assert seen.ended
    assert seen.failure.startswith("OOMKilled: container parser ended with 137")
    assert "limits.memory" in seen.failure


def test_a_job_past_its_deadline_says_what_it_waited_for() -> None:
    waiting = pod(containerStatuses=[container(state={"waiting": {"reason": "ImagePullBackOff", "message": "no"}})])
    failure = observe.job_seen(job(condition("Failed", "DeadlineExceeded")), [waiting]).failure
    assert failure.startswith("DeadlineExceeded: the Job ran into its deadline (ImagePullBackOff: no")


def test_an_evicted_pod_is_named_as_such() -> None:
    evicted = pod(reason="Evicted", message="The node was low on resource: ephemeral-storage")
    assert observe.job_seen(job(condition("Failed", "BackoffLimitExceeded")), [evicted]).failure.startswith(
        "Evicted: The node"
    )


def test_what_a_tenants_pod_says_is_bounded() -> None:
    loud = pod(
        containerStatuses=[container(state={"terminated": {"exitCode": 1, "reason": "Error", "message": "x" * 99_999}})]
    )
    assert len(observe.job_seen(job(condition("Failed", "BackoffLimitExceeded")), [loud]).failure) < 1_200
