"""etcd, an API server and, if wanted, some controllers: enough for tests that stop and kill the API server.

Needs no root and no network, and any number run at once, each in a folder and on ports of its own. `Cluster` puts a
node beside one.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from e2e.cluster import layout
from e2e.cluster.api import Api
from e2e.cluster.certificates import Authority
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.processes import Program, free_ports, wait_until

SERVICES = "10.96.0.0/16"
NAMESPACES_AND_GARBAGE = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)
"""What deletes namespaces with their content and objects with their owner, and makes namespaces' accounts."""

_FIRST_SERVICE = "10.96.0.1"
_SECONDS = 60.0
_PORTS = ("api", "etcd", "etcd-peer", "controllers")


class ApiServer:
    """An API server with an etcd of its own; a context manager that leaves nothing.

    Args:
        folder: Where its state lies; by default a new folder, which `purge` removes.
        controllers: Which controllers run, by their names; `("*",)` is all, nothing is none.
        flags: More flags of the API server, such as `--feature-gates=…`.
        advertise: The address that pods reach it at; None when there are no pods.
    """

    def __init__(
        self,
        *,
        folder: pathlib.Path | None = None,
        controllers: Sequence[str] = (),
        flags: Sequence[str] = (),
        advertise: str | None = None,
    ) -> None:
        if folder is None:
            layout.runs().mkdir(parents=True, exist_ok=True)
            folder = pathlib.Path(tempfile.mkdtemp(prefix="api-", dir=layout.runs()))
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self.ports = ports(folder, _PORTS)
        self._advertise = advertise
        self._flags = tuple(flags)
        self._etcd = self._make_etcd()
        self._server = self._make_server()
        self._manager = self._make_manager(controllers) if controllers else None

    @property
    def kubeconfig(self) -> pathlib.Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def url(self) -> str:
        """Where it listens on this machine."""
        return f"https://127.0.0.1:{self.ports['api']}"

    @property
    def programs(self) -> tuple[Program, ...]:
        """What runs for it."""
        return (self._etcd, self._server, *([self._manager] if self._manager else ()))

    @property
    def api(self) -> Api:
        """An administrator's connection."""
        return Api(self.ports["api"], self.authority)

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's kubectl."""
        return Kubectl(self.kubeconfig)

    def kubeconfig_for(self, user: str, *groups: str) -> pathlib.Path:
        """Return a kubeconfig of somebody else: whoever the subject names, with what RBAC gives them."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        name = user.replace(":", "-").replace("/", "-")
        path = self.folder / f"{name}.kubeconfig"
        return self.authority.kubeconfig(name, subject, server=self.url, path=path)

    def up(self) -> None:
        """Start etcd, the API server and its controllers, those that do not run yet; return when it takes requests."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start etcd and the API server without waiting, for whoever has more to start meanwhile."""
        self.authority.make()
        pods = () if self._advertise is None else (f"IP:{self._advertise}", f"IP:{_FIRST_SERVICE}")
        names = [f"DNS:{name}" for name in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")]
        self.authority.issue("apiserver", "/CN=kube-apiserver", addresses=[*names, "IP:127.0.0.1", *pods])
        admin = "/O=system:masters/CN=admin"
        self.authority.kubeconfig("admin", admin, server=self.url, path=self.kubeconfig)
        if self._manager is not None:
            self.kubeconfig_for("system:kube-controller-manager")
        self._etcd.start()
        self._server.start()

    def await_ready(self) -> None:
        """Wait until it takes requests, then start its controllers."""
        api = self.api
        wait_until(api.ready, what="The API server's start", seconds=_SECONDS, needs=[self._etcd, self._server])
        if self._manager is not None:
            self._manager.start()

    def start(self) -> None:
        """Start the API server again, after `stop` or `kill`; etcd kept everything that it had answered for."""
        self._server.start()
        self.await_ready()

    def stop(self) -> None:
        """Stop the API server in order: it ends its watches and finishes its requests. etcd runs on."""
        self._server.stop()

    def kill(self) -> None:
        """Kill the API server: connections are cut. etcd runs on."""
        self._server.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the API server and start it again, on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Let the API server neither answer nor close anything, as when its machine hangs."""
        self._server.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._server.send(signal.SIGCONT)

    def down(self) -> None:
        """Stop everything; the state stays for the next `up`."""
        self.thaw()
        if self._manager is not None:
            self._manager.stop(signal.SIGKILL)  # nobody waits for its leases and caches here
        self._server.stop()
        self._etcd.stop()

    def purge(self) -> None:
        """Stop everything and remove its folder."""
        self.thaw()
        for program in (self._manager, self._server, self._etcd):
            if program is not None:
                program.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        sweep()
        (self.folder / "owner").write_text(str(os.getpid()))
        try:
            self.up()
        except BaseException:
            self.purge()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.purge()

    def _make_etcd(self) -> Program:
        client, peer = (f"http://127.0.0.1:{self.ports[name]}" for name in ("etcd", "etcd-peer"))
        arguments = (
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",  # what this holds need not outlive the machine
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        return Program(name="etcd", arguments=arguments, folder=self.folder)

    def _make_server(self) -> Program:
        pki = self.authority.file
        reached = (
            # an API server that no pod reaches has no endpoint to publish, and its own address is refused as one
            ("--advertise-address=127.0.0.1", "--bind-address=127.0.0.1", "--endpoint-reconciler-type=none")
            if self._advertise is None
            else (f"--advertise-address={self._advertise}",)
        )
        arguments = (
            str(layout.program("kube-apiserver")),
            f"--etcd-servers=http://127.0.0.1:{self.ports['etcd']}",
            f"--secure-port={self.ports['api']}",
            *reached,
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={pki('apiserver.crt')}",
            f"--tls-private-key-file={pki('apiserver.key')}",
            f"--client-ca-file={pki('ca.crt')}",
            f"--service-account-key-file={pki('sa.pub')}",
            f"--service-account-signing-key-file={pki('sa.key')}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={pki('admin.crt')}",
            f"--kubelet-client-key={pki('admin.key')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--shutdown-watch-termination-grace-period=2s",  # else a stop waits for watches that nobody ends
            *self._flags,
        )
        return Program(name="kube-apiserver", arguments=arguments, folder=self.folder)

    def _make_manager(self, controllers: Sequence[str]) -> Program:
        kubeconfig = self.folder / "system-kube-controller-manager.kubeconfig"
        arguments = (
            str(layout.program("kube-controller-manager")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--controllers={','.join(controllers)}",
            f"--secure-port={self.ports['controllers']}",
            "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={self.authority.file('sa.key')}",
            f"--root-ca-file={self.authority.certificate}",
            f"--flex-volume-plugin-dir={self.folder / 'volumeplugins'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
        )
        return Program(name="kube-controller-manager", arguments=arguments, folder=self.folder)


def ports(folder: pathlib.Path, names: Sequence[str]) -> dict[str, int]:
    """Return the ports of a cluster, the same ones each time, as kubeconfigs and clients remember them."""
    path = folder / "ports.json"
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    if new := [name for name in names if name not in known]:
        known |= zip(new, free_ports(len(new), taken=known.values()), strict=True)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known))
    return known


def sweep(*, detached: bool = False) -> None:
    """Purge the API servers whose process ended without doing so, and if asked those that a command left."""
    for folder in layout.runs().glob("api-*"):
        owner = folder / "owner"
        left = not pathlib.Path(f"/proc/{owner.read_text()}").exists() if owner.exists() else detached
        if left:
            ApiServer(folder=folder, controllers=("*",)).purge()
