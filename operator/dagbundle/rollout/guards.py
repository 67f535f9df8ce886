"""The guards: which subdirs must not be published, because too much breaks or goes.

A guard bounds the whole unit that is published together, which `rollout.scope` names: the bundle, or one subdir. A
percentage is of all live DAGs, or of all files, of that unit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dagbundle.rollout import policy as policies
from dagbundle.rollout import wording
from dagbundle.rollout.model import Change, DagChange, FileProblem, Live, LiveDag, RunOutcome


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a subdir is not published."""

    reason: str
    message: str


def failures(
    runs: Iterable[RunOutcome],
    changes: Collection[DagChange],
    problems: Collection[FileProblem],
    *,
    live: Live,
    policy: policies.Policy,
    scope: Collection[str],
) -> dict[str, Blocked]:
    """Return the subdirs that must not be published, by the guards and by `onImportError: Fail`.

    Args:
        runs: What was parsed.
        changes: What a publish of `scope` would do.
        problems: What is wrong with the files that were parsed.
        live: The bundle as it is published now.
        policy: The spec's policy, narrowed by the grant.
        scope: The subdirs that would be published.
    """
    listed = {run.subdir: len(run.files) for run in runs}
    found: dict[str, Blocked] = {}
    for unit in [frozenset(scope)] if policy.scope == "Bundle" else [frozenset({subdir}) for subdir in sorted(scope)]:
        failure = _failure(unit, listed, changes, problems, live=live.dags.values(), policy=policy)
        if failure:
            found |= dict.fromkeys(unit, failure)
    return found


def _failure(
    unit: frozenset[str],
    listed: Mapping[str, int],
    changes: Iterable[DagChange],
    problems: Collection[FileProblem],
    *,
    live: Iterable[LiveDag],
    policy: policies.Policy,
) -> Blocked | None:
    gone = Change.REMOVED
    removed = [change for change in changes if change.change is gone and change.subdir in unit]
    broken = sorted({problem.path for problem in problems if problem.subdir in unit})
    for subdir in sorted(unit):
        losses = [change.dag_id for change in removed if change.subdir == subdir]
        if losses and listed.get(subdir) == 0:
            return Blocked(
                "EmptyListing",
                f"subdir {subdir} has no DAG files at all, but {len(losses)} of its DAGs are live "
                f"({wording.names(losses)}): if that is meant, "
                + (
                    "delete the DagBundle (`kubectl delete dagbundle`, or `dagbundle delete` without a cluster)"
                    if subdir == "."
                    else "remove the subdir from the spec"
                ),
            )
    if broken and policy.on_import_error == "Fail":
        return Blocked(
            "ImportErrors",
            f"{wording.counted(len(broken), 'broken file')} and onImportError is Fail: {wording.names(broken)}. "
            "Mend them, or set spec.rollout.onImportError to KeepLastGood" + wording.said(problems),
        )
    allowed = policies.limit_of(policy.max_import_errors, sum(listed.get(subdir, 0) for subdir in unit))
    if allowed is not None and len(broken) > allowed:
        return Blocked(
            "TooManyImportErrors",
            f"{wording.counted(len(broken), 'broken file')}, more than maxImportErrors "
            f"{wording.limit(policy.max_import_errors, allowed)}: {wording.names(broken)}. "
            "Mend them, or raise spec.rollout.maxImportErrors" + wording.said(problems),
        )
    allowed = policies.limit_of(policy.max_removed_dags, sum(dag.subdir in unit for dag in live))
    if allowed is not None and len(removed) > allowed:
        return Blocked(
            "TooManyRemovedDags",
            f"{wording.counted(len(removed), 'DAG')} would go, more than maxRemovedDags "
            f"{wording.limit(policy.max_removed_dags, allowed)}: "
            + wording.names([change.dag_id for change in removed])
            + f". If they are to go, raise spec.rollout.maxRemovedDags to {len(removed)}, else bring back their files",
        )
    return None
