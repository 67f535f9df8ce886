"""A deployment of Airflow that lives: scheduler, LocalExecutor's workers, triggerer and API server, on a database.

No dag-processor runs unless a test runs one. The tests of tests/publisher/test_life.py publish into it as a user does,
and ask it by its REST API.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx
import sqlalchemy

from dagbundle.runtime.local import LocalRuntime
from publisher.conftest import driver, process_files

Files = Mapping[str, str]
Found = TypeVar("Found")

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 180.0
"""How long anything may take; on an idle machine everything takes a few."""
ENDED = frozenset({"success", "failed"})
FAST = {
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "3",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "DAGBUNDLE_ALLOWED_TRIGGERS": "airflow.providers.standard.triggers.file.FileDeleteTrigger,"
    "airflow.providers.standard.triggers.temporal.DateTimeTrigger",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret that is long enough for the signature of a token of Airflow",
}


@dataclasses.dataclass
class LivingAirflow:
    """A deployment that runs.

    Attributes:
        url: Of its database.
        folder: Everything of it is below; readable for the parser's own user.
        environment: Of all its processes, and of who publishes into it.
        processes: By name, those that must not end.
        client: Of its API server, logged in.
    """

    url: str
    folder: pathlib.Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    client: httpx.Client

    # --- what a team does ---------------------------------------------------------------------------------------------

    def publish(self, name: str, files: Files, *, code: int = 0) -> str:
        """Apply the bundle `team-sales.NAME` with these files, and return the version that they are.

        Args:
            name: Of the DagBundle.
            files: Texts by path: all that the bundle has.
            code: With which `dagbundle apply` should end.
        """
        root = self.write(name, files)
        version = LocalRuntime(root).resolve_version()
        shutil.copytree(root, self.releases(name) / version, dirs_exist_ok=True)  # an image is there before it is used
        resource = self.folder / f"{name}.yaml"
        resource.write_text(
            "apiVersion: dagbundle.dev/v1alpha1\nkind: DagBundle\n"
            f"metadata: {{name: {name}, namespace: team-sales}}\n"
            f"spec: {{source: {{image: {{reference: '{name}:1', path: {root}}}}}}}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "dagbundle.cli.main", "apply", "-f", str(resource), "--local", "--folder", str(root),
             "--python", sys.executable],
            env={**self.environment, "DAGBUNDLE_DATABASE_URL": self.url, "DAGBUNDLE_TARGET": "airflow"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return version

    def write(self, name: str, files: Files) -> pathlib.Path:
        """Put these files, and no others, where the bundle's are."""
        root = self.folder / "bundles" / name
        shutil.rmtree(root, ignore_errors=True)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return root

    def releases(self, name: str) -> pathlib.Path:
        """Return the folder of the bundle's versions, where workers look for them."""
        return self.folder / "releases" / name

    def gate(self, name: str) -> pathlib.Path:
        """Return a path that is not there; tasks wait until a test makes it."""
        return self.folder / f"gate-{name}"

    def process_files(self, name: str) -> None:
        """Let the stock dag-processor go once over what was written."""
        process_files(self.url, name, self.folder / "bundles" / name, **self.environment)

    # --- what an operator does ----------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """Ask the REST API."""
        return self._answer(self.client.get(f"/api/v2/{path}", params=query))

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """Make something by the REST API."""
        return self._answer(self.client.post(f"/api/v2/{path}", json=document))

    def pause(self, dag_id: str, *, paused: bool = True) -> None:
        """Pause a DAG, or unpause it."""
        self._answer(self.client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": paused}))

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Start a run, and return its id."""
        run: str = self.post(f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
        return run

    def runs(self, dag_id: str) -> list[Any]:
        """Return a DAG's runs, the oldest first."""
        found: list[Any] = []
        while True:
            page = self.get(f"dags/{dag_id}/dagRuns", order_by="id", limit=100, offset=len(found))
            found += page["dag_runs"]
            if len(found) >= page["total_entries"] or not page["dag_runs"]:
                return found

    def tasks(self, dag_id: str, run_id: str) -> list[Any]:
        """Return a run's task instances, by name and map index."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return sorted(found, key=lambda task: (task["task_id"], task["map_index"]))

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the states of a run's task instances."""
        return {task["task_id"]: task["state"] for task in self.tasks(dag_id, run_id)}

    def said(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path, deserialize=True)["value"]

    def triggers(self) -> list[str]:
        """Return the classes of all triggers that the triggerer has to run, which no API tells."""
        engine = sqlalchemy.create_engine(driver(self.url), poolclass=sqlalchemy.NullPool)
        with contextlib.closing(engine.connect()) as connection:
            return list(connection.scalars(sqlalchemy.text('SELECT classpath FROM "trigger"')))

    # --- what is waited for -------------------------------------------------------------------------------------------

    def until(self, what: str, ask: Callable[[], Found | None], *, seconds: float = SECONDS) -> Found:
        """Ask until there is an answer, and return it. What the processes said is shown if there is none in time."""
        deadline = time.monotonic() + seconds
        while True:
            found = ask()
            if found:
                return found
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended while the test waited for {what}\n{self.logs()}"
            assert time.monotonic() < deadline, f"no {what} within {seconds} s\n{self.logs()}"
            time.sleep(0.3)

    def ended(self, dag_id: str, run_id: str | None = None, *, kind: str | None = None) -> Any:
        """Wait until a run ended: the named one, else the first of this kind."""

        def ask() -> Any:
            for run in self.runs(dag_id):
                if run_id in {None, run["dag_run_id"]} and kind in {None, run["run_type"]} and run["state"] in ENDED:
                    return run
            return None

        return self.until(f"ended run of {dag_id}", ask)

    def waiting(self, dag_id: str, gate: pathlib.Path) -> Any:
        """Wait until a task of the DAG's first run waits at the gate, and return the run.

        The task says so itself: for the API it runs from before its worker has read the DAG's file.
        """
        begun = gate.with_name(f"{gate.name}.{dag_id}")
        self.until(f"task of {dag_id} at {gate.name}", begun.exists)
        return self.runs(dag_id)[0]

    def logs(self) -> str:
        """Return what the processes and the tasks said last."""
        found = sorted(self.folder.glob("*.log")) + sorted((self.folder / "logs").rglob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in found)

    @staticmethod
    def _answer(response: httpx.Response) -> Any:
        assert response.is_success, f"{response.request.method} {response.request.url}: {response.text}"
        return response.json()


@contextlib.contextmanager
def living(
    url: str, bundles: Mapping[str, str], *, api_server: bool = True, **settings: str
) -> Iterator[LivingAirflow]:
    """Start a deployment, and end it.

    Args:
        url: Of a database that has Airflow's tables, and ours.
        bundles: Names of the bundles that its workers know, with the classes that find them.
        api_server: Whether it has one; without it no task can run.
        **settings: More of the environment of all its processes.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dagbundle-life-")))
        folder.chmod(0o755)  # as root the parser's children have a user of their own
        api = f"http://127.0.0.1:{free_port()}"
        environment = {
            **os.environ, **FAST,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{api}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": driver(url),
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
            **settings,
        }  # fmt: skip
        places = {}
        for name, classpath in bundles.items():
            kind = "releases" if classpath.startswith("publisher.") else "bundles"
            short = name.rpartition(".")[2]
            (folder / kind / short).mkdir(parents=True)
            places[name] = {"name": name, "classpath": classpath, "kwargs": {"path": str(folder / kind / short)}}
        known = {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(list(places.values()))}
        client = stack.enter_context(httpx.Client(base_url=api, timeout=SECONDS))
        deployment = LivingAirflow(url, folder, environment, {}, client)
        # Only workers need to know the bundles. LocalExecutor's are forked from the scheduler.
        for name, arguments, more in (
            ("api-server", ("--port", api.rpartition(":")[2], "--host", "127.0.0.1", "--workers", "1"), {}),
            ("scheduler", ("--skip-serve-logs",), known),
            ("triggerer", ("--skip-serve-logs",), {}),
        ):
            if name == "api-server" and not api_server:
                continue
            started = running(folder / f"{name}.log", name, *arguments, environment={**environment, **more})
            deployment.processes[name] = stack.enter_context(started)
        if api_server:
            deployment.until("API server", lambda: log_in(client))
        yield deployment


def log_in(client: httpx.Client) -> bool:
    """Become an administrator, if the API server is there."""
    with contextlib.suppress(httpx.TransportError):
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        return True
    return False


@contextlib.contextmanager
def running(
    log: pathlib.Path, name: str, *arguments: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Airflow's processes, and end it with all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", name, *arguments],
            env=dict(environment), stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
