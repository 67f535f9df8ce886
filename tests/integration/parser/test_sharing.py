"""With a real Airflow: files that share a child have the hashes they have alone, next to whatever poison."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[3]
DAG = """
from datetime import datetime
from airflow.sdk import DAG, BaseOperator
from airflow.providers.standard.operators.bash import BashOperator
{poison}
with DAG("{name}", schedule="0 3 * * *", start_date=datetime(2024, 1, 1), default_args={{"retries": 2}}, tags=["b", "a"]) as dag:
    BashOperator(task_id="a", bash_command="x") >> BashOperator(task_id="b", bash_command="y", env={{"K": "v"}})
"""
POISONS = (
    "import json; json.dumps = lambda *a, **k: '{}'",
    "from airflow.serialization.serialized_objects import DagSerialization as S; S.serialize_dag = classmethod(lambda c, d: {})",
    "from airflow.serialization import serialized_objects as s; s.encode_timetable = lambda t: None",
    "from airflow.models.serialized_dag import SerializedDagModel as M; M.hash = classmethod(lambda c, d: 'x')",
    "BaseOperator.ui_color = 'red'",
    "BaseOperator.template_fields = ('poison',)",
    "BaseOperator.__init__.__defaults__ = None",
    "from airflow.sdk import TaskGroup; TaskGroup.prefix_group_id = False",
    "DAG('left_open').__enter__()",
    "import os; os.environ['AIRFLOW__CORE__DEFAULT_TIMEZONE'] = 'Asia/Tokyo'",
    "import sys; sys.path.insert(0, '/poison')",
    "import random; random.seed(1)",
    "import os; os.chdir('/')",
    "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "import warnings; warnings.simplefilter('error')",
    "import builtins; builtins.sorted = lambda x, **k: list(x)",
)

# The parser with every file taken for plain, or with none.
DRIVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from dagbundle_parser.fingerprint import Surroundings
from dagbundle_parser.loaders.python import PythonDagLoader
from dagbundle_parser.parsers.base import BundleAccess
from dagbundle_parser.parsers.single_pass import SinglePassBundleParser
from dagbundle_parser.protocol import ReportWriter
from dagbundle_parser.request import RunRequest
from dagbundle_parser.runner import Run
from dagbundle_parser.store_client import DagStoreClient
PythonDagLoader.is_plain = lambda self, file: sys.argv[3] == "shared"
request = RunRequest.read(sys.argv[2])
run = Run(request, Surroundings.read())
access = BundleAccess(run.list_files, run.is_unchanged, run.load, run.facts, {})
SinglePassBundleParser(access, DagStoreClient(request, ReportWriter(os.dup(1)))).run()
"""


def hashes(airflow: Airflow, bundle: Path, mode: str) -> dict[str, Any]:
    request = airflow.home / "sharing.json"
    request.write_text(json.dumps({
        "protocol": 1, "run": "r", "attempt": "a", "bundle": "team.bundle", "root": str(bundle), "processes": 1,
    }))  # fmt: skip
    done = subprocess.run(
        [str(airflow.python), "-c", DRIVER, str(ROOT / "operator"), str(request), mode],
        capture_output=True, check=True, env=airflow.environment, timeout=300,
    )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records[-1]["type"] == "close"
    return {
        record["path"]: (
            {dag["dag_id"]: dag["dag_hash"] for dag in record["dags"]},
            [e["kind"] for e in record["errors"]],
        )
        for record in records[1:-1]
    }


def test_files_next_to_poison_have_the_hashes_that_they_have_alone(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    files = {}
    for number, poison in enumerate(POISONS):
        files[f"{number:02}_a.py"] = DAG.format(name=f"before_{number}", poison="")
        files[f"{number:02}_b.py"] = DAG.format(name=f"poison_{number}", poison=poison)
        files[f"{number:02}_c.py"] = DAG.format(name=f"after_{number}", poison="")
    bundle = write(tmp_path / "bundle", files)
    assert hashes(newest, bundle, "shared") == hashes(newest, bundle, "alone")
