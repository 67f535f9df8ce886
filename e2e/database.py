"""The stories' PostgreSQL on the cluster: deployed once, read through the project's own store, taken away at will.

It runs in a pod that stays while its server is stopped, so nothing is lost then, and the cluster's disks are nobody's
concern.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from dagbundle.rollout.model import BundleKey, Live
from dagbundle.store.reader import DagReader
from e2e.cluster import Kubectl

NAME = "database"
SECRET = "dagbundle-database"  # noqa: S105 - the name of one
_USER = "dagbundle"
_PASSWORD = "not-for-parsers"  # noqa: S105 - of a database that lasts as long as the tests
_PORT = 5432
_RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


class Database:
    """PostgreSQL in a namespace of its own or of the operator, and one database in it."""

    def __init__(self, kubectl: Kubectl, image: str, *, user: str = _USER, name: str = "postgres") -> None:
        self._kubectl = kubectl
        self._image = image
        self._user = user
        self._name = name

    def another(self, name: str) -> Database:
        """Return another database of the same server, new and empty, with an owner of the same name."""
        self.drop(name)
        self.execute(f"create role {name} login password '{_PASSWORD}'")
        self.execute(f"create database {name} owner {name}")
        return Database(self._kubectl, self._image, user=name, name=name)

    def drop(self, name: str) -> None:
        """Drop another database of the same server and its owner, whoever is connected to it."""
        self.execute(f"drop database if exists {name} with (force)")
        self.execute(f"drop role if exists {name}")

    @property
    def host(self) -> str:
        """Its name inside the cluster."""
        return f"{NAME}.{self._kubectl.namespace}.svc"

    @property
    def url(self) -> str:
        """Where pods find it."""
        return f"postgresql://{self._user}:{_PASSWORD}@{self.host}:{_PORT}/{self._name}"

    def deploy(self) -> None:
        """Start it, with the Secret that the chart asks for, and wait until it answers."""
        labels = {"app": NAME}
        self._kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"url": self.url}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": NAME},
                "spec": {"selector": labels, "ports": [{"port": _PORT}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": NAME},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "strategy": {"type": "Recreate"},
                    "template": {"metadata": {"labels": labels}, "spec": self._pod()},
                },
            },
        )
        self._await()

    def _pod(self) -> dict[str, Any]:
        container = {
            "name": NAME,
            "image": self._image,
            "env": [{"name": "POSTGRES_USER", "value": _USER}, {"name": "POSTGRES_PASSWORD", "value": _PASSWORD}],
            "ports": [{"containerPort": _PORT}],
            "readinessProbe": {
                "exec": {"command": ["pg_isready", "--host=127.0.0.1", "--quiet"]},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
            "securityContext": _RESTRICTED,
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        return {
            "securityContext": {"runAsNonRoot": True, "fsGroup": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 2,
            "containers": [container],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }

    def stop(self) -> None:
        """Cut every connection at once, as a failing machine would, and stay away."""
        self._sh("touch /data/away && kill -QUIT $(head -1 /data/db/postmaster.pid)")
        self._kubectl.wait(f"deployment/{NAME}", "condition=Available=False")

    def start(self) -> None:
        """Come back, with everything that was committed."""
        self._sh("rm -f /data/away")
        self._await()

    def restart(self) -> None:
        """Cut every connection, and be back in a moment."""
        self._sh("kill -QUIT $(head -1 /data/db/postmaster.pid)")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Be away for a while."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with self._reachable() as url, psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def store(self) -> Iterator[DagReader]:
        """Open what the operator wrote, with the project's own reader."""
        with self._reachable() as url, DagReader.open(url) as reader:
            yield reader

    def live(self, namespace: str, name: str) -> Live:
        """Return what is live of one bundle."""
        with self.store() as reader:
            return reader.live(BundleKey(namespace, name))

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[str]:
        with self._kubectl.forwarded(f"deployment/{NAME}", _PORT) as port:
            yield f"postgresql://{self._user}:{_PASSWORD}@127.0.0.1:{port}/{self._name}"

    def _sh(self, script: str) -> None:
        self._kubectl.text("exec", f"deployment/{NAME}", "--", "sh", "-c", script)

    def _await(self) -> None:
        self._kubectl.wait(f"deployment/{NAME}", "condition=Available", seconds=120)
