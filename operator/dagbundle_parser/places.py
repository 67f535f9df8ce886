"""Where in a DAG file a DAG is defined, read from its source, for errors that no frame of the file is part of.

In YAML that is the line of its top-level key.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagbundle_parser.loaders.base import SourceFile

_MAKERS = frozenset({"DAG", "dag"})
_YAML = (".yaml", ".yml")


def lines_naming(dag_id: str, file: SourceFile) -> list[int]:
    """Lines of calls that have `dag_id` as a literal argument, and of functions with that name and a decorator."""
    if file.path.endswith(_YAML):
        return _lines_with_key(dag_id, file)
    lines = set()
    for node in _nodes(file):
        if isinstance(node, ast.Call):
            values = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "dag_id")]
            if any(isinstance(value, ast.Constant) and value.value == dag_id for value in values):
                lines.add(node.lineno)
        elif isinstance(node, ast.FunctionDef) and node.name == dag_id and node.decorator_list:
            lines.add(node.lineno)
    return sorted(lines)


def line_defining(dag_id: str, file: SourceFile) -> int:
    """The line that names a DAG, else the first that makes one, else the first of the file."""
    named = lines_naming(dag_id, file)
    if file.path.endswith(_YAML):
        return named[-1] if named else 1
    made = [node.lineno for node in _nodes(file) if isinstance(node, ast.Call) and _name_of(node.func) in _MAKERS]
    return named[-1] if named else min(made, default=1)


def _lines_with_key(key: str, file: SourceFile) -> list[int]:
    pattern = re.compile(rf"""(["']?){re.escape(key)}\1\s*:""")
    try:
        text = Path(file.absolute).read_text("utf-8", "replace")
    except OSError:
        return []
    return [number for number, line in enumerate(text.splitlines(), start=1) if pattern.match(line)]


def _nodes(file: SourceFile) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(Path(file.absolute).read_bytes())))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return []


def _name_of(function: ast.expr) -> str:
    return str(getattr(function, "id", None) or getattr(function, "attr", ""))
