"""The loader for YAML files in dag-factory's format, in images that have dag-factory."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dagbundle_parser.errors import FileProblem
from dagbundle_parser.loaders.airflow import AirflowAdapter
from dagbundle_parser.loaders.base import AbstractDagLoader, Candidate, LoadResult, SourceFile
from dagbundle_parser.loaders.python import not_utf8
from dagbundle_parser.problems import problem_of

_TASKS = re.compile(rb"""(?:^|[\s{,])["']?tasks["']?\s*:""")
_MAX_INSPECTED_BYTES = 4 << 20
_MISSING = (
    "dag-factory is not installed in this image, and YAML files with `tasks` are in its format: "
    "install it (`pip install dag-factory`), or name the file in .airflowignore if it holds no DAG"
)


class YamlDagLoader(AbstractDagLoader):
    """Loads `.yaml` and `.yml` files of which a top-level value has `tasks`; other YAML is left alone."""

    name: ClassVar[str] = "yaml"
    suffixes: ClassVar[tuple[str, ...]] = (".yaml", ".yml")

    def claims(self, candidate: Candidate) -> bool:
        """Whether a top-level value has `tasks`; a broken file that seems to is claimed, so that its error is seen."""
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
            return _has_tasks(yaml.parse(content, Loader=loader))
        except Exception:  # noqa: BLE001 - PyYAML raises more than YAMLError on broken input
            return True

    def warm_up(self, files: Sequence[SourceFile]) -> None:
        """Import Airflow and dag-factory, where it is installed."""
        adapter = AirflowAdapter.get()
        if importlib.util.find_spec("dagfactory") is not None:
            importlib.import_module("dagfactory")
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

    @staticmethod
    def _build(dagfactory: Any, file: SourceFile) -> list[Any]:
        _look_for_defaults(file)
        namespace: dict[str, Any] = {}
        logging.disable(logging.INFO)  # it says at each call which folder it does not look into
        dagfactory.load_yaml_dags(globals_dict=namespace, config_filepath=file.absolute, defaults_config_path=file.root)
        return list(namespace.values())


def _look_for_defaults(file: SourceFile) -> None:
    """Open where dag-factory asks for defaults, which no audit hook sees: one that comes later then counts."""
    folder, root = Path(file.absolute).parent, Path(file.root)
    for place in (folder, *folder.parents):
        for name in ("defaults.yml", "defaults.yaml"):
            with contextlib.suppress(OSError):
                (place / name).open("rb").close()
        if place == root:
            return


def _problem(error: Exception, file: SourceFile) -> FileProblem:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return FileProblem("YamlError", f"{file.path} is not valid YAML: {error}", mark.line + 1)
    return problem_of(error, file, doing=f"dag-factory cannot build {file.path}")


def _has_tasks(events: Iterable[Any]) -> bool:
    """Whether, in a stream of YAML events, a value of the first document's mapping is a mapping with `tasks`.

    Events instead of nodes: nothing here recurses, whatever the file nests.
    """
    stack: list[str] = []  # what is open: "m" a mapping awaiting a key, "v" one awaiting a value, "s" a sequence
    for event in events:
        name = type(event).__name__
        if name in {"MappingEndEvent", "SequenceEndEvent"}:
            stack.pop()
            continue
        if name not in {"ScalarEvent", "AliasEvent", "MappingStartEvent", "SequenceStartEvent"}:
            if name == "DocumentEndEvent":
                return False
            continue
        if name == "ScalarEvent" and stack == ["m", "m"] and event.value == "tasks":
            return True
        if stack and stack[-1] in "mv":
            stack[-1] = "v" if stack[-1] == "m" else "m"
        if name == "MappingStartEvent":
            stack.append("m")
        elif name == "SequenceStartEvent":
            stack.append("s")
    return False
