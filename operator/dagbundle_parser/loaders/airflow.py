"""The place that touches Airflow's internals, which move with each minor (3.0 to 3.3), with `lookups` and `sparing`.

Airflow's own DagBag loads a file and Airflow's own serializer and hash make what is reported, so that the result is
what a stock `dag-processor` would store. Everything that a DAG file could rewrite is looked up here before any DAG
file runs. Nothing here may reach a database: stock Airflow's own block is put in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from dagbundle_parser.closure import RECORDER, loaded_after
from dagbundle_parser.errors import FileProblem, RunError
from dagbundle_parser.loaders import lookups
from dagbundle_parser.loaders.base import LoadedDag, LoadedWarning, LoadResult, SourceFile
from dagbundle_parser.loaders.dummies import DUMMIES
from dagbundle_parser.loaders.refused import problem_of_import
from dagbundle_parser.loaders.sparing import sparing_imports
from dagbundle_parser.loaders.traces import Tracer
from dagbundle_parser.places import line_defining, lines_naming
from dagbundle_parser.problems import problem_of, problem_of_text
from dagbundle_parser.settings import AirflowSettings
from dagbundle_parser.unpatched import JSONDecoder, JSONEncoder, as_module
from dagbundle_parser.values import VALUES

if TYPE_CHECKING:
    from typing_extensions import Self

_WARNING = re.compile(r"(?P<file>.*?):(?P<line>\d+): (?P<category>[\w.]+): (?P<message>.*)", re.DOTALL)

_ENVIRONMENT = {
    "_AIRFLOW_PROCESS_CONTEXT": "client",  # never the secrets backend that reads the metadata database
    "_AIRFLOW__REEXECUTED_PROCESS": "1",  # settings.initialize() then leaves the ORM alone
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nonexistent/the-parser-has-no-database.db",
}

_NEEDED = "that environment (in a pod the image) must have Airflow 3.0 or newer"
_CONTEXTS = "airflow.sdk.definitions._internal.contextmanager"


def version() -> str | None:
    """The installed Airflow's version, found without importing it; None where there is none."""
    for name in ("apache-airflow-core", "apache-airflow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


class _CapturingLog:
    """Stands in for Airflow's loggers and keeps the exceptions that Airflow logs and turns into text.

    DagBag reports an import error as a formatted traceback only; a report wants its kind and its line.
    """

    def __init__(self) -> None:
        self.caught: list[BaseException] = []

    def exception(self, *_args: object, **_kwargs: object) -> None:
        error = sys.exc_info()[1]
        if error is not None:
            self.caught.append(error)

    def debug(self, *_args: object, **_kwargs: object) -> None:
        """Ignored: formatting what nobody reads costs time."""

    info = warning = error = debug


class _NoSegfaultHandler:
    """Stands in for the module `signal` where Airflow handles SIGSEGV in Python, which makes a crash a busy loop."""

    SIGSEGV = signal.SIGSEGV

    @staticmethod
    def signal(_number: int, _handler: object) -> None:
        """Leave the signal alone: the crash then ends the child, and faulthandler says where it was."""


class _RecordingSet(set[Any]):
    """The set that DAGs register in, which also remembers those that it holds to be equal to one it has."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[Any] = []

    def add(self, item: Any) -> None:
        self.added.append(item[0])
        super().add(item)


class AirflowAdapter:
    """Airflow, imported and prepared; one per process. Use `get`.

    Attributes:
        version: Airflow's version.
    """

    _instance: AirflowAdapter | None = None

    @classmethod
    def get(cls) -> Self:
        """Import Airflow at the first call.

        Raises:
            RunError: `AirflowNotInstalled`, or `AirflowImportFailed` with what it said.
        """
        if cls._instance is None:
            installed = version()
            if installed is None:
                raise RunError(
                    "AirflowNotInstalled",
                    f"Apache Airflow is not installed for {sys.executable}: {_NEEDED}",
                )
            if int(installed.split(".")[0]) < 3:  # noqa: PLR2004 - the first version with DAG bundles
                raise RunError(
                    "AirflowTooOld",
                    f"Airflow {installed} is installed for {sys.executable}: {_NEEDED}",
                )
            try:
                with sparing_imports():
                    cls._instance = cls(installed)
            except Exception as error:  # importing Airflow runs plugins and local settings, which may raise anything
                raise RunError(
                    "AirflowImportFailed", f"Airflow {installed} cannot be imported: {type(error).__name__}: {error}"
                ) from error
        return cast("Self", cls._instance)

    def __init__(self, installed: str) -> None:
        self.version = installed
        os.environ.update(_ENVIRONMENT)
        if not Path(AirflowSettings.read().config_file).exists():
            os.environ["AIRFLOW_CONFIG"] = os.devnull  # else Airflow writes one, which changes the fingerprint
        importlib.import_module("airflow.sdk")
        settings = importlib.import_module("airflow.settings")
        self._dagbag = self._import_dagbag()
        serialization = importlib.import_module("airflow.serialization.serialized_objects")
        serializer = getattr(serialization, "DagSerialization", None) or serialization.SerializedDAG
        self._serializer: Any = serializer
        self._to_dict: Callable[[Any], dict[str, Any]] = serializer.to_dict
        stored: Any = importlib.import_module("airflow.models.serialized_dag")
        stored.json = as_module()  # Airflow hashes where no DAG file runs
        model = stored.SerializedDagModel
        self._hash: Callable[[dict[str, Any]], str] = model.hash
        self._context = importlib.import_module(_CONTEXTS).DagContext
        self._dag_class = importlib.import_module("airflow.sdk").DAG
        importlib.import_module("airflow.sdk.execution_time.supervisor").block_orm_access()
        # Ours are the only time limits: Airflow's own would fire first and say less.
        cast("Any", settings).get_dagbag_import_timeout = lambda _path: 0
        contexts = (self._context._context, importlib.import_module(_CONTEXTS).TaskGroupContext._context)  # noqa: SLF001
        sdk = importlib.import_module("airflow.sdk")
        classes = (sdk.BaseOperator, sdk.DAG, sdk.TaskGroup, serializer, model, serialization.BaseSerialization)
        self.tracer = Tracer((*classes, serialization, self._dagbag), contexts)
        self._log = _CapturingLog()
        self._last_module = ""
        self._used: set[str] = set()
        self._places: set[str] = set()
        self._home = AirflowSettings.read().home.rstrip("/")
        lookups.watch(self._used)
        self._bag_class = self._make_bag_class()
        self._loads, self._dumps = JSONDecoder().decode, JSONEncoder(sort_keys=True).encode
        logging.getLogger("airflow").setLevel(logging.WARNING)

    @staticmethod
    def _import_dagbag() -> ModuleType:
        try:
            return importlib.import_module("airflow.dag_processing.dagbag")  # 3.2 and newer
        except ModuleNotFoundError:
            return importlib.import_module("airflow.models.dagbag")

    def _make_bag_class(self) -> Any:
        """A DagBag that keeps exceptions and sees two DAGs with one id, of which stock Airflow keeps either."""
        base: Any = getattr(self._dagbag, "BundleDagBag", None) or cast("Any", self._dagbag).DagBag
        adapter = self
        loading: Any = self._dagbag
        with contextlib.suppress(ModuleNotFoundError):  # before 3.2 DagBag did it all by itself
            loading = importlib.import_module("airflow.dag_processing.importers.python_importer")
            loading.log = self._log
        loading.signal = _NoSegfaultHandler

        class Bag(base):  # type: ignore[misc]
            @property
            def log(self) -> Any:
                return adapter._log

            def bag_dag(self, dag: Any, **kwargs: Any) -> None:
                adapter._bagged.append(dag)
                super().bag_dag(dag, **kwargs)

        self._bagged: list[Any] = []
        return Bag

    def warm_up(self, bundle: str, *, plugins: bool = False) -> None:
        """Load DAGs that need no file of the bundle, and perhaps plugins, which fills caches before the fork."""
        if VALUES.is_connected:
            lookups.supervise()
        with contextlib.suppress(Exception):  # a plugin may raise anything; the file that needs it then says so
            if plugins:
                importlib.import_module("airflow.plugins_manager").ensure_plugins_loaded()
        simple, usual = DUMMIES
        self._load_dummy(simple, bundle)
        with contextlib.suppress(Exception):  # a warm-up is no place to report what an environment lacks
            self._load_dummy(usual, bundle)
        self._bagged.clear()
        self._log.caught.clear()
        self._used.clear()
        self.tracer.begin()

    def _load_dummy(self, source: str, bundle: str) -> None:
        directory = Path(__file__).parent  # never read: the dummy's code is run, not found
        namespace: dict[str, Any] = {"__name__": "dagbundle_warm_up"}
        exec(compile(source, "<warm-up>", "exec"), namespace)  # noqa: S102 - a constant of dummies.py
        dag = namespace["dag"]
        dag.fileloc, dag.relative_fileloc = f"{directory}/warm_up.py", "warm_up.py"
        bag = self._bag_class(**self._bag_arguments(os.devnull, str(directory), bundle, collect=False))
        bag.bag_dag(dag)
        self._serialized(dag)

    def _bag_arguments(self, file: str, root: str, bundle: str, *, collect: bool = True) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "dag_folder": file,
            "bundle_path": Path(root),
            "load_op_links": False,
            "collect_dags": collect,
        }
        major, minor = (int(part) for part in self.version.split(".")[:2])
        if (major, minor) >= (3, 2):
            arguments["bundle_name"] = bundle
        if (major, minor) == (3, 0):
            arguments["include_examples"] = False
        return arguments

    def load_file(self, file: SourceFile, sources: Callable[[str], str | None]) -> LoadResult:
        """Load a Python file or a zip archive with Airflow's DagBag.

        Args:
            file: what to load.
            sources: reads a source text by path relative to the root; None where it cannot.
        """
        result = LoadResult()
        self._last_module = next(reversed(sys.modules))
        registered = _RecordingSet()
        self._context.autoregistered_dags = registered
        self._log.caught.clear()
        self._bagged.clear()
        self._used.clear()
        self._places = {file.root.rstrip("/"), self._home} - {""}
        bag = self._bag_class(**self._bag_arguments(file.absolute, file.root, file.bundle))
        result.errors.extend(self._import_problems(bag.import_errors, file))
        result.warnings.extend(_warnings(bag.captured_warnings, file))
        dags = list(bag.dags.values())
        if not result.errors:
            result.errors.extend(self._duplicates([*registered.added, *self._bagged], dags, file))
        self.add_dags(result, dags, file, sources)
        return result

    def add_dags(
        self, result: LoadResult, dags: Sequence[Any], file: SourceFile, sources: Callable[[str], str | None]
    ) -> None:
        """Serialize DAG objects into `result`, each failure an error of the file."""
        for dag in sorted(dags, key=lambda dag: str(dag.dag_id)):
            try:
                loaded = self._serialized(dag)
            except Exception as error:  # noqa: BLE001 - what a DAG holds decides what its serialization raises
                doing = f"DAG {dag.dag_id!r} cannot be serialized"
                problem = problem_of(error, file, doing=doing, dag_id=str(dag.dag_id))
                line = problem.line or line_defining(str(dag.dag_id), file)
                result.errors.append(dataclasses.replace(problem, line=line))
                continue
            result.dags.append(loaded)
            if loaded.relative_fileloc not in result.sources:
                text = sources(loaded.relative_fileloc)
                if text is not None:
                    result.sources[loaded.relative_fileloc] = text
        result.dynamic |= self._used

    def add_built_dags(self, result: LoadResult, dags: Sequence[Any], file: SourceFile) -> None:
        """Check DAG objects that a loader built itself as DagBag checks those it found, and serialize them."""
        bag = self._bag_class(**self._bag_arguments(file.absolute, file.root, file.bundle, collect=False))
        self._places = {file.root.rstrip("/"), self._home} - {""}
        good = []
        for dag in dags:
            dag.fileloc, dag.relative_fileloc = file.absolute, file.path
            try:
                dag.validate()
                bag.bag_dag(dag)
            except Exception as error:  # noqa: BLE001 - cluster policies may raise anything
                if type(error).__name__ != "AirflowClusterPolicySkipDag":
                    problem = problem_of(error, file, doing=f"DAG {dag.dag_id!r} is refused")
                    line = problem.line or line_defining(str(dag.dag_id), file)
                    result.errors.append(dataclasses.replace(problem, line=line))
            else:
                good.append(dag)
        self.add_dags(result, good, file, lambda _path: None)

    def _serialized(self, dag: Any) -> LoadedDag:
        # Stock Airflow hashes what came through a pipe: lists where the serializer left tuples.
        text = self._dumps(self._to_dict(dag))
        data = self._loads(text)
        if self._tells_place(text, data["dag"]):
            RECORDER.see_place()
        return LoadedDag(
            dag_id=str(dag.dag_id),
            relative_fileloc=str(dag.relative_fileloc),
            dag_hash=str(self._hash(data)),
            data=data,
        )

    def _tells_place(self, text: str, dag: dict[str, Any]) -> bool:
        """Whether a DAG says more of where the bundle and AIRFLOW_HOME lie than Airflow has it say."""
        for place in self._places:
            told = sum(str(dag.get(name, "")).count(place) for name in ("fileloc", "_processor_dags_folder"))
            if text.count(place) > told:
                return True
        return False

    def next_runs(self, data: dict[str, Any], count: int) -> list[Any]:
        """The next runs of a serialized DAG, as Airflow's DagRunInfo; fewer than `count` where its schedule ends."""
        dag = self._serializer.from_dict(data)
        timetable, restriction = dag.timetable, dag._time_restriction  # noqa: SLF001 - no public way
        runs: list[Any] = []
        while len(runs) < count:
            last = runs[-1] if runs else None
            if hasattr(timetable, "next_dagrun_info_v2"):  # 3.2 and newer
                run = timetable.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction)
            else:
                interval = last.data_interval if last else None
                run = timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction)
            if run is None:
                break
            runs.append(run)
        return runs

    def _import_problems(self, texts: dict[str, str], file: SourceFile) -> list[FileProblem]:
        caught = self._log.caught
        if len(caught) >= len(texts):
            return [problem_of_import(error, file, self._dag_class) for error in _distinct(caught)] if texts else []
        return [problem_of_text(text, file) for text in texts.values()]

    def _duplicates(self, seen: Sequence[Any], dags: Sequence[Any], file: SourceFile) -> list[FileProblem]:
        """Two DAG objects with one id in one file, which stock Airflow silently makes one of."""
        loaded = {str(dag.dag_id) for dag in dags}
        for module in _modules_of(file, self._last_module):
            seen = [*seen, *(value for value in vars(module).values() if isinstance(value, self._dag_class))]
        by_id: dict[str, set[int]] = {}
        for dag in seen:
            by_id.setdefault(str(dag.dag_id), set()).add(id(dag))
        twice = sorted(dag_id for dag_id, objects in by_id.items() if len(objects) > 1 and dag_id in loaded)
        return [_duplicate(dag_id, file) for dag_id in twice]


