"""The pod_mutation_hook: a bundle's tasks run on the image that was parsed, in their team's place.

airflow_local_settings.py imports it, and Airflow calls it with every pod of the KubernetesExecutor, in the scheduler,
after it has merged the DAG's executor_config into it. What cannot be answered for is not started: Airflow fails the
task with the error's text.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from dagbundle_airflow import lookup, pods, proof, template, workload
from dagbundle_airflow.errors import WorkerError

_LOG = logging.getLogger(__name__)


def pod_mutation_hook(pod: Any) -> None:
    """Put the pod of a task or a callback into its bundle's place, whatever the DAG's executor_config says.

    A pod of another bundle is left as it is, and so is one that a task makes itself (KubernetesPodOperator): that runs
    with what its own pod may do.

    Args:
        pod: A V1Pod, which is changed.

    Raises:
        WorkerError: The pod is not to be started; the message says why.
    """
    if _is_in_a_task():
        return
    from airflow import settings  # noqa: PLC0415 - Airflow is not ready when it imports this

    # a connection of its own: the thread's session is in the middle of the scheduler's work
    with settings.engine.connect().execution_options(postgresql_readonly=True) as connection:
        if not lookup.is_installed(connection):
            return
        asked = _client().sanitize_for_serialization(pod)
        work = workload.read(asked)
        task = proof.prove(connection, work)
        place = lookup.place(connection, task)
    if place is None:
        return
    if task != work.work:
        raise WorkerError(f"{work.work} is not started: by now Airflow has it as {task!r}")
    deployment = template.read()
    wanted = pods.build(asked, deployment, place, task, work)
    try:
        made = _client()._ApiClient__deserialize_model(wanted, type(pod))  # noqa: SLF001 - as Airflow's provider does: there is no other
    except ValueError as error:
        raise WorkerError(
            f"What the deployment's pod template and spec.pod of bundle {place.bundle} say together is no pod: {error}"
        ) from error
    pod.metadata, pod.spec, pod.status = made.metadata, made.spec, None
    if not place.image:
        _LOG.warning(
            "Version %s of bundle %s was published from a folder, so it is no image: DAG %s runs on %s",
            place.version, place.bundle, task.dag_id, deployment.image,
        )  # fmt: skip
    _LOG.info(
        "%s runs as %s in namespace %s on %s", task, place.account, place.namespace, place.image or deployment.image
    )


def _is_in_a_task() -> bool:
    """Return whether this process runs a task: it has no database, and is as confined as its own pod."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    return hasattr(runner, "SUPERVISOR_COMMS")


def _client() -> Any:
    from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415 - only schedulers need it

    return ApiClient(configuration=Configuration())
