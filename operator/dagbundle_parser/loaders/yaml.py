"""The loader for YAML files in dag-factory's format, in images that have dag-factory."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import importlib.util
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dagbundle_parser.ahead import import_installed
from dagbundle_parser.errors import FileProblem
from dagbundle_parser.ignorefile import MAX_PATTERN_CHARACTERS, IgnoreRule, is_ignored, read_rules
from dagbundle_parser.loaders.airflow import AirflowAdapter
from dagbundle_parser.loaders.base import AbstractDagLoader, Candidate, LoadResult, SourceFile
from dagbundle_parser.loaders.python import not_utf8
from dagbundle_parser.loaders.yaml_places import blamed, line_of, line_to_mend
from dagbundle_parser.manifest_text import FILE_NAME, invalid, shown
from dagbundle_parser.problems import problem_of

_TASKS = re.compile(rb"""(?:^|[\s{,])["']?tasks["']?\s*:""")
_NAMED = re.compile(rb"""["']?\b(?:operator|decorator)["']?\s*:\s*["']?([A-Za-z_]\w*(?:\.\w+)+)""")
"""What a task says that it is made of."""
_MAX_INSPECTED_BYTES = 4 << 20
_MISSING = (
    "dag-factory is not installed in this environment, and YAML files with `tasks` are in its format: "
    "install it (`pip install dag-factory`), or, if the file holds no DAG, name it in .airflowignore or turn the YAML "
    f"loader off in the manifest ({FILE_NAME}, bundle_config.loaders.yaml.enabled)"
)
_MAX_PATTERNS = 1000


class YamlDagLoader(AbstractDagLoader):
    """Loads `.yaml` and `.yml` files of which a top-level value is a DAG; other YAML is left alone.

    So is what a Python file of the bundle reads, which then makes the DAGs. Files that the manifest names by a pattern
    are loaded all the same.
    """

    name: ClassVar[str] = "yaml"
    suffixes: ClassVar[tuple[str, ...]] = (".yaml", ".yml")

    def __init__(self) -> None:
        self._is_enabled = True
        self._patterns: list[IgnoreRule] | None = None
        self._defaults: dict[str, Any] = {}

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take `enabled`, `patterns` and `defaults` (docs/manifest.md)."""
        here = f"bundle_config.loaders.{self.name}"
        unknown = [name for name in settings if name not in {"enabled", "patterns", "defaults"}]
        if unknown:
            raise invalid(f"{here} has no setting {shown(unknown[0])}; there are: defaults, enabled, patterns")
        settings = {name: value for name, value in settings.items() if value is not None}
        enabled, patterns = settings.get("enabled", True), settings.get("patterns")
        defaults = settings.get("defaults", {})
        if not isinstance(enabled, bool):
            raise invalid(f"{here}.enabled must be true or false")
        if not (patterns is None or _are_texts(patterns)):
            raise invalid(
                f"{here}.patterns must be a list of at most {_MAX_PATTERNS} texts, as lines of .airflowignore, "
                f"each of at most {MAX_PATTERN_CHARACTERS:,} characters"
            )
        if not isinstance(defaults, dict):
            raise invalid(f"{here}.defaults must be a mapping, as in a defaults.yml of dag-factory")
        try:
            rules = None if patterns is None else read_rules("\n".join(patterns), directory="", syntax="glob")
        except ValueError as error:
            raise invalid(f"{here}.patterns: {error}") from error
        self._is_enabled, self._patterns, self._defaults = enabled, rules, defaults

    def gives_way(self, path: str) -> bool:  # noqa: ARG002 - the same for all files
        """Whether a Python file that opens it has it to itself: not where patterns name what this loader loads."""
        return self._patterns is None

    def may_claim(self, suffix: str) -> bool:
        """Whether it is YAML, and this loader is not turned off."""
        return self._is_enabled and suffix in self.suffixes

    def claims(self, candidate: Candidate) -> bool:
        """Whether a top-level value is a DAG; a broken file that seems to have one is claimed, so its error is seen."""
        if self._patterns is not None and not is_ignored(candidate.path, self._patterns, is_dir=False):
            return False
        content = candidate.content()
        if not _TASKS.search(content):
            return False
        if len(content) > _MAX_INSPECTED_BYTES:
            return True
        try:
            yaml = importlib.import_module("yaml")
        except ImportError:
            return True  # no image with Airflow lacks it; the load will say what is missing
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            return _has_dag(yaml.parse(content, Loader=loader))
        except Exception:  # noqa: BLE001 - PyYAML raises more than YAMLError on broken input
            return True

    def warm_up(self, files: Sequence[SourceFile]) -> None:
        """Import Airflow, dag-factory where it is installed, and what is installed of what tasks are made of."""
        adapter = AirflowAdapter.get()
        if importlib.util.find_spec("dagfactory") is not None:
            importlib.import_module("dagfactory")
        if files:
            named = {name for file in files for name in _NAMED.findall(_beginning(file))}
            wanted = sorted(name.decode("ascii", "replace").rpartition(".") for name in named)
            import_installed([(module, member) for module, _, member in wanted], files[0].root)
        adapter.warm_up(files[0].bundle if files else "warm-up")

    def load(self, file: SourceFile) -> LoadResult:
        """Build the file's DAGs with dag-factory and check them as Airflow's DagBag does."""
        adapter = AirflowAdapter.get()
        result = LoadResult()
        problem = not_utf8(file)
        if problem is not None:
            result.errors.append(problem)
            return result
        text = open(file.absolute, encoding="utf-8").read()  # noqa: PTH123, SIM115 - the child ends after it
        result.sources[file.path] = text
        _open(Path(file.root, FILE_NAME))  # the manifest has defaults: when it comes or changes, this is loaded again
        try:
            dagfactory = importlib.import_module("dagfactory")
        except ImportError:
            result.errors.append(FileProblem("DagFactoryNotInstalled", f"{file.path}: {_MISSING}"))
            return result
        try:
            dags = self._build(dagfactory, file)
        except Exception as error:  # noqa: BLE001 - dag-factory raises whatever the operators it builds raise
            result.errors.append(_problem(error, file))
            return result
        adapter.add_built_dags(result, dags, file)
        return result

    def _build(self, dagfactory: Any, file: SourceFile) -> list[Any]:
        namespace: dict[str, Any] = {}
        logging.disable(logging.INFO)  # it says at each call which folder it does not look into
        if self._defaults:
            logging.disable(logging.WARNING)  # it warns of what the manifest is to do
            defaults: dict[str, Any] = {"defaults_config_dict": copy.deepcopy(self._defaults)}
        else:
            _look_for_defaults(file)
            defaults = {"defaults_config_path": file.root}
        dagfactory.load_yaml_dags(globals_dict=namespace, config_filepath=file.absolute, **defaults)
        return list(namespace.values())


def _beginning(file: SourceFile) -> bytes:
    try:
        with Path(file.absolute).open("rb") as stream:
            return stream.read(_MAX_INSPECTED_BYTES)
    except OSError:
        return b""


def _look_for_defaults(file: SourceFile) -> None:
    """Open where dag-factory asks for defaults, which no audit hook sees: one that comes later then counts."""
    folder, root = Path(file.absolute).parent, Path(file.root)
    for place in (folder, *folder.parents):
        for name in ("defaults.yml", "defaults.yaml"):
            _open(place / name)
        if place == root:
            return


def _open(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.open("rb").close()


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_PATTERNS
        and all(isinstance(item, str) and len(item) <= MAX_PATTERN_CHARACTERS for item in value)
        and not any("\ud800" <= character <= "\udfff" for item in value for character in item)
    )


def _problem(error: Exception, file: SourceFile) -> FileProblem:
    if getattr(error, "problem_mark", None) is not None:
        said = str(error).replace('in "<unicode string>", ', "in ")
        return FileProblem("YamlError", f"{file.path} is not valid YAML: {said}", line_to_mend(error, file))
    dag_id, task_id = blamed(error)
    doing = f"dag-factory cannot build {file.path}"
    doing += f", DAG {dag_id!r}" * bool(dag_id) + f", task {task_id!r}" * bool(task_id)
    problem = problem_of(error, file, doing=doing)
    if problem.line is None and dag_id:
        problem = dataclasses.replace(problem, line=line_of(dag_id, task_id, file))
    return problem


_TASK_KEYS = frozenset({"task_id", "operator", "decorator", "<<"})
"""A task has one of these; what `<<` merges is not looked for."""


_ENDS = frozenset({"MappingEndEvent", "SequenceEndEvent"})
_VALUES = frozenset({"ScalarEvent", "AliasEvent", "MappingStartEvent", "SequenceStartEvent"})


def _has_dag(events: Iterable[Any]) -> bool:
    """Whether, in a stream of YAML events, a value of the first document's mapping is a DAG.

    A DAG is a mapping with `tasks`: a list or a mapping that is empty, or that has a task (_TASK_KEYS), or holds what
    cannot be known here, an alias or something with a tag. Events instead of nodes: nothing here recurses, whatever the
    file nests.
    """
    finder = _DagFinder()
    for event in events:
        name = type(event).__name__
        if name == "DocumentEndEvent":
            return False
        if (name in _ENDS and finder.end()) or (name in _VALUES and finder.begin(event, name)):
            return True
    return False


class _DagFinder:
    """What is open in a stream of YAML events, and whether it is the `tasks` of a top-level value."""

    def __init__(self) -> None:
        self._stack: list[str] = []  # "m" a mapping awaiting a key, "v" one awaiting a value, "s" a sequence
        self._is_tasks = False  # the next value is that of `tasks`
        self._inside, self._held = 0, 0  # how deep the items of `tasks` lie, 0 outside of it; how many there were

    def begin(self, event: Any, name: str) -> bool:
        """Take a scalar, an alias or the start of a collection; True where it shows a DAG."""
        is_key = bool(self._stack) and self._stack[-1] == "m"
        found = self._shows_dag(event, name, is_key=is_key)
        if self._stack and self._stack[-1] in "mv":
            self._stack[-1] = "v" if is_key else "m"
        if name in {"MappingStartEvent", "SequenceStartEvent"}:
            self._stack.append("m" if name == "MappingStartEvent" else "s")
        return found

    def _shows_dag(self, event: Any, name: str, *, is_key: bool) -> bool:
        depth, is_unknown = len(self._stack), name == "AliasEvent" or _is_tagged(event)
        if self._is_tasks:
            self._is_tasks = False
            if name in {"MappingStartEvent", "SequenceStartEvent"}:
                self._inside, self._held = depth + 1, 0
            return is_unknown
        if not self._inside:
            self._is_tasks = self._stack == ["m", "m"] and getattr(event, "value", None) == "tasks"
        elif depth == self._inside and not is_key:
            self._held += 1
            return is_unknown
        elif depth == self._inside + 1 and is_key:
            return getattr(event, "value", None) in _TASK_KEYS
        return False

    def end(self) -> bool:
        """Take the end of a collection; True where that was an empty `tasks`."""
        self._stack.pop()
        if len(self._stack) >= self._inside:
            return False
        self._inside = 0
        return not self._held


def _is_tagged(event: Any) -> bool:
    return (getattr(event, "tag", None) or "").startswith("!")
