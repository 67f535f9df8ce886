"""Puts a rollout off until something has changed, so that a pass that finds nothing new writes nothing.

Submissions are kept in memory as long as they only say that files are as they are remembered. With the first other one
the rollout begins, and what was kept is staged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from dagbundle.engine.collecting import MemorySink, Sink
from dagbundle.engine.sink import StoreSink
from dagbundle.resources import protocol
from dagbundle.rollout.model import BundleKey, FileOutcome, KnownFile, RunOutcome, StagedFile
from dagbundle.store.dagstore import DagStore


class DeferredSink:
    """Stages submissions in the store from the first one that brings something new.

    Args:
        store: The store.
        key: The bundle.
        begin: Begins a rollout of it and returns the rollout's name.
    """

    def __init__(self, store: DagStore, key: BundleKey, begin: Callable[[], str]) -> None:
        self._store = store
        self._key = key
        self._begin = begin
        self._lock = threading.Lock()
        self._rollout_id = ""
        self._staging: Sink | None = None
        self._kept: list[Callable[[Sink], None]] = []
        self._remembered: dict[str, FileOutcome] = {}
        self._memory = MemorySink(remembered=self._remembered)

    def known(self, subdir: str) -> Mapping[str, KnownFile]:
        """See `collecting.Sink`."""
        found = self._store.known_files(self._key, subdir)
        if found and self._staging is None:
            self._remembered |= self._store.remembered(self._key, subdir)
        return found

    def opened(self, subdir: str, attempt: str, record: protocol.Open) -> None:
        """See `collecting.Sink`."""
        self._take(lambda sink: sink.opened(subdir, attempt, record))

    def staged(self, subdir: str, files: Sequence[StagedFile]) -> None:
        """See `collecting.Sink`."""
        new = any(not file.outcome.unchanged or file.outcome.path not in self._remembered for file in files)
        self._take(lambda sink: sink.staged(subdir, files), new=new)

    def closed(self, subdir: str, listing: Sequence[str]) -> None:
        """See `collecting.Sink`."""
        self._take(lambda sink: sink.closed(subdir, listing))

    def failed(self, subdir: str, failure: str) -> None:
        """See `collecting.Sink`."""
        self._take(lambda sink: sink.failed(subdir, failure), new=True)

    def start(self) -> str:
        """Begin the rollout, if nothing has begun it yet, and return its name."""
        with self._lock:
            if self._staging is None:
                self._rollout_id = self._begin()
                self._staging = StoreSink(self._store, self._key, self._rollout_id)
                for call in self._kept:
                    call(self._staging)
                self._kept.clear()
            return self._rollout_id

    def unchanged(self) -> tuple[RunOutcome, ...]:
        """Return what became of the runs if every remembered file is still there and as it was; otherwise nothing."""
        runs = self._memory.outcomes() if self._staging is None else ()
        return runs if {file.path for run in runs for file in run.files} == self._remembered.keys() else ()

    def _take(self, call: Callable[[Sink], None], *, new: bool = False) -> None:
        if new:
            self.start()
        with self._lock:
            if self._staging is None:
                self._kept.append(call)
                call(self._memory)
                return
        call(self._staging)  # not under the lock: other runs stage at the same time
