"""What files will import of installed distributions, imported before the fork: found in sources, and learned.

Sources say most of it: those of the DAG files, and of the modules that these import from the bundle or from folders
beside it, and so on. Such modules run code of the bundle's authors and may differ for each file, so they are read and
never imported here. What no source says (imports in functions, by a computed name, of operators that YAML names) the
first children tell, once they have imported it.
"""

# ruff: noqa: PTH112, PTH113, PTH118, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from dagbundle_parser.warmup import installed_directories, parse_source

Import = tuple[str, str]
"""A module's absolute name, and what is taken from it, which may be a module too; empty for the module itself."""

MAX_TOLD_BYTES = 1 << 20
"""How much a child may tell of what it imported."""
_ENOUGH_CHILDREN = 2
"""So many children must have imported a module: one that a single file needs would be imported in vain."""
_MAX_HELPERS = 5000
_MAX_TOLD = 50_000
"""Names that are kept in all; an Airflow with all its providers has some 20,000 modules."""
_MAX_NAME = 250
"""Characters of one of them."""
_CONTEXTS = "airflow.sdk.definitions._internal.contextmanager"
_making_dags: set[str] = set()
"""Packages and modules that make DAGs while they are imported: such DAGs belong to the file that imports them."""
_NEVER = frozenset({"antigravity", "this", "__main__", "idlelib", "turtledemo", "tkinter"})
"""Modules that do more than to define something."""


def imports_of(nodes: Iterable[ast.AST], package: str = "") -> set[Import]:
    """What these parts of a Python file import.

    Args:
        nodes: any nodes; those of other kinds are passed over.
        package: what relative imports start from; without it they are passed over.
    """
    found: set[Import] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1] if package else []
                module = ".".join([*base, *filter(None, [module])]) if base else ""
            if module:
                found.update((module, alias.name) for alias in node.names)
    return found


class Helpers:
    """The Python modules that files may import from folders that no distribution owns.

    Args:
        folders: absolute.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._tops = {folder: _modules_in(folder) for folder in folders}
        self._read: set[str] = set()

    def follow(self, imports: set[Import]) -> set[Import]:
        """All that is imported when these are: by them, by the helpers among them, by the helpers of those.

        Args:
            imports: what files import.
        """
        found, waiting = set(imports), list(imports)
        while waiting and len(self._read) < _MAX_HELPERS:
            for name, path in self._sources(*waiting.pop()):
                if path in self._read:
                    continue
                self._read.add(path)
                package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
                fresh = imports_of(_run_at_import(path), package) - found
                found |= fresh
                waiting += fresh
        return found

    def _sources(self, module: str, member: str) -> Iterator[tuple[str, str]]:
        """The names and paths of the sources that one import runs."""
        top = module.partition(".")[0]
        for folder, tops in self._tops.items():
            if top not in tops:
                continue
            names = f"{module}.{member}".split(".") if member else module.split(".")
            for count in range(1, len(names) + 1):
                stem = os.path.join(folder, *names[:count])
                for path in (f"{stem}/__init__.py", f"{stem}.py"):
                    if os.path.isfile(path):
                        yield ".".join(names[:count]), path
                        break


def _modules_in(folder: str) -> set[str]:
    try:
        return {name.partition(".")[0] for name in os.listdir(folder)}
    except OSError:
        return set()


def _run_at_import(path: str) -> Iterator[ast.AST]:
    """The imports that a module runs while it is imported, without those in functions: they are late for a reason."""
    try:
        tree = parse_source(Path(path).read_bytes())
    except OSError:
        return
    waiting: list[ast.AST] = [] if tree is None else [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and _is_for_type_checkers(node.test):
            waiting += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.expr)):
            waiting += ast.iter_child_nodes(node)


def _is_for_type_checkers(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in {getattr(test, "id", ""), getattr(test, "attr", "")}


def folders_beside(root: str) -> list[str]:
    """A bundle's root and the importable folders that no distribution owns."""
    directories = installed_directories()
    return [root, *(path for path in sys.path if os.path.isdir(path) and not f"{path}/".startswith(directories))]


def import_installed(wanted: Iterable[Import], root: str) -> None:
    """Import what is installed of `wanted`; a module that fails to is left to the files that import it to report.

    Args:
        wanted: what to import.
        root: the bundle's root, which is not searched.
    """
    directories = installed_directories()
    with warnings.catch_warnings(), _without({root}):
        warnings.simplefilter("ignore")
        for module, member in wanted:
            if _take(module, directories) and member and member not in vars(sys.modules[module]):
                _take(f"{module}.{member}", directories)


