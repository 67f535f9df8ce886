"""A dag_id belongs to one bundle, a stock processor's too: Airflow itself gives it to whoever writes last."""

from __future__ import annotations

import functools
import threading

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.rollout import judge, policy
from dagbundle.rollout.model import BundleKey, Changeset
from dagbundle.store.dagstore import DagStore
from dagbundle.targets.airflow.target import AirflowTarget
from publisher.conftest import OPS, SALES, Deployment, dag, installed, staged

STOCK = BundleKey("", "dags-folder")


def stock(deployment: Deployment, *, stale: bool = False) -> None:
    """Let `a` be a DAG of a stock bundle."""
    deployment.submit({"a.py": [dag("a")]}, bundle=OPS)
    deployment.execute("INSERT INTO dag_bundle (name, active) VALUES ('dags-folder', true)")
    deployment.execute("UPDATE dag SET bundle_name = 'dags-folder', is_stale = :stale", stale=stale)
    tables = deployment.store.db.tables
    with deployment.store.db.engine.begin() as connection:
        connection.execute(sa.delete(tables.dag))
        connection.execute(sa.delete(tables.target))


def test_a_dag_of_a_stock_bundle_is_not_taken_over(deployment: Deployment) -> None:
    stock(deployment)
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    assert deployment.rows("SELECT dag_id, bundle_name FROM dag ORDER BY dag_id") == [
        ("a", "dags-folder"),
        ("b", "team-sales.sales"),
    ]
    (problem,) = deployment.store.list_errors().items
    assert "dags-folder" in problem.problem.message


def test_a_dag_that_a_stock_bundle_let_go_of_is_taken(deployment: Deployment) -> None:
    stock(deployment, stale=True)
    deployment.submit({"a.py": [dag("a")]})
    assert deployment.rows("SELECT dag_id, bundle_name FROM dag") == [("a", "team-sales.sales")]


def test_a_stock_bundle_that_takes_a_dag_in_the_same_moment_wins(deployment: Deployment) -> None:
    """The judge saw nobody; the lock on Airflow's row does."""
    stock(deployment)
    store = deployment.store
    store.register_bundle(SALES, str(SALES))
    unaware = functools.partial(judge.judge, policy=policy.Policy())

    def blind(changeset: Changeset, /, **given: object) -> judge.Judgement:
        return unaware(changeset, **{**given, "owners": {}})  # type: ignore[arg-type] # what it is given

    with pytest.raises(errors.OwnershipError, match="in Airflow it belongs to bundle dags-folder"):
        store.submit_dags(
            SALES, [staged("a.py", [dag("a")])], version="v1", template_hash="v1", judge=blind, python="3.11"
        )
    assert deployment.rows("SELECT dag_id, bundle_name FROM dag") == [("a", "dags-folder")]


def test_of_two_publishes_at_the_same_instant_one_gets_the_dag(on_postgresql: Deployment) -> None:
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def publish(bundle: BundleKey) -> None:
        with DagStore.open(on_postgresql.url) as store:
            store.target = AirflowTarget(installed())
            mine = Deployment(on_postgresql.url, store)
            start.wait()
            try:
                mine.submit({"a.py": [dag("contested")]}, bundle=bundle)
            except errors.StoreError as error:
                failures.append(error)

    threads = [threading.Thread(target=publish, args=(bundle,)) for bundle in (SALES, OPS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((owner,),) = on_postgresql.rows("SELECT bundle_name FROM dag WHERE dag_id = 'contested' AND NOT is_stale")
    (ours,) = on_postgresql.store.owners({"contested"}).values()
    assert str(ours) == owner
    assert all(isinstance(failure, errors.OwnershipError) for failure in failures)


def test_two_bundles_that_exchange_their_dags_have_each_others_in_airflow_too(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [dag("x")]}, "v1", bundle=SALES)
    deployment.roll_out({"b.py": [dag("y")]}, "v1", bundle=OPS)
    deployment.roll_out({"a.py": [dag("y", tags=["sales"])]}, "v2", bundle=SALES)
    assert deployment.live() == {"x": "v1", "y": "v1"}
    deployment.roll_out({"b.py": [dag("x", tags=["ops"])]}, "v2", bundle=OPS)
    assert deployment.rows(
        "SELECT dag_id, bundle_name, bundle_version FROM dag WHERE NOT is_stale ORDER BY dag_id"
    ) == [
        ("x", str(OPS), "v2"),
        ("y", str(SALES), "v2"),
    ]
    assert deployment.rows("SELECT dag_id, name FROM dag_tag ORDER BY dag_id") == [("x", "ops"), ("y", "sales")]
    assert deployment.rows("SELECT filename FROM import_error") == []
    done = deployment.roll_out({"a.py": [dag("y", tags=["sales"])]}, "v2", bundle=SALES)
    assert done.revision == done.base_revision
