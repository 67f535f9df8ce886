"""The trusted side executes nothing that came from a parser: no module of it has the means to."""

from __future__ import annotations

import ast
import pathlib

import pytest

TRUSTED = pathlib.Path(__file__).parents[2] / "operator/dagbundle"
ADAPTER = TRUSTED / "targets/airflow/adapter.py"
"""Airflow decodes and stores what the target's vetting let pass; nothing else of it is imported, nor anywhere else."""
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "getattr_static"}
FORBIDDEN_ATTRIBUTES = {
    ("yaml", "load"), ("yaml", "load_all"), ("yaml", "full_load"), ("yaml", "unsafe_load"), ("yaml", "full_load_all"),
    ("importlib", "import_module"), ("os", "system"), ("os", "popen"), ("ctypes", "CDLL"),
}  # fmt: skip
FORBIDDEN_MODULES = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "runpy", "code", "codeop", "imp", "airflow", "dagfactory",
    "dagbundle_parser",
}  # fmt: skip


def violations(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                found.append(name)
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in FORBIDDEN_ATTRIBUTES:
                found.append(f"{module}.{name}")
            case ast.Import(names=names):
                found += [item.name for item in names if item.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in FORBIDDEN_MODULES:
                found.append(module)
    return found


@pytest.mark.parametrize("path", sorted(TRUSTED.rglob("*.py")), ids=lambda path: str(path.relative_to(TRUSTED)))
def test_no_trusted_module_can_execute_or_unpickle(path: pathlib.Path) -> None:
    found = violations(ast.parse(path.read_text()))
    if path == ADAPTER:
        found = [name for name in found if name.split(".")[0] != "airflow"]
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["eval('1')", "import pickle", "from airflow.models import DAG", "yaml.load(x)", "importlib.import_module(x)"],
)
def test_the_check_itself_sees_what_it_forbids(code: str) -> None:
    assert violations(ast.parse(code))
