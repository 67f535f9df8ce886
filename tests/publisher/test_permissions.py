"""Where FAB's auth manager is used, a DAG's `access_control` is in force when it is published, as in stock Airflow."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle import errors
from publisher.conftest import Deployment, dag, driver, migrate, opened, process_files
from support.postgres import PostgresServer

pytest.importorskip("airflow.providers.fab", reason="needs the provider fab (make test-providers)")

FAB = {"AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}
KNOWN = """
SELECT action.name, resource.name, role.name FROM ab_permission_view AS permission
JOIN ab_permission AS action ON action.id = permission.permission_id
JOIN ab_view_menu AS resource ON resource.id = permission.view_menu_id
LEFT JOIN ab_permission_view_role AS granted ON granted.permission_view_id = permission.id
LEFT JOIN ab_role AS role ON role.id = granted.role_id
ORDER BY 1, 2, 3
"""
"""Every action on every resource, with each role that may do it, if any may."""

ACCESS: Mapping[str, Any] = {"Analyst": {"can_read"}, "Viewer": {"DAG Runs": {"can_create"}}}
FILE = f"""
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("a", schedule=None, access_control={ACCESS!r}):
    EmptyOperator(task_id="one")
"""


def migrated(url: str) -> None:
    """Make all tables, FAB's too, and two roles."""
    migrate(url, **FAB)
    engine = sa.create_engine(driver(url))
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO ab_role (id, name) VALUES (1, 'Analyst'), (2, 'Viewer')"))
    engine.dispose()


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("template") / "airflow.db"
    migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def postgres_template(server: PostgresServer) -> str:
    url = server.create_database()
    migrated(url)
    return url.rpartition("/")[2]


@pytest.fixture
def fab(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    for name, value in FAB.items():
        monkeypatch.setenv(name, value)
    yield from opened(url)


def granted(deployment: Deployment) -> list[tuple[Any, ...]]:
    return [row for row in deployment.rows(KNOWN) if row[2] is not None]


def test_a_dags_access_control_is_in_force_from_its_publication_on(fab: Deployment) -> None:
    fab.submit({"a.py": [dag("a", access_control={"Analyst": {"can_read"}})]})
    assert granted(fab) == [("can_read", "DAG:a", "Analyst")]
    fab.submit({"a.py": [dag("a", access_control={"Viewer": {"can_edit"}})]}, version="v2")
    assert granted(fab) == [("can_edit", "DAG:a", "Viewer")]
    fab.submit({"a.py": [dag("a")]}, version="v3")  # it says nothing of access any more, so nothing is taken
    assert granted(fab) == [("can_edit", "DAG:a", "Viewer")]


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({"Nobody": {"can_read"}}, "a role named 'Nobody', but that role does not exist"),
        ({"Viewer": {"can_fly"}}, "invalid permissions: {'can_fly'}"),
        ({"Viewer": {"Pools": {"can_read"}}}, "invalid resource name: 'Pools'"),
    ],
)
def test_access_that_fab_stops_knowing_before_it_is_written_takes_the_publication_back(
    fab: Deployment, access: Any, said: str
) -> None:
    fab.submit({"a.py": [dag("a")]})
    before = fab.rows(KNOWN)
    with pytest.raises(errors.TargetError, match=rf"^DAG b of bundle team-sales\.sales, file b\.py: .*{said}"):
        fab.submit({"a.py": [dag("a")], "b.py": [dag("b", access_control=access)]}, version="v2")
    assert (fab.live(), fab.rows(KNOWN)) == ({"a": "v1"}, before)


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({"Nobody": {"can_read"}}, "a role named 'Nobody', but that role does not exist"),
        ({"Viewer": {"can_fly"}}, "the invalid permissions: can_fly"),
        ({"Viewer": {"Pools": {"can_read"}}}, "the invalid resource name: 'Pools'"),
    ],
)
def test_access_that_fab_does_not_know_costs_its_file_and_not_the_bundle(
    fab: Deployment, access: Any, said: str
) -> None:
    fab.roll_out({"a.py": [dag("a")], "b.py": [dag("b", access_control=ACCESS)]}, "v1")
    before = fab.rows(KNOWN)
    files = {"a.py": [dag("a", tags=["new"])], "b.py": [dag("b", access_control=access)]}
    done = fab.roll_out(files, "v2")
    assert done.judgement.reason == "KeptLastGood"
    assert (fab.live(), fab.rows(KNOWN)) == ({"a": "v2", "b": "v1"}, before)
    ((path, text),) = fab.rows("SELECT filename, stacktrace FROM import_error")
    assert path == "b.py"
    assert f"DAG b: its access_control includes {said}" in text
    fab.execute("INSERT INTO ab_role (id, name) VALUES (9, 'Nobody')")
    done = fab.roll_out({**files, "b.py": [dag("b", access_control={"Nobody": {"can_read"}})]}, "v3")
    assert (done.judgement.reason, fab.live()) == ("Published", {"a": "v3", "b": "v3"})


def test_the_check_finds_nothing_to_say_of_fab(fab: Deployment) -> None:
    assert [item.text for item in fab.store.examine() if "auth_manager" in item.text] == []


def test_permissions_are_those_that_a_stock_dag_processor_writes(
    fab: Deployment, sqlite_template: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    stock = f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'stock.db')}"
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "a.py").write_text(FILE)
    process_files(stock, "dags", tmp_path / "dags")
    fab.submit({"a.py": [dag("a", access_control=ACCESS)]})
    with sa.create_engine(stock).connect() as connection:
        assert fab.rows(KNOWN) == [tuple(row) for row in connection.execute(sa.text(KNOWN))]
    assert granted(fab) == [("can_create", "DAG Run:a", "Viewer"), ("can_read", "DAG:a", "Analyst")]
