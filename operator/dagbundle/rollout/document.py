"""The document that a rollout keeps as JSON: what was asked for, how it is judged, and what its files may read.

The engine writes it when a rollout starts. The publisher, the parsers' server, the target and the controller read it
for as long as the rollout is kept, often after an upgrade or a downgrade. Airflow's workers read it too
(`dagbundle_airflow.lookup`), and share no code with this side: tests/golden/rollout.v1.json holds both sides to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dagbundle import errors
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout.model import Json, LookupKind
from dagbundle.rollout.policy import Policy

FORMAT = 1
"""Raise it where an older program would read a document wrongly. Documents from before 0.3 have no number."""

_VALUES = ("connections", "variables")
_POLICY = frozenset(item.name for item in dataclasses.fields(Policy)) - {*_VALUES}


@dataclass(frozen=True, slots=True)
class RolloutDocument:
    """What a rollout was started with."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    """The DagBundle's spec as JSON; empty where DAGs were submitted without a DagBundle."""
    policy: Policy = field(default_factory=Policy)
    """The spec's policy, narrowed by the grant of that time."""
    image: str | None = None
    """The image that was parsed, as its source names it; None where a command line parsed a folder."""
    pinned: str = ""
    """The digest that the Jobs run, where it was known before they were made."""
    requested_at: str | None = None
    """The annotation that asked for the rollout; None where a command line did."""
    amends: str = ""
    """Of a pass, the rollout that it amends."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a pass, the files that are parsed again: paths relative to the bundle's root, by subdir."""

    @classmethod
    def of(cls, resource: bundle_models.DagBundle, policy: Policy) -> Self:
        """Return the document of a validated bundle, without what only a controller adds."""
        return cls(spec=resource.spec.model_dump(mode="json", by_alias=True), policy=policy)

    @property
    def path(self) -> str:
        """The bundle's root in its image, absolute; empty where there is no spec."""
        source = self.spec.get("source", {})
        place = next((item for item in source.values() if isinstance(item, dict)), {})
        return str(place.get("path", ""))

    def wanted(self, kind: LookupKind) -> list[str] | None:
        """Return what the spec names of the values of a kind; None where it narrows nothing."""
        found: list[str] | None = self.spec.get("parser", {}).get(f"{kind}s")
        return found

    def to_json(self) -> Json:
        """Return what the store keeps."""
        policy = dataclasses.asdict(self.policy)
        values = {kind: list(policy.pop(kind)) for kind in _VALUES}
        found: Json = {
            "format": FORMAT,
            "policy": {**policy, "granted_prefixes": list(self.policy.granted_prefixes)},
            "values": values,
        }
        optional = {
            "spec": self.spec or None,
            "image": self.image,
            "pinned": self.pinned or None,
            "requestedAt": self.requested_at,
            "amends": self.amends or None,
            "files": {subdir: list(paths) for subdir, paths in self.files.items()} or None,
        }
        return found | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read what the store keeps, also from versions of this program that wrote no format.

        Raises:
            StoreError: A newer version of this program wrote it, in a way that this one cannot read.
        """
        number = found.get("format", 0)
        policy = {name: value for name, value in found.get("policy", {}).items() if name not in _VALUES}
        if number > FORMAT or not _POLICY.issuperset(policy):
            raise errors.StoreError(
                f"a newer version of dagbundle started this rollout (its document has format {number}, this version "
                f"reads up to {FORMAT})",
                hint="run the newer version again, or start a new rollout with this one",
            )
        if "granted_prefixes" in policy:
            policy["granted_prefixes"] = tuple(policy["granted_prefixes"])
        values: dict[str, Any] = {kind: tuple(found.get("values", {}).get(kind, ())) for kind in _VALUES}
        return cls(
            spec=found.get("spec", {}),
            policy=Policy(**policy, **values),
            image=found.get("image"),
            pinned=found.get("pinned", ""),
            requested_at=found.get("requestedAt"),
            amends=found.get("amends", ""),
            files={subdir: tuple(paths) for subdir, paths in found.get("files", {}).items()},
        )
