"""Takes Airflow's serialized DAG apart and puts it together again, so that one task can be read without the rest.

Everything a parser sent passes here before it is stored: what comes out of `split` is bounded, well formed and
safe to store in any of our databases. Nothing here knows Airflow's classes; only the document's outer shape
(`__version`, `dag`, `tasks`, `task_group`) is read, the rest is carried as it is.

The parts are hashed as canonical JSON (sorted keys, no spaces, UTF-8), so equal content has equal hashes everywhere.
Proposals: AIP-18/20 (everything persisted), AIP-24 (JSON, never pickle), AIP-45 (the DAG with only one task).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dagbundle import errors
from dagbundle.rollout.model import DagContent, Edge, Json, Task, TaskGroup

MAX_ID_LENGTH = 250
"""Characters in a dag_id, task_id or group_id: Airflow's own bound."""
MAX_CONTENT_BYTES = 64 * 1024 * 1024
"""Bytes of one DAG's canonical JSON."""
MAX_MESSAGE = 64 * 1024
"""Characters of one message that are kept; the middle of a longer one is left out."""
MAX_DEPTH = 100
"""Levels of objects and lists below a serialized DAG: Airflow's decoders recurse, and so do JSON's encoders."""
MAX_TASKS = 100_000
MAX_EDGES = 1_000_000
MAX_INTEGER_DIGITS = 4_300
"""Python's own bound for turning text into an integer; readers in other languages are given no more."""

_KEY = re.compile(r"[\w.\-]+")


def canonical(value: object) -> bytes:
    """Encode a JSON value as canonical bytes: sorted keys, no spaces, UTF-8.

    Raises:
        ContentError: It holds NaN, an infinity, NUL, a lone surrogate, too long an integer, or is nested too deeply.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        data = text.encode()
    except (ValueError, RecursionError) as error:
        raise _explain(value) from error
    if "\\u0000" in text and (found := _find(value, _has_nul)) is not None:
        raise errors.ContentError(f"{found} holds a NUL character, which PostgreSQL cannot store")
    return data


def storable(text: str, *, limit: int | None = MAX_MESSAGE) -> str:
    """Escape what a database cannot hold (NUL, lone surrogates), and leave out the middle of what is too long."""
    clean = text.replace("\x00", "\\x00")
    if not text.isascii():
        try:
            clean.encode()
        except UnicodeEncodeError:  # else no copy is made: a text may have megabytes, and four bytes a character
            clean = clean.encode("utf-8", "backslashreplace").decode()
    if limit is not None and len(clean) > limit:
        half = limit // 2
        clean = f"{clean[:half]}\n… {len(clean) - limit:,} characters left out …\n{clean[-half:]}"
    return clean


def sha256_of(value: object) -> str:
    """Return the hex SHA-256 of a value's canonical JSON. Raises `ContentError` like `canonical`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def split(data: Mapping[str, Any], *, dag_hash: str = "") -> DagContent:
    """Take a serialized DAG apart.

    Args:
        data: Airflow's serialized document, decoded: `{"__version": 2 | 3, "dag": {…}, …}`. It is not changed.
        dag_hash: Airflow's own hash of it as reported, or empty.

    Raises:
        ContentError: It is not such a document, or a value in it cannot be stored. The message names the JSON path.
    """
    if _is_deep(data):
        raise errors.ContentError(f"it is nested more than {MAX_DEPTH} levels deep")
    dag = _mapping(data.get("dag"), "dag")
    if not isinstance(data.get("__version"), int):
        raise errors.ContentError("__version is missing or no integer: this is not a serialized DAG")
    dag_id = _identifier(dag.get("dag_id"), "dag.dag_id")
    raw_tasks = dag.get("tasks")
    if not isinstance(raw_tasks, list):
        raise errors.ContentError(f"DAG {dag_id}: dag.tasks is no list")
    if len(raw_tasks) > MAX_TASKS:
        raise errors.ContentError(f"DAG {dag_id} has {len(raw_tasks):,} tasks; at most {MAX_TASKS:,} can be stored")
    groups, group_of = _split_groups(dag.get("task_group"), dag_id)
    relative_fileloc = dag.get("relative_fileloc")
    relative_fileloc = relative_fileloc if isinstance(relative_fileloc, str) else ""
    here, anywhere = _module_of(str(dag.get("fileloc"))), _module_of(relative_fileloc)
    header, header_bytes = _moved({**data, "dag": {k: v for k, v in dag.items() if k not in _APART}}, here, anywhere)
    size = len(header_bytes)
    tasks: list[Task] = []
    edges: list[Edge] = []
    for position, raw in enumerate(raw_tasks):
        where = f"dag.tasks[{position}]"
        body = dict(_mapping(_mapping(raw, where).get("__var"), f"{where}.__var"))
        task_id = _identifier(body.get("task_id"), f"{where}.__var.task_id")
        edges += _edges(dag_id, task_id, body.pop("downstream_task_ids", []), f"{where}.__var.downstream_task_ids")
        wrapped, body_bytes = _moved({**raw, "__var": body}, here, anywhere)
        size += len(body_bytes)
        group_id, group_position = group_of.pop(task_id, ("", position))
        sha256 = hashlib.sha256(body_bytes).hexdigest()
        tasks.append(Task(task_id, group_id, position, group_position, sha256, wrapped))
    _check_graph(dag_id, tasks, edges)
    if group_of:
        raise errors.ContentError(f"DAG {dag_id}: task group names {min(group_of)!r}, which is no task of the DAG")
    if size > MAX_CONTENT_BYTES:
        raise errors.ContentError(
            f"DAG {dag_id} is {size:,} bytes of JSON; at most {MAX_CONTENT_BYTES:,} can be stored"
        )
    distinct = tuple(sorted(set(edges)))
    return DagContent(
        dag_id=dag_id,
        sha256=_content_sha(header_bytes, groups, tasks, distinct),
        dag_hash=dag_hash,
        relative_fileloc=relative_fileloc,
        header=header,
        groups=groups,
        tasks=tuple(tasks),
        edges=distinct,
    )


