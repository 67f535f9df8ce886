"""What Airflow expects of a DAG processor besides parsing."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from dagbundle.rollout.model import BundleKey
from dagbundle.store import bundles as stores
from dagbundle.targets.airflow import limits, upkeep
from publisher.conftest import OPS, SALES, Deployment, dag, installed

HOUR = dt.timedelta(hours=1)


def newest_job(deployment: Deployment) -> Any:
    """What the health page asks for."""
    from airflow.jobs.job import most_recent_job  # noqa: PLC0415 - after AIRFLOW_HOME is set

    with Session(deployment.store.db.engine) as session:
        return most_recent_job("DagProcessorJob", session=session)


def ask(deployment: Deployment, path: str, bundle: str = "team-sales.sales") -> None:
    """Ask to parse a file again, as the API does."""
    deployment.execute(
        "INSERT INTO dag_priority_parsing_request (id, bundle_name, relative_fileloc) VALUES (:id, :bundle, :path)",
        id=hashlib.md5(f"{bundle}:{path}".encode(), usedforsecurity=False).hexdigest(), bundle=bundle, path=path,
    )  # fmt: skip


def test_the_health_page_sees_a_processor_that_lives(deployment: Deployment) -> None:
    deployment.store.attend("controller-1")
    found = newest_job(deployment)
    assert found.is_alive()
    assert found.hostname == "controller-1"


def test_beating_again_renews_the_same_row(deployment: Deployment) -> None:
    deployment.store.attend("controller-1")
    before = newest_job(deployment).latest_heartbeat
    deployment.store.attend("controller-1")
    assert newest_job(deployment).latest_heartbeat > before
    assert deployment.rows("SELECT count(*) FROM job") == [(1,)]


def test_the_health_page_sees_a_processor_that_ended(deployment: Deployment) -> None:
    deployment.store.attend("controller-1")
    deployment.store.depart("controller-1")
    assert not newest_job(deployment).is_alive()


def test_a_request_to_parse_a_file_again_is_taken_and_gone_at_once(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    ask(deployment, "a.py")
    assert deployment.store.attend("controller-1") == {SALES: {"a.py"}}
    assert deployment.rows("SELECT * FROM dag_priority_parsing_request") == []
    assert deployment.store.attend("controller-1") == {}


def test_requests_of_one_bundle_stop_neither_the_heartbeat_nor_others(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.submit({"b.py": [dag("b")]}, OPS)
    rows = [{"id": f"{number:032}", "path": f"a.py/{number}"} for number in range(66_000)]
    statement = sa.text(
        "INSERT INTO dag_priority_parsing_request (id, bundle_name, relative_fileloc)"
        " VALUES (:id, 'team-sales.sales', :path)"
    )
    with deployment.store.db.engine.begin() as connection:
        connection.execute(statement, rows)
    ask(deployment, "b.py", bundle="team-ops.ops")
    assert deployment.store.attend("controller-1") == {SALES: frozenset(), OPS: {"b.py"}}
    assert deployment.rows("SELECT * FROM dag_priority_parsing_request") == []
    assert newest_job(deployment).is_alive()
    assert deployment.store.head(SALES).requested


def test_a_request_waits_for_no_publication_of_its_bundle(on_postgresql: Deployment) -> None:
    store = on_postgresql.store
    on_postgresql.submit({"a.py": [dag("a")]})
    ask(on_postgresql, "a.py")
    with store.db.engine.begin() as publishing:
        stores.find(publishing, store.db.tables, SALES, lock=True)
        assert store.attend("controller-1") == {SALES: {"a.py"}}


def test_a_request_for_somebody_elses_bundle_stays(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    ask(deployment, "a.py", bundle="dags-folder")
    assert deployment.store.attend("controller-1") == {}
    assert len(deployment.rows("SELECT * FROM dag_priority_parsing_request")) == 1


def test_a_paused_dags_next_run_moves_on_with_time(deployment: Deployment) -> None:
    start = dt.datetime.now(dt.UTC) - 48 * HOUR
    deployment.submit({"a.py": [dag("a", schedule="@hourly", start_date=start, catchup=False)]})
    long_ago = dt.datetime.now(dt.UTC) - 3 * HOUR
    table = installed().Dag.__table__
    with deployment.store.db.engine.begin() as connection:
        late = {"next_dagrun": long_ago, "next_dagrun_create_after": long_ago + HOUR, "last_parsed_time": long_ago}
        connection.execute(sa.update(table).values(is_paused=True, **late))
    deployment.store.refresh()
    with deployment.store.db.engine.connect() as connection:
        found = connection.execute(sa.select(table)).one()
    assert found.next_dagrun_create_after > dt.datetime.now(dt.UTC) - HOUR
    assert found.last_parsed_time > long_ago
    assert found.last_parse_duration == pytest.approx(0.5)
    assert found.bundle_version == "v1"


def test_while_an_overdue_date_is_computed_no_other_dag_is_locked(on_postgresql: Deployment) -> None:
    start = dt.datetime.now(dt.UTC) - 48 * HOUR
    late_one = dag("a", schedule="@hourly", start_date=start, catchup=False)
    on_postgresql.submit({"a.py": [late_one], "b.py": [dag("b")]})
    table, engine = installed().Dag.__table__, on_postgresql.store.db.engine
    late = {"next_dagrun_create_after": start, "is_paused": True}
    with engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.dag_id == "a").values(late))
    target = on_postgresql.store.target
    assert target is not None
    with engine.begin() as connection:
        steps = target.overdue(connection, {str(SALES): SALES.namespace})
    for step in steps:
        with engine.begin() as connection, engine.begin() as other:
            step(connection)
            free = other.scalars(sa.select(table.c.dag_id).with_for_update(skip_locked=True)).all()
        assert free == ["b"]
    assert on_postgresql.rows("SELECT dag_id FROM dag WHERE next_dagrun_create_after > :start", start=start) != []


def make_late(deployment: Deployment, bundles: Mapping[BundleKey, int]) -> None:
    """Publish bundles with so many DAGs each, whose next runs were due days ago."""
    start = dt.datetime.now(dt.UTC) - 48 * HOUR
    for bundle, count in bundles.items():
        names = [f"{bundle.namespace}.{bundle.name}.{number}" for number in range(count)]
        made = [dag(name, schedule="@hourly", start_date=start, catchup=False) for name in names]
        deployment.submit({f"{bundle.name}.py": made}, bundle=bundle)
    table = installed().Dag.__table__
    with deployment.store.db.engine.begin() as connection:
        late = {"next_dagrun": start, "next_dagrun_create_after": start, "is_paused": True}
        connection.execute(sa.update(table).values(**late))


def moved(deployment: Deployment) -> set[str]:
    """The DAGs whose next runs are not overdue any more."""
    table = installed().Dag.__table__
    soon = dt.datetime.now(dt.UTC) - HOUR
    with deployment.store.db.engine.connect() as connection:
        return set(connection.scalars(sa.select(table.c.dag_id).where(table.c.next_dagrun_create_after > soon)))


def test_a_namespace_with_many_overdue_dags_leaves_others_their_places(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MAX_OVERDUE", 4)
    many = {BundleKey("team-sales", f"b{number}"): 2 for number in range(12)}
    make_late(deployment, {**many, OPS: 1})
    deployment.store.refresh()
    assert len(moved(deployment)) == 4
    assert "team-ops.ops.0" in moved(deployment)


def test_a_namespace_whose_overdue_dags_take_all_the_time_leaves_others_their_first_ones(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "UPKEEP_CPU_SECONDS", 0.0)  # taken with the first DAG of all
    make_late(deployment, {SALES: 30, OPS: 1})
    deployment.store.refresh()
    assert len(moved(deployment)) == 11
    assert "team-ops.ops.0" in moved(deployment)
    assert "20 of 31 DAGs' next runs were left for the next upkeep" in caplog.text


@pytest.mark.parametrize("harm", ["DELETE FROM dag WHERE dag_id = 'a'", "UPDATE dag SET is_stale = true"])
def test_what_somebody_took_from_airflow_is_put_back(deployment: Deployment, harm: str) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    for table in ("dag_code", "serialized_dag", "dag_version"):
        if harm.startswith("DELETE"):
            deployment.execute(f"DELETE FROM {table} WHERE dag_id = 'a'")  # noqa: S608 - constants
    deployment.execute(harm)
    assert deployment.store.refresh().behind == (SALES,)
    deployment.store.follow(SALES)
    assert deployment.live() == {"a": "v1", "b": "v1"}
    assert deployment.store.refresh().behind == ()


def test_bundles_of_another_cluster_are_none_of_ours(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]}, bundle=BundleKey("team-sales", "sales", "east"))
    ask(deployment, "a.py", bundle="east.team-sales.sales")
    assert deployment.store.attend("controller-1", cluster="west") == {}
    assert deployment.store.attend("controller-1", cluster="east").keys() == {BundleKey("team-sales", "sales", "east")}


def test_warnings_of_dags_that_are_gone_are_cleared_away(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    for name in ("a", "b"):
        deployment.execute(
            "INSERT INTO dag_warning (dag_id, warning_type, message, timestamp) VALUES (:name, :kind, 'x', :now)",
            name=name, kind="asset conflict", now=dt.datetime.now(dt.UTC),
        )  # fmt: skip
    deployment.submit({"a.py": [dag("a")]}, version="v2")
    deployment.store.refresh()
    assert deployment.rows("SELECT dag_id FROM dag_warning") == [("a",)]
