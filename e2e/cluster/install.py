"""Brings what the cluster runs: Debian's packages, and programs built from Go modules, pinned by their checksums.

Called by `python -m e2e.cluster install` and at the start of a test session. What is there already is left alone, so
a second call takes no time; building from nothing takes about 15 minutes on two cores.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from e2e.cluster import layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import find, run

CNI_PLUGINS = pathlib.Path("/usr/lib/cni")

_CHECKSUMS = {
    f"github.com/coredns/coredns@{layout.COREDNS}": "h1:OBT+OEyHVdUiVxPhrNlC5XZVq3RkSxzQXfZQ76gm5ck=",
    f"helm.sh/helm/v3@{layout.HELM}": "h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU=",
}
"""As in a go.sum. Both are built with their own module's locks, as what they need and what Kubernetes needs differ."""

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
        for name in _API_PROGRAMS if api_only else layout.PROGRAMS:
            if not layout.program(name).exists():
                _build(name)


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


def _build(name: str) -> None:
    if not shutil.which("go"):
        raise ClusterError(f"{name} is built by Go, which is missing: install Go 1.24 or newer, and run this again")
    target = layout.program(name)
    _say(f"building {target.parent.name}/{name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if name == "coredns":
        _compile(target, _module(f"github.com/coredns/coredns@{layout.COREDNS}"), ".")
    elif name == "helm":
        major, minor = _minor()
        chart = "helm.sh/helm/v3/pkg/chartutil"
        stamps = {
            "helm.sh/helm/v3/internal/version.version": layout.HELM,
            f"{chart}.k8sVersionMajor": major,
            f"{chart}.k8sVersionMinor": minor,
        }
        _compile(target, _module(f"helm.sh/helm/v3@{layout.HELM}"), "./cmd/helm", stamps)
    elif name == "pause":
        _compile(target, layout.GO_MODULE, "./pause")
    else:
        major, minor = _minor()
        # without these kubectl refuses the server's version, and the server answers that it is v0.0.0
        stamps = {"gitVersion": layout.KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        package = "k8s.io/component-base/version"
        stamps = {f"{package}.{key}": value for key, value in stamps.items()}
        _compile(target, layout.GO_MODULE, f"k8s.io/kubernetes/cmd/{name}", stamps)


def _minor() -> Sequence[str]:
    return layout.KUBERNETES.removeprefix("v").split(".")[:2]


def _module(wanted: str) -> pathlib.Path:
    """Download a module and return its folder, if it is the one that this was written for."""
    about = json.loads(run("go", "mod", "download", "-json", wanted, environment={"GOWORK": "off"}))
    if about["Sum"] != _CHECKSUMS[wanted]:
        raise ClusterError(
            f"{wanted} has checksum {about['Sum']}, and {_CHECKSUMS[wanted]} was expected: do not use it"
        )
    return pathlib.Path(about["Dir"])


def _compile(target: pathlib.Path, folder: pathlib.Path, package: str, stamps: dict[str, str] | None = None) -> None:
    flags = " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in (stamps or {}).items())])
    unfinished = target.with_name(f"{target.name}.unfinished")
    where = ("-C", str(folder), "-mod=readonly", "-trimpath", "-buildvcs=false")
    environment = {"CGO_ENABLED": "0", "GOWORK": "off"}  # without C, so that pause runs in an empty image
    run("nice", "go", "build", *where, f"-ldflags={flags}", "-o", unfinished, package, environment=environment)
    unfinished.rename(target)


def _say(text: str) -> None:
    sys.stderr.write(f"e2e.cluster: {text}\n")
    sys.stderr.flush()
