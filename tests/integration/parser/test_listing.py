"""Our listing, made without Airflow, is Airflow's own listing."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[3]
NAMES = ("a", "b", "foo", "foobar", "bar.baz", "x[1]", "test_a", "A b")
PATTERNS = (
    "a", "a/", "/a", "a/b", "*/b", "**/b", "a/**", "a/**/b", "*.py", "foo*", "test_?.py", "[ab].py", "[!a].py", "!a.py",
    "!foo.py", "foo/*.py", "/foo/", "bar.baz", "# comment", "a.py # trailing", "  ", "\\!x", "x\\[1\\]", "**", "*", "/*",
    "a/*/b.py", "foo/", "!foo/", "**/foo/**", "/", "b/", "**/test_*.py", "A b", "foo**bar", "[^a]oo.py", "*a*/", "!/a",
    " a", "  foo", "\ta/", " !a", "! a", " # comment", "[", "x[1", "[a", "!x[", "[]a]*", "[a-c]*", "\\a", "a\\ ", " /a", "a//b", "[[a]*",
)  # fmt: skip
REGEXPS = ("a", "^a", "foo.*", r"\.py$", "b/", "x[", "test_[ab]", "^foo/a", "a # comment", "bar.baz", "^$", "A b")
DAG = b"import airflow\ndag = 1\n"

LIST = """
import json, sys, warnings, os
os.environ["_AIRFLOW__REEXECUTED_PROCESS"] = "1"
warnings.simplefilter("ignore")
os.environ["AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX"] = sys.argv[2]  # some minors read it when they are imported
from pathlib import Path
try:
    from airflow.dag_processing.importers import get_importer_registry
    lister = get_importer_registry().list_dag_files
except ImportError:
    from airflow.utils.file import find_dag_file_paths as lister
answers = []
for root in json.loads(Path(sys.argv[1]).read_text()):
    answers.append(sorted(str(Path(path).relative_to(root)) for path in lister(root, safe_mode=True)))
print(json.dumps(answers))
"""

OURS = """
import dataclasses, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from dagbundle_parser.discovery import Lister
from dagbundle_parser.loaders.python import PythonDagLoader
from dagbundle_parser.settings import AirflowSettings
answers = []
settings = dataclasses.replace(AirflowSettings.read({}), ignore_syntax=sys.argv[2])
for root in json.loads(Path(sys.argv[1]).read_text()):
    answers.append([file.path for file in Lister(root, settings, [PythonDagLoader()]).list_files()])
assert "airflow" not in sys.modules
print(json.dumps(answers))
"""


def grow(folder: Path, chance: random.Random, patterns: tuple[str, ...], depth: int = 0) -> None:
    folder.mkdir(parents=True)
    for name in chance.sample(NAMES, 4):
        if depth < 2 and chance.random() < 0.45:
            grow(folder / name, chance, patterns, depth + 1)
        else:
            (folder / f"{name}.py").write_bytes(DAG)
    (folder / "no_dag.py").write_bytes(b"import os\n")
    (folder / "some.txt").write_bytes(DAG)
    if chance.random() < (0.9 if depth == 0 else 0.4):
        (folder / ".airflowignore").write_text("\n".join(chance.sample(patterns, chance.randint(1, 4))))


def test_random_trees_are_listed_as_airflow_lists_them(airflow: Airflow, tmp_path: Path) -> None:
    compare(airflow, tmp_path, "glob", PATTERNS)


def test_blanks_in_front_are_part_of_a_pattern(airflow: Airflow, tmp_path: Path) -> None:
    for name in ("utils", "  utils"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_bytes(DAG)
    (tmp_path / ".airflowignore").write_text("  utils\n")
    (tmp_path / "roots.json").write_text(json.dumps([str(tmp_path)]))
    arguments = (str(tmp_path / "roots.json"), "glob")
    assert airflow.script(LIST, *arguments) == [["utils/a.py"]]
    assert airflow.script(OURS, *arguments, str(ROOT / "operator")) == [["utils/a.py"]]


@pytest.mark.parametrize("pattern", ["!", "a\\", "b/\\", "[z-a]", "!c\\"])
def test_a_pattern_that_airflow_refuses_is_an_error(airflow: Airflow, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a.py").write_bytes(DAG)
    (tmp_path / ".airflowignore").write_text(f"{pattern}\n")
    (tmp_path / "roots.json").write_text(json.dumps([str(tmp_path)]))
    with pytest.raises(AssertionError, match=r"Invalid git pattern|bad character range"):
        airflow.script(LIST, str(tmp_path / "roots.json"), "glob")
    problems = OURS.replace("file.path for file", "(file.path, file.problem and file.problem.kind) for file")
    found = airflow.script(problems, str(tmp_path / "roots.json"), "glob", str(ROOT / "operator"))
    assert [".airflowignore", "UnreadableIgnoreFile"] in found[0]


def test_random_trees_with_regular_expressions_are_listed_as_airflow_lists_them(
    newest: Airflow, tmp_path: Path
) -> None:
    compare(newest, tmp_path, "regexp", REGEXPS)


def compare(airflow: Airflow, tmp_path: Path, syntax: str, patterns: tuple[str, ...]) -> None:
    chance = random.Random(85)  # noqa: S311 - trees, not secrets
    cases = [str(tmp_path / str(number)) for number in range(150)]
    for root in cases:
        grow(Path(root), chance, patterns)
    listed = tmp_path / "cases.json"
    listed.write_text(json.dumps(cases))
    theirs = airflow.script(LIST, str(listed), syntax)
    ours = airflow.script(OURS, str(listed), syntax, str(ROOT / "operator"))
    assert sum(map(len, theirs)) > 500
    for root, mine, stock in zip(cases, ours, theirs, strict=True):
        assert mine == stock, ignore_files(Path(root))


def ignore_files(root: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in root.rglob(".airflowignore")}
