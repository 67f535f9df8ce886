"""Teams' namespaces and what a team applies in them: accounts with the documented Role, and DagBundles.

Every namespace enforces Pod Security "restricted", since that is what the operator promises to meet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from e2e.cluster import ClusterError, Kubectl

Manifest = dict[str, Any]

PARSER_ROLE = "dagbundle-parser"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SECONDS = 120
"""How long a rollout may take here, where two cores run a whole cluster."""
_RULES = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}]


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """One DagBundle on the cluster."""

    kubectl: Kubectl
    name: str

    @property
    def what(self) -> str:
        """How kubectl names it."""
        return f"dagbundle/{self.name}"

    def get(self) -> Any:
        """Return it as it is now."""
        return self.kubectl("get", self.what)

    @property
    def status(self) -> Any:
        """Its status now."""
        return self.get().get("status", {})

    def condition(self, kind: str = "Ready") -> Any:
        """Return one of its conditions; empty when it has none."""
        return condition(self.get(), kind)

    def wait_ready(self, seconds: int = SECONDS) -> Any:
        """Wait as a pipeline does, and return the status."""
        self.kubectl.wait(self.what, "condition=Ready", seconds=seconds)
        return self.status

    def until(self, holds: Callable[[Any], bool], seconds: int = SECONDS) -> Any:
        """Watch it until something holds of it, and return it."""

        def ours(seen: Any) -> bool:
            return bool(seen["metadata"]["name"] == self.name) and holds(seen)

        return self.kubectl.until("dagbundles", ours, seconds=seconds)

    def wait_reason(self, reason: str, kind: str = "Ready", seconds: int = SECONDS) -> str:
        """Wait until a condition of what was applied last has a reason, and return its message."""

        def holds(seen: Any) -> bool:
            found = condition(seen, kind)
            return bool(found.get("reason") == reason and _is_of_now(seen, found))

        return str(condition(self.until(holds, seconds), kind)["message"])

    def patch(self, spec: Manifest) -> None:
        """Change some fields of its spec."""
        self.kubectl.text("patch", self.what, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def set_image(self, image: str) -> None:
        """Let it have another image."""
        self.patch({"source": {"image": {"reference": image}}})

    def reconcile(self) -> None:
        """Ask for a new look as GitOps tools do, and wait until the operator has taken it."""
        asked = secrets.token_hex(4)
        self.kubectl.text("annotate", "--overwrite", self.what, f"reconcile.dagbundle.dev/requestedAt={asked}")
        self.until(lambda seen: bool(seen["status"].get("lastHandledReconcileAt") == asked))

    def jobs(self) -> list[Any]:
        """Return its Jobs, the newest last."""
        found = self.kubectl("get", "jobs", f"--selector=dagbundle.dev/bundle={self.name}")["items"]
        return sorted(found, key=lambda job: str(job["metadata"]["creationTimestamp"]))

    def pods(self) -> list[Any]:
        """Return the pods of its Jobs."""
        return list(self.kubectl("get", "pods", f"--selector=dagbundle.dev/bundle={self.name}")["items"])

    def until_pod(self, holds: Callable[[Any], bool], seconds: int = SECONDS) -> Any:
        """Watch its pods until something holds of one, and return that one."""

        def ours(seen: Any) -> bool:
            return seen["metadata"].get("labels", {}).get("dagbundle.dev/bundle") == self.name and holds(seen)

        return self.kubectl.until("pods", ours, seconds=seconds)

    def delete(self, seconds: int = SECONDS) -> None:
        """Delete it and wait until it is gone."""
        self.kubectl.text("delete", self.what, "--ignore-not-found", f"--timeout={seconds}s")

    def told(self) -> str:
        """Return all that a human would look at, for the report of a failed test."""
        parts = []
        for arguments in (
            ("get", self.what, "--output=yaml", "--show-managed-fields=false"),
            ("describe", "jobs", f"--selector=dagbundle.dev/bundle={self.name}"),
            ("describe", "pods", f"--selector=dagbundle.dev/bundle={self.name}"),
            ("logs", f"--selector=dagbundle.dev/bundle={self.name}", "--all-containers", "--prefix", "--tail=50"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            with contextlib.suppress(ClusterError):
                parts.append(f"$ kubectl {' '.join(arguments)}\n{self.kubectl.text(*arguments)}")
        return "\n".join(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class Team:
    """A namespace of a team."""

    kubectl: Kubectl

    @property
    def namespace(self) -> str:
        """Its name."""
        return self.kubectl.namespace or ""

    def prepare(self, *accounts: str) -> None:
        """Do what a team's administrator does first: accounts for parsers, and the Role that docs/tenancy.md shows."""
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": PARSER_ROLE}}
        self.kubectl.apply(
            *({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in accounts),
            {**role, "rules": _RULES},
            {
                **role,
                "kind": "RoleBinding",
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": PARSER_ROLE},
                "subjects": [{"kind": "ServiceAccount", "name": name} for name in accounts],
            },
        )

    def bundle(self, name: str) -> Bundle:
        """Return one of its bundles, applied or not."""
        return Bundle(self.kubectl, name)

    def apply(self, name: str, image: str, subdirs: Sequence[Manifest] = (), **spec: Any) -> Bundle:
        """Apply a bundle and return it."""
        self.kubectl.apply(manifest(name, image, subdirs, **spec))
        return self.bundle(name)


def manifest(name: str, image: str, subdirs: Sequence[Manifest] = (), **spec: Any) -> Manifest:
    """Return a DagBundle as a team writes it; without subdirs one account parses all of it."""
    return {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": name},
        "spec": {
            "source": {"image": {"reference": image}},
            "subdirs": list(subdirs) or [{"path": ".", "serviceAccountName": "parser"}],
            **spec,
        },
    }


def _is_of_now(resource: Any, found: Any) -> bool:
    """Say whether a condition speaks of what was applied last."""
    return bool(found["observedGeneration"] >= resource["metadata"]["generation"])


def condition(resource: Any, kind: str = "Ready") -> Any:
    """Return one condition of an object; empty when it has none."""
    found = resource.get("status", {}).get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})
