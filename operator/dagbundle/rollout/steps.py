"""Decides the next step of a rollout on a cluster: what was seen in, one step out.

A reconcile sees everything anew (the resource, the newest rollout, its runs, their Jobs) and takes one step; then the
world has changed and it is called again. So a controller that is killed at any point goes on where it was, because
nothing is remembered but what the store and the API server hold.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Phase(enum.Enum):
    """Where one subdir's run is; the words of `status.subdirs`."""

    PENDING = "Pending"
    """No Job, or none of its pods has begun to report."""
    RUNNING = "Running"
    CLOSED = "Succeeded"
    """Its report is complete: the store says so, not the Job."""
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A Job as the API server shows it."""

    name: str
    uid: str
    ended: bool = False
    """It has no pod any more and will get none: succeeded, failed, or past its deadline."""
    failure: str = ""
    """Why it failed, for people; empty while it runs or when it succeeded."""
    trouble: str = ""
    """What keeps it from running (`ImagePullBackOff: …`); empty when nothing does."""
    digests: frozenset[str] = frozenset()
    """Digests of the images that its pods ran, `sha256:…`."""


@dataclass(frozen=True, slots=True)
class RunSeen:
    """One subdir's run: what the store knows of it, and its Job."""

    subdir: str
    phase: Phase
    failure: str = ""
    run_id: str = ""
    """Empty until the run is recorded."""
    job_uid: str = ""
    """The Job that was recorded for it; empty until it was created."""
    job: JobSeen | None = None


@dataclass(frozen=True, slots=True)
class RolloutSeen:
    """The bundle's newest rollout."""

    id: str
    template_hash: str
    open: bool
    published: bool
    reason: str
    message: str
    finished_at: dt.datetime | None
    runs: tuple[RunSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the resource asks for now."""

    template_hash: str
    idle: str = ""
    """Why nothing is to be done at all (`Suspended`, `Held`); empty otherwise."""
    idle_message: str = ""
    gate: str = ""
    """Why what is parsed must not be published yet (`WaitingForWorkload`); empty when it may."""
    gate_message: str = ""
    again: bool = False
    """Somebody asked for a new rollout even of what was published (requestedAt)."""


# --- Steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start a rollout of what is wanted; an older one is superseded and its Jobs are removed."""

    pinned: str = ""
    """A digest that all runs are pinned to, because runs of one tag saw different images."""


@dataclass(frozen=True, slots=True)
class CreateJobs:
    """Create the Jobs of these subdirs, or find them."""

    subdirs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FailRuns:
    """Record that these runs will not finish, each with the reason."""

    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Every run is over: judge, and publish or block."""

    digest: str = ""
    """The image's digest, where all runs agree on one."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something is going on; look again when it has moved, or after `seconds`."""

    reason: str
    message: str
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """The rollout is over: published or blocked."""

    retry_in: float | None = None
    """Seconds until it is tried again; None where trying again would give the same."""
    retry_at: dt.datetime | None = None
    """When that is, UTC."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is to be done."""

    reason: str
    message: str


Step = Start | CreateJobs | FailRuns | Publish | Wait | Done | Idle

_UNDECIDED = frozenset({Phase.PENDING, Phase.RUNNING})
RETRIED = frozenset({"RunFailed", "SourceChanged"})
"""Reasons of a block that another attempt may not meet again."""


def next_step(  # noqa: PLR0911 - one return per step, in the order in which they are looked at
    wanted: Wanted, rollout: RolloutSeen | None, *, now: dt.datetime, retry_seconds: float
) -> Step:
    """Decide the next step.

    Args:
        wanted: What the resource asks for.
        rollout: The bundle's newest rollout; None when there never was one.
        now: UTC.
        retry_seconds: How long after a failed run the rollout is tried again.
    """
    if wanted.idle:
        return Idle(wanted.idle, wanted.idle_message)
    if rollout is None or rollout.template_hash != wanted.template_hash or wanted.again:
        return Start()
    if not rollout.open:
        return _after(rollout, now, retry_seconds)
    missing = tuple(run.subdir for run in rollout.runs if run.phase in _UNDECIDED and _needs_job(run))
    if missing:
        return CreateJobs(missing)
    failures = tuple((run.subdir, why) for run in rollout.runs if (why := _failure(run)))
    if failures:
        return FailRuns(failures)
    waiting = [run for run in rollout.runs if run.phase in _UNDECIDED]
    if waiting:
        return _waiting(waiting)
    digests = sorted({digest for run in rollout.runs if run.job for digest in run.job.digests})
    if len(digests) > 1:
        return Start(pinned=digests[0])
    if wanted.gate:
        return Wait(wanted.gate, wanted.gate_message)
    return Publish(digests[0] if digests else "")


def _needs_job(run: RunSeen) -> bool:
    """No Job was created yet, or the one that was is gone: deleted by hand, or with its node."""
    return not run.job_uid or run.job is None


def _failure(run: RunSeen) -> str:
    """Why a run will not close any more; empty while it still may."""
    if run.phase in {Phase.CLOSED, Phase.FAILED} or run.job is None:
        return ""
    if run.job.failure:
        return run.job.failure
    return "its Job ended without a complete report: see the log of its pod" if run.job.ended else ""


def _waiting(runs: Sequence[RunSeen]) -> Wait:
    troubled = next((run for run in runs if run.job and run.job.trouble), None)
    if troubled is not None and troubled.job is not None:
        reason = troubled.job.trouble.partition(":")[0]
        return Wait(reason, f"subdir {troubled.subdir}: {troubled.job.trouble}")
    names = ", ".join(run.subdir for run in runs[:5]) + (" …" if len(runs) > 5 else "")  # noqa: PLR2004 - for people
    return Wait("Parsing", f"waiting for {len(runs)} of the rollout's runs: {names}")


def _after(rollout: RolloutSeen, now: dt.datetime, retry_seconds: float) -> Step:
    if rollout.reason not in RETRIED or rollout.finished_at is None:
        return Done()
    retry_at = rollout.finished_at + dt.timedelta(seconds=retry_seconds)
    left = (retry_at - now).total_seconds()
    return Done(left, retry_at) if left > 0 else Start()
