"""How Airflow is imported into this program, and what takes the place of a part of it.

Without an engine of its own, its logging, and work that it would do DAG by DAG. `adapter` alone uses this.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from sqlalchemy.orm import Session

from dagbundle.targets.airflow import limits


class Pods:
    """Takes the place of the Kubernetes provider, by which 3.1 and 3.2 decode the pods in tasks' executor_config.

    It cannot be installed beside this program's newer client. Nobody here looks into a pod: what is stored is the
    document itself.
    """

    @staticmethod
    def deserialize_model_dict(document: Any) -> Any:
        """Leave it as it is."""
        return document


@contextlib.contextmanager
def as_library() -> Iterator[None]:
    """Let Airflow be imported without an engine of its own; what this process starts afterwards hears nothing of it."""
    wanted = {"_AIRFLOW__AS_LIBRARY": "1", "_AIRFLOW_PROCESS_CONTEXT": "server"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def quiet() -> None:
    """Send Airflow's warnings to this program's log; by itself its logger prints every step to standard output."""
    warnings.filterwarnings("ignore", message="The `airflow")  # of old names, which its plugins and providers import
    import structlog  # noqa: PLC0415 - Airflow brings it

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.stdlib.LoggerFactory(),
        processors=[structlog.processors.format_exc_info, structlog.stdlib.render_to_log_kwargs],
    )


def look_at_tasks(document: Mapping[str, Any], real: Any) -> None:
    """Refuse what ends the scheduler, for everybody: what it stumbles over in its loop when it makes a run of a DAG.

    Args:
        document: A vetted one.
        real: The DAG that Airflow decoded from it.

    Raises:
        Exception: A task's field takes the place of something that is no field, a mapped task maps too much, or what it
            maps cannot be counted. The decoder sets whatever it finds, and looks at nothing that is mapped.
    """
    for item in document["dag"].get("tasks", ()):
        body = item["__var"]
        task = real.task_dict[body["task_id"]]
        kind = type(task)
        fields = kind.get_serialized_fields()
        for name in body:
            if hasattr(kind, name) and name not in fields and name not in _WRITTEN_BESIDE:
                what = "a method" if callable(getattr(kind, name)) else "what is no field"
                raise TypeError(f"field {name} of task {body['task_id']} would take the place of {what}")
        try:
            count = task.get_parse_time_mapped_ti_count()
        except Exception as error:
            if type(error).__name__ not in _NOT_COUNTED:
                raise
        else:
            if count > limits.MAX_MAPPED:
                raise ValueError(f"task {body['task_id']} is mapped {count:,} times, of at most {limits.MAX_MAPPED:,}")
        if hasattr(task, "iter_mapped_dependencies"):
            collections.deque(task.iter_mapped_dependencies(), maxlen=0)


_WRITTEN_BESIDE = frozenset(
    {"_can_skip_downstream", "_is_empty", "_is_mapped", "_operator_extra_links", "has_retry_policy", "operator_class"}
)
"""Of a task, beside its fields."""
_NOT_COUNTED = frozenset({"NotMapped", "NotFullyPopulated"})
"""Airflow's errors, of other modules in each minor: a task that is not mapped, or by what another one returns."""


def validate_params(dag: Any, invalid: tuple[type[Exception], ...]) -> None:
    """Compute what Airflow computes of the Params of a DAG and its tasks when a run is made.

    Args:
        dag: Decoded.
        invalid: What Airflow raises of Params that are not valid, one error in 3.1 and another in 3.3. That is no fault
            of the document: a Param without a value gets one with the run.
    """
    for params in (dag.params, *(getattr(task, "params", None) for task in dag.tasks)):
        if hasattr(params, "validate"):  # those of a mapped task are a dictionary in 3.1
            with contextlib.suppress(*invalid):
                params.validate()


def decoding_once(lazy: Any, next_run: Callable[[Any, Any], Any]) -> Any:
    """Return Airflow's view of a DAG, but one that keeps the timetable, and has the next run computed by `next_run`.

    The timetable is looked at some seventeen times.
    """

    class Decoded(lazy):  # type: ignore[misc] # Airflow is untyped here
        examined: Any = None

        def next_dagrun_info(self, *positional: Any, **named: Any) -> Any:
            (last,) = (*positional, *named.values())
            return next_run(self, last)

        @functools.cached_property
        def timetable(self) -> Any:
            return super().timetable

    return Decoded


def asking_where_there_are_runs(run_info: Any, never_run: Callable[[], Collection[str]]) -> Any:
    """Return what finds a DAG's last run and counts its active ones, but asks nothing for a DAG that never ran."""

    class RunInfo(run_info):  # type: ignore[misc] # likewise
        @classmethod
        def calculate(cls, dag: Any, *, session: Session) -> Any:
            return cls(None, 0) if dag.dag_id in never_run() else super().calculate(dag, session=session)

    return RunInfo
