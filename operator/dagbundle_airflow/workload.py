"""Reads out of a pod which task it runs, as the KubernetesExecutor wrote it into the container's arguments.

A DAG's executor_config can replace any part of a pod, these arguments too. So what is read here is a claim, until
`proof` has seen its token.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from dagbundle_airflow.errors import WorkerError

MODULE = "airflow.sdk.execution_time.execute_workload"
_FLAG = "--json-string"


@dataclasses.dataclass(frozen=True)
class Task:
    """One try of one task, and the code that it is of.

    Attributes:
        version: Bundle version that its run is pinned to; None where the DAG does not pin its runs.
    """

    dag_id: str
    task_id: str
    run_id: str
    try_number: int
    map_index: int
    bundle: str
    version: str | None

    def __str__(self) -> str:
        """The task as messages name it."""
        return f"Task {self.task_id} of DAG {self.dag_id}, run {self.run_id}"


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a pod says that it runs.

    Attributes:
        text: The JSON document, as the worker will read it.
        token: By which the worker is let in, signed by Airflow.
        task_instance: Id of Airflow's row.
        task: What the document says of it.
    """

    text: str
    token: str
    task_instance: str
    task: Task


def read(pod: Mapping[str, Any]) -> Workload:
    """Return what a pod, as JSON, says that it runs.

    Raises:
        WorkerError: That is no task.
    """
    try:
        text = _text(pod["spec"]["containers"][0]["args"])
        document = json.loads(text)
        ti, bundle = document["ti"], document["bundle_info"]
        task = Task(
            dag_id=str(ti["dag_id"]),
            task_id=str(ti["task_id"]),
            run_id=str(ti["run_id"]),
            try_number=int(ti["try_number"]),
            map_index=int(ti["map_index"]),
            bundle=str(bundle["name"]),
            version=bundle["version"],
        )
        return Workload(text=text, token=str(document["token"]), task_instance=str(ti["id"]), task=task)
    except (LookupError, TypeError, ValueError) as error:
        raise WorkerError(
            f"Pod {pod['metadata'].get('name')} carries no task of Airflow's, so nothing says whose it is: {error!r}. "
            "executor_config must not set args of the first container"
        ) from error


def _text(found: list[str]) -> str:
    _, *start, text = found
    if start != ["-m", MODULE, _FLAG]:
        raise ValueError(f"its arguments begin with {start}")
    return text


def arguments(workload: Workload) -> list[str]:
    """Return the arguments for a Python interpreter that carry out a workload."""
    return ["-m", MODULE, _FLAG, workload.text]
