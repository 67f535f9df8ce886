"""Carries out the runs of one rollout and collects their submissions, several subdirs at a time.

Where submissions go is a `Sink`: the store's staging area for an apply, memory for a dry run, which must not touch
the database. Both give back the same outcomes, so what is judged is the same.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dagbundle import errors
from dagbundle.engine import events, intake
from dagbundle.resources import base, flight, protocol
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import budgets, content, plan
from dagbundle.rollout.model import DagContent, FileOutcome, KnownFile, RunOutcome, StagedFile
from dagbundle.runtime.base import Runtime

BATCH_FILES = 500
BATCH_BYTES = 16 * 2**20
"""A batch is staged when it has so many files, or so many bytes of report (inflated) have come; until then it is in
memory."""
DEFAULT_PROCESSES = 2
_VALUES_OF_BYTES = 4
"""How much more a batch may take as values than as bytes; of Airflow's documents one takes as much."""


class Sink(Protocol):
    """Takes one run's submissions."""

    def known(self, subdir: str) -> Mapping[str, KnownFile]:
        """What is remembered of the subdir's files, for the parser to skip."""

    def opened(self, subdir: str, attempt: str, record: protocol.Open) -> None:
        """The run began to report."""

    def staged(self, subdir: str, files: Sequence[StagedFile]) -> None:
        """Some submissions arrived, in order."""

    def closed(self, subdir: str, listing: Sequence[str]) -> None:
        """The run closed with this listing."""

    def failed(self, subdir: str, failure: str) -> None:
        """The run ended without a close."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What all runs of a rollout have in common."""

    rollout_id: str
    airflow_name: str
    parser: bundle_models.Parser
    force: bool = False
    """Parse every file, even those that look unchanged."""
    only: tuple[str, ...] = ()
    """Parse only these files of the bundle; empty parses all."""


def carry_out(
    runs: Sequence[plan.RunPlan], settings: RunSettings, *, runtime: Runtime, sink: Sink, watch: events.Watcher
) -> None:
    """Carry out all runs, as many at a time as there are processors; each ends closed or failed in the sink.

    Raises:
        DagBundleError: The sink refused (the store is gone); a run's own failure is recorded and not raised.
    """
    stopped = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(len(runs), os.cpu_count() or 1)) as pool:
        try:  # from the first thread on: an interrupt may come while it is being started
            futures = [
                pool.submit(_carry_out_one, run, settings, runtime, sink, watch, stopped=stopped, runs=len(runs))
                for run in runs
            ]
            concurrent.futures.wait(futures)
        except BaseException:  # interrupted: leaving the pool would wait for parsers that nobody waits for any more
            stopped.set()
            runtime.stop()
            raise
    for future in futures:
        future.result()


def _carry_out_one(
    run: plan.RunPlan,
    settings: RunSettings,
    runtime: Runtime,
    sink: Sink,
    watch: events.Watcher,
    *,
    stopped: threading.Event,
    runs: int,
) -> None:
    attempt = str(uuid.uuid4())
    request = request_for(run, settings, attempt=attempt, root=runtime.root, known=sink.known(run.subdir))
    taker = Taker(run, sink, run_id=request.run, attempt=request.attempt, runs=runs)
    try:
        with contextlib.closing(runtime.report(request)) as chunks:  # whatever happens, the parser is gone afterwards
            for chunk in chunks:
                for event in taker.feed(chunk):
                    watch(event)
            for event in taker.finish():
                watch(event)
    except (errors.ProtocolError, errors.RunError) as error:
        if stopped.is_set():  # this side ended the parser: that is no failure of the run, and nobody waits for it
            return
        failure = error.message + taker.flight + (f" ({error.hint})" if error.hint else "")
        sink.failed(run.subdir, failure)
        watch(events.RunEnded(run.subdir, failure))


