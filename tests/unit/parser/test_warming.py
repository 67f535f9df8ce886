"""What warming up keeps in the process that children are forked from."""

from __future__ import annotations

import ast
import gc
from pathlib import Path
from types import SimpleNamespace

import pytest

from dagbundle_parser.loaders import python
from dagbundle_parser.loaders.base import SourceFile


def test_no_more_than_one_files_syntax_tree_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python.AirflowAdapter, "get", lambda: SimpleNamespace(warm_up=lambda *_, **__: None))
    before, most = _modules(), 0
    look = python.is_plain

    def is_plain(nodes: list[ast.AST], loaded: dict[str, object]) -> bool:
        nonlocal most
        most = max(most, _modules() - before)
        return look(nodes, loaded)

    monkeypatch.setattr(python, "is_plain", is_plain)
    for number in range(20):
        (tmp_path / f"flow_{number}.py").write_text("from airflow.sdk import DAG\nimport json\nDAG('a')\n")
    loader = python.PythonDagLoader()
    files = [SourceFile(f"flow_{number}.py", str(tmp_path), "sales") for number in range(20)]

    loader.warm_up(files)

    assert all(map(loader.is_plain, files))
    assert most == 1


def _modules() -> int:
    return sum(isinstance(item, ast.Module) for item in gc.get_objects())
