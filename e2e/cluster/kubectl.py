"""kubectl and Helm with one kubeconfig, answers as objects: what tests read and change a cluster with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from e2e.cluster import layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import run

_SECONDS = 60


@dataclasses.dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl for a cluster or one namespace of it. A command that fails raises ClusterError with what it said."""

    kubeconfig: pathlib.Path
    namespace: str | None = None

    def within(self, namespace: str) -> Kubectl:
        """Return the same for one namespace."""
        return dataclasses.replace(self, namespace=namespace)

    def __call__(self, *arguments: str, stdin: str = "") -> Any:
        """Run a command that takes `--output` and return the object that it answers."""
        return json.loads(self.text(*arguments, "--output=json", stdin=stdin))

    def text(self, *arguments: str, stdin: str = "") -> str:
        """Run any command and return what it printed."""
        return self._run("kubectl", arguments, stdin)

    def helm(self, *arguments: str) -> str:
        """Run Helm on the same cluster and namespace and return what it printed."""
        return self._run("helm", arguments, "")

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects on the server's side."""
        items = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.text("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(items))

    def create(self, manifest: Mapping[str, Any]) -> Any:
        """Create one object and return it as the server has it, which is how a review answers."""
        return self("create", "--filename=-", stdin=json.dumps(manifest))

    def wait(
        self, what: str, condition: str, *, selector: str = "", every: bool = False, seconds: int = _SECONDS
    ) -> None:
        """Wait until `kubectl wait --for=CONDITION` holds for `job/parse`, or for every `node`, or for those selected.

        Those selected need not be there yet.
        """
        which = ("--all",) if every else ()
        if selector:
            which = (f"--selector={selector}",)
            self.text("wait", what, *which, "--for=create", f"--timeout={seconds}s")
        self.text("wait", what, *which, f"--for={condition}", f"--timeout={seconds}s")

    def until(self, what: str, holds: Callable[[Any], bool], *, seconds: int = _SECONDS) -> Any:
        """Watch objects, such as `pods`, until one is as it should be: for what `kubectl wait` cannot say."""
        seen: Any = None
        with subprocess.Popen(
            self._command("kubectl", ("get", what, "--watch", "--output=json")),
            env=self._environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as watch:
            end = threading.Timer(seconds, watch.kill)
            end.start()
            try:
                for seen in _documents(watch.stdout or ()):
                    if holds(seen):
                        return seen
            finally:
                end.cancel()
                watch.kill()
        raise ClusterError(f"No {what} was as expected within {seconds} s; the last was {json.dumps(seen)}")

    @contextlib.contextmanager
    def forwarded(self, what: str, port: int) -> Iterator[int]:
        """Let this machine reach a port of a pod, as of `deployment/database`; gives the local port."""
        with subprocess.Popen(
            self._command("kubectl", ("port-forward", what, f":{port}")),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as forwarding:
            try:
                line = forwarding.stdout.readline() if forwarding.stdout else ""
                found = re.search(r"127\.0\.0\.1:(\d+)", line)
                if found is None:
                    said = forwarding.communicate(timeout=_SECONDS)[1]
                    raise ClusterError(f"Port {port} of {what} could not be reached: {said}")
                yield int(found[1])
            finally:
                forwarding.kill()

    def _run(self, name: str, arguments: Sequence[str], stdin: str) -> str:
        return run(*self._command(name, arguments), environment=self._environment(), stdin=stdin)

    def _command(self, name: str, arguments: Sequence[str]) -> list[str]:
        own = layout.program(name)
        where = [f"--namespace={self.namespace}"] if self.namespace else []
        return [str(own) if own.exists() else name, *where, *arguments]

    def _environment(self) -> dict[str, str]:
        discovery = str(layout.runs() / "discovery")
        return {**os.environ, "KUBECONFIG": os.fspath(self.kubeconfig), "KUBECACHEDIR": discovery}


def _documents(lines: Iterable[str]) -> Iterator[Any]:
    """Return the objects that kubectl prints one after the other, each ending where its brace is at the margin."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            yield json.loads(text)
            text = ""
