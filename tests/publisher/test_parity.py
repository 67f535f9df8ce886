"""Two databases, one filled by Airflow's own processor and one by us, hold the same rows.

What differs is listed in docs/airflow.md, and here: nothing else may.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
from typing import Any

import pytest

from publisher.conftest import apply_folder, process_files
from support import airflow_tables

NAME = "default.corpus"
VERSIONED = frozenset({"dag", "dag_bundle", "dag_version", "dag_code", "serialized_dag"})
"""Where a row has, or refers to, a bundle version: a local bundle of stock Airflow has none."""


def corpus(name: str) -> pathlib.Path:
    """The example DAGs of an installed package."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.submodule_search_locations
    return pathlib.Path(found.submodule_search_locations[0])


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> tuple[str, str]:
    """URLs of two databases, ours and the stock one."""
    if request.param == "postgresql":
        server = request.getfixturevalue("server")
        template = request.getfixturevalue("postgres_template")
        return server.create_database(template=template), server.create_database(template=template)
    template = request.getfixturevalue("sqlite_template").read_bytes()
    for name in ("ours.db", "stock.db"):
        (tmp_path / name).write_bytes(template)
    return f"sqlite:///{tmp_path / 'ours.db'}", f"sqlite:///{tmp_path / 'stock.db'}"


@pytest.mark.parametrize("two", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("package", ["airflow.example_dags", "airflow.providers.standard.example_dags"])
def test_every_row_is_as_stock_airflow_writes_it(two: tuple[str, str], package: str, tmp_path: pathlib.Path) -> None:
    ours, stock = two
    folder = corpus(package)
    process_files(stock, NAME, folder)
    apply(ours, folder, tmp_path)
    found = airflow_tables.differences(without_versions(ours), without_versions(stock))
    assert {name: told for name, told in found.items() if not explained(name, told)} == {}


WATCHING = (
    "airflow.providers.standard.triggers.file.DirectoryFileDeleteTrigger",
    "airflow.providers.standard.triggers.file.FileDeleteTrigger",
    "airflow.providers.standard.triggers.temporal.DateTimeTrigger",
)
"""Triggers that the examples' assets and tasks name."""


@pytest.mark.parametrize("two", ["sqlite"], indirect=True)
def test_a_stored_dag_has_the_deployments_folder_of_dags_whatever_the_parsers_is(
    two: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    ours, stock = two
    (folder := tmp_path / "bundle").mkdir()
    (folder / "a.py").write_text("from airflow.sdk import DAG\nDAG('a', schedule=None)\n")
    parser = tmp_path / "parser"
    parser.write_text(f'#!/bin/sh\nAIRFLOW__CORE__DAGS_FOLDER=/elsewhere exec {sys.executable} "$@"\n')
    parser.chmod(0o755)
    process_files(stock, NAME, folder)
    apply(ours, folder, tmp_path, python=str(parser))
    assert airflow_tables.differences(without_versions(ours), without_versions(stock)) == {}


def apply(url: str, folder: pathlib.Path, tmp_path: pathlib.Path, *, python: str = sys.executable) -> None:
    """Publish a folder as a user would."""
    done = apply_folder(url, folder, tmp_path, "--python", python, DAGBUNDLE_ALLOWED_TRIGGERS=",".join(WATCHING))
    assert done.returncode in {0, 3}, done.stdout[-3000:] + done.stderr[-3000:]


def without_versions(url: str) -> airflow_tables.Rows:
    """Dump a database without bundle versions, which only we have."""
    rows = airflow_tables.dump(url)
    return {name: [_without_version(row) for row in found] for name, found in rows.items()}


def _without_version(row: Any) -> Any:
    if isinstance(row, dict):
        skipped = {"bundle_version"} | ({"version"} if "signed_url_template" in row else set())
        return {key: _without_version(value) for key, value in row.items() if key not in skipped}
    return row


def explained(table: str, told: dict[str, list[str]]) -> bool:
    """Whether a difference is one that docs/airflow.md explains."""
    ours, stock = told["only ours"], told["only stock"]
    if table == "dag_warning":  # found by a look at the source, which `--check-determinism` does better
        return not ours and all("runtime" in row for row in stock)
    if table == "import_error":  # the same files, in other words
        return sorted(pathlib.Path(json.loads(row)["filename"]).name for row in ours) == sorted(
            pathlib.Path(json.loads(row)["filename"]).name for row in stock
        )
    return False
