"""Which DAG and task of a YAML file an error of dag-factory's is about, and where they stand in the file.

dag-factory names neither: its frames know them. The YAML loader asks, after a file's DAGs could not be built.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dagbundle_parser.places import line_defining

if TYPE_CHECKING:
    from dagbundle_parser.loaders.base import SourceFile

_FRAMES = 100_000
"""A bound, should a traceback be a circle."""
_OF_TASK = frozenset({"make_task", "make_decorator", "replace_expand_values"})
"""What dag-factory's builder calls for one task. While it calls anything else, the task of its loop is an old one."""


def blamed(error: BaseException) -> tuple[str, str]:
    """Return the names of the DAG and of the task that dag-factory was building; empty where they are not known."""
    frames = [frame for frame in _frames(error) if "/dagfactory/" in frame.f_code.co_filename]
    dag_id = task_id = ""
    for frame, below in zip(frames, [*frames[1:], None], strict=True):
        name, called = frame.f_code.co_name, below.f_code.co_name if below else ""
        if name == "build_dags":
            dag_id = _text(frame, "dag_name")
        elif name == "set_dependencies":
            task_id = _text(frame, "name")
        elif name == "build" and (below is None or called in _OF_TASK):
            task_id = _text(frame, "task_name")
    return dag_id, task_id


def line_to_mend(error: Any, file: SourceFile) -> int:
    """Return the line that an error of PyYAML's is about: of what is never closed the one where it was opened."""
    mark, begun = error.problem_mark, getattr(error, "context_mark", None)
    context, problem = str(getattr(error, "context", "")), str(getattr(error, "problem", ""))
    is_quote = context == "while scanning a quoted scalar" and problem.startswith("found unexpected")
    is_open = is_quote or (context.startswith("while parsing a flow ") and mark.line >= _lines(file))
    if is_open and begun is not None:
        mark = begun
    return int(mark.line) + 1


def _lines(file: SourceFile) -> int:
    try:
        return len(Path(file.absolute).read_bytes().rstrip().splitlines())
    except OSError:
        return 0


def line_of(dag_id: str, task_id: str, file: SourceFile) -> int:
    """Return the line of a task, else that of its DAG."""
    try:
        yaml = importlib.import_module("yaml")
        text = Path(file.absolute).read_text("utf-8")
        tasks = _value(_value(yaml.compose(text, Loader=yaml.SafeLoader), dag_id), "tasks")
        line = _line_of_task(tasks, task_id) if task_id else None
    except Exception:  # noqa: BLE001 - dag-factory may have read what this cannot; the error is told all the same
        line = None
    return line_defining(dag_id, file) if line is None else line


def _line_of_task(tasks: Any, task_id: str) -> int | None:
    if isinstance(getattr(tasks, "value", None), list):
        for item in tasks.value:
            if isinstance(item, tuple):  # of a mapping of tasks: key and value
                if item[0].value == task_id:
                    return int(item[0].start_mark.line) + 1
            elif getattr(_value(item, "task_id"), "value", None) == task_id:
                return int(item.start_mark.line) + 1
    return None


def _value(node: Any, key: str) -> Any:
    """The value of a key of a mapping's node; None where there is none."""
    pairs = getattr(node, "value", None)
    if not isinstance(pairs, list):
        return None
    return next((pair[1] for pair in pairs if isinstance(pair, tuple) and pair[0].value == key), None)


def _frames(error: BaseException) -> Iterator[FrameType]:
    current = error.__traceback__
    for _ in range(_FRAMES):
        if current is None:
            return
        yield current.tb_frame
        current = current.tb_next


def _text(frame: FrameType, name: str) -> str:
    value = frame.f_locals.get(name)
    return value if isinstance(value, str) else ""
