"""Errors of DAGs that a file has made and that Airflow then refuses: a schedule, a cycle, a cluster policy.

Airflow checks them after the file has run, so no frame of the file is in the traceback, and its error names neither
the DAG nor a line. The frames of what checks one DAG know it; the loop around them may have gone on to another.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dagbundle_parser.places import line_defining
from dagbundle_parser.problems import problem_of

if TYPE_CHECKING:
    from dagbundle_parser.errors import FileProblem
    from dagbundle_parser.loaders.base import SourceFile

_FRAMES = 100_000
"""A bound, should a traceback be a circle."""
_CHECKING = {"validate": "self", "_validate_executor_fields": "dag", "bag_dag": "dag"}
"""Functions of Airflow's that check one DAG, and under which name they have it."""


def problem_of_import(error: BaseException, file: SourceFile, dag_class: Any) -> FileProblem:
    """The error of a file that cannot be loaded; with the DAG and its line where one was refused that the file made."""
    dag = _refused(error, dag_class)
    if dag is None:
        return problem_of(error, file)
    dag_id = str(dag.dag_id)
    problem = problem_of(error, file, doing=f"DAG {dag_id!r} is refused", dag_id=dag_id)
    if problem.line is None and dag.fileloc == file.absolute:  # a member of an archive has lines of its own
        problem = dataclasses.replace(problem, line=line_defining(dag_id, file))
    return problem


def _refused(error: BaseException, dag_class: Any) -> Any:
    """The DAG that Airflow was checking; None where it was still running the file."""
    current, steps = error.__traceback__, 0
    while current is not None and steps < _FRAMES:
        name = _CHECKING.get(current.tb_frame.f_code.co_name)
        dag = current.tb_frame.f_locals.get(name) if name else None
        if isinstance(dag, dag_class):
            return dag
        current, steps = current.tb_next, steps + 1
    return None
