"""YAML in dag-factory's format, with and without a Python file of the bundle that loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration.parser.test_parity import STOCK

if TYPE_CHECKING:
    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

BASH = "airflow.providers.standard.operators.bash.BashOperator"
LOADER = """
from pathlib import Path

from airflow.sdk import DAG  # noqa: F401 - so that the file is looked at
from dagfactory import load_yaml_dags

HERE = Path(__file__).parent
{}
"""
FOLDER = LOADER.format('load_yaml_dags(globals(), str(HERE / "flows"), defaults_config_path=str(HERE))')
NEVER = LOADER.format("import os\nload_yaml_dags(globals(), str(HERE / 'flows'))\nos._exit(3)")
SOCKET = LOADER.format("import socket\nsocket.socket().close()\nload_yaml_dags(globals(), str(HERE / 'flows'))")
READER = LOADER.format('load_yaml_dags(globals(), config_filepath=str(HERE / "flows/milk.yml"))')

EXAMPLES = {
    "defaults.yml": "default_args: {owner: everybody, start_date: 2026-01-01, retries: 3}\ntags: [all]\n",
    "load_folder.py": LOADER.format('load_yaml_dags(globals(), str(HERE / "folder"), defaults_config_path=str(HERE))'),
    "load_one.py": LOADER.format(
        'load_yaml_dags(globals(), config_filepath=str(HERE / "one.yml"), '
        'defaults_config_dict={"default_args": {"owner": "dairy", "start_date": "2026-01-01"}})'
    ),
    "load_one_again.py": LOADER.format(
        'load_yaml_dags(globals(), config_filepath=str(HERE / "one.yml"), '
        'defaults_config_dict={"default_args": {"owner": "shop", "start_date": "2026-01-01"}})'
    ),
    "no_yaml.py": LOADER.format(
        "load_yaml_dags(globals(), config_dict={'inline': {'schedule': '@daily', 'tasks': [{'task_id': 'a', "
        f"'operator': '{BASH}', 'bash_command': 'true'}}]}}}}, defaults_config_dict={{'default_args': {{'start_date': "
        "'2026-01-01'}})"
    ),
    "shared/__init__.py": "",
    "shared/operators.py": (
        "from airflow.sdk import BaseOperator\n\nclass Churn(BaseOperator):\n    def __init__(self, speed=1, **kwargs):"
        "\n        super().__init__(**kwargs)\n        self.speed = speed\n"
    ),
    "folder/defaults.yml": "default_args: {retries: 4}\n",
    "folder/churn.yml": (
        "default: {default_args: {start_date: 2026-01-01}}\n"
        "churn:\n  schedule: '0 4 * * *'\n  tasks:\n"
        "    weigh: {operator: shared.operators.Churn, speed: 2}\n"
        f"    cool: {{operator: {BASH}, bash_command: 'echo $SPEED', dependencies: [weigh]}}\n"
    ),
    "folder/groups.yml": (
        "groups:\n  schedule: null\n  task_groups: {dairy: {tooltip: of milk}}\n  tasks:\n"
        f"    - {{task_id: weigh, operator: {BASH}, bash_command: a, task_group_name: dairy}}\n"
    ),
    "folder/broken.yml": "broken:\n  tasks: [{task_id: a, operator: no.such.Operator}]\n",
    "one.yml": f"one:\n  schedule: '@daily'\n  tasks: [{{task_id: a, operator: {BASH}, bash_command: b}}]\n",
    "unread.yml": "old:\n  schedule_interval: 1\n  tasks: [{task_id: a, operator: no.such.Operator}]\n",
    "board.yml": "sales: {tasks: 5}\nplan:\n  tasks: [write, read]\n",
    "invalid.yaml": "a: b\n- c\n",
}


def milk(task: str = "weigh") -> str:
    return f"milk:\n  schedule: '0 4 * * *'\n  tasks: [{{task_id: {task}, operator: {BASH}, bash_command: echo}}]\n"


def known_of(run: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the store remembers after a run, on top of what it did before."""
    found = {
        path: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1.0}
        for path, record in run["files"].items()
        if record["status"] == "parsed"
    }
    return {**(before or {}), **found}


