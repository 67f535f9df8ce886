"""Looks at a serialized DAG before Airflow's decoders do.

Airflow trusts what its own processor wrote: its decoders import what a document names (an exception's class and a
trigger's in 3.1 and 3.2, a Param's class in 3.1, a timetable's everywhere). Here the document comes from a tenant's
pod. So every name that a decoder could import, now or later in scheduler and triggerer, is held against a list. Pure:
nothing of Airflow is needed.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dagbundle import errors

MAX_DEPTH = 100
"""Levels of nesting; Airflow's decoders recurse."""

TYPES = frozenset(
    {"operator", "datetime", "timedelta", "timezone", "relativedelta", "dict", "set", "tuple", "k8s.V1Pod", "taskgroup",
     "edgeinfo", "param", "xcomref", "asset", "asset_alias", "asset_any", "asset_all", "asset_ref", "arg_not_set",
     "deadline_alert", "mapped_argument", "START_TRIGGER_ARGS"}
)  # fmt: skip
"""Airflow's names of what a DAG is made of. Its others (exceptions, connections, requests) have no place in one."""
CLASSES = frozenset(
    {
        *(f"airflow.timetables.{name}" for name in (
            "assets.AssetOrTimeSchedule", "datasets.DatasetOrTimeSchedule", "events.EventsTimetable",
            "interval.CronDataIntervalTimetable", "interval.DeltaDataIntervalTimetable",
            "simple.AssetTriggeredTimetable", "simple.ContinuousTimetable", "simple.NullTimetable",
            "simple.OnceTimetable",
            "simple.PartitionedAssetTimetable", "simple.PartitionedAtRuntime", "trigger.CronPartitionTimetable",
            "trigger.CronTriggerTimetable", "trigger.DeltaTriggerTimetable", "trigger.MultipleCronTriggerTimetable",
        )),
        *(f"airflow.partition_mappers.{name}" for name in (
            "allowed_key.AllowedKeyMapper", "base.RollupMapper", "chain.ChainMapper", "fixed_key.FixedKeyMapper",
            "identity.IdentityMapper", "product.ProductMapper", "temporal.FanOutMapper", "temporal.StartOfDayMapper",
            "temporal.StartOfHourMapper", "temporal.StartOfMonthMapper", "temporal.StartOfQuarterMapper",
            "temporal.StartOfWeekMapper", "temporal.StartOfYearMapper", "wait_policy.MinimumCount",
            "wait_policy.WaitForAll", "window.DayWindow", "window.HourWindow", "window.MonthWindow",
            "window.QuarterWindow", "window.SegmentWindow", "window.WeekWindow", "window.YearWindow",
        )),
    }
)  # fmt: skip
"""Airflow's own timetables and what they are made of, 3.0 to 3.3. A deployment's plugins bring others."""
_PARAMS = frozenset({"airflow.sdk.definitions.param.Param", "airflow.models.param.Param",
                     "airflow.serialization.definitions.param.SerializedParam"})  # fmt: skip
