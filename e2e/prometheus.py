"""A real Prometheus of a test's own: Debian's program, unpacked and not installed, so that no service of it starts."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Self

import yaml

from e2e.cluster import bases, layout
from e2e.cluster.processes import free_ports

SCRAPE_SECONDS = 1


class QueryError(Exception):
    """Prometheus refuses a query; the message is its own."""


class Prometheus:
    """A running server; a context manager that leaves only the unpacked program.

    Args:
        folder: Where its data and its log lie.
        targets: Ports of this machine whose /metrics it scrapes, by the name of their job.
    """

    def __init__(self, folder: pathlib.Path, targets: Mapping[str, int]) -> None:
        self._folder = folder
        self._targets = targets
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for name, port in self._targets.items()
        ]
        settings = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": jobs}
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program(),
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ready(self) -> bool:
        """Whether it answers, and has scraped all of its targets."""
        try:
            return len(self.ask("up == 1")) == len(self._targets)
        except OSError:
            return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return what a query gives now: series, each with its labels and its value. Raises `QueryError`."""
        return list(self._get("query", query=query)["result"])

    def values(self, label: str, match: str) -> list[str]:
        """Return the values of a label of the series that match."""
        return list(self._get(f"label/{label}/values", **{"match[]": match}))

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(json.load(error)["error"]) from error


def program() -> str:
    """Return the program's path: this machine's, else the one that is kept beside the cluster's programs."""
    if found := shutil.which("prometheus"):
        return found
    kept = layout.home() / "bin" / "prometheus"
    with layout.lock("prometheus"):
        if not kept.exists():
            unfinished = kept.with_name("prometheus.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            bases.unpack("prometheus", unfinished)
            unfinished.rename(kept)
    return str(kept / "usr" / "bin" / "prometheus")
