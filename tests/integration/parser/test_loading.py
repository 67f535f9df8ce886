"""Real DAG files, and files that go wrong with a real Airflow, on the newest minor: one run, one test per file."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

HEAD = (
    "from datetime import datetime\nfrom airflow.sdk import DAG, BaseOperator, Variable, task\n"
    "from airflow.providers.standard.operators.empty import EmptyOperator\n"
)
DAG = (
    HEAD
    + 'with DAG("{0}", schedule="@daily", start_date=datetime(2024, 1, 1)) as dag:\n    EmptyOperator(task_id="a")\n'
)


def archive(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return buffer.getvalue()


YAML = """
default:
  default_args: {{start_date: 2024-01-01}}
{0}:
  schedule: "@daily"
  tasks:
    - task_id: one
      operator: airflow.providers.standard.operators.empty.EmptyOperator
"""

FILES: dict[str, str | bytes] = {
    "plain_1.py": DAG.format("plain_1"),
    "plain_2.py": DAG.format("plain_2"),
    "local.py": "from helpers.names import NAME\n" + DAG.format("local").replace('"local"', "NAME"),
    "helpers/__init__.py": "",
    "helpers/names.py": 'NAME = "named_by_helper"\n',
    "config.py": "import json, pathlib\nNAME = json.loads((pathlib.Path(__file__).parent / 'name.json').read_text())\n"
    + DAG.format("x").replace('"x"', "NAME"),
    "name.json": '"named_by_json"',
    "optional.py": "try:\n    import overrides_that_may_come\nexcept ImportError:\n    pass\n" + DAG.format("optional"),
    "decorated.py": "from airflow.sdk import dag, task\n@dag(schedule=None)\ndef decorated():\n    @task\n"
    "    def one():\n        return 1\n    one()\ndecorated()\n",
    "packed.zip": archive({"inner.py": DAG.format("packed"), "deeper/no.py": DAG.format("not_at_the_root"), "x.txt": ""}),
    "dags.yaml": YAML.format("from_yaml"),
    "two.yml": YAML.format("from_yml"),
    "broken.yaml": "x:\n  tasks: [\n",
    "bad_operator.yaml": YAML.format("bad").replace("empty.EmptyOperator", "empty.NoSuchOperator"),
    "other.yaml": "services:\n  web:\n    image: x\n",
    "duplicate.py": DAG.format("same") + 'with DAG("same", schedule=None) as other:\n    EmptyOperator(task_id="b")\n',
    "duplicate_equal.py": DAG.format("equal") + DAG.format("equal").removeprefix(HEAD),
    "cyclic.py": HEAD + 'with DAG("cyclic") as dag:\n    a, b = EmptyOperator(task_id="a"), EmptyOperator(task_id="b")\n'
    "    a >> b >> a\n",
    "raises.py": DAG.format("raises") + "def deep():\n    return 1 / 0\ndeep()\n",
    "syntax.py": "# airflow dag\nx = (\n",
    "exits.py": DAG.format("exits") + "import sys\nsys.exit(1)\n",
    "asks_nothing.py": "import sys\n" + DAG.format("x").replace('"x"', 'f"runner_is_{\'airflow.sdk.execution_time.task_runner\' in sys.modules}"'),
    "missing_variable.py": DAG.format("v") + 'Variable.get("no_such_variable")\n',
    "variable.py": 'from airflow.sdk import Variable\nNAME = Variable.get("given")\n' + DAG.format("x").replace('"x"', "NAME"),
    "database.py": DAG.format("d") + "from airflow.settings import Session\nSession().execute('select 1')\n",
    "hangs.py": DAG.format("hangs") + "import time\ntime.sleep(60)\n",
    "memory.py": DAG.format("memory") + "x = []\nx.append(bytearray(2 << 30))\n",
    "segfault.py": DAG.format("segfault") + "import ctypes\nctypes.string_at(0)\n",
    "socket_user.py": DAG.format("socket_user") + "import socket\nsocket.socket().close()\n",
    "rewrites_serializer.py": HEAD + "from airflow.serialization.serialized_objects import DagSerialization\n"
    "DagSerialization.to_dict = classmethod(lambda cls, dag: {'rewritten': True})\nBaseOperator.ui_color = 'red'\n"
    'with DAG("rewriter") as dag:\n    EmptyOperator(task_id="a")\n',
    "not_serializable.py": HEAD + "class Odd:\n    __slots__ = ()\n    def __str__(self): raise ValueError('odd')\n    __repr__ = __str__\n"
    'with DAG("odd") as dag:\n    t = EmptyOperator(task_id="a")\n    t.params = {"x": Odd()}\n',
    "warns.py": "import warnings\n" + DAG.format("warns") + "warnings.warn('old thing', FutureWarning)\n",
    "prints.py": DAG.format("prints") + "print('hello from the file')\n",
    "many_tasks.py": HEAD + 'with DAG("many_tasks") as dag:\n    for i in range(5000):\n        EmptyOperator(task_id=f"t{i}")\n',
    "no_dag.py": "# mentions airflow and dag and defines none\n",
    "plain.txt": "airflow dag",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, write: Callable[..., Path]) -> Path:
    return write(tmp_path_factory.mktemp("loading") / "bundle", FILES)


@pytest.fixture(scope="module")
def run(newest: Airflow, bundle: Path) -> dict[str, Any]:
    env = {"AIRFLOW_VAR_GIVEN": "from_variable"}
    return newest.parse(bundle, env=env, limits={"fileSeconds": 10, "fileMemoryBytes": 1 << 30})


def dag_ids(run: dict[str, Any], path: str) -> list[str]:
    assert run["files"][path]["errors"] == []
    return [dag["dag_id"] for dag in run["files"][path]["dags"]]


def test_the_run_closes(run: dict[str, Any]) -> None:
    assert run["last"]["type"] == "close", run["stderr"]
    assert run["open"]["files"] == len(run["files"])


def test_what_holds_no_dags_is_not_listed(run: dict[str, Any]) -> None:
    assert {"other.yaml", "plain.txt", "name.json", "helpers/names.py"}.isdisjoint(run["files"])


@pytest.mark.parametrize(
    ("path", "dag_id"),
    [
        ("plain_1.py", "plain_1"),
        ("plain_2.py", "plain_2"),
        ("local.py", "named_by_helper"),
        ("config.py", "named_by_json"),
        ("optional.py", "optional"),
        ("decorated.py", "decorated"),
        ("packed.zip", "packed"),
        ("dags.yaml", "from_yaml"),
        ("two.yml", "from_yml"),
        ("variable.py", "from_variable"),
        ("many_tasks.py", "many_tasks"),
    ],
)
def test_a_file_yields_its_dag(run: dict[str, Any], path: str, dag_id: str) -> None:
    assert dag_ids(run, path) == [dag_id]


def test_a_dag_from_yaml_lies_in_the_yaml_file(run: dict[str, Any]) -> None:
    dag = run["files"]["dags.yaml"]["dags"][0]
    assert dag["relative_fileloc"] == dag["data"]["dag"]["relative_fileloc"] == "dags.yaml"
    assert "task_id: one" in run["files"]["dags.yaml"]["sources"]["dags.yaml"]


def test_a_dag_from_an_archive_names_its_member_and_its_source_is_that_members(run: dict[str, Any]) -> None:
    record = run["files"]["packed.zip"]
    assert record["dags"][0]["relative_fileloc"] == "packed.zip/inner.py"
    assert 'DAG("packed"' in record["sources"]["packed.zip/inner.py"]


@pytest.mark.parametrize(
    ("path", "kind", "line", "text"),
    [
        ("duplicate.py", "DuplicateDagId", 6, "see lines 4, 6"),
        ("duplicate_equal.py", "DuplicateDagId", 6, "see lines 4, 6"),
        ("cyclic.py", "AirflowDagCycleException", None, "Cycle detected"),
        ("raises.py", "ZeroDivisionError", 7, "in deep"),
        ("syntax.py", "SyntaxError", 2, "never closed"),
        ("exits.py", "SystemExit", 7, "called sys.exit(1)"),
        ("missing_variable.py", "AirflowRuntimeError", 6, "no_such_variable"),
        ("database.py", "", 7, ""),
        ("hangs.py", "Timeout", 7, "not done after 10 seconds"),
        ("memory.py", "MemoryLimit", 7, "ran out of memory"),
        ("segfault.py", "ProcessCrashed", 7, "SIGSEGV"),
        ("not_serializable.py", "", None, "odd"),
        ("broken.yaml", "YamlError", None, "not valid YAML"),
        ("bad_operator.yaml", "", None, "NoSuchOperator"),
    ],
)
def test_a_file_that_goes_wrong_gets_one_error_with_its_line(
    run: dict[str, Any], path: str, kind: str, line: int | None, text: str
) -> None:
    errors = run["files"][path]["errors"]
    assert len(errors) == 1
    assert kind in {"", errors[0]["kind"]}
    assert line in {None, errors[0]["line"]}
    assert text in errors[0]["message"]
    assert "/dag_processing/" not in errors[0]["message"]


def test_a_file_that_rewrites_the_serializer_changes_only_itself(run: dict[str, Any]) -> None:
    assert "red" not in str(run["files"]["plain_1.py"]["dags"])
    assert run["files"]["rewrites_serializer.py"]["errors"] == []


def test_noise_of_imports_reaches_neither_report_nor_records(run: dict[str, Any]) -> None:
    assert "alembic" not in run["stderr"]
    assert run["files"]["plain_1.py"]["output"] == {"bytes": 0, "text": ""}
    assert run["files"]["prints.py"]["output"]["text"] == "hello from the file\n"


def test_a_warning_carries_category_and_line(run: dict[str, Any]) -> None:
    assert {"category": "FutureWarning", "message": "old thing", "line": 7} in run["files"]["warns.py"]["warnings"]


def test_what_only_a_task_needs_is_not_imported_for_a_file_that_asks_for_no_value(run: dict[str, Any]) -> None:
    assert dag_ids(run, "asks_nothing.py") == ["runner_is_False"]


def test_the_closure_names_local_modules_read_files_and_searched_folders(run: dict[str, Any]) -> None:
    local = run["files"]["local.py"]["closure"]
    assert {"local.py", "helpers/__init__.py", "helpers/names.py"} <= set(local)
    assert "name.json" in run["files"]["config.py"]["closure"]
    own = {key for key in run["files"]["plain_1.py"]["closure"] if not key.startswith("//env/")}
    assert own == {"plain_1.py"}  # and variables that libraries read before the fork, as in every closure
    assert any(key.endswith("/") for key in run["files"]["optional.py"]["closure"])


@pytest.mark.parametrize(
    ("path", "reason"), [("socket_user.py", "socket"), ("variable.py", "Variable"), ("segfault.py", "")]
)
def test_a_dynamic_file_has_no_closure(run: dict[str, Any], path: str, reason: str) -> None:
    assert run["files"][path]["closure"] == {}
    assert not reason or reason in run["files"][path]["dynamic"]


def test_nothing_of_plain_files_is_dynamic(run: dict[str, Any]) -> None:
    for path in ("plain_1.py", "local.py", "decorated.py", "dags.yaml", "packed.zip", "raises.py"):
        assert run["files"][path]["dynamic"] == []


def known_of(run: dict[str, Any]) -> dict[str, Any]:
    return {
        path: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1.0}
        for path, record in run["files"].items()
    }


def test_a_second_run_skips_what_is_unchanged_and_parses_the_rest_again(
    run: dict[str, Any], newest: Airflow, bundle: Path
) -> None:
    again = newest.parse(
        bundle, env={"AIRFLOW_VAR_GIVEN": "from_variable"}, known=known_of(run), limits={"fileSeconds": 10}
    )
    skippable = {path for path, record in run["files"].items() if record["closure"]}
    assert {path for path, record in again["files"].items() if record["status"] == "unchanged"} == skippable
    assert {"plain_1.py", "local.py", "optional.py", "dags.yaml", "packed.zip"} <= skippable


def test_a_run_without_anything_to_parse_does_not_import_airflow(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"a.py": DAG.format("a"), "b.py": DAG.format("b")})
    first = newest.parse(bundle)
    poison = write(tmp_path / "poison", {"sitecustomize.py": "import sys\nsys.modules['airflow'] = None\n"})
    env = {"PYTHONPATH": str(poison)}
    other = newest.parse(bundle, env=env)
    assert (other["last"]["type"], other["last"]["kind"]) == ("fail", "AirflowImportFailed")
    known = {path: {**known, "fingerprint": other["open"]["fingerprint"]} for path, known in known_of(first).items()}
    again = newest.parse(bundle, env=env, known=known)
    assert {record["status"] for record in again["files"].values()} == {"unchanged"}
    assert again["open"]["airflow"] == first["open"]["airflow"]


def test_defaults_of_dag_factory_that_come_later_count(run: dict[str, Any]) -> None:
    assert run["files"]["dags.yaml"]["closure"]["defaults.yml"] == "absent"


def test_when_a_dag_runs_next_is_computed_by_airflow(run: dict[str, Any], newest: Airflow) -> None:
    data = run["files"]["plain_1.py"]["dags"][0]["data"]
    done = subprocess.run(
        [str(newest.python), "operator/dagbundle_parser", "next-execution"],
        input=json.dumps({"data": data, "count": 3}), capture_output=True, text=True, check=True, env=newest.environment,
    )  # fmt: skip
    runs = json.loads(done.stdout)["runs"]
    assert len(runs) == 3
    assert set(runs[0]) == {"logical_date", "data_interval_start", "data_interval_end", "run_after"}
    assert runs[0]["run_after"] < runs[1]["run_after"]


def test_a_file_in_another_encoding_shows_its_text(newest: Airflow, write: Callable[..., Path], tmp_path: Path) -> None:
    text = "# -*- coding: latin-1 -*-\nfrom airflow.sdk import DAG\ndag = DAG('caf\xe9', description='na\xefve')\n"
    bundle = write(tmp_path / "bundle", {"a.py": text.encode("latin-1")})
    record = newest.parse(bundle)["files"]["a.py"]
    assert record["sources"] == {"a.py": text}


def test_a_timeout_while_dags_are_serialized_says_so(
    newest: Airflow, write: Callable[..., Path], tmp_path: Path
) -> None:
    source = (
        "import time\nfrom airflow.sdk import DAG, BaseOperator\n"
        "class Slow:\n    def __str__(self):\n        time.sleep(60)\n        return 'slow'\n"
        "class Sleepy(BaseOperator):\n    template_fields = ('value',)\n"
        "    def __init__(self, **kwargs):\n        super().__init__(**kwargs)\n        self.value = Slow()\n"
        "with DAG('slow'):\n    Sleepy(task_id='t')\n"
    )
    bundle = write(tmp_path / "bundle", {"a.py": source})
    (error,) = newest.parse(bundle, limits={"fileSeconds": 3})["files"]["a.py"]["errors"]
    assert error["kind"] == "Timeout"
    assert "its DAGs were being serialized" in error["message"]


def test_a_json_that_a_file_patched_changes_neither_its_dag_nor_the_hash(
    airflow: Airflow, write: Callable[..., Path], tmp_path: Path
) -> None:
    patches = (
        "import json\njson.dumps = lambda *a, **k: '{}'\njson.loads = lambda text: {}\n"
        "json.JSONEncoder.encode = lambda self, value: '{}'\njson.JSONEncoder.iterencode = lambda self, *a, **k: iter('x')\n"
        "json.JSONDecoder.decode = lambda self, *a: {}\n"
    )
    folder = write(tmp_path / "bundle", {"a.py": DAG.format("a")})
    plain = airflow.parse(folder)["files"]["a.py"]
    patched = airflow.parse(write(folder, {"a.py": DAG.format("a") + patches}))["files"]["a.py"]
    assert plain["errors"] == patched["errors"] == []
    assert len(plain["dags"][0]["dag_hash"]) == 32
    assert patched["dags"] == plain["dags"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("deep = []\nfor _ in range(5000): deep = [deep]\ndag = DAG('deep', schedule=None, params={'x': deep})\n", 6),
        (
            "deep = []\nfor _ in range(300): deep = [deep]\nname = 'de' + 'ep'\ndag = DAG(name, default_args={'x': deep})\n",
            7,
        ),
    ],
)
def test_what_nests_too_deeply_is_refused_in_the_line_that_makes_the_dag(
    newest: Airflow, write: Callable[..., Path], tmp_path: Path, text: str, line: int
) -> None:
    folder = write(tmp_path / "bundle", {"deep.py": HEAD + text})
    [error] = newest.parse(folder)["files"]["deep.py"]["errors"]
    assert (error["kind"], error["line"]) == ("RecursionError", line), error
