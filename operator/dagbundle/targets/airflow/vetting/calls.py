"""Looks at everything in a document that Airflow imports and calls by name: triggers, watchers, callbacks of deadlines.

The triggerer imports a trigger's class and starts it with the document's arguments. Scheduler, triggerer and executor
import a callback's path, the scheduler already when it decodes the DAG. So each path is held against a list of exact
names, and arguments are plain values: Airflow decodes those a second time, in two ways of writing, each of which can
name classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dagbundle.targets.airflow.vetting import names, walk
from dagbundle.targets.airflow.vetting.allowed import DEFAULT_EXECUTOR, NEVER, VARIABLE, Allowed
from dagbundle.targets.airflow.vetting.columns import LIMITS

MAX_ARGUMENTS_BYTES = 64 * 1024
"""Of one call's arguments, as JSON: they are rows that triggerer and executor read at every start."""
MAX_ARGUMENTS_DEPTH = 10
MAX_DEADLINES = 100
MAX_WATCHERS = 100
TEN_YEARS = 10 * 366 * 86_400.0
"""Seconds."""
_PLAIN = frozenset({"dict", "set", "tuple", "datetime", "timedelta", "timezone", "relativedelta"})
_WRAPPED = frozenset({"__type", "__var"})
_SERDE = frozenset({"__classname__", "__version__", "__data__"})
_CALLBACK = frozenset({"path", "kwargs", "executor"})
_ALERT = frozenset({"reference", "interval", "callback", "name"})
_WATCHER = frozenset({"name", "trigger"})
_TRIGGER = frozenset({"classpath", "kwargs"})
_START = frozenset({"__type", "trigger_cls", "trigger_kwargs", "next_method", "next_kwargs", "timeout"})
_SIMPLE = re.compile(r"\{\{ *[A-Za-z]\w*(\.[A-Za-z]\w*)* *\}\}")
"""A template that only names a value. Triggerer and executor render arguments: a loop in one would keep them busy."""
MAX_RUNS = 10_000
"""Runs of which a deadline may take the average."""


def watchers(path: str, found: object, allowed: Allowed) -> None:
    """Check the watchers of an asset."""
    for index, item in enumerate(walk.items(path, found, MAX_WATCHERS)):
        place = f"{path}[{index}]"
        watcher = walk.mapping(place, item, "it has no trigger")
        walk.only(place, watcher, _WATCHER)
        walk.text(f"{place}.name", watcher.get("name"), LIMITS["asset_watcher.name"])
        trigger = walk.mapping(f"{place}.trigger", watcher.get("trigger"), "it has no trigger")
        walk.only(f"{place}.trigger", trigger, _TRIGGER)
        _trigger(f"{place}.trigger.classpath", trigger.get("classpath"), allowed)
        arguments(f"{place}.trigger.kwargs", trigger.get("kwargs"))
        if trigger["classpath"] in names.TRIGGERS:
            walk.refuse(
                f"{place}.trigger.classpath", trigger["classpath"], "it is no trigger of events: it ends the triggerer"
            )


def start_trigger(path: str, found: object, allowed: Allowed, *, starts: bool) -> None:
    """Check `start_trigger_args` of a task: with them the scheduler itself defers it.

    Args:
        path: Of them in the document.
        found: They.
        allowed: What the deployment allows.
        starts: Whether the task starts from its trigger. Operators name one also where it does not, and then nobody
            imports it.
    """
    if found is None:
        return
    given = walk.mapping(path, found)
    walk.only(path, given, _START)
    if starts:
        _trigger(f"{path}.trigger_cls", given.get("trigger_cls"), allowed)
    else:
        walk.text(f"{path}.trigger_cls", given.get("trigger_cls"), LIMITS["trigger.classpath"])
    walk.text(f"{path}.next_method", given.get("next_method"), LIMITS["task_instance.next_method"])
    arguments(f"{path}.trigger_kwargs", given.get("trigger_kwargs"))
    arguments(f"{path}.next_kwargs", given.get("next_kwargs"))
    if given.get("timeout") is not None:
        walk.number(f"{path}.timeout", given["timeout"], least=0, most=TEN_YEARS)