def dags(run: dict[str, Any]) -> dict[str, list[str]]:
    return {
        path: [dag["dag_id"] for dag in record["dags"]] for path, record in run["files"].items() if record.get("dags")
    }


def errors(run: dict[str, Any]) -> dict[str, list[str]]:
    return {
        path: [error["kind"] for error in record["errors"]]
        for path, record in run["files"].items()
        if record.get("errors")
    }


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {path: record["status"] for path, record in run["files"].items()}


def test_a_folder_of_dag_factorys_publishes_what_stock_airflow_makes_of_it(
    airflow: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", EXAMPLES)
    stock, ours = airflow.script(STOCK, str(bundle)), airflow.parse(bundle)
    mine = {path: {dag["dag_id"]: dag["dag_hash"] for dag in record["dags"]} for path, record in ours["files"].items()}
    theirs = {path: {dag_id: found[0] for dag_id, found in file["dags"].items()} for path, file in stock.items()}
    assert {"churn", "groups", "one", "inline"} <= {dag_id for found in theirs.values() for dag_id in found}
    assert {path: hashes for path, hashes in mine.items() if hashes} == {p: h for p, h in theirs.items() if h}
    assert errors(ours) == {}
    assert [warning["category"] for warning in ours["files"]["unread.yml"]["warnings"]] == ["NotLoaded"]


TOO_DEEP = {
    "written as JSON": ("[" * 250 + "]" * 250, "the DAGs of flows/milk.yml cannot be written as JSON", 2),
    "read": ("[" * 3000 + "]" * 3000, "dag-factory cannot build flows/milk.yml", 1),
    "copied": ("*again", "dag-factory cannot build flows/milk.yml", 1),
}


@pytest.mark.parametrize("doing", list(TOO_DEEP))
def test_yaml_that_nests_too_deeply_breaks_with_a_line_and_nothing_else(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path], doing: str
) -> None:
    deep, text, line = TOO_DEEP[doing]
    again = "again: &again [*again]\n" if "again" in deep else "# of milk\n"
    bundle = write(tmp_path / "bundle", {"defaults.yml": "default_args: {start_date: 2026-01-01}"})
    write(bundle, {"flows/milk.yml": again + milk().replace("echo}", f"echo, params: {{p: {deep}}}}}")})
    write(bundle, {"flows/other.yml": milk().replace("milk", "other")})
    run = newest.parse(bundle)
    assert errors(run) == {"flows/milk.yml": ["RecursionError"]}
    (error,) = run["files"]["flows/milk.yml"]["errors"]
    assert (error["message"].startswith(text), error["line"]) == (True, line)
    assert dags(run) == {"flows/other.yml": ["other"]}


FAULTS = {
    "operator: no.such.Operator": "DAG 'bad', task 'second': ModuleNotFoundError: ",
    f"operator: {BASH}, nonsense: 1": "DAG 'bad', task 'second': TypeError: ",
    f"operator: {BASH}, bash_command: a, dependencies: [none]": "DAG 'bad', task 'second': KeyError: 'none'",
    "retries: 1": "DAG 'bad', task 'second': DagFactoryConfigException: Tasks must define",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("shape", ["list", "mapping"])
def test_an_error_of_dag_factory_names_the_dag_and_the_task_with_its_line(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path], fault: str, shape: str
) -> None:
    start, end = ("- {task_id: ", ", ") if shape == "list" else ("", ": {")
    first, second = (f"    {start}{name}{end}" for name in ("first", "second"))
    text = (
        f"{milk()}\nbad:\n  schedule: null\n  tasks:\n{first}operator: {BASH}, bash_command: a}}\n{second}{fault}}}\n"
    )
    bundle = write(tmp_path / "bundle", {"defaults.yml": "default_args: {start_date: 2026-01-01}", "flows/a.yml": text})
    (error,) = newest.parse(bundle)["files"]["flows/a.yml"]["errors"]
    assert error["message"].startswith(f"dag-factory cannot build flows/a.yml, {FAULTS[fault]}")
    assert error["line"] == text.splitlines().index(next(line for line in text.splitlines() if "second" in line)) + 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("schedule: nonsense", "DAG 'bad' is refused: AirflowTimetableInvalid: "),
        ("schedule: null, template_searchpath: 7", "flows/a.yml, DAG 'bad': DagFactoryException: template_searchpath"),
    ],
)
def test_an_error_of_a_yaml_dag_names_the_dag_with_its_line(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path], fields: str, said: str
) -> None:
    text = f"{milk()}bad: {{{fields}, tasks: [{{task_id: a, operator: {BASH}, bash_command: b}}]}}\n"
    bundle = write(tmp_path / "bundle", {"defaults.yml": "default_args: {start_date: 2026-01-01}", "flows/a.yml": text})
    (error,) = newest.parse(bundle)["files"]["flows/a.yml"]["errors"]
    assert said in error["message"]
    assert error["line"] == 4