class Taker:
    """Feeds one run's bytes, as they arrive, through the decoder into a sink, in batches.

    Args:
        run: Which files may be reported.
        sink: Where submissions go.
        run_id: The run's name in the report.
        attempt: Likewise.
        limits: Bounds of the report.
        batch_bytes: How many bytes of report are kept in memory before they are staged; as values they may take
            four times as much.
        runs: How many runs the rollout has: they share the bounds of `budgets`.

    Every method raises `ProtocolError` when the report cannot be trusted, and what the sink raises; after that nothing
    more must be fed.
    """

    def __init__(
        self,
        run: plan.RunPlan,
        sink: Sink,
        *,
        run_id: str,
        attempt: str,
        limits: protocol.Limits | None = None,
        batch_bytes: int = BATCH_BYTES,
        runs: int = 1,
    ) -> None:
        self._batch_bytes = batch_bytes
        self._run = run
        self._sink = sink
        self._attempt = attempt
        self._decoder = protocol.ReportDecoder(run=run_id, attempt=attempt, limits=limits)
        self._batch: list[StagedFile] = []
        self._staged_bytes = 0
        self._staged_weight = 0
        self._texts = budgets.Texts(runs)
        self._known = budgets.Known()
        self._listing: Sequence[str] | None = None
        self._listing_bytes = 0
        self._failure = ""

    @property
    def held(self) -> int:
        """How many bytes of memory the report takes, roughly: what is not staged yet, and what is kept to its end."""
        return self._unstaged + self._decoder.kept + self._listing_bytes

    @property
    def arriving(self) -> int:
        """How many bytes of memory the record takes as values of which a part has come."""
        return self._decoder.weight - self._decoder.decoded

    @property
    def _unstaged(self) -> int:
        return max(0, self._decoder.weight - self._staged_weight)

    @property
    def flight(self) -> str:
        """What to say of the files that were being parsed, where the report ended before they did."""
        return "" if self.ended else flight.described(self._decoder.in_flight)

    @property
    def ended(self) -> bool:
        """True once the last record arrived, whatever it said."""
        return self._listing is not None or bool(self._failure)

    @property
    def failed(self) -> bool:
        """True once the report has ended with the run's failure."""
        return bool(self._failure)

    def feed(self, chunk: bytes) -> Iterator[events.Event]:
        """Take the next bytes; what came of them is done when the events have been taken."""
        subdir = self._run.subdir
        for record in self._decoder.feed(chunk):
            match record:
                case protocol.Open():
                    self._sink.opened(subdir, self._attempt, record)
                    yield events.RunOpened(subdir, record.files)
                case protocol.File():
                    file = self._bounded(intake.take(record, self._run))
                    self._batch.append(file)
                    yield events.FileParsed(subdir, record.path, file.outcome.unchanged, len(file.outcome.problems))
                    self._stage(files=BATCH_FILES, size=self._batch_bytes)
                case protocol.Close():
                    self._stage(files=1, size=0)  # while the parser's process ends, which takes as long
                    self._listing = record.files
                    self._listing_bytes = sys.getsizeof(record.files) + sum(map(sys.getsizeof, record.files))
                case protocol.Fail():
                    said = flight.described(self._decoder.in_flight)
                    self._failure = f"{content.storable(record.kind)}: {content.storable(record.message)}{said}"

    def finish(self) -> Iterator[events.Event]:
        """Say that the report has ended: the run is closed or failed in the sink when the events have been taken."""
        self._decoder.finish()
        self._stage(files=1, size=0)
        if self._listing is None:
            self._sink.failed(self._run.subdir, self._failure)
        else:
            self._sink.closed(self._run.subdir, self._listing)
        yield events.RunEnded(self._run.subdir, self._failure)

    def _stage(self, *, files: int, size: int) -> None:
        """Hand on what has been collected, if it is so many files or so many bytes."""
        due = self._decoder.received - self._staged_bytes >= size or self._unstaged >= size * _VALUES_OF_BYTES
        if self._batch and (len(self._batch) >= files or due):
            self._sink.staged(self._run.subdir, self._batch)
            self._batch = []
            self._staged_bytes, self._staged_weight = self._decoder.received, self._decoder.decoded

    def _bounded(self, file: StagedFile) -> StagedFile:
        """Leave out what is over the bounds of the run."""
        closure = file.closure
        size = sum(len(path) + len(word) for path, word in closure.items())
        if closure and not self._known.takes(size, len(closure)):
            file = dataclasses.replace(file, closure={})
        return self._texts.keep(file)


