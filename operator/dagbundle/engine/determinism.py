"""Finds DAGs that are not the same each time they are parsed: they would get a new version at every pass.

The bundle is parsed twice under different hash seeds, which is what usually differs between two processes (sets and
hashes that leak into a DAG), and moments apart (clocks and random numbers do).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dagbundle.engine import collecting, events
from dagbundle.engine.engine import airflow_name_of, key_of
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import diff, plan
from dagbundle.rollout.model import DagContent, Live
from dagbundle.runtime.base import Runtime

SEEDS = (1, 2)


@dataclass(frozen=True, slots=True)
class Drift:
    """A DAG that came out differently."""

    dag_id: str
    path: str
    diff: diff.DagDiff


def check(
    resource: bundle_models.DagBundle, runtime: Callable[[int], Runtime], *, watch: events.Watcher = events.ignore
) -> tuple[Drift, ...]:
    """Parse twice and compare.

    Args:
        resource: The bundle.
        runtime: Makes a runtime whose parser has the given PYTHONHASHSEED.
        watch: Is told of progress.

    Raises:
        RunError: A run did not finish.
        ResourceError: The parser refused the bundle's manifest.
    """
    first, second = (_parse(resource, runtime(seed), watch) for seed in SEEDS)
    return tuple(
        Drift(dag_id, path, diff.diff(first.get((path, dag_id)), second.get((path, dag_id))))
        for path, dag_id in sorted(first.keys() | second.keys())
        if _sha(first.get((path, dag_id))) != _sha(second.get((path, dag_id)))
    )


def _parse(
    resource: bundle_models.DagBundle, runtime: Runtime, watch: events.Watcher
) -> dict[tuple[str, str], DagContent]:
    planned = plan.plan(resource, version="", live=Live(key_of(resource)))
    sink = collecting.MemorySink()
    collecting.carry_out(
        planned.runs,
        collecting.RunSettings("determinism", airflow_name_of(resource), resource.spec.parser, force=True),
        runtime=runtime,
        sink=sink,
        watch=watch,
    )
    for run in sink.outcomes():
        if not run.closed:
            raise collecting.error_of(run, f"the run of subdir {run.subdir} did not finish")
    return {(path, content.dag_id): content for path, file in sorted(sink.files.items()) for content in file.contents}


def _sha(content: DagContent | None) -> str:
    return content.sha256 if content else ""
