"""What the parser reports is what the installed Airflow's own processor makes of the same files."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

# Stock Airflow: its own lister, its own _parse_file in one forked child per file, its own hash of what came through JSON.
STOCK = """
import json, os, sys
from pathlib import Path
os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "client"
os.environ["_AIRFLOW__REEXECUTED_PROCESS"] = "1"
root = Path(sys.argv[1])
sys.path.append(str(root))
import structlog
from airflow.dag_processing.processor import DagFileParseRequest, _parse_file
from airflow.models.serialized_dag import SerializedDagModel
try:
    from airflow.dag_processing.importers import get_importer_registry
    files = get_importer_registry().list_dag_files(root, safe_mode=True)
except ImportError:
    from airflow.utils.file import list_py_file_paths
    files = list_py_file_paths(root, safe_mode=True)
fields = {"bundle_path": root, "callback_requests": []}
if "bundle_name" in DagFileParseRequest.model_fields:
    fields["bundle_name"] = "team.bundle"
found = {}
for path in sorted(files):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            result = _parse_file(DagFileParseRequest(file=path, **fields), structlog.get_logger("x"))
            answer = {"errors": len(result.import_errors or {}), "dags": {}}
            for dag in json.loads(result.model_dump_json())["serialized_dags"]:
                data = dag["data"]
                answer["dags"][data["dag"]["dag_id"]] = [SerializedDagModel.hash(data), data]
            with os.fdopen(write, "w") as out:
                json.dump(answer, out)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as result:
        found[str(Path(path).relative_to(root))] = json.load(result)
    os.wait()
print(json.dumps(found))
"""

EXAMPLES = "import airflow.example_dags, json\nprint(json.dumps(list(airflow.example_dags.__path__)[0]))"


@pytest.fixture(scope="module")
def stock_and_ours(airflow: Airflow) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = airflow.script(EXAMPLES)
    return airflow.script(STOCK, folder), airflow.parse(Path(folder))


def test_the_same_example_files_are_listed(stock_and_ours: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stock, ours = stock_and_ours
    assert len(stock) > 40
    assert sorted(stock) == [path for path in sorted(ours["files"]) if not path.endswith((".yaml", ".yml"))]


def test_every_example_dag_has_the_hash_that_stock_airflow_stores(
    stock_and_ours: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    stock, ours = stock_and_ours
    theirs = {path: {dag_id: hashed for dag_id, (hashed, _) in file["dags"].items()} for path, file in stock.items()}
    mine = {path: {d["dag_id"]: d["dag_hash"] for d in ours["files"][path]["dags"]} for path in stock}
    assert mine == theirs


def test_every_example_dag_is_serialized_as_stock_airflow_does(
    stock_and_ours: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    stock, ours = stock_and_ours
    for path, file in stock.items():
        for dag in ours["files"][path]["dags"]:
            assert dag["data"] == file["dags"][dag["dag_id"]][1]


def test_the_same_example_files_have_errors(stock_and_ours: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stock, ours = stock_and_ours
    mine = {path: bool(record["errors"]) for path, record in ours["files"].items() if path in stock}
    assert mine == {path: bool(file["errors"]) for path, file in stock.items()}


def test_records_are_made_in_order_and_without_what_changes_each_time(
    stock_and_ours: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for record in stock_and_ours[1]["files"].values():
        ids = [dag["dag_id"] for dag in record["dags"]]
        assert ids == sorted(ids)
        assert all("last_loaded" not in dag["data"]["dag"] for dag in record["dags"])


SHARES = """
import tempfile
from pathlib import Path
from airflow.sdk import DAG
from airflow.providers.standard.operators.bash import BashOperator
cache = Path(tempfile.gettempdir(), "CACHE")
cache.mkdir(exist_ok=True)
with (cache / "log").open("a") as log:
    log.write("x")
with DAG("flow_{0}", schedule=None):
    BashOperator(task_id="a", bash_command=f"cat {{cache}}")
"""


def test_files_that_write_together_among_temporary_files_are_as_in_stock_airflow(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    cache = Path(tempfile.gettempdir(), f"cache-{uuid.uuid4()}")
    bundle = write(tmp_path, {f"{n}.py": SHARES.format(n).replace("CACHE", cache.name) for n in range(4)})
    try:
        ours, stock = newest.parse(bundle), newest.script(STOCK, str(bundle))
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    mine = {path: {dag["dag_id"]: dag["dag_hash"] for dag in record["dags"]} for path, record in ours["files"].items()}
    assert len(mine) == 4
    assert mine == {path: {dag_id: found[0] for dag_id, found in file["dags"].items()} for path, file in stock.items()}
