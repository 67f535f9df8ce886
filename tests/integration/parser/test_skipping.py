"""What a real Airflow makes of a file is skipped only where it would be the same again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from dagbundle.rollout import content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

Write = "Callable[[Path, dict[str, str | bytes]], Path]"

PLAIN = (
    "from airflow.providers.standard.operators.empty import EmptyOperator\nfrom airflow.sdk import DAG\n"
    'with DAG("{0}", schedule=None) as dag:\n    EmptyOperator(task_id="go")\n'
)
GLOBBED = """
import glob
import os

from airflow.sdk import DAG

for path in sorted(glob.glob(os.path.dirname(__file__) + "/conf/*/dag.json")):
    name = os.path.basename(os.path.dirname(path))
    globals()[name] = DAG(name)
"""
OVERRIDDEN = """
import json
import pathlib

from airflow.sdk import DAG

HERE = pathlib.Path(__file__).parent
words = {"description": "own"}
if (HERE / "overrides.json").exists():
    words = json.loads((HERE / "overrides.json").read_text())
dag = DAG("overridden", schedule=None, description=words["description"])
"""
POLICY = """
import pathlib
from policy_words import TAG

def dag_policy(dag):
    dag.tags.add(TAG + (pathlib.Path(__file__).parent / "suffix.txt").read_text())
"""
LOADER = """
from pathlib import Path

from airflow.sdk import DAG  # noqa: F401 - so that the file is looked at
from dagfactory import load_yaml_dags

HERE = Path(__file__).parent
load_yaml_dags(globals_dict=globals(), dags_folder=str(HERE / "flows"), defaults_config_path=str(HERE))
"""
MILK = """
milk:
  default_args: {start_date: 2026-01-01}
  schedule: "0 4 * * *"
  tasks:
    - {task_id: weigh, operator: airflow.providers.standard.operators.bash.BashOperator, bash_command: "echo weigh"}
"""


def known_of(run: dict[str, Any]) -> dict[str, Any]:
    return {
        path: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1.0}
        for path, record in run["files"].items()
    }


def unchanged(run: dict[str, Any]) -> set[str]:
    return {path for path, record in run["files"].items() if record["status"] == "unchanged"}


def shas(run: dict[str, Any]) -> dict[str, str]:
    """The content's hash of each DAG."""
    dags = (dag for record in run["files"].values() for dag in record["dags"])
    return {dag["dag_id"]: content.split(dag["data"]).sha256 for dag in dags}


def dag_ids(run: dict[str, Any], path: str) -> list[str]:
    assert run["files"][path].get("errors") == [], run["files"][path]
    return [dag["dag_id"] for dag in run["files"][path]["dags"]]


def test_folders_that_a_pattern_matches_later_or_no_more_bring_and_take_their_dags(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"flows.py": GLOBBED, "conf/a/dag.json": "{}", "conf/b/README.md": ""})
    first = newest.parse(bundle)
    assert dag_ids(first, "flows.py") == ["a"]
    assert unchanged(newest.parse(bundle, known=known_of(first))) == {"flows.py"}
    write(bundle, {"conf/b/dag.json": "{}"})
    second = newest.parse(bundle, known=known_of(first))
    assert dag_ids(second, "flows.py") == ["a", "b"]
    (bundle / "conf/a/dag.json").unlink()
    assert dag_ids(newest.parse(bundle, known=known_of(second)), "flows.py") == ["b"]


def test_a_file_that_is_laid_over_others_once_it_is_there_counts(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"overridden.py": OVERRIDDEN})
    first = newest.parse(bundle)
    write(bundle, {"overrides.json": '{"description": "over"}'})
    again = newest.parse(bundle, known=known_of(first))
    assert again["files"]["overridden.py"]["dags"][0]["data"]["dag"]["description"] == "over"


