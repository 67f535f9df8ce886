"""Where everything lies and which versions it has: the one place to change for an upgrade.

What is built is kept under the version that it was built from, so that an upgrade builds anew and a downgrade finds
its own again. What runs lies below `run/`, and `down --purge` deletes that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
from collections.abc import Iterator

GO_MODULE = pathlib.Path(__file__).parent / "go"
PAUSE = "v1"


def _pinned(module: str) -> str:
    found = re.search(rf"(?m)^\t{re.escape(module)} (v\d+\.\d+\.\d+)$", (GO_MODULE / "go.mod").read_text())
    if not found:
        raise ValueError(f"e2e/cluster/go/go.mod pins no release of {module} on a line of its own")
    return found[1]


KUBERNETES = _pinned("k8s.io/kubernetes")
COREDNS = _pinned("github.com/coredns/coredns")
HELM = _pinned("helm.sh/helm/v3")
"""go.mod pins them, as their checksums are beside it."""

PROGRAMS = {
    "kube-apiserver": f"kubernetes-{KUBERNETES}",
    "kube-controller-manager": f"kubernetes-{KUBERNETES}",
    "kubectl": f"kubernetes-{KUBERNETES}",
    "kubelet": f"kubernetes-{KUBERNETES}",
    "kube-scheduler": f"kubernetes-{KUBERNETES}",
    "kube-proxy": f"kubernetes-{KUBERNETES}",
    "coredns": f"coredns-{COREDNS}",
    "helm": f"helm-{HELM}",
    "pause": f"pause-{PAUSE}",
}
"""What is built, in the order of building, and the folder that names its version."""


def home() -> pathlib.Path:
    """Return the folder of everything that is kept or running, which clones may share."""
    if given := os.environ.get("DAGBUNDLE_CLUSTER_HOME"):
        return pathlib.Path(given).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "dagbundle-e2e"


def runs() -> pathlib.Path:
    """Return the folder of what is running now."""
    return home() / "run"


def layers() -> pathlib.Path:
    """Return the folder of image layers that are kept, as they take long to make."""
    return home() / "layers"


def program(name: str) -> pathlib.Path:
    """Return where the build puts a program of this version."""
    return home() / "bin" / PROGRAMS[name] / name


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time build, start or stop."""
    path = home() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
