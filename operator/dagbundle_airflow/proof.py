"""Proves which task or callback a pod is for: by the token in its workload, which Airflow alone signs, and its tables.

Without that a DAG's executor_config could carry another team's workload, and get a pod in that team's place.
"""

from __future__ import annotations

import functools
import uuid
from typing import Any

from dagbundle_airflow.errors import WorkerError
from dagbundle_airflow.workload import Callback, Task, Work, Workload


def prove(connection: Any, workload: Workload) -> Work:
    """Return the task or callback that a workload is of, as Airflow's tables have it.

    Args:
        connection: To Airflow's database.
        workload: What the pod says.

    Raises:
        WorkerError: Airflow did not give it out, or it is gone.
    """
    try:
        claims = _validator().validated_claims(workload.token)
    except Exception as error:  # whatever Airflow and its libraries raise for a token
        raise WorkerError(
            f"{workload.work} is not started: its token is not one that Airflow gave out, or it has run out "
            f"({type(error).__name__}: {error})"
        ) from error
    if claims.get("sub") != workload.identity:
        raise WorkerError(f"{workload.work} is not started: its token is another task's or callback's")
    find = _known_callback if isinstance(workload.work, Callback) else _known
    known = find(connection, workload.identity)
    if known is None:
        raise WorkerError(f"{workload.work} is not started: Airflow does not know it any more")
    return known


@functools.cache
def _validator() -> Any:
    """Return what Airflow's own server checks such tokens with."""
    from airflow.api_fastapi.auth import tokens  # noqa: PLC0415 - Airflow is not ready when it imports the hook
    from airflow.configuration import conf  # noqa: PLC0415 - likewise

    return tokens.JWTValidator(
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience"),
        **tokens.get_sig_validation_args(make_secret_key_if_needed=False),
    )


def _known(connection: Any, task_instance: str) -> Task | None:
    import sqlalchemy as sa  # noqa: PLC0415 - as above
    from airflow.models.dag import DagModel  # noqa: PLC0415 - as above
    from airflow.models.dagrun import DagRun  # noqa: PLC0415 - as above
    from airflow.models.taskinstance import TaskInstance  # noqa: PLC0415 - as above

    try:
        kind = TaskInstance.id.type.python_type  # a text in 3.1, a UUID since
    except NotImplementedError:
        kind = str
    row = connection.execute(
        sa.select(
            TaskInstance.dag_id,
            TaskInstance.task_id,
            TaskInstance.run_id,
            TaskInstance.try_number,
            TaskInstance.map_index,
            DagModel.bundle_name,
            DagRun.bundle_version,
        )
        .join(DagRun, sa.and_(DagRun.dag_id == TaskInstance.dag_id, DagRun.run_id == TaskInstance.run_id))
        .join(DagModel, DagModel.dag_id == TaskInstance.dag_id)
        .where(TaskInstance.id == kind(str(uuid.UUID(task_instance))))
    ).first()
    return None if row is None else Task(*row)


def _known_callback(connection: Any, identity: str) -> Callback | None:
    import sqlalchemy as sa  # noqa: PLC0415 - as above
    from airflow.models.dag import DagModel  # noqa: PLC0415 - as above
    from airflow.models.dagrun import DagRun  # noqa: PLC0415 - as above

    try:
        from airflow.models.callback import CallbackType, ExecutorCallback  # noqa: PLC0415 - as above
    except ImportError:  # 3.1 has none for executors
        return None
    table = ExecutorCallback.__table__
    row = connection.execute(
        sa.select(table.c.data).where(table.c.id == uuid.UUID(identity), table.c.type == CallbackType.EXECUTOR.value)
    ).first()
    if row is None:
        return None
    found = connection.execute(
        sa.select(DagRun.dag_id, DagRun.run_id, DagModel.bundle_name, DagRun.bundle_version)
        .join(DagModel, DagModel.dag_id == DagRun.dag_id)
        .where(DagRun.id == int(row.data["dag_run_id"]), DagRun.dag_id == row.data["dag_id"])
    ).first()
    return None if found is None else Callback(identity, *found)
