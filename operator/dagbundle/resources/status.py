"""The status of a DagBundle, as kstatus and `kubectl wait` read it. Only the engine's side writes it."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from dagbundle.resources import base


class Condition(base.Model):
    """One condition (Kubernetes API conventions)."""

    type: Annotated[Literal["Ready", "Reconciling", "Stalled"], pydantic.Field(description="Which condition.")]
    status: Annotated[Literal["True", "False", "Unknown"], pydantic.Field(description="Whether it holds.")]
    reason: Annotated[str, pydantic.Field(max_length=128, description="Why, as one CamelCase word.")]
    message: Annotated[str, pydantic.Field(max_length=32768, description="Why, for people, and what to do next.")]
    last_transition_time: Annotated[
        str, pydantic.Field(max_length=64, description="When `status` changed last, RFC 3339 in UTC.")
    ] = ""
    observed_generation: Annotated[int, pydantic.Field(description="The generation that it speaks of.")] = -1


class Version(base.Model):
    """Bundle versions: image digest, git commit or content hash."""

    attempted: Annotated[str, pydantic.Field(max_length=256, description="The version that was parsed last.")] = ""
    published: Annotated[str, pydantic.Field(max_length=256, description="The version that is live.")] = ""


class DagCounts(base.Model):
    """How many DAGs are live, and what the last publish did to them."""

    total: Annotated[int, pydantic.Field(description="Live DAGs.")] = 0
    added: Annotated[int, pydantic.Field(description="Added by the last publish.")] = 0
    changed: Annotated[int, pydantic.Field(description="Changed or moved by the last publish.")] = 0
    removed: Annotated[int, pydantic.Field(description="Removed by the last publish.")] = 0
    kept: Annotated[int, pydantic.Field(description="Kept at their last good definition: their file is broken.")] = 0


Origin = Literal["Spec", "Manifest", "Default"]


class ParserStatus(base.Model):
    """How a subdir is parsed, as its parser reports it."""

    name: Annotated[str, pydantic.Field(max_length=128, description="The bundle parser that carried out the run.")]
    version: Annotated[str, pydantic.Field(max_length=128, description="Its version.")] = ""
    decided_by: Annotated[
        Origin | None,
        pydantic.Field(description="What named it: the spec, the bundle's manifest, or nothing (the default)."),
    ] = None
    processes: Annotated[int | None, pydantic.Field(description="How many files were parsed at a time.")] = None
    processes_decided_by: Annotated[Origin | None, pydantic.Field(description="Likewise what set that number.")] = None


class SubdirStatus(base.Model):
    """What became of one subdir's run."""

    path: Annotated[str, pydantic.Field(max_length=512, description="The subdir.")]
    job: Annotated[str, pydantic.Field(max_length=253, description="Name of its Job.")] = ""
    phase: Annotated[
        Literal["Pending", "Running", "Succeeded", "Failed"], pydantic.Field(description="State of its last run.")
    ]
    dags: Annotated[int, pydantic.Field(description="DAGs that its files defined.")] = 0
    import_errors: Annotated[int, pydantic.Field(description="Broken files.")] = 0
    message: Annotated[
        str, pydantic.Field(max_length=4096, description="Why its run has not finished, or did not.")
    ] = ""
    parser: Annotated[
        ParserStatus | None,
        pydantic.Field(description="How it was parsed, once its run has begun to report."),
    ] = None


class Status(base.Model):
    """The observed state."""

    observed_generation: Annotated[int, pydantic.Field(description="The generation this status speaks of.")] = -1
    conditions: Annotated[
        list[Condition],
        pydantic.Field(max_length=8, description="Ready, and while true Reconciling and Stalled."),
    ] = pydantic.Field(default_factory=list)
    last_handled_reconcile_at: Annotated[
        str,
        pydantic.Field(max_length=256, description="The last reconcile.dagbundle.dev/requestedAt that was acted on."),
    ] = ""
    revision: Annotated[int, pydantic.Field(description="Counts publishes; `dagbundle history` lists them.")] = 0
    version: Annotated[Version, pydantic.Field(description="Attempted and published bundle version.")] = pydantic.Field(
        default_factory=Version
    )
    dags: Annotated[DagCounts, pydantic.Field(description="Live DAGs and what the last publish did.")] = pydantic.Field(
        default_factory=DagCounts
    )
    import_errors: Annotated[int, pydantic.Field(description="Broken files of the last rollout.")] = 0
    subdirs: Annotated[
        list[SubdirStatus], pydantic.Field(max_length=64, description="The last run of each subdir.")
    ] = pydantic.Field(default_factory=list)
