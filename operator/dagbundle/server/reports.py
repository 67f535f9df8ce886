"""Takes one report: bytes from a pod, through the decoder, into the staging area, and at the end a closed run.

The event loop waits for bytes and holds nothing else meanwhile; threads decode and stage, a transaction per batch. So
a client that is slow, or a report that lasts an hour, costs a little memory and no database connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import Receive

from dagbundle import errors
from dagbundle.engine import collecting, events, intake
from dagbundle.resources import protocol
from dagbundle.rollout import plan
from dagbundle.rollout.model import KnownFile, StagedFile
from dagbundle.server.access import Admitted
from dagbundle.server.limits import Budget, Holding, Slots, given_way
from dagbundle.server.metrics import Metrics
from dagbundle.server.settings import Settings
from dagbundle.server.workers import Workers
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import Ingestion, RunState

_SLICE = 16 * 1024
"""Bytes that are decoded at a time: inflated, 3 MiB at most."""
_HEAVY = 16 << 20
"""A report that holds so much, as values, is decoded alone: the memory that they take is never taken several times."""
_HEAVY_RECORD = 4 << 20
"""Likewise where so much of one record has come: while it is decoded, it is in memory several times."""
_BATCH_BYTES = 4 << 20


class Disconnected(Exception):  # noqa: N818 - what happened, not an error of ours
    """The client is gone: nobody hears an answer."""


@dataclass(slots=True)
class Body:
    """A request's body, with what must be known of it when it is refused.

    Attributes:
        receive: The server's.
        begun: Whether any of it was asked for; before that, the client was not told to send it.
        received: How many bytes have come.
    """

    receive: Receive
    begun: bool = False
    received: int = 0

    async def chunks(self, settings: Settings) -> AsyncIterator[bytes]:
        """Yield what comes, to its end.

        Raises:
            CallerError: `Idle` or `ReportTooLarge`.
            Disconnected: It was cut.
        """
        more = True
        while more:
            self.begun = True
            try:
                async with asyncio.timeout(settings.idle_seconds):
                    message = await self.receive()
            except TimeoutError as error:
                raise errors.CallerError("Idle", f"nothing came for {settings.idle_seconds:g} s") from error
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            self.received += len(chunk)
            if self.received > settings.report_bytes:
                raise errors.CallerError("ReportTooLarge", f"the report has more than {settings.report_bytes:,} bytes")
            more = bool(message.get("more_body", False))
            yield chunk


@dataclass(slots=True)
class _RunSink:
    """Stages one pod's report under the identity that it was admitted with."""

    store: DagStore
    admitted: Admitted
    run_id: str = ""
    files: dict[str, int] = field(default_factory=lambda: {"parsed": 0, "unchanged": 0})

    def known(self, subdir: str) -> Mapping[str, KnownFile]:
        """See `collecting.Sink`; nobody asks here."""
        return self.store.known_files(self.admitted.job.bundle, subdir)

    def opened(self, subdir: str, attempt: str, record: protocol.Open) -> None:
        """See `collecting.Sink`."""
        self._open(subdir, attempt, record.airflow, record.python, intake.ingestion(record))

    def staged(self, subdir: str, files: Sequence[StagedFile]) -> None:  # noqa: ARG002 - a run has one subdir
        """See `collecting.Sink`."""
        self.store.stage(self.run_id, self.admitted.attempt, files)

    def closed(self, subdir: str, listing: Sequence[str]) -> None:  # noqa: ARG002 - likewise
        """See `collecting.Sink`."""
        self.store.close_run(self.run_id, self.admitted.attempt, listing)

    def failed(self, subdir: str, failure: str) -> None:
        """See `collecting.Sink`."""
        if not self.run_id:
            self._open(subdir, self.admitted.attempt, None, "")
        self.store.fail_run(self.run_id, self.admitted.attempt, failure)

    def _open(
        self, subdir: str, attempt: str, airflow: str | None, python: str, ingestion: Ingestion | None = None
    ) -> None:
        self.run_id = self.store.open_run(
            self.admitted.job.rollout_id,
            subdir,
            attempt=attempt,
            airflow=airflow,
            python=python,
            shard=self.admitted.shard,
            ingestion=ingestion,
            keep_closed=True,  # a pod that was slow must not undo what its successor finished
        )