def deadlines(path: str, found: object, allowed: Allowed) -> None:
    """Check `dag.deadline`."""
    if found is None:
        return
    for index, item in enumerate(walk.items(path, found, MAX_DEADLINES)):
        place = f"{path}[{index}]"
        alert = walk.mapping(place, item)
        walk.only(place, alert, _WRAPPED)
        if alert.get("__type") != "deadline_alert":
            walk.refuse(f"{place}.__type", alert.get("__type"), "a deadline_alert is expected")
        body = walk.mapping(f"{place}.__var", alert.get("__var"))
        walk.only(f"{place}.__var", body, _ALERT)
        if body.get("name") is not None:
            walk.text(f"{place}.__var.name", body["name"], LIMITS["deadline_alert.name"])
        _reference(f"{place}.__var.reference", body.get("reference"), allowed)
        _interval(f"{place}.__var.interval", body.get("interval"), allowed)
        _callback(f"{place}.__var.callback", body.get("callback"), allowed)


def arguments(path: str, found: object) -> None:
    """Check the arguments of a call: an object of plain values, small and flat enough to be decoded anywhere."""
    if found is None:
        return
    walk.mapping(path, found)
    try:
        size = len(json.dumps(found, ensure_ascii=False).encode())
    except (ValueError, RecursionError):
        walk.refuse(path, "…", "it cannot be written as JSON")
    if size > MAX_ARGUMENTS_BYTES:
        walk.refuse(f"the size of {path}", f"{size:,} bytes", f"at most {MAX_ARGUMENTS_BYTES:,} are allowed")
    _plain(path, found, 0)


def _plain(path: str, value: object, depth: int) -> None:
    if depth > MAX_ARGUMENTS_DEPTH:
        walk.refuse(path, "…", f"it is nested more than {MAX_ARGUMENTS_DEPTH} levels deep")
    if isinstance(value, str):
        if any(mark in _SIMPLE.sub("", value) for mark in ("{{", "{%", "{#")):
            walk.refuse(path, value, "a template may name a value, as in {{ dag_run.dag_id }}, and no more")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _plain(f"{path}[{index}]", item, depth + 1)
    elif isinstance(value, Mapping):
        _named(path, value)
        for name, item in value.items():
            _plain(f"{path}.{name:.60}", item, depth + 1)


def _named(path: str, value: Mapping[str, Any]) -> None:
    """Look at the names in an object of arguments: in two ways of writing they can make it another object."""
    if "__type" in value and (not walk.is_one_of(value["__type"], _PLAIN) or value.keys() - _WRAPPED):
        walk.refuse(f"{path}.__type", value["__type"], "arguments hold plain values only")
    if "__classname__" in value and (not walk.is_one_of(value["__classname__"], names.VALUES) or value.keys() - _SERDE):
        walk.refuse(f"{path}.__classname__", value["__classname__"], "arguments hold plain values only")
    for name, item in value.items():
        # `Encoding.TYPE` is how Airflow itself writes `__type` in a trigger's row, and reads it
        is_special = name.startswith("__") and name not in _WRAPPED | _SERDE
        if is_special or name.startswith("Encoding."):
            walk.refuse(f"{path}.{name:.60}", item, "an argument's name may not begin so")


def _trigger(path: str, name: object, allowed: Allowed) -> None:
    if not isinstance(name, str) or not allowed.is_trigger(name):
        setting = "" if walk.is_one_of(name, NEVER) else f"{VARIABLE}TRIGGERS"
        walk.refuse(path, name, "the triggerer may not import it", setting=setting)


