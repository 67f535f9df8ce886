"""Real Airflow environments, made by `make airflow-envs`, for tests that run the parser or stock Airflow itself."""

from __future__ import annotations

import json
import os
import pathlib
import sqlite3
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MINORS = ("3.0", "3.1", "3.2", "3.3")
NEWEST = MINORS[-1]


def python(minor: str = NEWEST) -> str:
    """The interpreter of an Airflow environment. It must be there: a missing one is no reason to skip."""
    folder = pathlib.Path(os.environ.get("DAGBUNDLE_AIRFLOW_ENVS", ROOT / ".venvs"))
    path = folder / f"airflow-{minor}" / "bin" / "python"
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make airflow-envs`", pytrace=False)
    return str(path)


def home(folder: pathlib.Path, bundle: pathlib.Path, name: str) -> dict[str, str]:
    """Settings of an Airflow deployment of its own that has one bundle of files on the disk."""
    bundles = [
        {
            "name": name,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(bundle)},
        }
    ]
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
    }


def example_dags(minor: str) -> pathlib.Path:
    """The folder of the example DAGs that this Airflow ships."""
    program = "import importlib.util, sys; sys.stdout.write(importlib.util.find_spec('airflow').origin)"
    origin = subprocess.run([python(minor), "-c", program], capture_output=True, text=True, check=True).stdout
    return pathlib.Path(origin).parent / "example_dags"


def stock_hashes(minor: str, settings: dict[str, str]) -> dict[str, str]:
    """Run Airflow's own dag-processor once and return the dag_hash that it stored for each dag_id."""
    environment = {**os.environ, **settings}
    for arguments in (["db", "migrate"], ["dag-processor", "--num-runs", "1"]):
        done = subprocess.run(
            [python(minor), "-m", "airflow", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with sqlite3.connect(pathlib.Path(settings["AIRFLOW_HOME"]) / "airflow.db") as database:
        # 3.x keeps one row per version; the processor ran once, so there is one
        return dict(database.execute("SELECT dag_id, dag_hash FROM serialized_dag").fetchall())