def request_for(
    run: plan.RunPlan, settings: RunSettings, *, attempt: str, root: str, known: Mapping[str, KnownFile]
) -> protocol.RunRequest:
    """Say what the parser of one run is asked to do.

    Args:
        run: What to parse.
        settings: What all runs of the rollout have in common.
        attempt: Names this attempt at it.
        root: Absolute path of the bundle's root as the parser sees it.
        known: What is remembered of the subdir's files.
    """
    parser = settings.parser
    return protocol.RunRequest(
        run=f"{settings.rollout_id}:{run.subdir}",
        attempt=attempt,
        bundle=settings.airflow_name,
        root=root,
        subdir=run.subdir,
        exclude=list(run.exclude),
        parser={"type": parser.type or "SinglePass", "config": parser.config},
        processes=parser.processes or DEFAULT_PROCESSES,
        limits={
            "fileSeconds": base.seconds(parser.file_timeout),
            "fileMemoryBytes": base.quantity_bytes(parser.file_memory),
            "outputBytes": 64 * 1024,
            "reportBytes": 64 * 2**20,
            "processesPerFile": 64,
        },
        run_as_user=run.run_as_user,
        force=settings.force,
        max_unchanged_age=base.seconds(parser.max_unchanged_age),
        known=known_document(known),
        files=list(settings.only),
        defaults=[name for name, value in (("parser", parser.type), ("processes", parser.processes)) if value is None],
    )


def known_document(known: Mapping[str, KnownFile]) -> dict[str, dict[str, Any]]:
    """Say what is remembered of files as a run request does; of those that must be parsed anyway, nothing."""
    now = time.time()
    return {
        path: {"fingerprint": file.fingerprint, "closure": file.closure, "age": max(0.0, now - file.parsed_at)}
        for path, file in known.items()
        if file.closure
    }


def error_of(run: RunOutcome, what: str) -> errors.DagBundleError:
    """Return the error of a run that did not finish, for callers that need its result.

    Args:
        run: The run.
        what: What could not be done.
    """
    kind = errors.ResourceError if is_manifest_invalid(run) else errors.RunError
    return kind(f"{what}: {run.failure}")


def is_manifest_invalid(run: RunOutcome) -> bool:
    """Tell whether the parser refused the bundle's manifest, which this side looks at as far as it knows it."""
    return run.failure.startswith("ManifestInvalid:")


@dataclass(slots=True)
class _Run:
    files: list[FileOutcome] = field(default_factory=list)
    closed: bool = False
    failure: str = ""


class MemorySink:
    """Keeps everything in memory: for dry runs, `parse` and the determinism check.

    Args:
        known: What is remembered, by subdir.
        remembered: The remembered outcomes of those files, by path; an unchanged file stands for its outcome.
    """

    def __init__(
        self,
        known: Mapping[str, Mapping[str, KnownFile]] | None = None,
        remembered: Mapping[str, FileOutcome] | None = None,
    ) -> None:
        self._known = known or {}
        self._remembered = {} if remembered is None else remembered
        self._runs: dict[str, _Run] = {}
        self.contents: dict[str, DagContent] = {}
        """Every parsed DAG's content by its SHA-256."""
        self.files: dict[str, StagedFile] = {}
        """Every submission by path."""
        self.airflow: str | None = None
        """The parser's Airflow version, once a run has opened."""

    def known(self, subdir: str) -> Mapping[str, KnownFile]:
        """See `Sink`."""
        return self._known.get(subdir, {})

    def opened(self, subdir: str, attempt: str, record: protocol.Open) -> None:  # noqa: ARG002 - the store's sink needs it
        """See `Sink`."""
        self._runs[subdir] = _Run()
        self.airflow = record.airflow

    def staged(self, subdir: str, files: Sequence[StagedFile]) -> None:
        """See `Sink`. Raises `ProtocolError` when an unchanged file is not remembered."""
        for file in files:
            outcome = file.outcome
            if outcome.unchanged:
                if outcome.path not in self._remembered:
                    raise errors.ProtocolError(
                        f"{outcome.path} is reported as unchanged, but the store has no record of it"
                    )
                outcome = self._remembered[outcome.path]
            self.files[outcome.path] = file
            self.contents |= {item.sha256: item for item in file.contents}
            self._runs[subdir].files.append(outcome)

    def closed(self, subdir: str, listing: Sequence[str]) -> None:  # noqa: ARG002 - the decoder has compared it
        """See `Sink`."""
        self._runs[subdir].closed = True

    def failed(self, subdir: str, failure: str) -> None:
        """See `Sink`."""
        self._runs.setdefault(subdir, _Run()).failure = failure

    def outcomes(self) -> tuple[RunOutcome, ...]:
        """Return what became of every run."""
        return tuple(
            RunOutcome(subdir, run.closed, tuple(run.files), run.failure) for subdir, run in sorted(self._runs.items())
        )