def test_yaml_that_a_python_file_loads_is_not_loaded_again_and_both_are_skipped(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"load.py": FOLDER, "defaults.yml": "default_args: {start_date: 2026-01-01}"})
    write(bundle, {"flows/milk.yml": milk()})
    first = newest.parse(bundle)
    assert dags(first) == {"load.py": ["milk"]}
    assert set(statuses(newest.parse(bundle, known=known_of(first))).values()) == {"unchanged"}


def test_yaml_changes_hands_when_its_python_file_comes_and_goes(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"defaults.yml": "default_args: {start_date: 2026-01-01}"})
    write(bundle, {"flows/milk.yml": milk(), "flows/other.yml": milk().replace("milk", "other"), "x.py": ""})
    first = newest.parse(bundle)
    assert dags(first) == {"flows/milk.yml": ["milk"], "flows/other.yml": ["other"]}
    write(bundle, {"load.py": READER})
    second = newest.parse(bundle, known=known_of(first))
    assert dags(second) == {"load.py": ["milk"]}
    (bundle / "load.py").unlink()
    assert dags(newest.parse(bundle, known=known_of(second))) == dags(first)


def test_a_changed_python_file_does_not_have_yaml_parsed_again_that_nobody_reads(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    other = "from airflow.sdk import DAG\ndag = DAG('a')\n"
    bundle = write(tmp_path / "bundle", {"defaults.yml": "default_args: {start_date: 2026-01-01}", "other.py": other})
    write(bundle, {"flows/milk.yml": milk()})
    first = newest.parse(bundle)
    write(bundle, {"other.py": other + "\n"})
    again = newest.parse(bundle, known=known_of(first))
    assert statuses(again) == {"other.py": "parsed", "flows/milk.yml": "unchanged"}


@pytest.mark.parametrize(("loader", "kinds"), [(NEVER, ["ProcessExited"]), (FOLDER + "1 / 0", ["ZeroDivisionError"])])
def test_yaml_stays_with_a_python_file_that_breaks(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path], loader: str, kinds: list[str]
) -> None:
    bundle = write(tmp_path / "bundle", {"load.py": FOLDER, "flows/milk.yml": milk()})
    write(bundle, {"defaults.yml": "default_args: {start_date: 2026-01-01}"})
    known = known_of(newest.parse(bundle))
    write(bundle, {"load.py": loader})
    run = newest.parse(bundle, known=known)
    assert errors(run) == {"load.py": kinds}
    for _ in range(2):
        assert dags(run) == {}
        known = known_of(run, known)
        run = newest.parse(bundle, known=known)


