"""Runs and task instances, as the scheduler would have made them."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session


def add_run(engine: Engine, dag_id: str) -> None:
    """Add a run with one task instance of a DAG's newest version."""
    from airflow import settings  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.models.dag_version import DagVersion  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.models.serialized_dag import SerializedDagModel  # noqa: PLC0415 - likewise
    from airflow.utils.state import DagRunState  # noqa: PLC0415 - likewise
    from airflow.utils.types import DagRunTriggeredByType, DagRunType  # noqa: PLC0415 - likewise

    if hasattr(settings, "configure_policy_plugin_manager"):  # in 3.1 only its own processes do that
        settings.configure_policy_plugin_manager()
    with Session(engine) as session:
        version = session.scalars(
            sa.select(DagVersion).where(DagVersion.dag_id == dag_id).order_by(DagVersion.version_number.desc())
        ).first()
        assert version is not None
        serialized = session.scalars(
            sa.select(SerializedDagModel).where(SerializedDagModel.dag_version_id == version.id)
        ).one()
        dag = serialized.dag
        now = dt.datetime.now(dt.UTC)
        dag.create_dagrun(
            run_id="manual__1", run_type=DagRunType.MANUAL, state=DagRunState.RUNNING, run_after=now, logical_date=now,
            data_interval=(now, now), triggered_by=DagRunTriggeredByType.TEST, session=session,
        )  # fmt: skip
        session.commit()
