"""The controller's reconciler on a bare API server with faked pods: for faults that a whole cluster is too slow for.

`support.world` has the world; unit tests have the same one on an API server in memory.
"""

from __future__ import annotations

import pathlib

from kubernetes import client, config

from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.kubectl import Kubectl
from support import world
from support.world import BUNDLE, FILES, KEY, NAMESPACE, SETTINGS, Files, Fuse, Killed

__all__ = ["BUNDLE", "FILES", "KEY", "NAMESPACE", "ROOT", "SETTINGS", "Files", "Fuse", "Killed", "World"]

ROOT = pathlib.Path(__file__).resolve().parents[1]


class World(world.World):
    """A real API server, a store, and the controllers that work on them.

    Args:
        server: The API server.
        store: The store.
        name: The cluster's name, where one store has several.
    """

    def __init__(self, server: ApiServer, store: DagStore, name: str = "") -> None:
        self.kubectl: Kubectl = server.kubectl
        settings = client.Configuration()
        config.load_kube_config(config_file=str(server.kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call] # untyped in the client
        super().__init__(Cluster(client.ApiClient(settings)), store, name)

    def prepare(self) -> None:
        """Install the CRD, the tenant's namespace and what its account needs."""
        crd = ROOT / "crds/dagbundles.dagbundle.dev.yaml"
        self.kubectl.text("apply", "--server-side", f"--filename={crd}")
        self.kubectl.until(
            "customresourcedefinitions",
            lambda body: any(
                item["type"] == "Established" and item["status"] == "True"
                for item in body.get("status", {}).get("conditions") or ()  # at first it is null
            ),
        )
        self.kubectl.text("create", "namespace", NAMESPACE)
        self.kubectl.text("create", "role", "parser", "-n", NAMESPACE, "--verb=create", "--resource=jobs.batch")
        self.kubectl.text(
            "create", "rolebinding", "parser", "-n", NAMESPACE, "--role=parser", f"--serviceaccount={NAMESPACE}:default"
        )
