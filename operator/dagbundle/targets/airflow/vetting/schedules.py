"""Bounds timetables and what they are made of: what the scheduler computes from them again and again, for everybody.

A delta that does not move forward, a huge offset or a thousand cron expressions would keep the scheduler busy for
minutes, or for ever. Counts and offsets are bounded here. What a plugin's timetable computes is not bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dagbundle.targets.airflow.vetting import names, walk

MAX_NODES = 500
"""Objects in a timetable, assets aside."""
MAX_NESTED = 5
"""Timetables within timetables, mappers within mappers."""
MAX_CRONS = 100
MAX_EXPRESSION = 200
"""Characters."""
MAX_OFFSET = 1_000
"""Steps of a cron expression from a run to its partition; each is computed by itself."""
MAX_EVENTS = 10_000
MAX_KEYS = 10_000
MAX_TEXT = 1_000
MAX_FANOUTS = 1
"""Each multiplies the keys by up to 366."""
CENTURY = 100 * 366 * 86_400
"""Seconds."""
_FAN_OUT = "airflow.partition_mappers.temporal.FanOutMapper"
_RELATIVE = {"years": 100, "months": 1_200, "days": 36_600, "leapdays": 0, "hours": 878_400, "minutes": 52_704_000,
             "seconds": CENTURY, "microseconds": 10**9}  # fmt: skip
_ABSOLUTE = {"day": 31, "hour": 23, "minute": 59, "second": 59, "microsecond": 999_999}


def check(path: str, found: object, classes: frozenset[str]) -> None:
    """Check a timetable.

    Args:
        path: Of it in the document.
        found: It.
        classes: Import paths of timetables, mappers and windows that the deployment's plugins bring.

    Raises:
        TargetError: It is none, or one that could keep the scheduler busy.
    """
    timetable = walk.mapping(path, found, "it is no timetable")
    if not isinstance(timetable.get("__type"), str):
        walk.refuse(path, found, "it is no timetable")
    _Look(classes).timetable(path, timetable, 0)


class _Look:
    """One look at one timetable: counts what it holds."""

    def __init__(self, classes: frozenset[str]) -> None:
        self._classes = classes
        self._nodes = 0
        self._fan_outs = 0

    def timetable(self, path: str, found: object, depth: int) -> None:
        timetable = walk.mapping(path, found, "it is no timetable")
        kind = timetable.get("__type")
        self._count(path, depth)
        if not isinstance(kind, str) or kind not in names.TIMETABLES | self._classes:
            walk.refuse(f"{path}.__type", kind, "no such class is allowed", setting="DAGBUNDLE_ALLOWED_CLASSES")
        walk.only(path, timetable, frozenset({"__type", "__var"}))
        body = timetable.get("__var", {})
        if body is None and kind.startswith("airflow.timetables.simple."):
            return
        for name, value in walk.mapping(f"{path}.__var", body).items():
            self._field(f"{path}.__var.{name:.60}", name, value, depth)

    def _field(self, path: str, name: str, value: Any, depth: int) -> None:
        if name == "timetable":
            self.timetable(path, value, depth + 1)
        elif name in _FIELDS:
            if value is not None:
                _FIELDS[name](path, value)
        elif name not in {"asset_condition", "dataset_condition"}:  # looked at wherever assets stand
            self._other(path, value, depth)

    def _other(self, path: str, value: Any, depth: int) -> None:
        """Look at what has no rule of its own: mappers, windows, what plugins bring."""
        if isinstance(value, str):
            walk.text(path, value, MAX_TEXT)
        elif isinstance(value, list):
            for index, item in enumerate(walk.items(path, value, MAX_KEYS)):
                self._other(f"{path}[{index}]", item, depth + 1)
        elif isinstance(value, Mapping):
            self._count(path, depth)
            if value.get("__type") == _FAN_OUT:
                self._fan_outs += 1
                if self._fan_outs > MAX_FANOUTS:
                    walk.refuse(path, _FAN_OUT, f"a timetable may hold {MAX_FANOUTS}")
            for name, item in value.items():
                place = f"{path}.{name:.60}"
                if name == "timezone":
                    _timezone(place, item)
                else:
                    self._other(place, item, depth + 1)
        elif value is not None and not isinstance(value, bool):
            walk.number(path, value, least=-walk.INT32, most=walk.INT32)

    def _count(self, path: str, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            walk.refuse(path, "…", f"a timetable has at most {MAX_NODES} parts")
        if depth > MAX_NESTED * 4:
            walk.refuse(path, "…", "a timetable is nested less deeply")


def _timezone(path: str, value: object) -> None:
    if isinstance(value, str):
        walk.text(path, value, 100)
    elif value is not None:
        walk.integer(path, value, least=-86_400, most=86_400)


def _delta(path: str, value: object) -> None:
    """Check the step from run to run: it must move forward from every moment, by a second or more."""
    if not isinstance(value, Mapping):
        walk.number(path, value, least=1, most=CENTURY)
        return
    forward = _relativedelta(path, value, least=0)
    if not forward:
        walk.refuse(path, value, "it does not move forward")


def _interval(path: str, value: object) -> None:
    if isinstance(value, Mapping):
        _relativedelta(path, value, least=-CENTURY)
    else:
        walk.number(path, value, least=-CENTURY, most=CENTURY)


def _relativedelta(path: str, value: Mapping[str, Any], *, least: int) -> bool:
    """Check a relativedelta of dateutil's, and return whether it moves every moment by a second or more.

    Parts of different signs ({months: 1, days: -31}) stand still in some months. So do an absolute year or month, which
    are not allowed, and a weekday that reaches back by more than a week.
    """
    moves = False
    for name, item in value.items():
        place = f"{path}.{name:.60}"
        if name in _RELATIVE:
            found = walk.number(place, item, least=max(least, -_RELATIVE[name]), most=_RELATIVE[name])
            if name in {"years", "months"} and found != int(found):
                walk.refuse(place, item, "a whole number is expected")
            moves = moves or (found >= 1 and name not in {"microseconds", "leapdays"})
        elif name in _ABSOLUTE:
            if item is not None:
                walk.integer(place, item, least=0, most=_ABSOLUTE[name])
        elif name == "weekday":
            parts = walk.items(place, item, 2)
            walk.integer(f"{place}[0]", parts[0] if parts else None, least=0, most=6)
            if len(parts) > 1 and parts[1] is not None:
                walk.integer(f"{place}[1]", parts[1], least=-1, most=1)
        else:
            walk.refuse(place, item, "it may stand still for ever")
    if any(name in value for name in (*_ABSOLUTE, "weekday")):
        moves = moves and bool(value.get("months") or value.get("years"))
    return moves


def _expression(path: str, value: object) -> None:
    walk.text(path, value, MAX_EXPRESSION)


def _expressions(path: str, value: object) -> None:
    for index, item in enumerate(walk.items(path, value, MAX_CRONS)):
        _expression(f"{path}[{index}]", item)


def _events(path: str, value: object) -> None:
    for index, item in enumerate(walk.items(path, value, MAX_EVENTS)):
        walk.text(f"{path}[{index}]", item, 64)


def _immediately(path: str, value: object) -> None:
    if not isinstance(value, bool):
        walk.number(path, value, least=0, most=CENTURY)


def _offset(path: str, value: object) -> None:
    walk.integer(path, value, least=-MAX_OFFSET, most=MAX_OFFSET)


_FIELDS: Mapping[str, Callable[[str, object], None]] = {
    "expression": _expression,
    "expressions": _expressions,
    "event_dates": _events,
    "timezone": _timezone,
    "delta": _delta,
    "interval": _interval,
    "run_immediately": _immediately,
    "run_offset": _offset,
}
"""What looks at a field of a timetable, by its name."""