def _edges(dag_id: str, task_id: str, downstream: object, where: str) -> list[Edge]:
    if not isinstance(downstream, list) or not all(isinstance(item, str) for item in downstream):
        raise errors.ContentError(f"DAG {dag_id}: {where} is no list of task ids")
    return [Edge(task_id, item) for item in downstream]


def join(content: DagContent) -> Json:
    """Rebuild the serialized document that `split` took apart, without what `place` adds."""
    downstream: dict[str, list[str]] = {}
    for edge in content.edges:
        downstream.setdefault(edge.upstream, []).append(edge.downstream)
    tasks = [
        _task_document(task, downstream.get(task.task_id, []))
        for task in sorted(content.tasks, key=lambda task: task.position)
    ]
    return _document(content.header, content.groups, content.tasks, tasks)


def place(document: Json, *, root: str, dags_folder: str) -> None:
    """Say in a document that `join` made where its file lies, as a parser on that machine would have said.

    Args:
        document: It is changed.
        root: The bundle's root, absolute.
        dags_folder: Airflow's own folder of DAGs there, which it puts into every DAG.
    """
    dag = document["dag"]
    relative_fileloc = str(dag.get("relative_fileloc"))
    dag["fileloc"] = posixpath.join(root, relative_fileloc)
    dag["_processor_dags_folder"] = dags_folder
    document["dag"], _ = _moved(dag, _module_of(relative_fileloc), _module_of(dag["fileloc"]))


def slice_task(header: Json, groups: Sequence[TaskGroup], task: Task) -> Json:
    """Build the document of the DAG with only one task (AIP-45), decodable by Airflow.

    Args:
        header: The DAG's header.
        groups: The task's group and all its ancestors up to the root, in any order.
        task: The task.

    Edges, and the groups' lists of neighbours, name what is not there any more, so they are empty.
    """
    pruned = [
        dataclasses.replace(group, data={k: [] if k in _NEIGHBOURS else v for k, v in group.data.items()})
        for group in groups
    ]
    return _document(header, pruned, [task], [_task_document(task, [])])


