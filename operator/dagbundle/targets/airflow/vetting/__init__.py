"""Looks at a serialized DAG before Airflow's decoders do.

Airflow trusts what its own processor wrote: its decoders import what a document names (an exception's class and a
trigger's in 3.1 and 3.2, a Param's class in 3.1, a timetable's and a callback's everywhere), and its scheduler and
triggerer call some of it. Here the document comes from a tenant's pod. So every name that is imported or called, now or
later, is held against a list of exact names, everything that is computed again and again is bounded, and every value
fits into its column. Pure: nothing of Airflow is needed. docs/security.md has the table of what a document can do.

    allowed     what a deployment allows
    names       Airflow's own names
    columns     what its tables hold
    calls       triggers, watchers and callbacks of deadlines
    schedules   timetables
    schedule    the part of a document that says when the DAG runs
    params      JSON schemas
    fields      all other fields
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagbundle.targets.airflow.vetting import calls, fields, names, params, schedule, schedules, walk
from dagbundle.targets.airflow.vetting.allowed import DEFAULT_EXECUTOR, Allowed, read
from dagbundle.targets.airflow.vetting.columns import LIMITS
from dagbundle.targets.airflow.vetting.walk import refuse

__all__ = ["DEFAULT_EXECUTOR", "LIMITS", "Allowed", "check", "read", "refuse", "schedule"]

_TOP = frozenset({"__version", "dag", "client_defaults"})
_ASSETS = frozenset({"asset", "asset_alias", "asset_ref"})
MAX_ASSETS = 5_000
"""Assets, aliases and references that a DAG may name: Airflow writes all of them by one statement."""


def check(document: Mapping[str, Any], allowed: Allowed) -> None:
    """Refuse a document that names what is not allowed, or is not of the shape that Airflow's decoders expect.

    Args:
        document: `{"__version": …, "dag": {…}}`.
        allowed: What the deployment allows.

    Raises:
        TargetError: The message names the JSON path, what is there, and where it would be allowed.
    """
    walk.only("$", document, _TOP)
    dag = walk.mapping("dag", document.get("dag"))
    schedules.check("dag.timetable", dag.get("timetable"), allowed.classes)
    fields.header(dag, allowed)
    found: dict[str, set[tuple[str, str]]] = {kind: set() for kind in _ASSETS}
    # all of it: what stands beside the DAG (`client_defaults`) is merged into its tasks when it is decoded
    for path, value in walk.objects(document):
        _object(path, value, allowed)
        if value.get("__type") in _ASSETS:
            _asset(path, value, allowed, found)
    params.check("dag.params", dag.get("params"))
    starts = _client_defaults(document.get("client_defaults"), allowed)
    for index, item in enumerate(walk.items("dag.tasks", dag.get("tasks", []), 100_000)):
        _task(f"dag.tasks[{index}]", walk.mapping(f"dag.tasks[{index}]", item), allowed, starts=starts)
    fields.owners(dag)
    aliases = frozenset(name for name, _ in found["asset_alias"])
    fields.dependencies(dag.get("dag_dependencies"), frozenset(found["asset"]), aliases)


def _task(path: str, item: Mapping[str, Any], allowed: Allowed, *, starts: bool) -> None:
    if item.get("__type", "operator") != "operator":
        walk.refuse(f"{path}.__type", item["__type"], "a task is an operator")
    body = walk.mapping(f"{path}.__var", item.get("__var"))
    path = f"task {body.get('task_id')!s:.250}: {path}"
    partial = walk.mapping(f"{path}.partial_kwargs", body.get("partial_kwargs") or {})
    starts = starts or bool(body.get("start_from_trigger")) or bool(partial.get("start_from_trigger"))
    for place, found in ((path, body), (f"{path}.partial_kwargs", partial)):
        fields.task(place, found, allowed, starts=starts)
        params.check(f"{place}.params", found.get("params"))


def _client_defaults(found: object, allowed: Allowed) -> bool:
    """Look at what is merged into every task, and return whether it has them start from their triggers."""
    if not found:
        return False
    tasks = walk.mapping("client_defaults", found, "it is no object of objects").get("tasks")
    if not tasks:
        return False
    given = walk.mapping("client_defaults.tasks", tasks, "it is no object")
    starts = bool(given.get("start_from_trigger"))
    fields.task("client_defaults.tasks", given, allowed, starts=starts)
    params.check("client_defaults.tasks.params", given.get("params"))
    return starts


def _object(path: str, value: Mapping[str, Any], allowed: Allowed) -> None:
    """Look at one object: whatever a decoder would import by its name, wherever it stands."""
    if "__type" in value:
        kind = value["__type"]
        if not isinstance(kind, str) or not (kind in names.TYPES or kind in names.CLASSES or kind in allowed.classes):
            walk.refuse(f"{path}.__type", kind, "no such class is allowed", setting="DAGBUNDLE_ALLOWED_CLASSES")
        if kind == "START_TRIGGER_ARGS" and not path.endswith(".start_trigger_args"):
            walk.refuse(path, kind, "arguments of a trigger stand in start_trigger_args only")
        if kind == "deadline_alert" and not path.startswith("dag.deadline["):
            walk.refuse(path, kind, "a deadline stands in dag.deadline only")
    for name, known, why, setting in (
        ("__class", names.PARAMS, "it is no Param's class", ""),
        ("__classname__", _SERDE, "a DAG holds no such object", ""),
        ("__class_path", allowed.classes, "it is not allowed", "DAGBUNDLE_ALLOWED_CLASSES"),
    ):
        if name in value and not (isinstance(value[name], str) and value[name] in known):
            walk.refuse(f"{path}.{name}", value[name], why, setting=setting)
    if "__classname__" in value and not path.startswith("dag.deadline["):
        walk.refuse(f"{path}.__classname__", value["__classname__"], "only a deadline is written so")
    for name in ("Encoding.TYPE", "Encoding.VAR"):
        if name in value:
            walk.refuse(f"{path}.{name}", value[name], "Airflow would read it as another object")


_SERDE = names.VALUES | names.ASYNC_CALLBACKS | names.SYNC_CALLBACKS | names.VARIABLE_INTERVALS


def _asset(path: str, value: Mapping[str, Any], allowed: Allowed, found: Mapping[str, set[tuple[str, str]]]) -> None:
    """Look at an asset, an alias or a reference, and add it to those that were found."""
    kind = value["__type"]
    body = walk.mapping(f"{path}.__var", value.get("__var", value), "an asset is an object")
    wanted = {"asset": ("name", "uri", "group"), "asset_alias": ("name", "group"), "asset_ref": ()}[kind]
    for name in ("name", "uri", "group"):
        text, limit = body.get(name), LIMITS[f"asset.{name}"]
        if (text is not None or name in wanted) and (not isinstance(text, str) or len(text) > limit):
            walk.refuse(f"{path}.{name}", text, f"an asset's {name} is a text of at most {limit} characters")
    found[kind].add((body.get("name") or "", body.get("uri") or ""))
    if sum(len(some) for some in found.values()) > MAX_ASSETS:
        shown = body.get("name") or body.get("uri") or ""
        walk.refuse(path, shown, f"a DAG names at most {MAX_ASSETS:,} assets, aliases and references")
    if kind == "asset":
        walk.mapping(f"{path}.extra", body.get("extra"))
        calls.watchers(f"{path}.watchers", body.get("watchers") or [], allowed)
