"""Makes the status of a DagBundle from what a reconcile found out: a pure function, and the only one that makes it.

Conditions are as kstatus reads them: Ready always, Reconciling and Stalled only while they hold. docs/status.md lists
the reasons.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagbundle import terminal
from dagbundle.resources import status as models
from dagbundle.rollout.steps import Phase, RunSeen
from dagbundle.store.records import Head, Ingestion, RunStateRow

_MAX_MESSAGE = 4000
_MAX_VERSION = 256
_MAX_WORD = 128


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reconcile ended.

    Attributes:
        ready: True: published and nothing kept back. None: it is being worked on. False: it is not, see `reason`.
        stalled: Nothing will change until somebody changes something.
        reconciling: Work is going on, or will be tried again.
        final: The generation was dealt with: published, blocked or refused.
        queued: It waits for its turn to have parser pods.
    """

    ready: bool | None
    reason: str
    message: str
    stalled: bool = False
    reconciling: bool = False
    final: bool = False
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store says of a bundle; empty where it could not be asked."""

    head: Head | None = None
    runs: Sequence[RunSeen] = ()
    states: Sequence[RunStateRow] = ()


def status_of(
    old: Mapping[str, Any], *, generation: int, requested_at: str, outcome: Outcome, facts: Facts, now: dt.datetime
) -> dict[str, Any]:
    """Return the whole status.

    Args:
        old: The status as it is; what could not be found out stays as it is.
        generation: The resource's generation.
        requested_at: The requestedAt annotation that was acted on.
        outcome: How the reconcile ended.
        facts: What the store says.
        now: UTC; becomes the transition time of conditions whose status changes.
    """
    status = dict(old)
    if outcome.final or "observedGeneration" not in old:
        status["observedGeneration"] = generation if outcome.final else -1
    if requested_at:
        status["lastHandledReconcileAt"] = requested_at
    status["conditions"] = _conditions(old.get("conditions") or (), generation, outcome, now)
    if facts.head is not None:
        status |= _facts(old, facts, facts.head)
    return status


def _conditions(
    old: Sequence[Mapping[str, Any]], generation: int, outcome: Outcome, now: dt.datetime
) -> list[dict[str, Any]]:
    ready = {True: "True", False: "False", None: "Unknown"}[outcome.ready]
    wanted = [("Ready", ready)]
    wanted += [("Reconciling", "True")] if outcome.reconciling else []
    wanted += [("Stalled", "True")] if outcome.stalled else []
    before = {str(item.get("type")): item for item in old}
    conditions = []
    for kind, value in wanted:
        same = before.get(kind, {}).get("status") == value
        since = str(before[kind].get("lastTransitionTime", "")) if same else ""
        condition = models.Condition.model_validate(
            {
                "type": kind,
                "status": value,
                "reason": outcome.reason,
                "message": _message(outcome.message),
                "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "observedGeneration": generation,
            }
        )
        conditions.append(condition.model_dump(by_alias=True))
    return conditions


def _facts(old: Mapping[str, Any], facts: Facts, head: Head) -> dict[str, Any]:
    counts = head.counts
    before = old.get("dags") or {}
    attempted = head.rollout.version if head.rollout else head.version
    errors = sum(state.import_errors for state in facts.states)
    return {
        "revision": head.revision,
        "version": {"attempted": _short(attempted), "published": _short(head.version)},
        "dags": {
            "total": head.dags,
            "added": counts.get("added", 0) if counts is not None else before.get("added", 0),
            "changed": (
                counts.get("changed", 0) + counts.get("moved", 0) if counts is not None else before.get("changed", 0)
            ),
            "removed": counts.get("removed", 0) if counts is not None else before.get("removed", 0),
            "kept": head.kept,
        },
        "importErrors": errors,
        "subdirs": [_subdir(run, facts.states) for run in sorted(facts.runs, key=lambda run: run.subdir)],
    }


def _word(text: str) -> str:
    return terminal.printable(text[:_MAX_WORD])[:_MAX_WORD]


def _message(text: str) -> str:
    """Return a message as the status has it: some of its words may be a tenant's."""
    return terminal.printable(text[:_MAX_MESSAGE], keep="\n")[:_MAX_MESSAGE]


def _short(version: str) -> str:
    """Cut a version to what the CRD takes: a workload's image may have a longer name, a digest never."""
    return version if len(version) <= _MAX_VERSION else f"{version[: _MAX_VERSION - 1]}…"


def _subdir(run: RunSeen, states: Sequence[RunStateRow]) -> dict[str, Any]:
    mine = [state for state in states if state.subdir == run.subdir]
    message = run.failure or (run.job.failure or run.job.trouble if run.job and run.phase is not Phase.CLOSED else "")
    reported = next((state.ingestion for state in mine if state.ingestion is not None), None)
    return {
        "path": run.subdir,
        "job": run.job.name if run.job else "",
        "phase": run.phase.value,
        "dags": sum(state.dags for state in mine),
        "importErrors": sum(state.import_errors for state in mine),
        "message": _message(message),
    } | ({} if reported is None else {"parser": _parser(reported)})


def _parser(found: Ingestion) -> dict[str, Any]:
    parser = models.ParserStatus.model_validate(
        {
            "name": _word(found.name),
            "version": _word(found.version),
            "decidedBy": found.parser_origin.title() or None,
            "processes": found.processes,
            "processesDecidedBy": found.processes_origin.title() or None,
        }
    )
    return parser.model_dump(by_alias=True, exclude_none=True)