class Reports:
    """Takes reports.

    Args:
        store: Where they are staged.
        settings: Bounds.
        workers: Decode and stage.
        metrics: Count.
    """

    def __init__(self, store: DagStore, settings: Settings, workers: Workers, metrics: Metrics) -> None:
        self._store = store
        self._settings = settings
        self._workers = workers
        self._metrics = metrics
        self._slots = Slots(settings.reports, settings.reports_per_namespace)
        self._budget = Budget(settings.held_bytes)
        self._heavy = threading.Lock()
        metrics.open_reports.set_function(lambda: self._slots.taken)
        metrics.held_bytes.set_function(lambda: self._budget.total)

    async def take(self, admitted: Admitted, body: Body) -> RunState:
        """Take a report to its end and return what became of the run: `Closed` or `Failed`.

        Raises:
            CallerError: Why it is not taken.
            ProtocolError: It cannot be trusted; the run has failed for it.
            ConflictError: The rollout is over, or a newer attempt took this one's place.
            StoreUnavailableError: The database is away.
            Disconnected: It was cut.
        """
        namespace, deadline = admitted.caller.namespace, asyncio.timeout(self._settings.stream_seconds)

        def give_way() -> None:
            with contextlib.suppress(RuntimeError):  # it ends already
                deadline.reschedule(asyncio.get_running_loop().time())

        with self._slots.one(namespace), self._budget.one(namespace, give_way) as holding:
            sink = _RunSink(self._store, admitted)
            taker = self._taker(admitted, sink)
            try:
                async with deadline:
                    return await self._take(body, sink, taker, holding)
            except TimeoutError as error:
                await self._note_cut(sink, taker)
                if holding.leaving:
                    raise given_way() from error
                seconds = self._settings.stream_seconds
                raise errors.CallerError("Idle", f"the report took more than {seconds:g} s") from error
            except (errors.ProtocolError, errors.ContentError) as error:
                await self._record_failure(sink, error)
                raise
            except (errors.CallerError, Disconnected):
                await self._note_cut(sink, taker)
                raise
            finally:
                self._metrics.report_bytes.inc(body.received)
                for status, count in sink.files.items():
                    self._metrics.files.labels(status).inc(count)

    async def _take(self, body: Body, sink: _RunSink, taker: collecting.Taker, holding: Holding) -> RunState:
        namespace = holding.namespace
        async for chunk in body.chunks(self._settings):
            if chunk:
                await self._in_turn(namespace, functools.partial(self._feed, taker, sink, chunk))
                self._budget.hold(holding, taker.held)
        if not taker.ended:
            raise errors.CallerError("CutReport", "the report ended before its last record: nothing of it counts")
        await self._in_turn(namespace, functools.partial(_end, taker))
        return RunState.FAILED if taker.failed else RunState.CLOSED

    async def _in_turn(self, namespace: str, work: Callable[[], None]) -> None:
        await self._workers.run(work, namespace)

    def _taker(self, admitted: Admitted, sink: _RunSink) -> collecting.Taker:
        job = admitted.job
        run = plan.RunPlan(
            subdir=job.subdir,
            exclude=tuple(job.request.get("exclude", ())),
            run_as_user=None,
            service_account_name=job.service_account,
        )
        limits = protocol.Limits(
            line_bytes=self._settings.record_bytes,
            line_values=self._settings.record_values,
            total_bytes=self._settings.inflated_bytes,
        )
        return collecting.Taker(
            run,
            sink,
            run_id=job.run_id,
            attempt=admitted.attempt,
            limits=limits,
            batch_bytes=_BATCH_BYTES,
            runs=admitted.runs,
        )

    def _feed(self, taker: collecting.Taker, sink: _RunSink, chunk: bytes) -> None:
        """Decode some bytes and stage what is due. In a worker thread."""
        for start in range(0, len(chunk), _SLICE):
            heavy = taker.held > _HEAVY or taker.arriving > _HEAVY_RECORD
            with self._heavy if heavy else contextlib.nullcontext():
                for event in taker.feed(chunk[start : start + _SLICE]):
                    if isinstance(event, events.FileParsed):
                        sink.files["unchanged" if event.unchanged else "parsed"] += 1

    async def _note_cut(self, sink: _RunSink, taker: collecting.Taker) -> None:
        """Note which files were being parsed: a pod that died cannot, and its report may come again, or never."""
        note = taker.flight
        if note and sink.run_id:
            with contextlib.suppress(errors.StoreError, errors.CallerError):  # it is told less then
                await self._workers.run(lambda: self._store.note_cut(sink.run_id, note), sink.admitted.job.namespace)

    async def _record_failure(self, sink: _RunSink, error: errors.DagBundleError) -> None:
        """Let people see why the run will not close. Whoever took its place, or is away, need not know."""
        with contextlib.suppress(errors.StoreError):
            job = sink.admitted.job
            await self._workers.run(
                lambda: sink.failed(job.subdir, f"the report was refused: {error.message}"), job.namespace
            )


def _end(taker: collecting.Taker) -> None:
    for _ in taker.finish():
        pass
