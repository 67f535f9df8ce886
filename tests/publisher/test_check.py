"""`dagbundle airflow check` says what would go wrong, before it does."""

from __future__ import annotations

import datetime as dt
import pathlib

import pytest
import sqlalchemy as sa

from dagbundle.store.dagstore import DagStore
from dagbundle.targets.airflow import vetting
from dagbundle.targets.airflow.target import AirflowTarget
from publisher.conftest import Deployment, dag, installed


def told(deployment: Deployment, level: str) -> str:
    return "\n".join(item.text for item in deployment.store.examine() if item.level == level)


def test_a_deployment_that_is_well_has_no_error(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.store.attend("controller-1")
    assert told(deployment, "error") == ""
    assert "no controller of ours is alive" not in told(deployment, "info")


def test_a_database_without_airflows_tables_is_said(tmp_path: pathlib.Path) -> None:
    with DagStore.open(f"sqlite:///{tmp_path}/other.db", upgrade=True) as store:
        store.target = AirflowTarget(installed())
        assert "the database has no tables of Airflow's" in [item.text for item in store.examine()]


def test_a_database_of_another_airflow_is_said(deployment: Deployment) -> None:
    deployment.execute("UPDATE alembic_version SET version_num = 'another'")
    assert "the database is at Airflow's revision another" in told(deployment, "error")


def test_a_stock_processor_that_runs_is_said(deployment: Deployment) -> None:
    job = installed().Job.__table__
    now = dt.datetime.now(dt.UTC)
    with deployment.store.db.engine.begin() as connection:
        connection.execute(
            sa.insert(job).values(job_type="DagProcessorJob", state="running", hostname="stock-1", latest_heartbeat=now)
        )
    assert "a dag-processor of Airflow's own runs on stock-1" in told(deployment, "warning")


def test_dags_that_airflow_gives_to_another_bundle_or_does_not_show_are_said(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    deployment.execute("INSERT INTO dag_bundle (name, active) VALUES ('dags-folder', true)")
    deployment.execute("UPDATE dag SET bundle_name = 'dags-folder' WHERE dag_id = 'a'")
    deployment.execute("UPDATE dag SET is_stale = true WHERE dag_id = 'b'")
    found = told(deployment, "error")
    assert "DAGs of bundle team-sales.sales belong to another bundle in Airflow (1): a (dags-folder)" in found
    assert "DAGs of bundle team-sales.sales are not shown by Airflow (1): b" in found


def test_a_missing_key_is_said_with_what_it_costs(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    found = told(deployment, "warning")
    assert "[core] fernet_key is not set here" in found
    assert "cannot read encrypted Variables and Connections" in found


def test_users_of_fab_without_its_auth_manager_here_are_said(deployment: Deployment) -> None:
    deployment.execute("CREATE TABLE ab_user (id INTEGER)")  # as one that was left behind has it
    assert "access_control" not in told(deployment, "warning")
    deployment.execute("INSERT INTO ab_user VALUES (1)")
    assert "DAGs' access_control is not carried out" in told(deployment, "warning")


def test_fabs_auth_manager_without_its_provider_is_said(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW__CORE__AUTH_MANAGER", "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    )
    assert "its provider is not installed here: no DAG can be published" in told(deployment, "error")


def test_a_bundle_that_somebody_deactivated_is_said(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.execute("UPDATE dag_bundle SET active = false")
    assert "bundle team-sales.sales is marked as inactive" in told(deployment, "error")


def test_an_executor_that_cannot_carry_out_callbacks_is_said_where_they_are_allowed_for_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.executors import executor_loader  # noqa: PLC0415 - after AIRFLOW_HOME is set

    def found(executors: str, allowed: str) -> tuple[str, str]:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executors)
        for name, value in list(vars(executor_loader).items()):  # it remembers what it read
            if name.startswith("_") and not name.startswith("__") and isinstance(value, dict | list):
                value.clear()
        asked = vetting.Allowed(callback_executors=frozenset({allowed}))
        deployment.store.target = AirflowTarget(installed(), asked)
        return told(deployment, "error"), told(deployment, "warning")

    carries = installed().minor != "3.1"
    assert ("ends the scheduler" in found("LocalExecutor", "LocalExecutor")[0]) is not carries
    assert ("ends the scheduler" in found("LocalExecutor", "default")[0]) is not carries
    assert "whether it carries out callbacks is not known" in found("LocalExecutor", "CeleryExecutor")[1]
    plain = "support.executors.PlainExecutor"
    assert f"names {plain}, which cannot carry out callbacks" in found(plain, plain)[0]
