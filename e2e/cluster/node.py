"""What makes a node beside an API server: containerd, kubelet, kube-proxy, CoreDNS, the scheduler; their settings.

`Cluster` starts and stops them; here is only what they are told. Kubernetes 1.34 is the last whose kubelet takes
cgroups of version 1 without being told so in other ways, and containerd 1.6, which Debian has, is enough for it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from e2e.cluster import layout, network
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.install import CNI_PLUGINS
from e2e.cluster.processes import Program

NAME = "node1"
PAUSE = "localhost/pause:1"
SOCKET = network.SOCKETS / "containerd.sock"
PORTS = ("kubelet", "kubelet-health", "proxy", "proxy-health", "coredns", "scheduler")
_UNUSED_PLUGINS = ("aufs", "btrfs", "devmapper", "zfs")


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """The node of a cluster, whose folder and authority are the API server's."""

    server: ApiServer
    ports: Mapping[str, int]

    @property
    def folder(self) -> pathlib.Path:
        """The cluster's folder."""
        return self.server.folder

    @property
    def registries(self) -> pathlib.Path:
        """Where containerd reads where registries are."""
        return self.folder / "certs.d"

    @property
    def containerd(self) -> Program:
        """What pulls images and runs containers."""
        return self._program("containerd", "containerd", f"--config={self.folder / 'containerd.toml'}")

    @property
    def kubelet(self) -> Program:
        """What runs the pods."""
        return self._program(
            "kubelet",
            str(layout.program("kubelet")),
            f"--config={self.folder / 'kubelet.json'}",
            f"--kubeconfig={self._kubeconfig(f'system:node:{NAME}')}",
            f"--hostname-override={NAME}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet' / 'pki'}",
            f"--node-ip={network.NODE}",
        )

    @property
    def others(self) -> tuple[Program, ...]:
        """The scheduler, what makes Services' addresses work, and what answers their names."""
        scheduler = self._kubeconfig("system:kube-scheduler")
        return (
            self._program(
                "kube-scheduler",
                str(layout.program("kube-scheduler")),
                f"--kubeconfig={scheduler}",
                f"--authentication-kubeconfig={scheduler}",
                f"--authorization-kubeconfig={scheduler}",
                f"--secure-port={self.ports['scheduler']}",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
            ),
            self._program(
                "kube-proxy",
                str(layout.program("kube-proxy")),
                f"--config={self.folder / 'proxy.json'}",
                f"--hostname-override={NAME}",
            ),
            self._program("coredns", str(layout.program("coredns")), "-conf", str(self.folder / "Corefile")),
        )

    def configure(self) -> None:
        """Write every program's settings and kubeconfig."""
        addresses = (f"DNS:{NAME}", f"IP:{network.NODE}")
        self.server.authority.issue("kubelet-server", f"/O=system:nodes/CN=system:node:{NAME}", addresses=addresses)
        self.server.kubeconfig_for(f"system:node:{NAME}", "system:nodes")
        for user in ("system:kube-scheduler", "system:kube-proxy", "coredns"):
            self.server.kubeconfig_for(user)
        (self.folder / "containerd.toml").write_text(self._containerd_settings())
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet_settings(), indent=1))
        (self.folder / "proxy.json").write_text(json.dumps(self._proxy_settings(), indent=1))
        (self.folder / "Corefile").write_text(self._coredns_settings())
        plugins = self.folder / "cni"
        plugins.mkdir(exist_ok=True)
        (plugins / "10-bridge.conflist").write_text(json.dumps(self._pod_network(), indent=1))

    def admit_coredns(self) -> None:
        """Let CoreDNS read what it answers from; the other programs' roles come with Kubernetes."""
        api = self.server.api
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        group = "rbac.authorization.k8s.io"
        metadata = {"name": "dagbundle-e2e-dns"}
        rules = [
            {"apiGroups": [""], "resources": ["namespaces", "pods", "services"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ]
        api.create(f"{rbac}/clusterroles", {"metadata": metadata, "rules": rules})
        role = {"apiGroup": group, "kind": "ClusterRole", **metadata}
        subjects = [{"apiGroup": group, "kind": "User", "name": "coredns"}]
        api.create(f"{rbac}/clusterrolebindings", {"metadata": metadata, "roleRef": role, "subjects": subjects})

    def _program(self, name: str, *arguments: str) -> Program:
        return Program(name=name, arguments=arguments, folder=self.folder)

    def _kubeconfig(self, user: str) -> pathlib.Path:
        return self.folder / f"{user.replace(':', '-')}.kubeconfig"

    def _containerd_settings(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        unused = [f"io.containerd.snapshotter.v1.{name}" for name in _UNUSED_PLUGINS]
        return f"""\
version = 2
root = "{self.folder / "containerd"}"
state = "{network.SOCKETS / "containerd"}"
disabled_plugins = {json.dumps([*unused, "io.containerd.internal.v1.opt"])}
[grpc]
  address = "{SOCKET}"
[{cri}]
  sandbox_image = "{PAUSE}"
  # a machine may hold back CAP_SYS_RESOURCE: then no process can lower its own oom_score_adj
  restrict_oom_score_adj = true
[{cri}.registry]
  config_path = "{self.registries}"
[{cri}.cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{self.folder / "cni"}"
[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
  Root = "{network.SOCKETS / "runc"}"
"""

    def _pod_network(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "dataDir": str(self.folder / "addresses"),
            "ranges": [[{"subnet": network.PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {
            "type": "bridge",
            "bridge": network.POD_BRIDGE,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": addresses,
        }
        return {"cniVersion": "1.0.0", "name": network.NAME, "plugins": [bridge]}

    def _kubelet_settings(self) -> dict[str, object]:
        pki = self.server.authority.file
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki("ca.crt"))},
            },
            "authorization": {"mode": "Webhook"},
            "address": network.NODE,
            "port": self.ports["kubelet"],
            "healthzPort": self.ports["kubelet-health"],
            "tlsCertFile": str(pki("kubelet-server.crt")),
            "tlsPrivateKeyFile": str(pki("kubelet-server.key")),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [network.NODE],
            "clusterDomain": "cluster.local",
            "podLogsDir": str(self.folder / "podlogs"),
            "volumePluginDir": str(self.folder / "kubelet" / "volumeplugins"),
            "maxPods": 500,
            # a test machine's disk is often nearly full, and images are what tests pushed on purpose
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            # a suite starts many pods at once, and nobody else asks this API server and this registry
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        }

    def _proxy_settings(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._kubeconfig("system:kube-proxy"))},
            "clusterCIDR": network.PODS,
            "mode": "iptables",
            "metricsBindAddress": f"127.0.0.1:{self.ports['proxy']}",
            "healthzBindAddress": f"127.0.0.1:{self.ports['proxy-health']}",
            # the machine's own limits stay as they are
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def _coredns_settings(self) -> str:
        return f"""\
.:53 {{
  bind {network.NODE}
  errors
  health 127.0.0.1:{self.ports["coredns"]}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {self._kubeconfig("coredns")}
    ttl 5
  }}
}}
"""
