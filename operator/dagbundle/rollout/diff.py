"""Says what changed between two contents of one DAG, in a reader's words: fields, tasks, edges, groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagbundle.rollout.model import DagContent, Edge


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field. None stands for a field that is not there."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task that both contents have, with the fields that differ."""

    task_id: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class DagDiff:
    """What changed; every part is sorted."""

    fields: tuple[FieldChange, ...] = ()
    tasks_added: tuple[str, ...] = ()
    tasks_removed: tuple[str, ...] = ()
    tasks_changed: tuple[TaskChange, ...] = ()
    edges_added: tuple[Edge, ...] = ()
    edges_removed: tuple[Edge, ...] = ()
    groups_added: tuple[str, ...] = ()
    groups_removed: tuple[str, ...] = ()
    groups_changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """True when anything differs."""
        return any(getattr(self, name) for name in self.__slots__)


def diff(before: DagContent | None, after: DagContent | None) -> DagDiff:
    """Compare two contents; None stands for a DAG that is not there (everything is added, or removed)."""
    old, new = _parts(before), _parts(after)
    tasks_in_both = sorted(old.tasks.keys() & new.tasks.keys())
    groups_in_both = sorted(old.groups.keys() & new.groups.keys())
    return DagDiff(
        fields=compare_fields(old.fields, new.fields),
        tasks_added=tuple(sorted(new.tasks.keys() - old.tasks.keys())),
        tasks_removed=tuple(sorted(old.tasks.keys() - new.tasks.keys())),
        tasks_changed=tuple(
            TaskChange(task_id, compare_fields(old.tasks[task_id], new.tasks[task_id]))
            for task_id in tasks_in_both
            if old.tasks[task_id] != new.tasks[task_id]
        ),
        edges_added=tuple(sorted(new.edges - old.edges)),
        edges_removed=tuple(sorted(old.edges - new.edges)),
        groups_added=tuple(sorted(new.groups.keys() - old.groups.keys())),
        groups_removed=tuple(sorted(old.groups.keys() - new.groups.keys())),
        groups_changed=tuple(name for name in groups_in_both if old.groups[name] != new.groups[name]),
    )


def compare_fields(before: object, after: object, path: str = "") -> tuple[FieldChange, ...]:
    """Return the leaves at which two JSON values differ; lists of unequal length count as one leaf.

    Iterative, because the values come from a tenant and may be nested deeply.
    """
    found: list[FieldChange] = []
    pending: list[tuple[str, object, object]] = [(path, before, after)]
    while pending:
        where, old, new = pending.pop()
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            prefix = f"{where}." if where else ""
            pending += [(f"{prefix}{key}", old.get(key), new.get(key)) for key in old.keys() | new.keys()]
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            pending += [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
        elif old != new or type(old) is not type(new):
            found.append(FieldChange(where, old, new))
    return tuple(sorted(found, key=lambda change: change.path))


@dataclass(frozen=True, slots=True)
class _Parts:
    fields: Mapping[str, Any]
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    edges: frozenset[Edge]


def _parts(content: DagContent | None) -> _Parts:
    if content is None:
        return _Parts({}, {}, {}, frozenset())
    return _Parts(
        fields={**{k: v for k, v in content.header.items() if k != "dag"}, **content.header["dag"]},
        tasks={task.task_id: {**task.data.get("__var", {}), "task_group": task.group_id} for task in content.tasks},
        groups={group.group_id: [group.parent_id, group.data] for group in content.groups},
        edges=frozenset(content.edges),
    )