_SERDE = frozenset(
    {"datetime.timedelta", "airflow.sdk.definitions.callback.AsyncCallback",
     "airflow.sdk.definitions.callback.SyncCallback", "airflow.sdk.definitions.deadline.AsyncCallback",
     "airflow.sdk.definitions.deadline.SyncCallback", "airflow.sdk.definitions.deadline.VariableInterval",
     "airflow.serialization.definitions.deadline.SerializedVariableInterval"}
)  # fmt: skip
"""What deadlines are made of, in Airflow's other way of serializing."""
_TEXTS = (("owner", 500), ("pool", 256), ("queue", 256), ("executor", 1000))
_ASSET_TEXTS = (("name", 1500), ("uri", 1500), ("group", 1500))


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a deployment allows besides Airflow's own classes.

    Attributes:
        classes: Import paths of timetables, partition mappers, windows and deadline references that its plugins bring.
        triggers: Patterns (`airflow.providers.*`) of trigger classes, which the triggerer imports.
        executors: Names that a task may choose; None allows any, as for `pools` and `queues`.
        pools: Likewise.
        queues: Likewise.
    """

    classes: frozenset[str] = frozenset()
    triggers: tuple[str, ...] = ("airflow.providers.*", "airflow.triggers.*")
    executors: frozenset[str] | None = None
    pools: frozenset[str] | None = None
    queues: frozenset[str] | None = None


def read(environ: Mapping[str, str] = os.environ) -> Allowed:
    """Read what is allowed from the environment: `DAGBUNDLE_ALLOWED_CLASSES=a.B,c.D`, and so on for each attribute."""

    def names(name: str) -> frozenset[str] | None:
        text = environ.get(f"DAGBUNDLE_ALLOWED_{name}")
        return None if text is None else frozenset(item.strip() for item in text.split(",") if item.strip())

    triggers = names("TRIGGERS")
    return Allowed(
        classes=names("CLASSES") or frozenset(),
        triggers=Allowed().triggers if triggers is None else tuple(sorted(triggers)),
        executors=names("EXECUTORS"),
        pools=names("POOLS"),
        queues=names("QUEUES"),
    )


def check(document: Mapping[str, Any], allowed: Allowed) -> None:
    """Refuse a document that names what is not allowed, or is not of the shape that Airflow's decoders expect.

    Args:
        document: `{"__version": …, "dag": {…}}`.
        allowed: What the deployment allows.

    Raises:
        TargetError: The message names the JSON path, what is there, and where it would be allowed.
    """
    dag = document["dag"]
    _header(dag)
    # all of it: what stands beside the DAG (`client_defaults`) is merged into its tasks when it is decoded
    for path, value in _values(document, "", 0):
        _mapping(path, value, allowed)
    defaults = document.get("client_defaults") or {}
    if not isinstance(defaults, Mapping) or not isinstance(defaults.get("tasks") or {}, Mapping):
        raise _refused("client_defaults", defaults, "it is no object of objects")
    _task("client_defaults.tasks", defaults.get("tasks") or {}, allowed)
    for index, task in enumerate(dag.get("tasks", ())):
        body = task.get("__var", {})
        for place in (body, body.get("partial_kwargs") or {}):
            if not isinstance(place, Mapping):
                raise _refused(f"dag.tasks[{index}].partial_kwargs", place, "it is no object")
            _task(f"dag.tasks[{index}]", place, allowed)


def _header(dag: Mapping[str, Any]) -> None:
    timetable = dag.get("timetable")
    if not isinstance(timetable, Mapping) or not isinstance(timetable.get("__type"), str):
        raise _refused("dag.timetable", timetable, "it is no timetable")
    for name, kinds in _HEADER:
        value = dag.get(name)
        if value is not None and not isinstance(value, kinds):
            raise _refused(f"dag.{name}", value, "it is of another type than Airflow writes")
    for tag in dag.get("tags") or ():
        if not isinstance(tag, str) or len(tag) > 100:  # noqa: PLR2004 - the column's
            raise _refused("dag.tags", tag, "a tag is a text of at most 100 characters")
    for name, limit in (("dag_display_name", 2000), ("_dag_display_property_value", 2000), ("relative_fileloc", 2000)):
        if len(str(dag.get(name) or "")) > limit:
            raise _refused(f"dag.{name}", dag[name], f"it has more than {limit} characters")


_HEADER: tuple[tuple[str, Any], ...] = (
    ("description", str), ("doc_md", str), ("tags", list | Mapping), ("owner_links", Mapping),
    ("is_paused_upon_creation", bool),
    ("max_active_tasks", int), ("max_active_runs", int), ("max_consecutive_failed_dag_runs", int), ("catchup", bool),
    ("fail_fast", bool), ("relative_fileloc", str), ("deadline", list), ("dag_display_name", str),
    ("_dag_display_property_value", str), ("allowed_run_types", list),
)  # fmt: skip


def _values(value: Any, path: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk a document and return every object in it, with its path."""
    if depth > MAX_DEPTH:
        raise _refused(path, "…", f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        yield path, value
        for name, item in value.items():
            yield from _values(item, f"{path}.{name:.60}" if path else name, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _values(item, f"{path}[{index}]", depth + 1)


def _mapping(path: str, value: Mapping[str, Any], allowed: Allowed) -> None:
    """Look at one object: whatever a decoder would import by its name."""
    if "__type" in value:
        kind = value["__type"]
        if not isinstance(kind, str) or not (kind in TYPES or kind in CLASSES or kind in allowed.classes):
            raise _refused(f"{path}.__type", kind, "no such class is allowed", setting="DAGBUNDLE_ALLOWED_CLASSES")
        if kind == "START_TRIGGER_ARGS":
            _trigger(f"{path}.trigger_cls", value.get("trigger_cls"), allowed)
        if kind == "asset":
            _asset(path, value, allowed)
    for name, known, why, setting in (
        ("__class", _PARAMS, "it is no Param's class", ""),
        ("__classname__", _SERDE, "a DAG holds no such object", ""),
        ("__class_path", allowed.classes, "it is not allowed", "DAGBUNDLE_ALLOWED_CLASSES"),
    ):
        if name in value and not (isinstance(value[name], str) and value[name] in known):
            raise _refused(f"{path}.{name}", value[name], why, setting=setting)


def _asset(path: str, value: Mapping[str, Any], allowed: Allowed) -> None:
    body = value.get("__var", value)
    if not isinstance(body, Mapping):
        raise _refused(f"{path}.__var", body, "an asset is an object")
    for name, limit in _ASSET_TEXTS:
        text = body.get(name)
        if not isinstance(text, str) or len(text) > limit:
            raise _refused(f"{path}.{name}", text, f"an asset's {name} is a text of at most {limit} characters")
    watchers = body.get("watchers") or []
    if not isinstance(watchers, list):
        raise _refused(f"{path}.watchers", watchers, "it is no list")
    for index, watcher in enumerate(watchers):
        trigger = watcher.get("trigger") if isinstance(watcher, Mapping) else None
        if not isinstance(trigger, Mapping):
            raise _refused(f"{path}.watchers[{index}]", watcher, "it has no trigger")
        _trigger(f"{path}.watchers[{index}].trigger.classpath", trigger.get("classpath"), allowed)


def _trigger(path: str, name: Any, allowed: Allowed) -> None:
    if not isinstance(name, str) or not any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed.triggers):
        raise _refused(path, name, "the triggerer may not import it", setting="DAGBUNDLE_ALLOWED_TRIGGERS")


def _task(path: str, body: Mapping[str, Any], allowed: Allowed) -> None:
    for name, limit in _TEXTS:
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > limit):
            raise _refused(f"{path}.{name}", value, f"it is a text of at most {limit} characters")
    for name, names in (("executor", allowed.executors), ("pool", allowed.pools), ("queue", allowed.queues)):
        value = body.get(name)
        if value is not None and names is not None and value not in names:
            raise _refused(f"{path}.{name}", value, "it is not allowed", setting=f"DAGBUNDLE_ALLOWED_{name.upper()}S")


def _refused(path: str, value: object, why: str, *, setting: str = "") -> errors.TargetError:
    return errors.TargetError(
        f"{path} is {value!r:.200}, and {why}",
        hint=f"the platform team allows it by {setting}" if setting else "",
        reason="NotAllowed",
    )