def _take(name: str, directories: Sequence[str]) -> bool:
    """Import a module and what it lies in, each only if it is installed; False if it is not there afterwards."""
    if sys.modules.get(name) is not None:
        return True
    parent, _, own = name.rpartition(".")
    if name in _NEVER or own in {"", "*", "__main__"} or {name, name.partition(".")[0]} & _making_dags:
        return False
    if parent and not _take(parent, directories):
        return False
    path = getattr(sys.modules[parent], "__path__", []) if parent else None
    if name not in sys.builtin_module_names and not _is_installed(name, path, directories):
        return False
    _import(name)
    return sys.modules.get(name) is not None


class _Made(set[Any]):
    """The set that DAGs register in. It keeps the names of the modules whose code was running then."""

    def __init__(self) -> None:
        super().__init__()
        self.makers: set[str] = set()

    def add(self, item: Any) -> None:
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to a frame
        while frame is not None:
            if frame.f_code.co_name == "<module>":
                self.makers.add(str(frame.f_globals.get("__name__")))
            frame = frame.f_back
        super().add(item)


def _import(name: str) -> None:
    """Import a module, and take back what made DAGs meanwhile.

    Airflow gives a DAG that a `with` block makes to the file during whose import that happens. Here that is no file:
    the DAG would be lost to each file that imports the module afterwards.
    """
    context: Any = getattr(sys.modules.get(_CONTEXTS), "DagContext", None)
    before, made = set(sys.modules), _Made()
    with contextlib.ExitStack() as stack:
        if context is not None:
            for attribute, value in {"autoregistered_dags": made, "current_autoregister_module_name": __name__}.items():
                stack.callback(setattr, context, attribute, getattr(context, attribute))
                setattr(context, attribute, value)
        with contextlib.suppress(Exception, SystemExit):  # the files that import it report what it raises
            importlib.import_module(name)
    if made:
        _take_back(set(sys.modules) - before, made.makers)


def _take_back(fresh: set[str], makers: set[str]) -> None:
    """Forget modules that made DAGs, with the rest of their packages, so that a file imports them anew.

    Other modules stay as they are, because a second copy has classes of its own: those of other packages, of Airflow,
    and of packages with compiled modules, which no process can import twice.
    """
    files = {name: str(getattr(sys.modules[name], "__file__", None) or ".py") for name in fresh}
    kept = {"airflow", *(name.partition(".")[0] for name, file in files.items() if not file.endswith(".py"))}
    packages = {name.partition(".")[0] for name in makers & fresh} - kept
    _making_dags.update(makers & fresh, packages)
    for name in sorted(fresh):
        if name in makers or name.partition(".")[0] in packages:
            del sys.modules[name]
            parent, _, own = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(own, None)


def _is_installed(name: str, path: Sequence[str] | None, directories: Sequence[str]) -> bool:
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
    except (ImportError, ValueError, AttributeError, TypeError):
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return any(str(place).startswith(tuple(directories)) for place in places)


@contextlib.contextmanager
def _without(roots: set[str]) -> Iterator[None]:
    """Keep bundles off sys.path meanwhile."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if path not in roots]
    try:
        yield
    finally:
        sys.path[:] = before


class Lessons:
    """What children tell of installed modules that they imported, until it is worth importing before the next fork.

    Args:
        import_ahead: imports modules by name, in their order; what is no installed module it must leave alone.
    """

    def __init__(self, import_ahead: Callable[[list[str]], None]) -> None:
        self._import_ahead = import_ahead
        self._told: dict[str, int] = {}
        self._learned: set[str] = set()

    def hear(self, body: bytes) -> None:
        """Take what a child told, which a DAG file may have forged: then it costs its own bundle time.

        Args:
            body: a list of names as JSON, in the order of their import.
        """
        try:
            names = json.loads(body)
        except (ValueError, RecursionError):
            return
        if isinstance(names, list) and all(type(name) is str for name in names):
            for name in dict.fromkeys(names):
                if name in self._told or (len(self._told) < _MAX_TOLD and len(name) <= _MAX_NAME):
                    self._told[name] = self._told.get(name, 0) + 1

    def learn(self) -> bool:
        """Import what is due; False where nothing is."""
        due = [name for name, times in self._told.items() if times >= _ENOUGH_CHILDREN and name not in self._learned]
        if due:
            self._learned.update(due)
            self._import_ahead(due)
        return bool(due)