_APART = frozenset({"tasks", "task_group", "fileloc", "_processor_dags_folder"})
"""Parts of `dag` that are kept on their own, and paths of the parser's machine, which `place` replaces."""
_NEIGHBOURS = frozenset({"upstream_group_ids", "downstream_group_ids", "upstream_task_ids", "downstream_task_ids"})


def _module_of(path: str) -> str:
    """How the name begins under which Airflow imports a DAG file: that of the operators and callables in it."""
    digest = hashlib.sha1(path.encode("utf-8", "backslashreplace"), usedforsecurity=False).hexdigest()
    return f"unusual_prefix_{digest}_"


def _moved(value: Json, old: str, new: str) -> tuple[Json, bytes]:
    """A part of a document as a DAG file of another place would have made it, and its canonical bytes."""
    data = canonical(value)
    if old.encode() not in data:
        return value, data
    moved = json.loads(data.replace(old.encode(), new.encode()))
    return moved, canonical(moved)


def _task_document(task: Task, downstream: list[str]) -> Json:
    body = task.data["__var"]
    return {**task.data, "__var": {**body, "downstream_task_ids": downstream}} if downstream else task.data


def _document(header: Json, groups: Sequence[TaskGroup], members: Sequence[Task], tasks: list[Json]) -> Json:
    """Nest the groups again, parents before children, and put them and the tasks back under `dag`."""
    entries: dict[str, list[tuple[int, str, Any]]] = {group.group_id: [] for group in groups}
    built: dict[str, Json] = {group.group_id: dict(group.data) for group in groups}
    for group in groups:
        if group.parent_id is not None:
            entries[group.parent_id].append((group.position, group.group_id, ["taskgroup", built[group.group_id]]))
    for task in members:
        if task.group_id in entries:
            entries[task.group_id].append((task.group_position, task.task_id, ["operator", task.task_id]))
    for group_id, children in entries.items():
        children.sort(key=lambda entry: (entry[0], entry[1]))
        built[group_id]["children"] = {name: value for _, name, value in children}
    dag: Json = {**header["dag"], "tasks": tasks}
    if "" in built:
        dag["task_group"] = built[""]
    return {**header, "dag": dag}


def _content_sha(header: bytes, groups: Sequence[TaskGroup], tasks: Sequence[Task], edges: Sequence[Edge]) -> str:
    """Hash what makes the DAG the same DAG: not the order of tasks and children, as in Airflow's own hash."""
    parts = {
        "header": hashlib.sha256(header).hexdigest(),
        "groups": {group.group_id: [group.parent_id, group.data] for group in groups},
        "tasks": {task.task_id: [task.group_id, task.sha256] for task in tasks},
        "edges": [[edge.upstream, edge.downstream] for edge in edges],
    }
    return sha256_of(parts)


def _split_groups(root: object, dag_id: str) -> tuple[tuple[TaskGroup, ...], dict[str, tuple[str, int]]]:
    """Flatten the tree of task groups.

    Returns:
        The groups, root first, and for each task id its group's id and its position among the group's children.
    """
    if root is None:
        return (), {}
    groups: list[TaskGroup] = []
    seen: set[str] = set()
    group_of: dict[str, tuple[str, int]] = {}
    pending: list[tuple[str, str | None, int, Any]] = [("", None, 0, root)]
    while pending:
        group_id, parent_id, position, raw = pending.pop()
        body = dict(_mapping(raw, f"task group {group_id!r} of DAG {dag_id}"))
        if group_id in seen or len(seen) >= MAX_TASKS:
            raise errors.ContentError(f"DAG {dag_id}: task group {group_id!r} occurs twice, or there are too many")
        seen.add(group_id)
        children = _mapping(body.pop("children", {}), f"children of task group {group_id!r} of DAG {dag_id}")
        groups.append(TaskGroup(group_id=group_id, parent_id=parent_id, position=position, data=body))
        for index, (name, entry) in enumerate(children.items()):
            child_id = _identifier(name, f"a child of task group {group_id!r} of DAG {dag_id}")
            match entry:
                case ["operator", str()] if child_id not in group_of:
                    group_of[child_id] = (group_id, index)
                case ["taskgroup", dict() as child]:
                    pending.append((child_id, group_id, index, child))
                case _:
                    raise errors.ContentError(
                        f"DAG {dag_id}: child {child_id!r} of task group {group_id!r} is neither a task nor a group, "
                        "or occurs twice"
                    )
    return tuple(groups), group_of


