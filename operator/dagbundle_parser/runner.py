"""Carries out a run request: puts the pieces together in the order that keeps an unchanged pass cheap.

Listing, fingerprint and skips come first and import nothing; loaders warm up only when a file must be loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagbundle_parser.ahead import Lessons, import_installed
from dagbundle_parser.child import Assignment, Work
from dagbundle_parser.closure import RECORDER
from dagbundle_parser.discovery import ListedFile, Lister, shard_of
from dagbundle_parser.errors import FileProblem, RunError
from dagbundle_parser.fingerprint import ZONE_FILES, Surroundings, fingerprint, whole
from dagbundle_parser.loaders import BUILT_IN, find_loaders
from dagbundle_parser.loaders.airflow import AirflowAdapter
from dagbundle_parser.loaders.airflow import version as airflow_version
from dagbundle_parser.loaders.base import AbstractDagLoader, SourceFile
from dagbundle_parser.manifest import Manifest, decided, read_manifest
from dagbundle_parser.manifest_text import FILE_NAME
from dagbundle_parser.parsers import counted_of, find_parser
from dagbundle_parser.parsers.base import BundleAccess
from dagbundle_parser.pool import Pool
from dagbundle_parser.prober import Prober
from dagbundle_parser.protocol import ReportWriter, encode
from dagbundle_parser.readers import BESIDE, READ_BY, Left, Readers, left_of
from dagbundle_parser.request import RunRequest
from dagbundle_parser.running import FileRecord
from dagbundle_parser.sandbox import Sandbox, Shared
from dagbundle_parser.store_client import DagStoreClient
from dagbundle_parser.values import VALUES, Line, LookupFailed
from dagbundle_parser.warmup import installed_directories, no_garbage_collection, quiet_descriptors

_SHARED_BATCH = 50
"""More files save time, because the first of a child is slow, and take memory, because what files make stays."""


def carry_out(request: RunRequest, writer: ReportWriter, surroundings: Surroundings, line: Line | None = None) -> None:
    """Carry out a run and report it, up to and including the `close` record.

    Args:
        request: what to do.
        writer: takes the report.
        surroundings: read when the process was started.
        line: on which Variables and Connections are asked for; None where nobody is to be asked.

    Raises:
        RunError: it cannot be carried out as a whole; the caller ends the report with it.
        Stopped: SIGTERM or SIGINT arrived; the caller leaves the report cut.
    """
    manifest = _manifest_in(request.root)
    request, chosen = decided(request, manifest)
    parser = find_parser(request.parser_type)
    counted = counted_of(parser, request.parser_type, request.parser_config)
    run = Run(request, surroundings, manifest=manifest, counted=counted, line=line, begun=writer.begin)
    run.facts |= chosen
    store = DagStoreClient(request, writer)
    access = BundleAccess(
        list_files=run.list_files,
        is_unchanged=run.is_unchanged,
        load=run.load,
        facts=run.facts,
        config=request.parser_config,
    )
    parser(access, store).run()


def import_airflow_ahead() -> None:
    """Import Airflow before it is known what to load with it; what goes wrong is told when a file needs it."""
    with _recorded(), no_garbage_collection(), quiet_descriptors(), contextlib.suppress(RunError):
        AirflowAdapter.get()


class Run:
    """One run's bundle, as parsers see it through BundleAccess.

    Args:
        request: what to do.
        surroundings: read when the process was started.
        loaders: those to ask, instead of all that are installed.
        manifest: the bundle's.
        counted: what files depend on besides: of the bundle parser, where it is a third party's.
        line: on which Variables and Connections are asked for; None where nobody is to be asked.
        begun: takes the paths of files that are being loaded from now on.
    """

    def __init__(
        self,
        request: RunRequest,
        surroundings: Surroundings,
        loaders: Sequence[AbstractDagLoader] | None = None,
        *,
        manifest: Manifest | None = None,
        counted: Sequence[str] = (),
        line: Line | None = None,
        begun: Callable[[Sequence[str]], None] = lambda _paths: None,
    ) -> None:
        self._request = request
        self._begun = begun
        self._line = line
        self._loaders = find_loaders() if loaders is None else loaders
        self._surroundings = surroundings
        self._settings = surroundings.settings
        self._manifest = _manifest_in(request.root) if manifest is None else manifest
        self._fingerprint = fingerprint(request, surroundings, self._third_partys(counted))
        self._prober = self._make_prober({})
        self._readers = Readers(request.root, request.known, ())
        self._waiting: set[str] = set()
        self._shared = Shared(request.root)
        self.facts = {
            "python": platform.python_version(),
            "airflow": airflow_version(),
            "fingerprint": self._fingerprint,
        }

    def _third_partys(self, counted: Sequence[str]) -> Sequence[str]:
        """What files depend on that a third party's parser or loader makes of its settings."""
        others = self._manifest.loaders.keys() - BUILT_IN
        return [*counted, f"manifest {self._manifest.digest}"] if counted or others else ()

    def _make_prober(self, digests: dict[str, str]) -> Prober:
        surroundings = self._surroundings
        everything = whole(self._request, surroundings, self._fingerprint)
        return Prober(surroundings.places(self._request.root), digests, environ=surroundings.environ, whole=everything)

    def list_files(self) -> list[ListedFile]:
        """List the run's subdir.

        Raises:
            RunError: `BundleNotFound`, `SubdirNotFound` or `ManifestInvalid`.
        """
        root, subdir = Path(self._request.root), self._request.subdir
        if not root.is_dir():
            raise RunError("BundleNotFound", f"the bundle's root {root} is not a folder on this machine")
        if not (root / subdir).is_dir():
            raise RunError("SubdirNotFound", f"the bundle has no folder {subdir!r}: correct spec.subdirs")
        real = os.path.realpath(root / subdir)
        if subdir != "." and not real.startswith(os.path.realpath(root).rstrip("/") + "/"):
            raise RunError("SubdirNotFound", f"the folder {subdir!r} is a link that leaves the bundle")
        self._configure()
        lister = Lister(self._request.root, self._settings, self._loaders)
        files = lister.list_files(subdir, self._request.exclude, shard=self._request.shard, shards=self._request.shards)
        files = [file for file in files if self._manifest.scans(file.path)]
        self._prober = self._make_prober({file.path: file.digest for file in files if file.digest})
        self._readers = Readers(self._request.root, self._request.known, files)
        self._shared.listed = [(file.path, file.open_to_others) for file in files]
        wanted = self._only_requested(files, lister) if self._request.files else files
        if self._readers.watched:
            first = [file for file in wanted if not self._readers.gives_way(file.path)]
            self._waiting = {file.path for file in first if not self._is_remembered(file)}
        return wanted

    def _configure(self) -> None:
        """Hand each loader its settings."""
        self._manifest.require_directories(self._request.root)
        self._manifest.require_loaders([loader.name for loader in self._loaders])
        for loader in self._loaders:
            with self._manifest.blamed(loader.name):
                loader.configure(self._manifest.loaders.get(loader.name, {}))

    def _only_requested(self, files: Sequence[ListedFile], lister: Lister) -> list[ListedFile]:
        listed = {file.path: file for file in files}
        ours = [path for path in self._request.files if shard_of(path, self._request.shards) == self._request.shard]
        return [listed.get(path) or self._not_listed(path, lister) for path in sorted(ours)]

    def _not_listed(self, path: str, lister: Lister) -> ListedFile:
        why = lister.why_not(path)
        if not self._manifest.scans(path) and not why.startswith("does not exist"):
            why = f"is not listed: bundle_config.directories_to_scan of {FILE_NAME} names other folders"
        return ListedFile(path, None, FileProblem("NotListed", f"{path} {why}"))

    def is_unchanged(self, file: ListedFile) -> bool:
        """Whether what the store remembers of a file still holds (docs/architecture.md, Skipping).

        Of a file that gives way that is not known before those that may read it are loaded; `load` then says it.
        """
        if self._readers.gives_way(file.path) and self._waiting:
            return False
        return self._is_remembered(file) and self._is_left_as_before(file)

    def _is_remembered(self, file: ListedFile) -> bool:
        known = self._request.known.get(file.path)
        return (
            known is not None
            and file.problem is None
            and not self._request.force
            and known.fingerprint == self._fingerprint
            and known.age <= self._request.max_unchanged_age
            and self._prober.holds({key: word for key, word in known.closure.items() if key not in {READ_BY, BESIDE}})
        )

    def _is_left_as_before(self, file: ListedFile) -> bool:
        left = self._readers.of(file.path) if self._readers.gives_way(file.path) else None
        return left_of(self._request.known.get(file.path)) == left

    def load(self, files: Sequence[ListedFile]) -> Iterator[FileRecord]:
        """Load files in children and yield their records, in the order in which they get done.

        Files that give way come last: then it is known which of them others read.

        Raises:
            RunError: a loader cannot work here, or children cannot be confined.
        """
        first = [file for file in files if not self._readers.gives_way(file.path)]
        yield from self._load(first, self._readers.watched)
        self._waiting.difference_update(file.path for file in first)
        rest = []
        for file in files:
            if self._readers.gives_way(file.path):
                left = self._readers.of(file.path)
                if self._is_remembered(file) and self._is_left_as_before(file):
                    yield FileRecord(file.path, encode({"path": file.path, "status": "unchanged"}), 0, 0)
                elif left is not None:
                    yield self._left(file, left)
                else:
                    rest.append(file)
        yield from self._load(rest, {})

    def _load(self, files: Sequence[ListedFile], watched: Mapping[str, str]) -> Iterator[FileRecord]:
        assignments = []
        for file in files:
            if file.loader is None:
                yield self._unloadable(file)
            else:
                source = SourceFile(file.path, self._request.root, self._request.bundle)
                assignments.append(Assignment(source, file.loader))
        if not assignments:
            return
        RECORDER.bind(self._prober)
        if self._line is not None and not VALUES.is_connected:
            VALUES.connect(self._line.open())  # for what is loaded before the fork, such as plugins
        try:
            with _recorded(), no_garbage_collection(), quiet_descriptors():
                self._warm_up(assignments)
        except LookupFailed as error:
            raise RunError("ValueUnavailable", f"what is loaded before the files needs a value: {error}") from error
        self._share()
        lessons = Lessons(self._import_ahead)
        work = dataclasses.replace(self._work(len(assignments)), watched=watched)
        processes = self._processes(len(assignments))
        pool = Pool(work, processes, lessons, hear_opened=self._readers.hear, begun=self._begun)
        yield from pool.run(self._batches(assignments))

    def _share(self) -> None:
        RECORDER.share()
        importlib.invalidate_caches()  # what they list anew, the recorder sees, and what is there now is found

    def _import_ahead(self, names: Sequence[str]) -> None:
        """Import what children told that they imported of installed distributions."""
        with _recorded(), no_garbage_collection(), quiet_descriptors():
            import_installed([(name, "") for name in names], self._request.root)
        self._share()

    def _warm_up(self, assignments: Sequence[Assignment]) -> None:
        by_loader: dict[int, list[Assignment]] = {}
        for assignment in assignments:
            by_loader.setdefault(id(assignment.loader), []).append(assignment)
        for group in by_loader.values():
            group[0].loader.warm_up([assignment.file for assignment in group])

    def _processes(self, files: int) -> int:
        return min(self._request.processes, files)

    def _work(self, count: int) -> Work:
        limits = self._request.limits
        sandbox = Sandbox(
            run_as_user=self._request.run_as_user,
            memory_bytes=limits.file_memory_bytes,
            processes=limits.processes_per_file,
            slots=self._processes(count),
            shared=self._shared,
        )
        return Work(limits, sandbox, self._fingerprint, self._line)

    def _batches(self, assignments: Sequence[Assignment]) -> list[list[Assignment]]:
        alone: list[list[Assignment]] = []
        plain: list[Assignment] = []
        for assignment in assignments:
            if assignment.loader.is_plain(assignment.file):
                plain.append(assignment)
            else:
                alone.append([assignment])
        size = max(1, min(_SHARED_BATCH, -(-len(plain) // max(1, self._request.processes))))
        shared = [plain[i : i + size] for i in range(0, len(plain), size)]
        if len(shared) <= self._request.processes:  # less than a second: what is alone then fills the gaps at the end
            return shared + alone
        return alone + shared  # what is not plain may be slow, and begins first

    def _unloadable(self, file: ListedFile) -> FileRecord:
        problem = file.problem or FileProblem("NoLoader", f"no loader takes {file.path}")
        return self._without_dags(file.path, "none", errors=[problem.as_record()])

    def _left(self, file: ListedFile, left: Left) -> FileRecord:
        """The record of a file that is another one's to load."""
        word = self._prober.word(file.path)
        closure = {} if word is None else {file.path: word, left.key: left.reader}
        warnings = []
        if left.key == BESIDE:
            text = (
                f"{file.path} looks like DAGs and was not loaded: {left.reader} loads the YAML around it, and not this "
                f"file. Have it load this one too, or name it in {FILE_NAME}, bundle_config.loaders.yaml.patterns"
            )
            warnings = [{"category": "NotLoaded", "message": text, "line": None}]
        name = file.loader.name if file.loader else "none"
        return self._without_dags(file.path, name, closure=closure, warnings=warnings)

    def _without_dags(self, path: str, loader: str, **changes: Any) -> FileRecord:
        record = {
            "path": path,
            "status": "parsed",
            "loader": loader,
            "duration": 0.0,
            "memory": 0,
            "dags": [],
            "errors": [],
            "warnings": [],
            "sources": {},
            "fingerprint": self._fingerprint,
            "closure": {},
            "dynamic": [],
            "output": {"bytes": 0, "text": ""},
            **changes,
        }
        return FileRecord(path, encode(record), 0, len(record["errors"]))


def _manifest_in(root: str) -> Manifest:
    try:
        return read_manifest(root)
    except RunError:
        if importlib.util.find_spec("yaml") is None:
            AirflowAdapter.get()  # an interpreter without Airflow lacks PyYAML, too: Airflow is what to name
        raise


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """Record what is loaded before the fork, which every file's result depends on."""
    own = str(Path(__file__).parent.parent) + "/"
    RECORDER.attach((*installed_directories(), own, *ZONE_FILES))
    RECORDER.resume()
    try:
        yield
    finally:
        RECORDER.pause()
