"""A workload as a source: which image, and when its rollout is complete."""

from __future__ import annotations

from typing import Any

import pytest

from dagbundle.controller.workloads import source_of
from dagbundle.resources.bundle import WorkloadRef

REF = WorkloadRef(name="airflow")


def workload(*, status: dict[str, Any] | None = None, generation: int = 2, **spec: Any) -> dict[str, Any]:
    done = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    containers = [{"name": "main", "image": "registry.test/a:1"}, {"name": "side", "image": "registry.test/b:1"}]
    return {
        "metadata": {"name": "airflow", "generation": generation},
        "spec": {"replicas": 2, "template": {"spec": {"containers": containers}}, **spec},
        "status": {**done, **(status or {})},
    }


def test_a_complete_rollout_gives_its_image_and_no_gate() -> None:
    found = source_of(REF, workload())
    assert (found.image, found.gate) == ("registry.test/a:1", "")


def test_a_container_is_found_by_name() -> None:
    assert source_of(WorkloadRef(name="airflow", container="side"), workload()).image == "registry.test/b:1"


def test_a_container_that_is_not_there_is_said_with_those_that_are() -> None:
    found = source_of(WorkloadRef(name="airflow", container="none"), workload())
    assert (found.image, found.reason) == ("", "ContainerNotFound")
    assert "main, side" in found.message


def test_a_workload_that_is_not_there_is_said() -> None:
    assert source_of(REF, None).reason == "WorkloadNotFound"


@pytest.mark.parametrize(
    ("status", "generation"),
    [
        ({"updatedReplicas": 1}, 2), ({"availableReplicas": 1}, 2), ({"replicas": 3}, 2), ({}, 3),
    ],
)  # fmt: skip
def test_a_rollout_that_goes_on_holds_the_publish_but_not_the_parse(status: dict[str, Any], generation: int) -> None:
    found = source_of(REF, workload(status=status, generation=generation))
    assert (found.image, found.gate) == ("registry.test/a:1", "WaitingForWorkload")


def test_a_paused_rollout_blocks() -> None:
    assert source_of(REF, workload(paused=True)).gate == "WorkloadPaused"


def test_a_failed_rollout_blocks() -> None:
    failed = {
        "conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no"}
        ]
    }
    assert source_of(REF, workload(status=failed)).gate == "WorkloadFailed"
