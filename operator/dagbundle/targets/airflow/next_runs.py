"""Computes when a DAG runs next: in the examiner's process, and here only its answer becomes Airflow's type again.

Airflow's timetables compute it from what a tenant wrote, when a DAG is published and in each upkeep.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dagbundle.targets.airflow import limits, wire
from dagbundle.targets.airflow.child import DocumentError
from dagbundle.targets.airflow.examining import Examiner

_log = logging.getLogger(__name__)


class Spent:
    """CPU time that one upkeep took of the examiner, which serves all bundles.

    Args:
        namespaces: The namespace of each bundle, by its name in Airflow.
    """

    def __init__(self, namespaces: Mapping[str, str]) -> None:
        self._namespaces = namespaces
        self._bundles: dict[str, float] = {}
        self._shares: dict[str, float] = {}

    def namespace(self, bundle: str) -> str:
        """Return a bundle's namespace."""
        return self._namespaces[bundle]

    def add(self, bundle: str, seconds: float) -> None:
        """Count what a document took."""
        namespace = self._namespaces[bundle]
        self._bundles[bundle] = self._bundles.get(bundle, 0.0) + seconds
        self._shares[namespace] = self.of(namespace) + seconds

    def of(self, namespace: str) -> float:
        """Return what a namespace's documents took."""
        return self._shares.get(namespace, 0.0)

    def allows(self, bundle: str) -> bool:
        """Tell whether there is time for more documents of a bundle. For a namespace's first ones there always is."""
        namespace = self._namespaces[bundle]
        return namespace not in self._shares or (
            self._bundles.get(bundle, 0.0) < limits.UPKEEP_BUNDLE_CPU_SECONDS
            and self._shares[namespace] < limits.UPKEEP_NAMESPACE_CPU_SECONDS
            and sum(self._shares.values()) < limits.UPKEEP_CPU_SECONDS
        )


_upkeep: contextvars.ContextVar[tuple[Spent, str] | None] = contextvars.ContextVar("upkeep", default=None)


class NextRuns:
    """Computes next runs.

    Args:
        minor: Of the installed Airflow.
        base: Airflow's module of what timetables answer.
        instance: Makes Airflow's time of one of the standard library's.
        examiner: Whose process computes; None computes in this one, which is the examiner's.
    """

    def __init__(self, minor: str, base: Any, instance: Callable[[Any], Any], examiner: Examiner | None) -> None:
        self._minor = minor
        self._base = base
        self._instance = instance
        self._examiner = examiner

    @staticmethod
    @contextlib.contextmanager
    def in_upkeep(spent: Spent, bundle: str) -> Iterator[None]:
        """Give a DAG whose next run cannot be computed none, and log that: the upkeep serves all bundles.

        Args:
            spent: Counts what the upkeep takes.
            bundle: Its name in Airflow.
        """
        token = _upkeep.set((spent, bundle))
        try:
            yield
        finally:
            _upkeep.reset(token)

    def next_run(self, view: Any, last: Any) -> Any:
        """Return a DAG's next run.

        Args:
            view: Airflow's view of the DAG, with what the examiner answered for it already, if it did.
            last: Airflow's word for the run before; None where there is none.

        Raises:
            DocumentError: It cannot be computed.
        """
        written = wire.interval_to_json(last) if self._minor == "3.1" else wire.info_to_json(last)
        if self._examiner is None:
            return self.compute(view._real_dag, written)  # noqa: SLF001 - there is no other
        known = view.examined if last is None else None
        upkeep = _upkeep.get()
        try:
            found = known or self._examiner.examine(view.data, written)
        except DocumentError as error:
            if upkeep is None:
                raise
            spent, bundle = upkeep
            spent.add(bundle, error.cpu)
            _log.error(
                "the next run of DAG %s of bundle %s cannot be computed, so it has none: %s",
                view.dag_id, bundle, error.why,
            )  # fmt: skip
            return None
        if upkeep is not None:
            upkeep[0].add(upkeep[1], found["cpu"])
        return self._info(found["info"])

    def compute(self, real: Any, last: Any) -> Any:
        """Compute a decoded DAG's next run in this process, after what `wire` wrote."""
        if self._minor == "3.1":
            return real.next_dagrun_info(self._interval(last))
        return real.next_dagrun_info(last_automated_run_info=self._info(last))

    def _interval(self, found: Any) -> Any:
        """Return Airflow's DataInterval of what `wire` wrote."""
        return None if found is None else self._base.DataInterval(*(self._moment(item) for item in found))

    def _info(self, found: Any) -> Any:
        """Return Airflow's DagRunInfo of what `wire` wrote."""
        if found is None:
            return None
        values = {
            "run_after": self._moment(found["run_after"]),
            "data_interval": self._interval(found["data_interval"]),
        }
        if self._minor != "3.1":
            values |= {"partition_date": self._moment(found["partition_date"]), "partition_key": found["partition_key"]}
        return self._base.DagRunInfo(**values)

    def _moment(self, text: str | None) -> Any:
        return None if text is None else self._instance(wire.moment(text))