def _check_graph(dag_id: str, tasks: Sequence[Task], edges: Sequence[Edge]) -> None:
    """Refuse repeated task ids, edges to nowhere and cycles (Kahn 1962): readers walk this graph."""
    if len(edges) > MAX_EDGES:
        raise errors.ContentError(f"DAG {dag_id} has {len(edges):,} edges; at most {MAX_EDGES:,} can be stored")
    waiting = {task.task_id: 0 for task in tasks}
    if len(waiting) != len(tasks):
        raise errors.ContentError(f"DAG {dag_id} names a task twice")
    downstream: dict[str, list[str]] = {}
    for edge in edges:
        if edge.downstream not in waiting:
            raise errors.ContentError(
                f"DAG {dag_id}: task {edge.upstream!r} is followed by {edge.downstream!r}, which is no task of the DAG"
            )
        waiting[edge.downstream] += 1
        downstream.setdefault(edge.upstream, []).append(edge.downstream)
    free = [task_id for task_id, count in waiting.items() if not count]
    done = 0
    while free:
        done += 1
        for task_id in downstream.get(free.pop(), ()):
            waiting[task_id] -= 1
            if not waiting[task_id]:
                free.append(task_id)
    if done != len(tasks):
        stuck = min(task_id for task_id, count in waiting.items() if count)
        raise errors.ContentError(f"DAG {dag_id} has a cycle through task {stuck!r}")


def _is_deep(value: object) -> bool:
    """Tell whether objects and lists are nested more than `MAX_DEPTH` levels deep, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)  # type: ignore[attr-defined] # or a list
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise errors.ContentError(f"{where} is no JSON object")
    return value


def _identifier(value: object, where: str) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value) or len(value) > MAX_ID_LENGTH:
        shown = f"{value!r:.80}" if isinstance(value, str) else type(value).__name__
        raise errors.ContentError(
            f"{where} is {shown}; an id has 1 to {MAX_ID_LENGTH} letters, digits, dots, dashes and underscores"
        )
    return value


def _explain(value: object) -> errors.ContentError:
    """Find what canonical JSON refused, so that the message can name the place."""
    for finder, what in (
        (_is_not_finite, "is NaN or infinite, which JSON cannot express"),
        (_has_lone_surrogate, "holds a lone surrogate, which is no Unicode text"),
        (_is_too_long_integer, f"is an integer of more than {MAX_INTEGER_DIGITS:,} digits"),
    ):
        found = _find(value, finder)
        if found is not None:
            return errors.ContentError(f"{found} {what}")
    return errors.ContentError("it is nested too deeply to be stored")


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _has_lone_surrogate(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value)


def _is_too_long_integer(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > MAX_INTEGER_DIGITS * 3.33


def _has_nul(value: object) -> bool:
    return isinstance(value, str) and "\x00" in value


def _find(value: object, matches: Any) -> str | None:
    """Return the JSON path of the first key or value that `matches`, or None. Iterative: the value may be deep."""
    pending: list[tuple[str, object]] = [("$", value)]
    while pending:
        path, item = pending.pop()
        if matches(item):
            return path
        children: Iterator[tuple[str, object]] = iter(())
        if isinstance(item, dict):
            if any(matches(key) for key in item):
                return f"a key of {path}"
            children = ((f"{path}.{key}", child) for key, child in item.items())
        elif isinstance(item, list):
            children = ((f"{path}[{index}]", child) for index, child in enumerate(item))
        if len(path) < _MAX_PATH:
            pending.extend(children)
    return None


_MAX_PATH = 2_000