def _reference(path: str, found: object, allowed: Allowed) -> None:
    reference = walk.mapping(path, found)
    if "__class_path" in reference:
        classpath = reference["__class_path"]
        if not isinstance(classpath, str) or classpath not in allowed.classes:
            walk.refuse(f"{path}.__class_path", classpath, "it is not allowed", setting=f"{VARIABLE}CLASSES")
        return
    kind = reference.get("reference_type")
    if not isinstance(kind, str) or kind not in names.REFERENCES:
        walk.refuse(f"{path}.reference_type", kind, f"it is one of {', '.join(sorted(names.REFERENCES))}")
    for name, value in reference.items():
        match name:
            case "reference_type":
                pass
            case "datetime":
                walk.number(f"{path}.datetime", value, least=0, most=253_402_300_799)  # the year 9999
            case "max_runs" | "min_runs" if value is not None:
                walk.integer(f"{path}.{name}", value, least=1, most=MAX_RUNS)
            case "max_runs" | "min_runs":
                pass
            case _:
                walk.refuse(f"{path}.{name:.60}", value, "there is no such field")


def _interval(path: str, found: object, allowed: Allowed) -> None:
    if not isinstance(found, Mapping):
        walk.number(path, found, least=-TEN_YEARS, most=TEN_YEARS)
        return
    walk.only(path, found, _SERDE)
    name = found.get("__classname__")
    if name == "datetime.timedelta":
        walk.number(f"{path}.__data__", found.get("__data__"), least=-TEN_YEARS, most=TEN_YEARS)
    elif not (isinstance(name, str) and name in names.VARIABLE_INTERVALS and name in allowed.classes):
        why = "no interval of a deadline is of this class"
        if walk.is_one_of(name, names.VARIABLE_INTERVALS):
            why = "the scheduler would read any Variable of the deployment for it"
        walk.refuse(f"{path}.__classname__", name, why, setting=f"{VARIABLE}CLASSES")
    else:
        arguments(f"{path}.__data__", found.get("__data__"))


def _callback(path: str, found: object, allowed: Allowed) -> None:
    callback = walk.mapping(path, found, "a callback is expected")
    walk.only(path, callback, _SERDE)
    kind = callback.get("__classname__")
    if not isinstance(kind, str) or kind not in names.ASYNC_CALLBACKS | names.SYNC_CALLBACKS:
        walk.refuse(f"{path}.__classname__", kind, "no callback is of this class")
    walk.integer(f"{path}.__version__", callback.get("__version__"), least=0, most=100)
    data = walk.mapping(f"{path}.__data__", callback.get("__data__"))
    walk.only(f"{path}.__data__", data, _CALLBACK)
    called = data.get("path")
    if not isinstance(called, str) or not allowed.is_callback(called):
        walk.refuse(f"{path}.__data__.path", called, "it may not be called", setting=f"{VARIABLE}CALLBACKS")
    arguments(f"{path}.__data__.kwargs", data.get("kwargs"))
    for name, value in (data.get("kwargs") or {}).items():
        if name == "context":
            walk.refuse(f"{path}.__data__.kwargs.context", value, "Airflow gives the context itself")
        if name in names.FORBIDDEN_ARGUMENTS.get(called, ()):
            walk.refuse(f"{path}.__data__.kwargs.{name}", value, "it would read a file of the triggerer's")
    executor = data.get("executor")
    if kind in names.ASYNC_CALLBACKS:
        if executor is not None:
            walk.refuse(f"{path}.__data__.executor", executor, "an AsyncCallback runs in the triggerer")
    elif executor is not None and not isinstance(executor, str):
        walk.refuse(f"{path}.__data__.executor", executor, "a text is expected")
    elif (executor or DEFAULT_EXECUTOR) not in allowed.callback_executors:
        walk.refuse(
            f"{path}.__data__.executor",
            executor or DEFAULT_EXECUTOR,
            "this executor is not known to carry out callbacks",
            setting=f"{VARIABLE}CALLBACK_EXECUTORS",
        )
