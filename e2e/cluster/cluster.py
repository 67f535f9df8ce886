"""A whole Kubernetes on this machine: the API server with all controllers, one node, and a registry that it pulls from.

One is all that a machine can have, as its addresses and chains exist once; a second `up` of the same home folder
finds the first.
"""

from __future__ import annotations

import http
import os
import pathlib
import shutil
import tempfile
from types import TracebackType
from typing import Self

from e2e.cluster import install, layout, network
from e2e.cluster.apiserver import ApiServer, ports
from e2e.cluster.errors import ClusterError
from e2e.cluster.images import Image, ImageConfig, layer_of
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.node import NAME, PAUSE, PORTS, SOCKET, Node
from e2e.cluster.processes import Program, run, wait_until
from e2e.cluster.registry import OPEN, PRIVATE, Registry

_SECONDS = 60.0
_END_SECONDS = 10.0


class Cluster:
    """The cluster of the home folder; a context manager that takes down what it brought up."""

    registry = OPEN
    """What pods put before an image's name."""
    private_registry = PRIVATE
    """The same images, for those who have `registry.USER` and `registry.PASSWORD` in a pull secret."""

    def __init__(self) -> None:
        self.folder = layout.runs() / "cluster"
        self._started_here = False

    @property
    def kubeconfig(self) -> pathlib.Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's kubectl."""
        return Kubectl(self.kubeconfig)

    @property
    def server(self) -> ApiServer:
        """Its API server."""
        return ApiServer(folder=self.folder, controllers=("*",), advertise=network.NODE)

    def up(self) -> bool:
        """Bring it up and return when its node takes pods; say whether anything had to be started.

        Raises:
            ClusterError: It could not be brought up; with what to do, or with the end of the failing program's log.
        """
        if os.geteuid() != 0:
            raise ClusterError(
                "A node needs root. Without root there is `up --api-only`; or test on another cluster: KUBECONFIG=…"
            )
        if missing := install.missing():
            raise ClusterError(f"Missing: {', '.join(missing)}. Run `python -m e2e.cluster install` first")
        with layout.lock("cluster"):
            if all(program.running() for program in self._programs()) and self._node_ready():
                return False
            network.refuse_another(self.folder)
            try:
                self._start()
            except ClusterError as error:
                self._stop(delete_pods=False)
                again = "`python -m e2e.cluster down --purge` and `up` begin from nothing."
                raise ClusterError(f"{error}\n{again}") from error
            return True

    def down(self, *, purge: bool = False) -> None:
        """Stop every program of it; with purge, remove its state and what it made on this machine."""
        with layout.lock("cluster"):
            if not self.folder.exists():
                return
            self._stop(delete_pods=not purge)
            if purge:
                network.clean_up(self.folder)

    def push(self, archive: pathlib.Path, name: str) -> str:
        """Push an OCI archive, so that pods find it as `registry.test/NAME`, and return its digest."""
        return self._registry().push(archive, name)

    def push_image(self, image: Image, name: str) -> str:
        """Push an image and return the digest."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            return self.push(image.write_folder(pathlib.Path(folder)), name)

    def load(self, archive: pathlib.Path) -> None:
        """Import an OCI archive straight into the node, under the name in it; a pod's status shows no digest of it."""
        _ctr("images", "import", str(archive))

    def kill_container(self, container: str) -> None:
        """Kill a container's first process, by the id that its pod's status shows, as a machine that fails would."""
        _ctr("tasks", "kill", "--signal=SIGKILL", container.removeprefix("containerd://"))

    def __enter__(self) -> Self:
        self._started_here = self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started_here:
            self.down(purge=True)

    def _node(self) -> Node:
        return Node(self.server, self._ports())

    def _registry(self) -> Registry:
        return Registry(self.folder, network.NODE, self._ports())

    def _ports(self) -> dict[str, int]:
        return ports(self.folder, (*self.server.ports, *PORTS, "registry", "registry-private"))

    def _programs(self) -> list[Program]:
        node = self._node()
        return [*self.server.programs, node.containerd, *self._registry().programs, node.kubelet, *node.others]

    def _start(self) -> None:
        """Start everything, those first that take longest to be ready."""
        node, server, images = self._node(), self.server, self._registry()
        network.connect()
        server.launch()
        node.configure()
        images.configure(node.registries)
        for program in (node.containerd, *images.programs):
            program.start()
        wait_until(_containerd_answers, what="containerd's start", seconds=_SECONDS, needs=[node.containerd])
        self._load_pause()
        server.await_ready()
        node.admit_coredns()
        for program in (node.kubelet, *node.others):
            program.start()
        needs = [node.kubelet, node.containerd]
        wait_until(self._node_ready, what="The node's readiness", seconds=_SECONDS, needs=needs)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        made = "The default service account"  # without which the API server refuses pods
        wait_until(lambda: server.api.get(account) is not None, what=made, seconds=_SECONDS, needs=server.programs)

    def _node_ready(self) -> bool:
        about = self.server.api.get(f"/api/v1/nodes/{NAME}")
        conditions = about["status"].get("conditions", []) if about else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _load_pause(self) -> None:
        """Give the node the image of pods' sandboxes, which no registry has to be asked for."""
        if PAUSE in _ctr("images", "list", "--quiet").splitlines():
            return
        with tempfile.TemporaryDirectory() as folder:
            image = Image((layer_of(layout.program("pause").parent),), ImageConfig(entrypoint=["/pause"]))
            self.load(image.write(pathlib.Path(folder) / "pause.tar", name=PAUSE))

    def _stop(self, *, delete_pods: bool) -> None:
        """Stop everything: first who would start containers again, then the containers, then what they need."""
        node, server = self._node(), self.server
        if delete_pods and node.kubelet.running():
            self._forget_pods()
        for program in (node.kubelet, *node.others):
            program.stop()
        if node.containerd.running():
            self._end_containers(node.containerd)
        node.containerd.stop()
        network.end_shims()
        for program in self._registry().programs:
            program.stop()
        server.down()
        network.unmount(self.folder)

    def _forget_pods(self) -> None:
        """Delete every pod at once, so that the next `up` does not start them again."""
        api = self.server.api
        for pod in (api.get("/api/v1/pods") or {"items": []})["items"]:
            about = pod["metadata"]
            path = f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}?gracePeriodSeconds=0"
            status, _ = api.request("DELETE", path)
            if status not in {http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED, http.HTTPStatus.NOT_FOUND}:
                return  # a broken API server is no reason not to stop it

    def _end_containers(self, containerd: Program) -> None:
        """Kill all containers, and remove their networks, which nobody does without the kubelet."""
        for name in _ctr("tasks", "list", "--quiet").split():
            _ctr_quietly("tasks", "delete", "--force", name)

        def none_left() -> bool:
            return not _ctr("tasks", "list", "--quiet").split()

        wait_until(none_left, what="The containers' end", seconds=_END_SECONDS, needs=[containerd])
        network.remove_pod_networks()
        shutil.rmtree(self.folder / "addresses", ignore_errors=True)


def _ctr(*arguments: str) -> str:
    return run("ctr", f"--address={SOCKET}", "--namespace=k8s.io", *arguments)


def _ctr_quietly(*arguments: str) -> str:
    """Run ctr on something that may be gone by now."""
    try:
        return _ctr(*arguments)
    except ClusterError:
        return ""


def _containerd_answers() -> bool:
    return _ctr_quietly("version") != ""
