"""The loader for Python files and zip archives of them: what stock Airflow discovers and parses."""

from __future__ import annotations

import ast
import contextlib
import io
import sys
import tokenize
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from dagbundle_parser.ahead import Helpers, Import, folders_beside, import_installed, imports_of
from dagbundle_parser.errors import FileProblem
from dagbundle_parser.loaders.airflow import AirflowAdapter
from dagbundle_parser.loaders.base import AbstractDagLoader, Candidate, LoadedWarning, LoadResult, SourceFile
from dagbundle_parser.plain import is_plain
from dagbundle_parser.pruning import strip
from dagbundle_parser.warmup import bound_names, parse_source

_MAX_SOURCE_BYTES = 4 << 20
_PLUGIN_KINDS = ("Timetable", "Strategy", "Mapper", "Window", "Reference", "Link")


class PythonDagLoader(AbstractDagLoader):
    """Loads `.py` files, and zip archives whatever they are called, with the installed Airflow."""

    name: ClassVar[str] = "python"
    suffixes: ClassVar[tuple[str, ...]] = (".py", ".zip")

    def __init__(self) -> None:
        self._plain: set[str] = set()
        self._uncalled: dict[str, list[LoadedWarning]] = {}

    def may_claim(self, suffix: str) -> bool:
        """Any file but YAML may be a zip archive; Airflow looks into each."""
        return suffix not in {".yaml", ".yml"}

    def claims(self, candidate: Candidate) -> bool:
        """Airflow's own heuristic in safe mode: it mentions `airflow` and `dag` or `asset`; a zip always counts."""
        if candidate.suffix != ".py":
            return candidate.is_zip()
        if not candidate.safe_mode:
            return True
        content = candidate.content().lower()
        if b"airflow" in content and (b"dag" in content or b"asset" in content):
            return True
        return content[-66_000:].find(b"pk\x05\x06") >= 0 and candidate.is_zip()

    def warm_up(self, files: Sequence[SourceFile]) -> None:
        """Import Airflow and what the files import from installed distributions; see which files are plain."""
        adapter = AirflowAdapter.get()
        may_need_plugins, known = False, set[Import]()
        helpers = Helpers(folders_beside(files[0].root) if files else ())
        for file in files:  # one tree at a time: a thousand take 20 MB, which children would share and copy
            tree = _tree_of(file)
            if tree is None:
                continue
            if uncalled := uncalled_dags(tree):
                self._uncalled[file.path] = uncalled
            running = strip(tree)
            may_need_plugins = may_need_plugins or _may_need_plugins(running)  # the gate changes what it looks at
            if fresh := helpers.follow(imports_of(running) - known) - known:
                import_installed(sorted(fresh), file.root)
                known |= fresh
            if is_plain(running, sys.modules):
                self._plain.add(file.path)
        adapter.warm_up(files[0].bundle if files else "warm-up", plugins=may_need_plugins)

    def load(self, file: SourceFile) -> LoadResult:
        """Load the file with Airflow's DagBag."""
        result = AirflowAdapter.get().load_file(file, lambda path: _source(file, path))
        result.warnings += self._uncalled.get(file.path, [])
        if file.path not in result.sources and not zipfile.is_zipfile(file.absolute):
            text = _source(file, file.path)
            if text is not None:
                result.sources[file.path] = text
        return result

    def is_plain(self, file: SourceFile) -> bool:
        """Whether the gate in plain.py let the file through."""
        return file.path in self._plain

    def traces(self) -> tuple[object, ...]:
        """What a plain file leaves as it is."""
        return AirflowAdapter.get().tracer.snapshot()


def _may_need_plugins(nodes: Iterable[ast.AST]) -> bool:
    """Whether a file imports or defines what Airflow serializes by looking for it among its plugins."""
    return any(name.endswith(_PLUGIN_KINDS) for name in bound_names(nodes))


def uncalled_dags(tree: ast.Module) -> list[LoadedWarning]:
    """The warnings of functions at top level that `@dag` decorates and that the file never names: they make no DAG."""
    made = [node for node in tree.body if isinstance(node, ast.FunctionDef) and any(map(_is_dag, node.decorator_list))]
    if not made:
        return []
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    text = "the function {0} is decorated with @dag and never called, so it makes no DAG: end the file with {0}()"
    return [
        LoadedWarning("DagNeverCalled", text.format(node.name), node.lineno) for node in made if node.name not in named
    ]


def _is_dag(decorator: ast.expr) -> bool:
    named = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (isinstance(named, ast.Name) and named.id == "dag") or (
        isinstance(named, ast.Attribute) and named.attr == "dag"
    )


def _tree_of(file: SourceFile) -> ast.Module | None:
    if not file.path.endswith(".py"):
        return None
    try:
        return parse_source(Path(file.absolute).read_bytes())
    except OSError:
        return None


def _source(file: SourceFile, path: str) -> str | None:
    """The text of a source, which may be a member of the archive that `file` is."""
    try:
        if path.startswith(file.path + "/"):
            with zipfile.ZipFile(file.absolute) as archive:
                raw = archive.read(path[len(file.path) + 1 :])
        else:
            raw = Path(file.root, path).read_bytes()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None
    if len(raw) > _MAX_SOURCE_BYTES:
        return f"# {path} has {len(raw)} bytes, more than are kept to be shown\n"
    return _text_of(raw)


def _text_of(raw: bytes) -> str:
    """A source's text, in the encoding that it says it has; UTF-8 where that cannot be."""
    with contextlib.suppress(SyntaxError, LookupError, UnicodeDecodeError):
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return raw.decode(encoding.removesuffix("-sig"))
    return raw.decode("utf-8", "replace")


def not_utf8(file: SourceFile) -> FileProblem | None:
    """The error of a text file that is not UTF-8, or None."""
    raw = Path(file.absolute).read_bytes()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return FileProblem("UnicodeDecodeError", f"{file.path} is not UTF-8: line {line} holds {error.reason}", line)
    return None
