"""The real server as a process of its own, with everything real but Kubernetes: tokens and pods are a file's.

Started with `Process.start`; run as a module it is that process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

from dagbundle import errors, logs
from dagbundle.server.tokens import Caller, Pod

ROOT = pathlib.Path(__file__).parents[2]


class FileTokens:
    """What Kubernetes would answer, read from a file for every question, so that a test changes it at any time."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def _world(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_text())
        if found.get("away"):
            raise errors.CallerError("ClusterUnavailable", "the API server is away")
        return found

    def review(self, token: str) -> Caller:
        found = self._world()["tokens"].get(token)
        if found is None:
            raise errors.CallerError("TokenRefused", "the token is not valid: it has expired")
        return Caller(**found)

    def pod(self, caller: Caller) -> Pod | None:
        found = self._world()["pods"].get(f"{caller.namespace}/{caller.pod}")
        return None if found is None else Pod(**{**found, "owners": frozenset(found["owners"])})


class FileValues:
    """A target's Variables and Connections, read from a file for every question."""

    name = "values"

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def look_up(self, _connection: Any, kind: str, key: str) -> Any:
        found = json.loads(self._path.read_text()).get(f"{kind} {key}")
        if found == "broken":
            raise errors.TargetError(f"{kind} {key!r} cannot be looked up: Vault failed with KeyError")
        return found


class Kubernetes:
    """The tests' side of that file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.world: dict[str, Any] = {"tokens": {}, "pods": {}, "away": False}
        self.write()

    def write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.world))
        fresh.replace(self.path)

    def pod(self, name: str, *, job: str, namespace: str = "team-sales", account: str = "parser", **more: Any) -> str:
        """Make a pod and return its token."""
        uid = f"uid-of-{name}"
        found = {"uid": uid, "phase": "Running", "terminating": False, "owners": [job], "index": None, **more}
        self.world["pods"][f"{namespace}/{name}"] = found
        token = f"token-of-{name}"
        self.world["tokens"][token] = {"namespace": namespace, "account": account, "pod": name, "pod_uid": uid}
        self.write()
        return token

    def change(self, name: str, *, namespace: str = "team-sales", **changes: Any) -> None:
        self.world["pods"][f"{namespace}/{name}"] |= changes
        self.write()

    def forget(self, *, token: str = "", pod: str = "", namespace: str = "team-sales") -> None:
        self.world["tokens"].pop(token, None)
        self.world["pods"].pop(f"{namespace}/{pod}", None)
        self.write()


@dataclasses.dataclass
class Process:
    """A running server."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]]
    changed: threading.Condition
    reader: threading.Thread
    secure: bool
    other: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def start(
        cls,
        database_url: str,
        tokens: pathlib.Path,
        *,
        certificate: pathlib.Path | None = None,
        key: pathlib.Path | None = None,
        port: int = 0,
        values: pathlib.Path | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Self:
        places = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "operator")])
        limits = {f"DAGBUNDLE_SERVER_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(tokens), str(certificate or ""), str(key or ""), str(port)],
            stderr=subprocess.PIPE, text=True, env={
                "PATH": os.environ["PATH"], "PYTHONPATH": places,
                "DAGBUNDLE_DATABASE_URL": database_url, "VALUES": str(values or ""), **limits,
                **(environment or {}),
            },
        )  # fmt: skip
        lines: list[dict[str, Any]] = []
        found = cls(process, lines, threading.Condition(), threading.Thread(), certificate is not None)
        found.reader = threading.Thread(target=found._read)
        found.reader.start()
        found.wait_for(lambda line: line["message"] == "listening")
        return found

    def _read(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            with self.changed:
                try:
                    self.lines.append(json.loads(text))
                except ValueError:
                    self.other.append(text)
                self.changed.notify_all()
        with self.changed:
            self.lines.append({"message": "ended"})
            self.changed.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 30.0, *, count: int = 1) -> Any:
        """Return the first line of the log that is wanted (or the `count`th), when it is there."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if wanted(line)]

        def is_over() -> bool:
            return len(found()) >= count or {"message": "ended"} in self.lines

        with self.changed:
            self.changed.wait_for(is_over, seconds)
            assert len(found()) >= count, (self.lines, "".join(self.other))
            return found()[count - 1]

    def requests(self, run: str) -> list[dict[str, Any]]:
        with self.changed:
            return [line for line in self.lines if line["message"] == "request" and line.get("run") == run]

    @property
    def port(self) -> int:
        found: int = next(line for line in self.lines if line["message"] == "listening")["ports"][0]
        return found

    @property
    def metrics_port(self) -> int:
        found: int = next(line for line in self.lines if line["message"] == "listening")["ports"][1]
        return found

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}"

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        code = self.process.wait(timeout=60)
        self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


def main(arguments: list[str], environ: Mapping[str, str]) -> None:
    from dagbundle import targets  # noqa: PLC0415 - only the process itself needs them
    from dagbundle.server import serving, settings  # noqa: PLC0415 - likewise
    from dagbundle.store.dagstore import DagStore  # noqa: PLC0415 - likewise
    from dagbundle.store.database import Database  # noqa: PLC0415 - likewise

    tokens, certificate, key, port = arguments
    logs.configure("json", "info")
    with DagStore(Database(environ["DAGBUNDLE_DATABASE_URL"])) as store:
        store.target = targets.named(environ.get("DAGBUNDLE_TARGET", ""))
        if environ["VALUES"]:
            store.target = cast("Any", FileValues(pathlib.Path(environ["VALUES"])))
        serving.run(
            store,
            FileTokens(pathlib.Path(tokens)),
            settings.read(environ),
            api=serving.Address("127.0.0.1", int(port)),
            monitoring=serving.Address("127.0.0.1", 0),
            certificate=serving.Certificate(pathlib.Path(certificate), pathlib.Path(key)) if certificate else None,
        )


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
