"""A file that Airflow asks for again, among 1,000: what is written of it, and what is not of the others."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dagbundle.engine.engine import Engine
from publisher.conftest import SALES, Deployment, dag, installed, staged
from publisher.test_upkeep import ask

FILES = 1000
TABLES = {
    "dag": "dag_id", "serialized_dag": "dag_id", "dag_version": "dag_id", "dag_code": "dag_id",
    "dagbundle.dag": "dag_id", "dagbundle.dag_version": "dag_id", "dagbundle.source_file": "path",
}  # fmt: skip
"""Airflow's tables and ours that have a row for each DAG or file, with what names it."""


def written(deployment: Deployment) -> dict[tuple[str, str], set[str]]:
    """Return which transaction wrote each row, by table and DAG or file."""
    found: dict[tuple[str, str], set[str]] = {}
    for table, column in TABLES.items():
        for name, xmin in deployment.rows(f"SELECT {column}, xmin::text FROM {table}"):  # noqa: S608 - names of ours
            found.setdefault((table, name), set()).add(str(xmin))
    return found


def test_a_file_that_is_asked_for_among_a_thousand_touches_no_row_of_another(on_postgresql: Deployment) -> None:
    deployment = on_postgresql
    store = deployment.store
    deployment.roll_out({f"{number}.py": [dag(f"d{number}")] for number in range(FILES)}, "v1")
    before = written(deployment)
    ask(deployment, "7.py")
    assert store.attend("controller-1") == {SALES: {"7.py"}}
    base = store.latest_rollout(SALES)
    assert base is not None
    amending = store.passes.start(SALES, base.id)
    assert amending is not None
    report(deployment, amending.id, {"7.py": [dag("d7", description="another")]})
    store.passes.amend(amending.id)
    applied = Engine(store).finish(base.id)

    assert (applied.revision, applied.judgement.reason) == (2, "Published")
    after = written(deployment)
    changed = {key for key, found in after.items() if before.get(key) != found}
    assert {name for _, name in changed} == {"d7", "7.py"}
    assert {table for table, _ in changed} >= {"dag", "serialized_dag", "dagbundle.dag", "dagbundle.source_file"}
    [(shown,)] = deployment.rows("SELECT description FROM dag WHERE dag_id = 'd7'")
    assert shown == "another"


def report(deployment: Deployment, rollout: str, files: dict[str, list[Any]]) -> None:
    store = deployment.store
    run = store.open_run(rollout, ".", attempt="1", airflow=installed().version, python="3.11")
    store.stage(run, "1", [staged(path, found) for path, found in files.items()])
    store.close_run(run, "1", list(files))


def test_a_location_in_an_archive_asks_for_the_archive(deployment: Deployment) -> None:
    deployment.roll_out({"a.zip": [dag("a")], "b.py": [dag("b")]}, "v1")
    table = deployment.store.db.tables.dag_content
    place = sa.update(table).where(table.c.dag_id == "a").values(relative_fileloc="a.zip/inner.py")
    deployment.store.db.write(lambda c: c.execute(place))
    ask(deployment, "a.zip/inner.py")
    assert deployment.store.attend("controller-1") == {SALES: {"a.zip"}}
    assert deployment.store.head(SALES).asked == ("a.zip",)


def test_a_location_that_is_live_no_more_asks_for_the_whole_bundle(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [dag("a")]}, "v1")
    ask(deployment, "gone.py")
    assert deployment.store.attend("controller-1") == {SALES: frozenset()}
    head = deployment.store.head(SALES)
    assert (head.requested, head.asked) == (True, ())
