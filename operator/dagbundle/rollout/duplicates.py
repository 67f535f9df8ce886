"""What is said of two files that define one dag_id, and which of them comes first where neither is live.

Python comes before YAML: where a Python file loads YAML that the YAML loader loads too, stock Airflow has what the
Python file makes of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from dagbundle.rollout.model import Problem

_NOTED = 5


def order(path: str) -> tuple[bool, str]:
    """Return the key by which files that define one dag_id are ordered."""
    return _is_yaml(path), path


class Twice(NamedTuple):
    """A dag_id that two files of a bundle define."""

    dag_id: str
    winner: str
    """Path of the file that has it."""
    loser: str
    """Path of the file that does not get it."""
    is_live: bool
    """It is live in `winner` already."""


def problem(twice: Twice) -> Problem:
    """Say what is wrong with a file that gets none of its dag_ids, and what to do."""
    why = "where it is live" if twice.is_live else "which comes first"
    advice = _advice(twice.winner, twice.loser)
    return Problem("DuplicateDagId", f"dag_id {twice.dag_id!r} is also defined in {twice.winner}, {why}: {advice}")


def note(found: Collection[Twice]) -> str:
    """Say which dag_ids files that are published otherwise do not get; for the end of a judgement's message."""
    said = [f"{item.dag_id!r} of {item.loser} is that of {item.winner}" for item in sorted(found)[:_NOTED]]
    more = f" and {len(found) - _NOTED} more" if len(found) > _NOTED else ""
    return f"; defined twice, rename one of the two: {', '.join(said)}{more}" if said else ""


def _is_yaml(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def _advice(winner: str, loser: str) -> str:
    if _is_yaml(winner) is _is_yaml(loser):
        return "rename one of the two"
    yaml, python = (winner, loser) if _is_yaml(winner) else (loser, winner)
    return (
        f"if {python} loads {yaml}, keep the YAML loader from that file (dagbundle.yaml, bundle_config.loaders.yaml: "
        "enabled or patterns), else rename one of the two"
    )