def _modules_of(file: SourceFile, last: str) -> list[ModuleType]:
    """The module that a file became, which came after `last`."""
    found = [sys.modules[name] for name in loaded_after(last) if name.startswith("unusual_prefix_")]
    return [module for module in found if getattr(module, "__file__", None) == file.absolute]


def _distinct(errors: Sequence[BaseException]) -> list[BaseException]:
    """Each exception once, and none that another one in the list was raised from."""
    causes = {id(error.__cause__ or error.__context__) for error in errors}
    return list({id(error): error for error in errors if id(error) not in causes}.values())


def _warnings(captured: dict[str, tuple[str, ...]], file: SourceFile) -> list[LoadedWarning]:
    warnings = []
    for text in (text for texts in captured.values() for text in texts):
        match = _WARNING.fullmatch(text)
        if match is None:
            warnings.append(LoadedWarning("Warning", text))
        elif match["file"] == file.absolute:
            warnings.append(LoadedWarning(match["category"], match["message"], int(match["line"])))
        else:
            warnings.append(LoadedWarning(match["category"], f"{match['message']} ({match['file']}:{match['line']})"))
    return warnings


def _duplicate(dag_id: str, file: SourceFile) -> FileProblem:
    lines = lines_naming(dag_id, file)
    where = f" (see lines {', '.join(map(str, lines))})" if len(lines) > 1 else ""
    return FileProblem(
        "DuplicateDagId",
        f"{file.path} defines the DAG {dag_id!r} more than once{where}, and only one of them could be used: "
        "give each DAG a dag_id of its own",
        lines[-1] if lines else None,
    )
