"""Airflow's own database, migrated by Airflow, with our tables in it: what a deployment has.

These tests run in an environment that has this project and one supported Airflow (`make test-publisher`).
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="dagbundle-airflow-")  # nothing of this machine's is read
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__FERNET_KEY"] = base64.urlsafe_b64encode(os.urandom(32)).decode()

import pytest
import sqlalchemy as sa

from dagbundle.engine import applied, engine
from dagbundle.resources import base
from dagbundle.resources import bundle as bundles
from dagbundle.rollout import content, judge, policy
from dagbundle.rollout.model import BundleKey, FileOutcome, ParsedDag, Problem, StagedFile
from dagbundle.store.dagstore import DagStore
from dagbundle.targets.airflow import adapter, vetting
from dagbundle.targets.airflow import installed as notifiers
from dagbundle.targets.airflow.examining import Examiner
from dagbundle.targets.airflow.target import AirflowTarget
from support.postgres import PostgresServer, running_postgres

SALES = BundleKey("team-sales", "sales")
OPS = BundleKey("team-ops", "ops")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Let Airflow warn of its own modules, which its plugins and providers import."""
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("ignore:The `airflow"))  # of the old names that they import


def airflow(*arguments: str, **environment: str) -> str:
    """Run Airflow's command line, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def process_files(url: str, name: str, folder: pathlib.Path, **environment: str) -> None:
    """Let the stock dag-processor go once over the files of a bundle, into Airflow's database there."""
    kind = "airflow.dag_processing.bundles.local.LocalDagBundle"
    bundles = [{"name": name, "classpath": kind, "kwargs": {"path": str(folder)}}]
    known = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": driver(url),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
    }
    airflow("dag-processor", "--num-runs", "1", **{**environment, **known})


def apply_folder(
    url: str, folder: pathlib.Path, tmp_path: pathlib.Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Publish a folder into Airflow's database there, as a user does; the bundle is `default.corpus`."""
    resource = tmp_path / "bundle.yaml"
    resource.write_text(
        "apiVersion: dagbundle.dev/v1alpha1\nkind: DagBundle\nmetadata: {name: corpus, namespace: default}\n"
        f"spec: {{source: {{image: {{reference: 'corpus:1', path: {folder}}}}}}}\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "dagbundle.cli.main", "apply", "-f", str(resource), "--local", "--folder", str(folder),
         "--python", sys.executable, *options],
        env={**os.environ, "DAGBUNDLE_DATABASE_URL": url, "DAGBUNDLE_TARGET": "airflow", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def migrate(url: str, **environment: str) -> None:
    """Make Airflow's tables, and ours."""
    airflow("db", "migrate", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=driver(url), **environment)
    DagStore.open(url, upgrade=True).close()


def driver(url: str) -> str:
    """A database's URL as Airflow wants it."""
    return url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("template") / "airflow.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(server: PostgresServer) -> str:
    url = server.create_database()
    migrate(url)
    return url.rpartition("/")[2]


@pytest.fixture
def sqlite_url(sqlite_template: pathlib.Path, tmp_path: pathlib.Path) -> str:
    shutil.copy(sqlite_template, tmp_path / "airflow.db")
    return f"sqlite:///{tmp_path / 'airflow.db'}"


@pytest.fixture
def postgres_url(server: PostgresServer, postgres_template: str) -> Iterator[str]:
    url = server.create_database(template=postgres_template)
    yield url
    server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return found


@functools.cache
def installed() -> adapter.Adapter:
    """The Airflow of this environment: one for the process, as a controller has it."""
    return adapter.Adapter(Examiner())


@dataclasses.dataclass
class Deployment:
    """Airflow's database and a store in it."""

    url: str
    store: DagStore

    def submit(
        self, files: Mapping[str, Sequence[Any] | Problem], bundle: BundleKey = SALES, version: str = "v1"
    ) -> int:
        """Publish a bundle: by file its DAGs, made by `dag`, or a problem. Returns the revision."""
        self.store.register_bundle(bundle, str(bundle))
        return self.store.submit_dags(
            bundle, [staged(path, found) for path, found in files.items()], version=version, template_hash=version,
            judge=functools.partial(judge.judge, policy=policy.Policy()), python="3.11", airflow=installed().version,
        )  # fmt: skip

    def roll_out(
        self, files: Mapping[str, Sequence[Any] | Problem], version: str, *, bundle: BundleKey = SALES
    ) -> applied.Applied:
        """Carry a rollout out as a controller does: by file its DAGs, made by `dag`, or a problem."""
        resource = base.validate(
            bundles.DagBundle,
            {
                "apiVersion": "dagbundle.dev/v1alpha1", "kind": "DagBundle",
                "metadata": {"name": bundle.name, "namespace": bundle.namespace},
                "spec": {"source": {"image": {"reference": f"dags:{version}", "path": "/opt/dags"}}},
            },
            what="test",
        )  # fmt: skip
        carrying = engine.Engine(self.store)
        rollout = carrying.start(resource, version=version, rules=policy.Policy())
        run = self.store.open_run(rollout.id, ".", attempt="1", airflow=installed().version, python="3.11")
        self.store.stage(run, "1", [staged(path, found) for path, found in files.items()])
        self.store.close_run(run, "1", list(files))
        return carrying.finish(rollout.id)

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Ask Airflow's tables."""
        with self.store.db.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), values)]

    def execute(self, statement: str, **values: Any) -> None:
        """Change Airflow's tables, as somebody else would."""
        with self.store.db.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def live(self) -> dict[str, str | None]:
        """The DAGs that Airflow schedules, with their bundle versions."""
        return dict(self.rows("SELECT dag_id, bundle_version FROM dag WHERE NOT is_stale"))  # type: ignore[arg-type] # two columns