def test_yaml_of_a_python_file_that_cannot_be_skipped_is_not_loaded_again_either(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    bundle = write(tmp_path / "bundle", {"load.py": SOCKET, "flows/milk.yml": "default: {default_args: "})
    write(bundle, {"flows/milk.yml": "default: {default_args: {start_date: 2026-01-01}}\n" + milk()})
    first = newest.parse(bundle)
    assert dags(first) == {"load.py": ["milk"]}
    again = newest.parse(bundle, known=known_of(first))
    assert statuses(again) == {"load.py": "parsed", "flows/milk.yml": "unchanged"}
    assert dags(again) == {"load.py": ["milk"]}


def test_the_manifest_turns_the_yaml_loader_off(newest: Airflow, tmp_path: Path, write: Callable[..., Path]) -> None:
    bundle = write(tmp_path / "bundle", {"flows/milk.yml": milk()})
    write(bundle, {"dagbundle.yaml": "version: v1beta\nbundle_config: {loaders: {yaml: {enabled: false}}}\n"})
    assert newest.parse(bundle)["files"] == {}


def test_the_manifest_says_which_yaml_is_loaded_and_with_which_defaults(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    manifest = """
version: v1beta
bundle_config:
  loaders:
    yaml:
      patterns: ["*.yml", "!old/"]
      defaults: {default_args: {owner: dairy, start_date: 2026-01-01}}
"""
    bundle = write(tmp_path / "bundle", {"flows/milk.yml": milk(), "flows/milk.yaml": milk(), "old/milk.yml": milk()})
    write(bundle, {"dagbundle.yaml": manifest.replace("!old/", "!old/*"), "load.py": READER.replace("load_yaml", "(")})
    first = newest.parse(bundle)
    assert dags(first) == {"flows/milk.yml": ["milk"]}
    assert first["files"]["flows/milk.yml"]["output"]["text"] == ""
    owner = first["files"]["flows/milk.yml"]["dags"][0]["data"]["dag"]["default_args"]["__var"]["owner"]
    assert owner == "dairy"
    write(bundle, {"dagbundle.yaml": manifest.replace("!old/", "!old/*").replace("dairy", "shop")})
    assert statuses(newest.parse(bundle, known=known_of(first)))["flows/milk.yml"] == "parsed"


def test_yaml_that_a_pattern_names_is_loaded_whoever_reads_it(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    text = "# no\ndefault: {default_args: {start_date: 2026-01-01}}\n" + milk()
    reads = "from airflow.sdk import DAG\ndag = DAG(open(__file__.replace('reads.py', 'm.yml')).read()[2:4])\n"
    bundle = write(tmp_path / "bundle", {"m.yml": text, "reads.py": reads})
    first = newest.parse(bundle)
    assert dags(first) == {"reads.py": ["no"]}
    write(bundle, {"dagbundle.yaml": "version: v1beta\nbundle_config: {loaders: {yaml: {patterns: [m.yml]}}}\n"})
    assert dags(newest.parse(bundle, known=known_of(first))) == {"m.yml": ["milk"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{loaders: {yml: {enabled: false}}}", "bundle_config.loaders.yml is no loader of this environment"),
        ("{loaders: {yaml: {enabled: 'no'}}}", "bundle_config.loaders.yaml.enabled must be true or false"),
        ("{loaders: {yaml: {pattern: []}}}", "bundle_config.loaders.yaml has no setting 'pattern'"),
        ("{loaders: {yaml: {patterns: [1]}}}", "bundle_config.loaders.yaml.patterns must be a list"),
        ("{loaders: {yaml: {defaults: [1]}}}", "bundle_config.loaders.yaml.defaults must be a mapping"),
        ("{loaders: [yaml]}", "bundle_config.loaders must be a mapping"),
        ("{loaders: [", "no YAML that can be read"),
        ("{loaders: {yaml: {defaults: " + "{a: " * 200 + "1" + "}" * 200 + "}}}", "nest deeper than 100 levels"),
        ("{loaders: {yaml: {defaults: {a: &a {b: 1}, c: {<<: *a}}}}}", "uses YAML aliases"),
        ("{loaders: {yaml: {defaults: {a: " + ":".join(["1"] * 50_000) + "}}}}", "more than 100 characters"),
        ("{loaders: {yaml: {defaults: {a: !!bool x}}}}", "a value does not fit its tag (KeyError)"),
    ],
)
def test_a_manifest_that_cannot_be_used_ends_the_run_and_names_the_setting(
    newest: Airflow, tmp_path: Path, write: Callable[..., Path], text: str, words: str
) -> None:
    bundle = write(
        tmp_path / "bundle", {"a.yml": milk(), "dagbundle.yaml": f"version: v1beta\nbundle_config: {text}\n"}
    )
    last = newest.parse(bundle)["last"]
    assert (last["type"], last["kind"]) == ("fail", "ManifestInvalid")
    assert words in last["message"]
