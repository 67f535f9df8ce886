"""Reads out of a pod which task or callback it runs, as the KubernetesExecutor wrote it into the container's arguments.

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
class Callback:
    """A callback of a missed deadline, which an executor carries out (Airflow 3.2 and newer), and the code it is of.

    Attributes:
        identity: Id of Airflow's row.
        version: Bundle version that its run is pinned to; None where the DAG does not pin its runs.
    """

    identity: str
    dag_id: str
    run_id: str
    bundle: str
    version: str | None

    def __str__(self) -> str:
        """The callback as messages name it."""
        return f"Callback {self.identity} of DAG {self.dag_id}, run {self.run_id}"


Work = Task | Callback


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a pod says that it runs.

    Attributes:
        text: The JSON document, as the worker will read it.
        token: By which the worker is let in, signed by Airflow.
        identity: Id of Airflow's row: of a task instance, or of a callback.
        work: What the document says of it.
    """

    text: str
    token: str
    identity: str
    work: Work


def read(pod: Mapping[str, Any]) -> Workload:
    """Return what a pod, as JSON, says that it runs.

    Raises:
        WorkerError: That is neither a task nor a callback.
    """
    try:
        text = _text(pod["spec"]["containers"][0]["args"])
        document = json.loads(text)
        callback = document.get("type") == "ExecuteCallback"
        identity = str(document["callback" if callback else "ti"]["id"])
        work = _callback(document, identity) if callback else _task(document)
        return Workload(text=text, token=str(document["token"]), identity=identity, work=work)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise WorkerError(
            f"Pod {pod['metadata'].get('name')} carries no task or callback of Airflow's, so nothing says whose it is: "
            f"{error!r}. executor_config must not set args of the first container"
        ) from error


def _task(document: Mapping[str, Any]) -> Task:
    ti, bundle = document["ti"], document["bundle_info"]
    return Task(
        dag_id=str(ti["dag_id"]),
        task_id=str(ti["task_id"]),
        run_id=str(ti["run_id"]),
        try_number=int(ti["try_number"]),
        map_index=int(ti["map_index"]),
        bundle=str(bundle["name"]),
        version=bundle["version"],
    )


def _callback(document: Mapping[str, Any], identity: str) -> Callback:
    """Read a callback. Its document names the DAG, and its run only in the path of its log."""
    bundle, dag_id = document["bundle_info"], str(document["callback"]["data"]["dag_id"])
    folder, _, name = str(document["log_path"]).removeprefix(f"executor_callbacks/{dag_id}/").rpartition("/")
    if name != identity:
        raise ValueError("log_path is another callback's")
    return Callback(identity, dag_id, run_id=folder, bundle=str(bundle["name"]), version=bundle["version"])


def _text(found: list[str]) -> str:
    _, *start, text = found
    if start != ["-m", MODULE, _FLAG]:
        raise ValueError(f"its arguments begin with {start}")
    return text


def arguments(workload: Workload) -> list[str]:
    """Return the arguments for a Python interpreter that carry out a workload."""
    return ["-m", MODULE, _FLAG, workload.text]
