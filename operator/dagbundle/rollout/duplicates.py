"""What is said of two files that define one dag_id, and which of them comes first where neither is live.

Python comes before YAML: where a Python file loads YAML that the YAML loader loads too, stock Airflow has what the
Python file makes of it.
"""

from __future__ import annotations

from dagbundle.rollout.model import Problem


def order(path: str) -> tuple[bool, str]:
    """Return the key by which files that define one dag_id are ordered."""
    return _is_yaml(path), path


def problem(dag_id: str, *, winner: str, loser: str, is_live: bool) -> Problem:
    """Say what is wrong with the file that does not get the dag_id, and what to do.

    Args:
        dag_id: What both define.
        winner: Path of the file that has it.
        loser: Path of the file that is broken by it.
        is_live: It is live in `winner` already.
    """
    why = "where it is live" if is_live else "which comes first"
    return Problem("DuplicateDagId", f"dag_id {dag_id!r} is also defined in {winner}, {why}: {_advice(winner, loser)}")


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
