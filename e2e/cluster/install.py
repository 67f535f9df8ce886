"""Brings what the cluster runs: Debian's packages, and programs built from Go modules, pinned by their checksums.

Called by `python -m e2e.cluster install` and at the start of a test session. What is there already is left alone, so
a second call takes no time; building from nothing takes about 7 minutes on two cores. All programs are built with
the locks of one Go module (go/go.mod), so that what they share, Kubernetes' client above all, is compiled once.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from e2e.cluster import layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import find, run

CNI_PLUGINS = pathlib.Path("/usr/lib/cni")

_SOURCES = {
    "helm": "helm.sh/helm/v3/cmd/helm",
    "coredns": "./coredns",
    "pause": "./pause",
}
"""Go's packages of the programs that are not Kubernetes' own."""

_API_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kubectl")
_API_PACKAGES = {"etcd": "etcd-server", "openssl": "openssl"}
_PACKAGES = _API_PACKAGES | {
    "containerd": "containerd",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "umount": "mount",
    "debootstrap": "debootstrap",
}
"""Programs, and Debian's packages that have them."""


def install(*, api_only: bool = False) -> None:
    """Install and build what is missing.

    Raises:
        ClusterError: Something could not be had; says what, and what to do.
    """
    with layout.lock("install"):
        _packages(_API_PACKAGES if api_only else _PACKAGES)
        _build([name for name in (_API_PROGRAMS if api_only else layout.PROGRAMS) if not layout.program(name).exists()])


def missing(*, api_only: bool = False) -> list[str]:
    """Return the programs that `install` would bring."""
    packages = [program for program in (_API_PACKAGES if api_only else _PACKAGES) if not _there(program)]
    built = _API_PROGRAMS if api_only else tuple(layout.PROGRAMS)
    return packages + [name for name in built if not layout.program(name).exists()]


def _there(program: str) -> bool:
    try:
        find(program)
    except ClusterError:
        return False
    return True


def _packages(programs: dict[str, str]) -> None:
    wanted = sorted({package for program, package in programs.items() if not _there(program)})
    if not wanted:
        return
    line = f"apt-get install --no-install-recommends {' '.join(wanted)}"
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise ClusterError(f"Missing: {', '.join(wanted)}. Install these packages as root, on Debian by `{line}`")
    _say(line)
    run("apt-get", "update", "--quiet=2")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *wanted, environment=quiet)


def _build(names: Sequence[str]) -> None:
    """Build in one call, so that one program is linked while the next is compiled, and nothing is compiled twice."""
    if not names:
        return
    if not shutil.which("go"):
        raise ClusterError(f"{', '.join(names)}: built by Go, which is missing: install 1.24 or newer, and try again")
    _say(f"building {', '.join(names)}")
    major, minor = layout.KUBERNETES.removeprefix("v").split(".")[:2]
    version, chart = "k8s.io/component-base/version", "helm.sh/helm/v3/pkg/chartutil"
    stamps = {
        # without these kubectl refuses the server's version, and the server answers that it is v0.0.0
        f"{version}.gitVersion": layout.KUBERNETES,
        f"{version}.gitMajor": major,
        f"{version}.gitMinor": minor,
        f"{version}.gitTreeState": "clean",
        "helm.sh/helm/v3/internal/version.version": layout.HELM,
        f"{chart}.k8sVersionMajor": major,
        f"{chart}.k8sVersionMinor": minor,
    }
    flags = " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in stamps.items())])
    unfinished = layout.home() / "bin" / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    where = ("-C", str(layout.GO_MODULE), "-mod=readonly", "-trimpath", "-buildvcs=false")
    environment = {"CGO_ENABLED": "0", "GOWORK": "off"}  # without C, so that pause runs in an empty image
    packages = [_SOURCES.get(name, f"k8s.io/kubernetes/cmd/{name}") for name in names]
    run("nice", "go", "build", *where, f"-ldflags={flags}", "-o", f"{unfinished}/", *packages, environment=environment)
    for name in names:
        layout.program(name).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / name).rename(layout.program(name))


def _say(text: str) -> None:
    sys.stderr.write(f"e2e.cluster: {text}\n")
    sys.stderr.flush()
