"""Judges a changeset with what the target would refuse: a file that it refuses costs itself, and not its bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from dagbundle import errors
from dagbundle.rollout import judge
from dagbundle.rollout import policy as policies
from dagbundle.rollout.model import (
    BundleKey,
    Changeset,
    Claim,
    DagContent,
    FileOutcome,
    FileProblem,
    Judgement,
    Live,
    Problem,
    Verdict,
)
from dagbundle.store.dagstore import DagStore


def judged(
    store: DagStore,
    changeset: Changeset,
    *,
    live: Live,
    owners: Mapping[str, BundleKey],
    policy: policies.Policy,
    yielding: Collection[str] = (),
    contents: Mapping[str, DagContent] | None = None,
) -> tuple[Changeset, Judgement]:
    """Judge a changeset, and again without the files that the target refuses, until it refuses none.

    Args:
        store: Which has the target, and contents.
        changeset: What was parsed.
        live: The bundle as it is published now.
        owners: Live owner of each dag_id that the changeset defines.
        policy: The bundle's policy.
        yielding: Those of these dag_ids that their owners give way with.
        contents: Contents that are not in the store, which a dry run has; None where the judgement will be carried out.

    Returns:
        The changeset, in which refused files are broken, and its judgement.
    """
    claims: tuple[Claim, ...] = ()
    least = 1
    while True:
        judgement = judge.judge(
            changeset, live=live, owners=owners, policy=policy, yielding=yielding, is_dry_run=contents is not None
        )
        judgement = dataclasses.replace(judgement, claims=(*judgement.claims, *claims))
        if judgement.verdict is Verdict.BLOCK:
            return changeset, judgement
        try:
            found, waiting = store.refused(changeset.bundle, judgement, contents, least=least)
        except errors.TargetError as error:
            message = error.message + (f". Next: {error.hint}" if error.hint else "")
            return changeset, Judgement(Verdict.BLOCK, error.reason, message, ready=False, changes=judgement.changes)
        if not found:
            return changeset, judgement
        changeset, claims = _broken(changeset, found), (*claims, *waiting)
        least *= 2  # so that files which break one after the other take few judgements


def _broken(changeset: Changeset, found: Iterable[FileProblem]) -> Changeset:
    """Return a changeset with more problems of its files."""
    problems: dict[tuple[str, str], list[Problem]] = {}
    for item in found:
        problems.setdefault((item.subdir, item.path), []).append(item.problem)

    def with_problems(subdir: str, file: FileOutcome) -> FileOutcome:
        more = problems.get((subdir, file.path))
        return file._replace(problems=(*file.problems, *more)) if more else file

    runs = tuple(
        dataclasses.replace(run, files=tuple(with_problems(run.subdir, file) for file in run.files))
        for run in changeset.runs
    )
    return dataclasses.replace(changeset, runs=runs)
