"""The operator's own two processes, controller and server, on a bare API server and a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from e2e.bare import NAMESPACE
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.processes import free_ports

PATIENCE = 60.0
"""Seconds until something that is watched for must have happened."""


class Replica:
    """One process of the operator.

    Args:
        name: Its name, as its pod's would be.
        server: The API server.
        url: The database.
        folder: Where its grants and its log lie.
        environment: Settings besides those that every controller needs.
    """

    command = "controller"

    def __init__(self, name: str, server: ApiServer, url: str, folder: pathlib.Path, **environment: str) -> None:
        self.name = name
        self.health, self.metrics = free_ports(2)
        grants = folder / "grants.yaml"
        grants.write_text(f"tenants: [{{namespace: {NAMESPACE}}}]\n")
        self.log = folder / f"{name}.log"
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(server.kubeconfig),
            "DAGBUNDLE_DATABASE_URL": url,
            "DAGBUNDLE_GRANTS_FILE": str(grants),
            "DAGBUNDLE_SERVER_URL": "https://server.invalid",
            "DAGBUNDLE_PARSER_IMAGE": "registry.test/parser:1",
            "DAGBUNDLE_POD_NAME": name,
            "DAGBUNDLE_HEALTH_PORT": str(self.health),
            "DAGBUNDLE_METRICS_PORT": str(self.metrics),
            **environment,
        }
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, again after it has ended."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dagbundle.cli.main", self.command],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        return self.process

    def get(self, path: str, port: int) -> str:
        """Return what it answers; nothing where it does not, yet."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer,
        ):
            return str(answer.read().decode())
        return ""

    def leads(self) -> bool:
        """Whether it leads."""
        return "dagbundle_leading 1.0" in self.get("/metrics", self.metrics)

    def healthy(self) -> bool:
        """Whether the kubelet would leave it alone."""
        return self.get("/healthz", self.health) == "ok"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return how it ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=30)


class Server(Replica):
    """One process of the store's server, with TLS; its certificate is the API server's authority's."""

    command = "server"

    def __init__(self, name: str, server: ApiServer, url: str, folder: pathlib.Path) -> None:
        server.authority.issue(name, f"/CN={name}", addresses=["IP:127.0.0.1"])
        (self.port,) = free_ports(1)
        super().__init__(
            name, server, url, folder, DAGBUNDLE_PORT=str(self.port), DAGBUNDLE_HOST="127.0.0.1",
            DAGBUNDLE_TLS_CERT_FILE=str(server.authority.file(f"{name}.crt")),
            DAGBUNDLE_TLS_KEY_FILE=str(server.authority.file(f"{name}.key")),
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where parsers find it."""
        return f"https://127.0.0.1:{self.port}"

    def healthy(self) -> bool:
        """Whether it can serve."""
        return bool(self.get("/readyz", self.metrics))


def eventually(what: str, holds: Callable[[], Any]) -> Any:
    """Look until it holds; the operator is another process, and tells nobody."""
    end = time.monotonic() + PATIENCE
    look = threading.Event()
    while time.monotonic() < end:
        if found := holds():
            return found
        look.wait(0.2)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")
