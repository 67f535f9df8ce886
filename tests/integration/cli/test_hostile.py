"""Every DAG of a bundle goes bad in its own way at once: each gets a clear error, and nothing that worked is lost."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from integration.cli.conftest import Command
from support import airflow

pytestmark = pytest.mark.airflow

HEAD = "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n"
GOOD = HEAD + 'with DAG("{name}"):\n    EmptyOperator(task_id="t")\n'
BAD = {
    "syntax_error": ("this is ( not Python  # airflow dag\n", "SyntaxError", "syntax_error.py"),
    "import_error": (HEAD + "import nothing_like_this\n", "ModuleNotFoundError", "nothing_like_this"),
    "sys_exit": (HEAD + "import sys\nsys.exit(3)\n", "SystemExit", "sys.exit"),
    "os_exit": (HEAD + "import os\nos._exit(0)\n", "ProcessExited", "os._exit"),
    "segfault": (HEAD + "import ctypes\nctypes.string_at(0)\n", "ProcessCrashed", "segfault.py"),
    "endless": (HEAD + "while True:\n    pass\n", "Timeout", "spec.parser.fileTimeout"),
    "ignores_signals": (
        HEAD + "import signal\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\nwhile True:\n    pass\n",
        "Timeout",
        "spec.parser.fileTimeout",
    ),
    "allocates_2_gb": (HEAD + "x = bytearray(2 * 2**30)\n", "MemoryLimit", "spec.parser.fileMemory"),
    "cycle": (
        HEAD + 'with DAG("cycle"):\n    a, b = (EmptyOperator(task_id=i) for i in "ab")\n    a >> b >> a\n',
        "AirflowDagCycleException",
        "cycle",
    ),
    "nul_in_string": (HEAD + 'd = DAG("nul_in_string", doc_md="a\\0b")\n', "InvalidContent", "NUL"),
    "surrogate": (HEAD + 'd = DAG("surrogate", doc_md="a\\ud800b")\n', "InvalidContent", "lone surrogate"),
    "huge_integer": (HEAD + 'd = DAG("huge_integer", params={"x": 10**5000})\n', "ValueError", "4300 digits"),
    "deep": (
        HEAD + 'x = []\nfor _ in range(3000):\n    x = [x]\nwith DAG("deep"):\n'
        '    EmptyOperator(task_id="t", params={"x": x})\n',
        "RecursionError",
        "nested",
    ),
    "twice_in_a_file": (
        HEAD + 'a = DAG("twice_in_a_file")\nb = DAG("twice_in_a_file", tags=["x"])\n',
        "DuplicateDagId",
        "twice_in_a_file",
    ),
    "not_utf8": ("# airflow dag\nx = '\udcff'\n", "SyntaxError", "utf-8"),
    "claims_anothers": (HEAD + 'd = DAG("steady")\n', "DuplicateDagId", "steady.py"),
}  # fmt: skip


@pytest.fixture(scope="module")
def story(module_folder: pathlib.Path) -> dict[str, Any]:
    """First every file is good, then all but one are bad."""
    command = Command(module_folder)
    folder = module_folder / "bundle"
    folder.mkdir()
    (module_folder / "resource.yaml").write_text(
        "apiVersion: dagbundle.dev/v1alpha1\nkind: DagBundle\nmetadata: {name: b, namespace: team}\n"
        "spec: {source: {image: {reference: r}}, parser: {fileTimeout: 3s}}\n"
    )
    arguments = (
        "apply", "-f", "resource.yaml", "--local", "--folder", str(folder), "--python", airflow.python(), "-o", "json"
    )  # fmt: skip
    for name in ("steady", *BAD):
        (folder / f"{name}.py").write_text(GOOD.format(name=name))
    first = command(*arguments).data
    for name, (text, _, _) in BAD.items():
        (folder / f"{name}.py").write_bytes(text.encode(errors="surrogateescape" if name == "not_utf8" else "strict"))
    (folder / "steady.py").write_text(GOOD.format(name="steady").replace("task_id", "retries=1, task_id"))
    second = command(*arguments, code=3).data
    return {"first": first, "second": second, "dags": command("get", "dags", "-o", "json").data["items"]}


def test_at_first_every_dag_is_published(story: dict[str, Any]) -> None:
    assert story["first"]["ready"]
    assert len(story["first"]["changes"]) == len(BAD) + 1


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_goes_bad_gets_a_clear_error_and_keeps_its_dag(story: dict[str, Any], name: str) -> None:
    _, kind, words = BAD[name]
    problems = [item for item in story["second"]["problems"] if item["path"] == f"{name}.py"]
    assert kind in {problem["kind"] for problem in problems}
    assert any(words in problem["message"] for problem in problems)
    (dag,) = [row for row in story["dags"] if row["dag_id"] == name]
    assert dag["kept"]
    assert dag["number"] == 1


def test_the_one_good_file_is_published_beside_them(story: dict[str, Any]) -> None:
    (dag,) = [row for row in story["dags"] if row["dag_id"] == "steady"]
    assert (dag["number"], dag["kept"]) == (2, False)
    assert story["second"]["reason"] == "KeptLastGood"