def test_modules_that_a_library_beside_the_bundle_gets_later_count(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    tries = "try:\n    import optionalkit\n    TAG = optionalkit.TAG\nexcept ImportError:\n    TAG = 'without'\n"
    files = {
        "wants.py": "from newkit import NAME\n" + PLAIN.replace('"{0}"', "NAME"),
        "tries.py": tries + PLAIN.format("tries").replace("schedule=None", "schedule=None, tags=[TAG]"),
        "uses.py": "from shopkit.old import N\n" + PLAIN.replace('"{0}"', 'f"uses_{N}"'),
    }
    bundle = write(tmp_path / "bundle", files)
    env = {"PYTHONPATH": str(write(tmp_path / "libs", {"shopkit/__init__.py": "", "shopkit/old.py": "N = 1\n"}))}
    first = newest.parse(bundle, env=env)
    assert [error["kind"] for error in first["files"]["wants.py"]["errors"]] == ["ModuleNotFoundError"]
    assert unchanged(newest.parse(bundle, env=env, known=known_of(first))) == set(files)
    write(tmp_path / "libs", {"newkit.py": 'NAME = "wants"\n', "optionalkit.py": 'TAG = "with"\n'})
    again = newest.parse(bundle, env=env, known=known_of(first))
    assert dag_ids(again, "wants.py") == ["wants"]
    assert again["files"]["tries.py"]["dags"][0]["data"]["dag"]["tags"] == ["with"]


@pytest.mark.parametrize("changed", ["airflow_local_settings.py", "policy_words.py", "suffix.txt"])
def test_a_cluster_policy_and_what_it_imports_and_reads_count(
    airflow: Airflow, tmp_path: Path, write: Callable[..., Path], changed: str
) -> None:
    bundle = write(tmp_path / "bundle", {"a.py": PLAIN.format("a"), "b.py": PLAIN.format("b")})
    files = {"airflow_local_settings.py": POLICY, "policy_words.py": 'TAG = "one"\n', "suffix.txt": ""}
    libraries = write(tmp_path / "libs", files)
    env = {"PYTHONPATH": str(libraries)}
    first = airflow.parse(bundle, env=env)
    assert first["files"]["a.py"]["dags"][0]["data"]["dag"]["tags"] == ["one"]
    assert unchanged(airflow.parse(bundle, env=env, known=known_of(first))) == {"a.py", "b.py"}
    after = {
        "airflow_local_settings.py": POLICY.replace("TAG +", "'two' +"),
        "policy_words.py": 'TAG = "two"\n',
        "suffix.txt": "2",
    }
    write(libraries, {changed: after[changed]})
    again = airflow.parse(bundle, env=env, known=known_of(first))
    assert unchanged(again) == set()
    assert again["files"]["a.py"]["dags"][0]["data"]["dag"]["tags"] != ["one"]


def test_a_variable_that_a_cluster_policy_reads_counts_and_a_build_number_does_not(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"a.py": PLAIN.format("a")})
    policy = "import os\nSTAGE = os.environ.get('STAGE', 'none')\ndef dag_policy(dag):\n    dag.tags.add(STAGE)\n"
    env = {"PYTHONPATH": str(write(tmp_path / "libs", {"airflow_local_settings.py": policy})), "CI_BUILD_NUMBER": "1"}
    first = newest.parse(bundle, env=env)
    assert unchanged(newest.parse(bundle, env={**env, "CI_BUILD_NUMBER": "2"}, known=known_of(first))) == {"a.py"}
    again = newest.parse(bundle, env={**env, "STAGE": "test"}, known=known_of(first))
    assert again["files"]["a.py"]["dags"][0]["data"]["dag"]["tags"] == ["test"]


def test_defaults_that_a_loader_of_dag_factory_would_have_found_count_once_they_are_there(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    files = {"load_flows.py": LOADER, "flows/milk.yml": MILK, ".airflowignore": "flows/\ndefaults.yml\n"}
    bundle = write(tmp_path / "bundle", files)
    first = newest.parse(bundle)
    assert dag_ids(first, "load_flows.py") == ["milk"]
    assert unchanged(newest.parse(bundle, known=known_of(first))) == {"load_flows.py"}
    write(bundle, {"defaults.yml": "default_args: {retries: 4, owner: dairy}\ntags: [cold]\n"})
    again = newest.parse(bundle, known=known_of(first))
    assert "cold" in str(again["files"]["load_flows.py"]["dags"])


def test_the_same_bytes_in_another_place_with_another_home_are_skipped(
    airflow: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    files = {
        "plain.py": PLAIN.format("plain"),
        "helped.py": "from helper import NAME\n" + PLAIN.replace('"{0}"', "NAME"),
        "helper.py": 'NAME = "helped"\n',
        "milk.yml": MILK,
    }
    one, two = (write(tmp_path / name / "dags", files) for name in ("one", "two"))
    homes = [{"AIRFLOW_HOME": str(tmp_path / name), "HOME": str(tmp_path / name)} for name in ("home-1", "home-2")]
    first = airflow.parse(one, env=homes[0])
    assert {path: record["errors"] for path, record in first["files"].items()} == {path: [] for path in first["files"]}
    assert shas(first) == shas(airflow.parse(two, env=homes[1]))
    shutil.rmtree(one)
    again = airflow.parse(two, env=homes[1], known=known_of(first))
    assert unchanged(again) == {"plain.py", "helped.py", "milk.yml"}


def test_every_example_dag_is_the_same_in_another_place_with_another_home(airflow: Airflow, tmp_path: Path) -> None:
    program = "import airflow.example_dags as examples, json\nprint(json.dumps(list(examples.__path__)[0]))"
    found = []
    for name in ("one", "two"):
        shutil.copytree(airflow.script(program), tmp_path / name / "dags", ignore=shutil.ignore_patterns("__pycache__"))
        home = str(tmp_path / f"home-{name}")
        found.append(shas(airflow.parse(tmp_path / name / "dags", env={"AIRFLOW_HOME": home, "HOME": home})))
    assert len(found[0]) > 60
    assert found[0] == found[1]
