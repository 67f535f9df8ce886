"""Decides what a bundle needs next: nothing, with the reason why, or one run for each subdir.

The first step of a reconcile: spec and live state in, actions out. Runtimes and the store only carry them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import content, wording
from dagbundle.rollout.model import Live


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run to carry out."""

    subdir: str
    exclude: tuple[str, ...]
    """Folders below it that are subdirs of their own."""
    run_as_user: int | None
    service_account_name: str | None
    shards: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: start `runs`, or nothing because of `reason`."""

    template_hash: str
    runs: tuple[RunPlan, ...] = ()
    reason: str = ""
    message: str = ""


def plan(resource: bundle_models.DagBundle, *, version: str, live: Live) -> Plan:
    """Plan a rollout.

    Args:
        resource: The validated bundle.
        version: Its resolved version (image digest, commit, content hash).
        live: What is published now.

    Returns:
        A plan without runs when the bundle is suspended (`Suspended`) or this very template is held (`Held`).
    """
    template = template_hash(resource, version)
    if resource.spec.suspend:
        return Plan(template, reason="Suspended", message="spec.suspend is true: nothing is parsed or published")
    for hold in live.holds:
        if hold.template_hash == template:
            return Plan(template, reason="Held", message=wording.held(live, hold))
    paths = [subdir.path for subdir in resource.spec.subdirs]
    return Plan(
        template,
        runs=tuple(
            RunPlan(
                subdir=subdir.path,
                exclude=tuple(sorted(path for path in paths if path != subdir.path and contains(subdir.path, path))),
                run_as_user=subdir.run_as_user,
                service_account_name=subdir.service_account_name,
                shards=subdir.shards,
            )
            for subdir in resource.spec.subdirs
        ),
    )


def template_hash(resource: bundle_models.DagBundle, version: str) -> str:
    """Hash what decides a rollout's result: the spec without its operational fields, and the version. Hex SHA-256."""
    spec = resource.spec.model_dump(mode="json", by_alias=True, exclude=set(bundle_models.OPERATIONAL))
    for path, default in bundle_models.LATER.items():
        _drop(spec, path, default)
    return content.sha256_of({"spec": spec, "version": version})


def _drop(found: Any, path: Sequence[str], default: object) -> None:
    """Take a field out of a document in JSON, wherever it has its default."""
    name, *rest = path
    if name == "*":
        for item in found:
            _drop(item, rest, default)
    elif rest:
        if found.get(name) is not None:
            _drop(found[name], rest, default)
    elif name in found and found[name] == default:
        del found[name]


def contains(subdir: str, path: str) -> bool:
    """Tell whether a path, relative to the bundle's root, lies in a subdir."""
    return subdir in {".", path} or path.startswith(f"{subdir}/")


def owns(subdir: str, exclude: Sequence[str], path: str) -> bool:
    """Tell whether a file belongs to this subdir's run, and not to one nested in it."""
    return contains(subdir, path) and not any(contains(other, path) for other in exclude)
