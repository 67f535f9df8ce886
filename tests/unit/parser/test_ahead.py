"""What files import of installed distributions, straight or through helpers, is imported once, before the fork."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path

import pytest

from dagbundle_parser import ahead
from dagbundle_parser.ahead import Helpers, Lessons, import_installed, imports_of
from unit.parser.conftest import run_stub, write_bundle

LOGS = "import os\nwith open(os.environ['IMPORT_LOG'], 'a') as log:\n    log.write(f'{__name__} {os.getppid()}\\n')\n"


def reached(folder: Path, source: str) -> set[tuple[str, str]]:
    return Helpers([str(folder)]).follow(imports_of(ast.walk(ast.parse(source))))


def test_imports_are_followed_through_helpers_packages_and_relative_imports(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "common.py": "import pandas\nfrom team.hooks import HOOK\n",
        "team/__init__.py": "import numpy.linalg\n",
        "team/hooks.py": "from . import tables\nfrom .deep.paths import P\nimport common\n",
        "team/tables.py": "if True:\n    from google.cloud import bigquery\n",
        "team/deep/paths.py": "from ..hooks import HOOK\ntry:\n    import boto3\nexcept ImportError:\n    pass\n",
        "unused.py": "import torch\n",
    }
    found = reached(write_bundle(tmp_path, files), "from common import HOOK\n")
    assert {("pandas", ""), ("numpy.linalg", ""), ("google.cloud", "bigquery"), ("boto3", "")} <= found
    assert ("torch", "") not in found


def test_what_a_helper_imports_late_or_for_type_checkers_only_is_not_followed(tmp_path: Path) -> None:
    helper = (
        "import typing\nfrom typing import TYPE_CHECKING\ndef late():\n    import pandas\nif TYPE_CHECKING:\n"
        "    import numpy\nelse:\n    import boto3\nif typing.TYPE_CHECKING:\n    import numpy\n"
    )
    found = reached(write_bundle(tmp_path, {"common.py": helper}), "import common\n")
    assert found == {("common", ""), ("typing", ""), ("typing", "TYPE_CHECKING"), ("boto3", "")}


def test_a_helper_that_cannot_be_read_costs_nothing_but_what_it_imports(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, {"broken.py": "import (\n", "bytes.py": b"\xff\0"})
    assert reached(folder, "import broken, bytes\n") == {("broken", ""), ("bytes", "")}


def test_only_what_is_installed_is_imported_whoever_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("IMPORT_LOG", str(log))
    site = write_bundle(
        tmp_path / "site-packages",
        {"ahead_own/__init__.py": LOGS, "ahead_own/part.py": LOGS, "ahead_space/inner.py": LOGS},
    )
    beside = write_bundle(
        tmp_path / "libs", {"ahead_beside.py": LOGS, "ahead_space/outer.py": LOGS, "colorsys.py": LOGS}
    )
    root = write_bundle(tmp_path / "root", {"ahead_root.py": LOGS})
    for path in (site, root, beside):
        monkeypatch.syspath_prepend(str(path))
    wanted = [
        ("ahead_own", "part"), ("ahead_own", "absent"), ("ahead_own", "*"), ("ahead_beside", ""), ("ahead_root", ""),
        ("ahead_space.inner", ""), ("ahead_space.outer", ""), ("colorsys", ""), ("", ""), ("..", ""), ("no.x", "y"),
    ]  # fmt: skip
    import_installed(wanted, str(root))
    assert [line.split()[0] for line in log.read_text().splitlines()] == [
        "ahead_own", "ahead_own.part", "ahead_space.inner",
    ]  # fmt: skip


def test_what_makes_dags_is_forgotten_and_what_else_it_imported_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DagContext:  # as Airflow's, which the integration test has
        autoregistered_dags: set[object] = set()  # noqa: RUF012 - as there
        current_autoregister_module_name: str | None = None

    context = types.ModuleType("contexts")
    vars(context)["DagContext"] = DagContext
    monkeypatch.setitem(sys.modules, ahead._CONTEXTS, context)
    make = f"from sys import modules\nmodules['{ahead._CONTEXTS}'].DagContext.autoregistered_dags.add((1, 2))\n"
    site = write_bundle(
        tmp_path / "site-packages",
        {
            "ahead_maker/__init__.py": "import ahead_tool\nfrom ahead_maker import flows\n",
            "ahead_maker/flows.py": make,
            "ahead_tool.py": "class Tool: ...\n",
            "ahead_user.py": "import ahead_maker\n",
        },
    )
    monkeypatch.syspath_prepend(str(site))
    before = DagContext.autoregistered_dags

    import_installed([("ahead_user", "")], str(tmp_path / "root"))
    import_installed([("ahead_maker.flows", ""), ("ahead_tool", "Tool")], str(tmp_path / "root"))

    assert {name for name in sys.modules if name.startswith("ahead_")} >= {"ahead_tool"}
    assert not {"ahead_user", "ahead_maker", "ahead_maker.flows"} & sys.modules.keys()
    assert DagContext.autoregistered_dags is before
    assert (before, DagContext.current_autoregister_module_name) == (set(), None)


def test_a_module_that_ends_its_process_leaves_the_parser_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_bundle(tmp_path / "site-packages", {"ahead_ends.py": "raise SystemExit(3)\n"})
    monkeypatch.syspath_prepend(str(site))
    import_installed([("ahead_ends", "")], str(tmp_path))
    assert "ahead_ends" not in sys.modules


def imports_logged(tmp_path: Path, files: dict[str, str | bytes], **changes: object) -> list[str]:
    (site := tmp_path / "site-packages").mkdir()
    write_bundle(site, {"slow.py": LOGS, "fast.py": LOGS})
    (log := tmp_path / "log").touch()
    log.chmod(0o666)
    tmp_path.chmod(0o755)
    path = f"{Path(__file__).parents[3] / 'operator'}:{site}"
    report = run_stub(
        write_bundle(tmp_path / "bundle", files),
        tmp_path / "request.json",
        env={"PYTHONPATH": path, "IMPORT_LOG": str(log)},
        processes=1,
        **changes,
    )
    assert report.closed, report.stderr
    assert {path: record["errors"] for path, record in report.files.items()} == {
        path: [] for path, text in files.items() if "DAGS" in str(text)
    }
    return [line.split()[0] for line in log.read_text().splitlines()]


def test_what_two_children_imported_is_imported_once_more_and_never_again(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"f{n}.py": "import helper\nDAGS = {}\nhelper.load()\n" for n in range(9)}
    files |= {"helper.py": f"{LOGS}def load():\n    import slow\n", "single.py": "import fast\nDAGS = {}\n"}
    logged = imports_logged(tmp_path, files)
    assert (logged.count("slow"), logged.count("fast"), logged.count("helper")) == (3, 1, 9)


def test_what_a_file_imported_with_variables_of_its_own_is_not_imported_for_others(tmp_path: Path) -> None:
    own = "import os\nos.environ['SLOW_MODE'] = 'own'\nimport slow\nDAGS = {}\n"
    assert imports_logged(tmp_path, {f"f{n}.py": own for n in range(5)}) == ["slow"] * 5


def test_files_are_skipped_whether_what_they_import_was_there_before_them_or_not(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    site = write_bundle(tmp_path / "site-packages", {"slow.py": "import os\nMODE = os.environ.get('SLOW_MODE', '')\n"})
    bundle = write_bundle(tmp_path / "bundle", {f"f{n}.py": "import slow\nDAGS = {slow.MODE: {}}\n" for n in range(6)})
    env = {"PYTHONPATH": f"{Path(__file__).parents[3] / 'operator'}:{site}"}
    first = run_stub(bundle, tmp_path / "request.json", env=env, processes=1)
    known = {
        path: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1}
        for path, record in first.files.items()
    }
    again = run_stub(bundle, tmp_path / "request.json", env=env, known=known)
    assert {record["status"] for record in again.files.values()} == {"unchanged"}
    changed = run_stub(bundle, tmp_path / "request.json", env={**env, "SLOW_MODE": "x"}, known=known)
    assert {record["status"] for record in changed.files.values()} == {"parsed"}
    assert {record["dags"][0]["dag_id"] for record in changed.files.values()} == {"x"}


@pytest.mark.parametrize("body", [b"", b"{", b"1", b"[1]", b'["a", null]', b"[" * 100_000, b'{"a": 1}'])
def test_what_is_no_list_of_names_teaches_nothing(body: bytes) -> None:
    learned: list[list[str]] = []
    lessons = Lessons(learned.append)
    for _ in range(3):
        lessons.hear(body)
    assert (lessons.learn(), learned) == (False, [])


def test_lessons_are_learned_in_the_order_of_import_and_once() -> None:
    learned: list[list[str]] = []
    lessons = Lessons(learned.append)
    for names in (["b", "b.c", "a"], ["b", "a", "d"], ["a", "b"]):
        lessons.hear(json.dumps(names).encode())
        lessons.learn()
    assert learned == [["b", "a"]]


def test_names_that_children_make_up_without_end_are_not_all_kept() -> None:
    lessons = Lessons(lambda _names: None)
    for first in range(0, 60_000, 20_000):
        lessons.hear(json.dumps([str(number) for number in range(first, first + 20_000)]).encode())
    assert len(lessons._told) == 50_000
