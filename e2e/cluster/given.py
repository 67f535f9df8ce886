"""Clusters that are not our own: one that a KUBECONFIG names, and kind's where Docker can have it.

To tests they are the same; the fixture `cluster` in e2e/conftest.py chooses. Neither has our registry: the first takes
images from one that `DAGBUNDLE_E2E_REGISTRY` names, the second from one in Docker, as kind's documentation has it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any, Protocol

from e2e.cluster import layout, registry
from e2e.cluster.errors import ClusterError
from e2e.cluster.images import Image
from e2e.cluster.processes import run

KIND = "v0.30.0"
"""Brings Kubernetes 1.34; newer than what pytest-kind takes by itself."""

_KIND_NAME = "dagbundle-e2e"
_KIND_IMAGE = "kindest/node:v1.34.0"
_REGISTRY_IMAGE = "registry:2"
_REGISTRY_CONTAINER = "dagbundle-e2e-registry"
_LOOK_SECONDS = 20
_PULL_SECONDS = 300


class AnyCluster(Protocol):
    """What tests need of a cluster."""

    @property
    def kubeconfig(self) -> pathlib.Path:
        """An administrator's kubeconfig."""

    @property
    def registry(self) -> str:
        """What pods put before the name of an image that was pushed."""

    def push_image(self, image: Image, name: str) -> str:
        """Push an image and return its digest."""


class GivenCluster:
    """The cluster that a kubeconfig names, and the registry that it pulls from."""

    def __init__(self, kubeconfig: pathlib.Path) -> None:
        self.kubeconfig = kubeconfig

    @property
    def registry(self) -> str:
        """The registry that both this machine and the cluster reach under one name."""
        name = os.environ.get("DAGBUNDLE_E2E_REGISTRY")
        if not name:
            raise ClusterError(
                "KUBECONFIG names a cluster; DAGBUNDLE_E2E_REGISTRY must name a registry that it pulls from"
            )
        return name

    def push_image(self, image: Image, name: str) -> str:
        """Push an image and return its digest."""
        return _push(image, f"{self.registry}/{name}")


class KindCluster:
    """A cluster of pytest-kind, and a registry in a container beside its node."""

    registry = registry.OPEN

    def __init__(self) -> None:
        os.environ.setdefault("KIND_VERSION", KIND)  # read when the module is imported
        made: Any = importlib.import_module("pytest_kind").KindCluster(_KIND_NAME, image=_KIND_IMAGE)
        self._cluster = made

    @property
    def kubeconfig(self) -> pathlib.Path:
        """An administrator's kubeconfig."""
        return pathlib.Path(self._cluster.kubeconfig_path).absolute()

    @staticmethod
    def available() -> bool:
        """Say whether Docker runs here, has kind's node image or can pull it, and pytest-kind is installed."""
        docker = shutil.which("docker")
        if docker is None or importlib.util.find_spec("pytest_kind") is None:
            return False
        has_image = _succeeds(docker, "image", "inspect", _KIND_IMAGE, seconds=_LOOK_SECONDS)
        return has_image or (
            _succeeds(docker, "info", seconds=_LOOK_SECONDS)
            and _succeeds(docker, "pull", "--quiet", _KIND_IMAGE, seconds=_PULL_SECONDS)
        )

    def up(self) -> None:
        """Make the cluster, or take the one that was kept, and tell its node where the registry is."""
        self._cluster.create()
        if not _succeeds("docker", "inspect", _REGISTRY_CONTAINER, seconds=_LOOK_SECONDS):
            published = ("--publish", "127.0.0.1::5000", "--network", "kind")
            run("docker", "run", "--detach", *published, "--name", _REGISTRY_CONTAINER, _REGISTRY_IMAGE)
        folder = f"/etc/containerd/certs.d/{self.registry}"
        node = f"{_KIND_NAME}-control-plane"
        hosts = f'[host."http://{_REGISTRY_CONTAINER}:5000"]\n  capabilities = ["pull", "resolve"]\n'
        write = f"mkdir -p {folder} && cat > {folder}/hosts.toml"
        run("docker", "exec", "--interactive", node, "sh", "-c", write, stdin=hosts)

    def down(self) -> None:
        """Remove both."""
        self._cluster.delete()
        run("docker", "rm", "--force", _REGISTRY_CONTAINER)

    def push_image(self, image: Image, name: str) -> str:
        """Push an image and return its digest."""
        address = run("docker", "port", _REGISTRY_CONTAINER, "5000/tcp").splitlines()[0]
        return _push(image, f"{address}/{name}")


def _push(image: Image, reference: str) -> str:
    layout.runs().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.runs()) as folder:
        return registry.push(image.write_folder(pathlib.Path(folder)), reference)


def _succeeds(*command: str, seconds: float) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
