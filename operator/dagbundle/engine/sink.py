"""Stages what runs report in the store: the sink of an apply, as memory is that of a dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagbundle.engine import intake
from dagbundle.resources import protocol
from dagbundle.rollout.model import BundleKey, KnownFile, StagedFile
from dagbundle.store.dagstore import DagStore


class StoreSink:
    """Stages submissions in the store.

    Args:
        store: The store.
        key: The bundle.
        rollout_id: An open rollout of it.
    """

    def __init__(self, store: DagStore, key: BundleKey, rollout_id: str) -> None:
        self._store = store
        self._key = key
        self._rollout_id = rollout_id
        self._runs: dict[str, tuple[str, str]] = {}

    def known(self, subdir: str) -> Mapping[str, KnownFile]:
        """See `collecting.Sink`."""
        return self._store.known_files(self._key, subdir)

    def opened(self, subdir: str, attempt: str, record: protocol.Open) -> None:
        """See `collecting.Sink`."""
        run_id = self._store.open_run(
            self._rollout_id,
            subdir,
            attempt=attempt,
            airflow=record.airflow,
            python=record.python,
            ingestion=intake.ingestion(record),
        )
        self._runs[subdir] = (run_id, attempt)

    def staged(self, subdir: str, files: Sequence[StagedFile]) -> None:
        """See `collecting.Sink`."""
        self._store.stage(*self._runs[subdir], files)

    def closed(self, subdir: str, listing: Sequence[str]) -> None:
        """See `collecting.Sink`."""
        self._store.close_run(*self._runs[subdir], listing)

    def failed(self, subdir: str, failure: str) -> None:
        """See `collecting.Sink`."""
        if subdir not in self._runs:
            run_id = self._store.open_run(self._rollout_id, subdir, attempt="none", airflow=None, python="")
            self._runs[subdir] = (run_id, "none")
        self._store.fail_run(*self._runs[subdir], failure)
