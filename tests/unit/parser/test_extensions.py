"""Third parties' loaders and parsers are found through entry points, next to the built-in ones."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unit.parser.conftest import ROOT, request_for, stub_environment, write_bundle

MODULE = """
from dagbundle_parser.loaders.base import AbstractDagLoader, LoadedDag, LoadResult
from dagbundle_parser.parsers.single_pass import SinglePassBundleParser

class Loader(AbstractDagLoader):
    name = "ini"
    suffixes = (".ini",)
    def claims(self, candidate):
        return True
    def load(self, file):
        return LoadResult(dags=[LoadedDag("from_ini", file.path, "hash", {"root": file.root})])

class Parser(SinglePassBundleParser):
    name = "Mine"
    version = "7"

class NoLoader:
    pass
"""


def install(folder: Path, entries: str) -> Path:
    files: dict[str, str | bytes] = {
        "their_loaders.py": MODULE,
        "their_loaders-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: their-loaders\nVersion: 1.0\n",
        "their_loaders-1.0.dist-info/entry_points.txt": entries,
    }
    return write_bundle(folder / "installed", files)


def run(tmp_path: Path, bundle: Path, entries: str, **changes: object) -> list[dict[str, object]]:
    write_bundle(bundle, {"a.ini": "[x]\n"})
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle, **changes)))
    env = stub_environment()
    env["PYTHONPATH"] = str(install(tmp_path, entries))
    done = subprocess.run(
        [sys.executable, str(ROOT / "operator" / "dagbundle_parser"), "run", str(tmp_path / "request.json")],
        capture_output=True,
        check=True,
        env=env,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_third_partys_loader_claims_and_loads_its_files(tmp_path: Path, bundle: Path) -> None:
    _, begun, record, close = run(tmp_path, bundle, "[dagbundle.loaders]\nini = their_loaders:Loader\n")
    assert begun == {"type": "begin", "paths": ["a.ini"]}
    assert (record["loader"], record["path"]) == ("ini", "a.ini")
    assert close["counts"] == {"files": 1, "dags": 1, "errors": 0}


def test_a_third_partys_parser_is_used_by_its_name(tmp_path: Path, bundle: Path) -> None:
    opened, *_ = run(tmp_path, bundle, "[dagbundle.parsers]\nMine = their_loaders:Parser\n", parser={"type": "Mine"})
    assert opened["parser"] == {"name": "Mine", "version": "7"}


def test_a_built_in_name_cannot_be_taken(tmp_path: Path, bundle: Path) -> None:
    opened, close = run(tmp_path, bundle, "[dagbundle.loaders]\npython = their_loaders:Loader\n")
    assert (opened["files"], close["type"]) == (0, "close")


@pytest.mark.parametrize("target", ["no_such_module:Loader", "their_loaders:NoLoader", "their_loaders:Gone"])
def test_a_loader_that_cannot_be_used_fails_the_run_and_is_named(tmp_path: Path, bundle: Path, target: str) -> None:
    failed = run(tmp_path, bundle, f"[dagbundle.loaders]\nini = {target}\n")[-1]
    assert (failed["type"], failed["kind"]) == ("fail", "LoaderFailed")
    assert target in str(failed["message"])


def test_every_kind_of_error_is_documented() -> None:
    package = ROOT / "operator" / "dagbundle_parser"
    code = "\n".join(path.read_text() for path in package.rglob("*.py"))
    kinds = set(re.findall(r'(?:FileProblem|RunError|_problem|writer\.fail)\(\s*(?:[\w.]+, )?"([A-Z]\w+)"', code))
    documented = (ROOT / "docs" / "parser.md").read_text()
    assert len(kinds) > 20
    assert {kind for kind in kinds if not hasattr(builtins, kind) and f"`{kind}`" not in documented} == set()
