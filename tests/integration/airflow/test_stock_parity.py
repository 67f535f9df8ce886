"""Our dag_hash is the one that Airflow's own processor stores, for every example DAG of every supported minor."""

from __future__ import annotations

import pathlib

import pytest

from integration.cli.conftest import Command
from support import airflow

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("minor", airflow.MINORS)
def test_every_example_dag_has_the_hash_that_stock_airflow_stores(minor: str, tmp_path: pathlib.Path) -> None:
    examples = airflow.example_dags(minor)
    settings = airflow.home(tmp_path, examples, "examples")
    stock = airflow.stock_hashes(minor, settings)
    command = Command(tmp_path, **settings)
    answer = command("parse", str(examples), "--python", airflow.python(minor), "-o", "json", code=None)
    ours = {dag["dag_id"]: dag["dag_hash"] for dag in answer.data["dags"]}
    assert ours == stock
    assert len(ours) > 60
