"""A pass over files that did not change, with the real parser: what a deployment pays for nothing."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from dagbundle.engine import engine
from dagbundle.engine.applied import Applied
from dagbundle.resources import base, bundle
from dagbundle.rollout import policy
from dagbundle.runtime.local import LocalRuntime
from publisher.conftest import Deployment

MOST_STATEMENTS = 20
RESOURCE = {
    "apiVersion": "dagbundle.dev/v1alpha1",
    "kind": "DagBundle",
    "metadata": {"name": "sales", "namespace": "team-sales"},
    "spec": {"source": {"image": {"reference": "sales:1", "path": "/dags"}}},
}
FILE = """\
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("{name}", schedule="@daily"):
    EmptyOperator(task_id="one")
"""


def test_a_pass_in_which_nothing_changed_asks_less_than_twenty_statements_and_writes_nothing(
    deployment: Deployment, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "dags"  # apart from the database
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.py").write_text(FILE.format(name=name))
    apply(deployment, folder)
    before = deployment.rows("SELECT dag_id, last_parsed_time FROM dag ORDER BY dag_id")
    with seen_by(deployment) as statements:
        applied = apply(deployment, folder)
    assert [file.unchanged for run in applied.runs for file in run.files] == [True, True]
    assert 0 < len(statements) < MOST_STATEMENTS
    assert {statement.split()[0] for statement in statements} <= {"BEGIN", "SELECT"}
    assert deployment.rows("SELECT dag_id, last_parsed_time FROM dag ORDER BY dag_id") == before


def apply(deployment: Deployment, folder: pathlib.Path) -> Applied:
    wanted = base.validate(bundle.DagBundle, RESOURCE, what="test")
    return engine.Engine(deployment.store).apply(
        wanted, runtime=LocalRuntime(folder, python=sys.executable), rules=policy.resolve(wanted, None)
    )


@contextmanager
def seen_by(deployment: Deployment) -> Iterator[list[str]]:
    """The statements that the store sends meanwhile."""
    found: list[str] = []

    def listen(_connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    sa.event.listen(deployment.store.db.engine, "before_cursor_execute", listen)
    try:
        yield found
    finally:
        sa.event.remove(deployment.store.db.engine, "before_cursor_execute", listen)