@pytest.fixture
def deployment(url: str) -> Iterator[Deployment]:
    yield from opened(url)


@pytest.fixture
def on_postgresql(postgres_url: str) -> Iterator[Deployment]:
    yield from opened(postgres_url)


def opened(url: str) -> Iterator[Deployment]:
    with DagStore.open(url) as store:
        store.target = AirflowTarget(installed())
        yield Deployment(url, store)


def allowing(deployment: Deployment, *triggers: str) -> Deployment:
    """Have the deployment allow these triggers besides what is allowed by default, and return it."""
    default = vetting.Allowed(notifiers=notifiers.notifiers)
    allowed = dataclasses.replace(default, triggers=default.triggers | set(triggers))
    deployment.store.target = AirflowTarget(installed(), allowed)
    return deployment


def dag(dag_id: str, *, tasks: Sequence[str] = ("one",), **settings: Any) -> Any:
    """A DAG as a team writes it, with empty tasks."""
    from airflow.providers.standard.operators.empty import EmptyOperator  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.sdk import DAG  # noqa: PLC0415 - likewise

    made = DAG(dag_id, schedule=settings.pop("schedule", None), **settings)
    for name in tasks:
        EmptyOperator(task_id=name, dag=made)
    return made


@functools.cache
def serializer() -> Callable[[Any], dict[str, Any]]:
    """Airflow's own serializer."""
    from airflow.serialization import serialized_objects  # noqa: PLC0415 - likewise

    found = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    return found.to_dict  # type: ignore[no-any-return] # untyped there


def document(made: Any, path: str) -> dict[str, Any]:
    """A DAG's serialized document, as a parser reports it."""
    found = serializer()(made)
    found["dag"]["relative_fileloc"] = path
    found["dag"].pop("fileloc", None)
    return found


def staged(path: str, found: Sequence[Any] | Problem, text: str | None = None) -> StagedFile:
    """What a parser reports of one file."""
    if isinstance(found, Problem):
        return StagedFile(FileOutcome(path, problems=(found,)), sources={path: "broken"})
    documents = [made if isinstance(made, dict) else document(made, path) for made in found]
    contents = tuple(content.split(item) for item in documents)
    source = text if text is not None else f"# {', '.join(item.dag_id for item in contents)}\n"
    dags = tuple(ParsedDag(item.dag_id, item.sha256) for item in contents)
    return StagedFile(FileOutcome(path, dags=dags, duration=0.5), contents=contents, sources={path: source})
