"""Turns one hostile file record into a submission that is safe to store.

The decoder has bounded the record; here its DAGs are taken apart and checked, its texts made storable, and whatever
cannot be stored becomes a problem of that file with a message its author can act on. One bad DAG never ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagbundle import errors
from dagbundle.resources import protocol, records
from dagbundle.rollout import budgets, content, plan
from dagbundle.rollout.content import storable
from dagbundle.rollout.model import (
    DagContent,
    FileOutcome,
    ParsedDag,
    ParseWarning,
    Problem,
    StagedFile,
)
from dagbundle.store.records import Ingestion

MAX_OUTPUT = 8 * 1024
"""Characters that are kept of the end of what a file printed."""
MAX_LINE = 2**31 - 1
"""The largest number of a line that a database's integer holds."""


def ingestion(record: protocol.Open) -> Ingestion:
    """Return how a run is carried out, as the decoder has bounded it."""
    parser, origins = record.parser, record.origins
    return Ingestion(
        parser.name,
        parser.version,
        record.processes,
        parser_origin="" if origins is None else origins.parser,
        processes_origin="" if origins is None else origins.processes,
    )


def take(record: protocol.File, run: plan.RunPlan) -> StagedFile:
    """Check one file record.

    Raises:
        ProtocolError: The file lies outside the run's subdir: that is no accident of a DAG file.
    """
    if not plan.owns(run.subdir, run.exclude, record.path):
        raise errors.ProtocolError(f"{record.path} does not belong to subdir {run.subdir}")
    if record.status == "unchanged":
        return StagedFile(outcome=FileOutcome(path=record.path, unchanged=True))
    problems = [Problem(storable(item.kind), storable(item.message), _line(item.line)) for item in record.errors]
    contents, refused = _contents(record)
    problems += refused
    return StagedFile(
        outcome=FileOutcome(
            path=record.path,
            dags=() if problems else tuple(ParsedDag(item.dag_id, item.sha256) for item in contents),
            problems=tuple(problems),
            warnings=tuple(
                ParseWarning(storable(item.category), storable(item.message), _line(item.line))
                for item in record.warnings
            ),
            duration=record.duration,
        ),
        contents=() if problems else contents,
        fingerprint=storable(record.fingerprint),
        closure=_closure(record.closure),
        sources={storable(path): storable(text, limit=None) for path, text in record.sources.items()},
        loader=storable(record.loader),
        memory=record.memory,
        printed=record.output.bytes if record.output else 0,
        output=storable(record.output.text[-MAX_OUTPUT:]) if record.output else "",
    )


def _line(line: int | None) -> int | None:
    """Keep the number of a line that can be one: a DAG file may raise a SyntaxError with any number."""
    return line if line is not None and 0 < line <= MAX_LINE else None


def _contents(record: protocol.File) -> tuple[tuple[DagContent, ...], list[Problem]]:
    contents: list[DagContent] = []
    problems: list[Problem] = []
    for dag in record.dags:
        try:
            taken = content.split(dag.data, dag_hash=storable(dag.dag_hash))
            _check_place(dag, taken, record.path)
        except errors.ContentError as error:
            problems.append(Problem("InvalidContent", f"DAG {storable(dag.dag_id)} cannot be stored: {error.message}"))
        else:
            contents.append(taken)
    return tuple(contents), problems


def _check_place(dag: records.Dag, taken: DagContent, path: str) -> None:
    """Hold what the record says of a DAG against what its data says."""
    if dag.dag_id != taken.dag_id:
        raise errors.ContentError(f"the record names it {dag.dag_id!r}, its data {taken.dag_id!r}")
    for place in {dag.relative_fileloc, taken.relative_fileloc or path}:
        if not protocol.is_inside(place):
            raise errors.ContentError(f"its file is reported as {place!r:.200}, which is no path inside the bundle")
        if place != path and not place.startswith(f"{path}/"):
            raise errors.ContentError(f"its file is reported as {place!r:.200}, but it came with {path!r}")


def _closure(closure: Mapping[str, str]) -> dict[str, str]:
    """Keep a closure only if it can be stored and is small enough; without one the file is parsed again next time."""
    try:
        small = len(content.canonical(closure)) <= budgets.CLOSURE_BYTES
    except errors.ContentError:
        return {}
    return dict(closure) if small else {}
