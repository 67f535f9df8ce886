"""Variables and Connections of a real Airflow, encrypted in its tables: who looks them up, and what a change does."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from sqlalchemy.orm import Session

from dagbundle import errors
from dagbundle.controller import upkeep
from dagbundle.controller.settings import Settings
from dagbundle.engine import collecting, engine
from dagbundle.resources import base, bundle
from dagbundle.resources.grants import Grants, Tenant
from dagbundle.rollout import plan, policy
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes import jobs
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import JobRow
from publisher.conftest import OPS, SALES, Deployment, airflow, driver, installed
from support.airflow import home
from support.store_process import ROOT, Kubernetes, Process

SECRET = "correct-horse-battery"
CONNECTION = {
    "conn_type": "postgres", "host": "db.example", "schema": "sales", "login": "reader", "password": SECRET,
    "port": 5432, "extra": json.dumps({"sslmode": "require"}),
}  # fmt: skip


def set_variable(deployment: Deployment, key: str, value: str) -> None:
    """As Airflow's UI does."""
    model = installed().Variable
    with Session(deployment.store.db.engine) as session:
        session.execute(sa.delete(model).where(model.key == key))
        session.add(model(key=key, val=value))
        session.commit()


def set_connection(deployment: Deployment, conn_id: str, **changes: Any) -> None:
    model = installed().Connection
    with Session(deployment.store.db.engine) as session:
        session.execute(sa.delete(model).where(model.conn_id == conn_id))
        session.add(model(conn_id=conn_id, **{**CONNECTION, **changes}))
        session.commit()


# --- Looking up -----------------------------------------------------------------------------------------------------


def test_a_variable_and_a_connection_are_decrypted(deployment: Deployment) -> None:
    set_variable(deployment, "region", SECRET)
    set_connection(deployment, "db")
    stored = [deployment.rows(found) for found in ("SELECT * FROM variable", "SELECT * FROM connection")]
    assert SECRET not in str(stored)
    assert deployment.store.look_up("variable", "region") == SECRET
    assert deployment.store.look_up("connection", "db") == CONNECTION


def test_what_nobody_has_is_missing(deployment: Deployment) -> None:
    assert deployment.store.look_up("variable", "region") is None
    assert deployment.store.look_up("connection", "db") is None


def test_the_environment_comes_before_the_tables_as_in_the_api_server(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variable(deployment, "region", "table")
    monkeypatch.setenv("AIRFLOW_VAR_REGION", "environment")
    monkeypatch.setenv("AIRFLOW_CONN_DB", "postgres://user:pass@host:5432/sales")
    assert deployment.store.look_up("variable", "region") == "environment"
    found = deployment.store.look_up("connection", "db")
    assert isinstance(found, Mapping)
    assert (found["login"], found["password"], found["schema"], found["extra"]) == ("user", "pass", "sales", None)


def backend(monkeypatch: pytest.MonkeyPatch, path: pathlib.Path) -> None:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow.secrets.local_filesystem.LocalFilesystemBackend")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps({"variables_file_path": str(path)}))


def test_the_deployments_secrets_backend_comes_first(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    set_variable(deployment, "region", "table")
    set_variable(deployment, "day", "monday")
    path = tmp_path / "variables.json"
    path.write_text(json.dumps({"region": "backend"}))
    backend(monkeypatch, path)
    assert deployment.store.look_up("variable", "region") == "backend"
    assert deployment.store.look_up("variable", "day") == "monday"


def test_a_backend_that_fails_does_not_make_a_value_a_missing_one(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    set_variable(deployment, "day", "monday")
    path = tmp_path / "variables.json"
    path.write_text(f'{{"region": "{SECRET}"')
    backend(monkeypatch, path)
    assert deployment.store.look_up("variable", "day") == "monday"
    with pytest.raises(errors.TargetError, match="LocalFilesystemBackend failed with") as raised:
        deployment.store.look_up("variable", "region")
    assert raised.value.reason == "ValueUnavailable"
    assert SECRET not in raised.value.message


def test_what_another_key_encrypted_is_not_a_missing_value_either(deployment: Deployment) -> None:
    set_variable(deployment, "region", "value")
    set_connection(deployment, "db")
    other = Fernet(Fernet.generate_key())
    deployment.execute("UPDATE variable SET val = :val", val=other.encrypt(SECRET.encode()).decode())
    deployment.execute("UPDATE connection SET password = :val", val=other.encrypt(SECRET.encode()).decode())
    with pytest.raises(errors.TargetError, match="variable 'region' cannot be looked up: it cannot be decrypted"):
        deployment.store.look_up("variable", "region")
    with pytest.raises(errors.TargetError, match=r"connection 'db' cannot be looked up: .*InvalidToken"):
        deployment.store.look_up("connection", "db")


def test_a_program_without_the_key_gives_no_encrypted_text_for_a_value(deployment: Deployment) -> None:
    set_variable(deployment, "region", SECRET)
    program = (
        "import sys; from dagbundle import errors; from dagbundle.store.dagstore import DagStore\n"
        "from dagbundle.targets.airflow.target import AirflowTarget\n"
        "with DagStore.open(sys.argv[1]) as store:\n"
        "    store.target = AirflowTarget()\n"
        "    try:\n        print(store.look_up('variable', 'region'))\n"
        "    except errors.TargetError as error:\n        print(error.message, error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, deployment.url],
        env={**os.environ, "AIRFLOW__CORE__FERNET_KEY": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "cannot be decrypted" in done.stdout, done.stderr
    assert "AIRFLOW__CORE__FERNET_KEY" in done.stdout


# --- A change -------------------------------------------------------------------------------------------------------


def settings(**granted: list[str]) -> Settings:
    tenants = [
        Tenant(namespace="team-sales", **{"variables": ["*"], "connections": ["*"], **granted}),
        Tenant(namespace="team-ops", variables=["*"]),
    ]
    return Settings(
        database_url="", jobs=jobs.Settings("https://server.invalid", "", "parser:1"), grants=Grants(tenants=tenants),
        identity="controller-1",
    )  # fmt: skip


def resource(key: BundleKey = SALES, **parser: Any) -> bundle.DagBundle:
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1", "kind": "DagBundle",
        "metadata": {"namespace": key.namespace, "name": key.name},
        "spec": {"source": {"image": {"reference": "registry.test/sales:1"}}, "parser": parser},
    }  # fmt: skip
    return base.validate(bundle.DagBundle, document, what="the bundle")


def started(
    store: DagStore, key: BundleKey = SALES, *, granted: Mapping[str, list[str]] | None = None, **parser: Any
) -> JobRow:
    """A rollout as a controller starts it, with its Job."""
    made = resource(key, **parser)
    rules = policy.resolve(made, settings(**(granted or {})).grants)
    rollout = engine.Engine(store).start(made, version="registry.test/sales:1", rules=rules)
    run = plan.RunPlan(subdir=".", exclude=(), run_as_user=None, service_account_name="parser")
    request = collecting.request_for(
        run, collecting.RunSettings(rollout.id, str(key), made.spec.parser), attempt="", root="/dags", known={}
    )
    row = store.record_job(
        rollout.id, ".", namespace=key.namespace, service_account="parser", name=f"job-{rollout.id[:8]}",
        request=request.model_dump(mode="json", by_alias=True, exclude={"run", "attempt", "known", "run_as_user"}),
    )  # fmt: skip
    store.job_created(row.run_id, f"uid-{row.run_id[:8]}")
    return store.job(row.run_id)


def read(store: DagStore, job: JobRow, *values: tuple[Any, str]) -> None:
    """What the server does for a file that reads values."""
    for kind, key in values:
        assert store.record_lookup(job.run_id, kind, key, store.look_up(kind, key), most=100)


def over(store: DagStore, job: JobRow) -> None:
    store.block(job.rollout_id, "RunFailed", "of no interest here")


def asked_again(store: DagStore, key: BundleKey = SALES, **granted: list[str]) -> bool:
    upkeep.follow_values(store, settings(**granted))
    return store.head(key).requested


def test_a_bundle_is_parsed_again_when_a_value_that_it_read_changes_and_no_other_bundle_is(
    deployment: Deployment,
) -> None:
    store = deployment.store
    set_variable(deployment, "region", "north")
    set_variable(deployment, "day", "monday")
    sales, ops = started(store), started(store, OPS)
    read(store, sales, ("variable", "region"))
    read(store, ops, ("variable", "day"))
    over(store, sales)
    over(store, ops)
    assert not asked_again(store)
    set_variable(deployment, "region", "south")
    assert asked_again(store)
    assert not store.head(OPS).requested
    started(store)
    assert not store.head(SALES).requested


@pytest.mark.parametrize("change", [{"password": "another"}, {"host": "other.example"}, {"port": 5433}])
def test_any_field_of_a_connection_is_a_change(deployment: Deployment, change: dict[str, Any]) -> None:
    store = deployment.store
    set_connection(deployment, "db")
    job = started(store)
    read(store, job, ("connection", "db"))
    over(store, job)
    set_connection(deployment, "db")
    assert not asked_again(store)
    set_connection(deployment, "db", **change)
    assert asked_again(store)


def test_a_value_that_was_missing_and_is_there_now_is_a_change_and_so_is_one_that_is_gone(
    deployment: Deployment,
) -> None:
    store = deployment.store
    job = started(store)
    read(store, job, ("variable", "region"))
    over(store, job)
    assert not asked_again(store)
    set_variable(deployment, "region", "north")
    assert asked_again(store)
    again = started(store)
    read(store, again, ("variable", "region"))
    over(store, again)
    deployment.execute("DELETE FROM variable")
    assert asked_again(store)


def test_a_grant_that_is_taken_away_or_given_is_a_change(deployment: Deployment) -> None:
    store = deployment.store
    set_variable(deployment, "region", "north")
    job = started(store)
    read(store, job, ("variable", "region"))
    over(store, job)
    assert not asked_again(store, variables=["reg*"])
    assert asked_again(store, variables=["other"])
    refused = started(store)
    assert store.record_lookup(refused.run_id, "variable", "region", None, most=100)
    over(store, refused)
    assert not asked_again(store, variables=[])
    assert asked_again(store, variables=["region"])


def test_what_the_spec_narrows_stays_refused_whatever_is_granted(deployment: Deployment) -> None:
    store = deployment.store
    set_variable(deployment, "region", "north")
    job = started(store, variables=["other"])
    assert store.record_lookup(job.run_id, "variable", "region", None, most=100)
    over(store, job)
    assert not asked_again(store)


def test_a_rollout_that_goes_on_and_a_value_that_cannot_be_looked_up_are_left_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    store = deployment.store
    set_variable(deployment, "region", "north")
    job = started(store)
    read(store, job, ("variable", "region"))
    deployment.execute("DELETE FROM variable")
    assert not asked_again(store)
    over(store, job)
    backend(monkeypatch, tmp_path / "there is none.json")
    assert not asked_again(store)
    monkeypatch.undo()
    assert asked_again(store)


def test_what_was_read_goes_with_its_rollout(deployment: Deployment) -> None:
    store = deployment.store
    job = started(store)
    read(store, job, ("variable", "region"))
    newer = started(store)
    read(store, newer, ("variable", "region"), ("variable", "day"))
    over(store, newer)
    store.collect_garbage(keep_revisions=1)
    with store.db.engine.connect() as connection:
        rows = connection.execute(sa.select(store.db.tables.lookup)).all()
    assert {row.run_id for row in rows} == {newer.run_id}
    assert [item.key for item in store.lookups()] == ["day", "region"]
    assert store.lookups(cluster="another") == ()


# --- All of it ------------------------------------------------------------------------------------------------------


HEAD = "from airflow.sdk import DAG, Connection, Variable\n"


def parsed(
    deployment: Deployment,
    folder: pathlib.Path,
    files: Mapping[str, str],
    granted: Mapping[str, list[str]] | None = None,
) -> tuple[JobRow, str]:
    """Write files, and have the real parser parse them with the real server; return the run, and all that was said."""
    store, root = deployment.store, folder / "dags"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(f"{HEAD}{text}\n")
    kubernetes = Kubernetes(folder / "world.json")
    job = started(store, granted=granted)
    with store.db.engine.begin() as connection:
        table = store.db.tables.job
        request = {**job.request, "root": str(root)}
        connection.execute(sa.update(table).where(table.c.run_id == job.run_id).values(request=request))
    token = folder / "token"
    token.write_text(kubernetes.pod("pod-1", job=job.uid))
    deployed = {name: text for name, text in os.environ.items() if name.startswith(("AIRFLOW", "HOME"))}
    server = Process.start(deployment.url, kubernetes.path, environment={**deployed, "DAGBUNDLE_TARGET": "airflow"})
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "operator" / "dagbundle_parser"), "work"],
            env={
                "PATH": os.environ["PATH"], "HOME": str(folder), "AIRFLOW_HOME": str(folder / "airflow"),
                "PYTHONDONTWRITEBYTECODE": "1", "DAGBUNDLE_SERVER_URL": server.url, "DAGBUNDLE_RUN": job.run_id,
                "DAGBUNDLE_TOKEN_FILE": str(token), "DAGBUNDLE_SCRATCH": str(folder),
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        assert server.stop() == 0
    assert done.returncode == 0, done.stderr
    return job, json.dumps(server.lines) + "".join(server.other) + done.stdout + done.stderr


def test_the_server_gives_airflows_values_to_the_parser_and_nothing_tells_them(
    on_postgresql: Deployment, tmp_path: pathlib.Path
) -> None:
    store = on_postgresql.store
    set_variable(on_postgresql, "region", "north-east")
    set_connection(on_postgresql, "db")
    files = {
        "a.py": 'dag = DAG(dag_id=Variable.get("region") + "." + Connection.get("db").login)',
        "b.py": 'raise RuntimeError(Connection.get("db").get_uri())',
    }
    job, said = parsed(on_postgresql, tmp_path, files)
    (run,) = store.outcomes(job.rollout_id)
    good, broken = run.files
    assert [dag.dag_id for dag in good.dags] == ["north-east.reader"]
    (problem,) = broken.problems
    assert (problem.kind, SECRET in problem.message, "***" in problem.message) == ("RuntimeError", False, True)
    assert SECRET not in said
    assert "north-east" not in said
    over(store, job)
    assert not asked_again(store)
    set_connection(on_postgresql, "db", login="writer")
    assert asked_again(store)


def test_a_stock_processor_reads_the_same_values_from_the_same_files(
    on_postgresql: Deployment, tmp_path: pathlib.Path
) -> None:
    set_variable(on_postgresql, "region", "north")
    set_variable(on_postgresql, "settings", json.dumps({"days": ["monday"], "empty": None}))
    set_variable(on_postgresql, "blank", "")
    set_connection(on_postgresql, "db")
    set_connection(on_postgresql, "bare", host=None, schema=None, login=None, password=None, port=None, extra=None)
    files = {
        "variable.py": 'dag = DAG(dag_id="v." + Variable.get("region"))',
        "json.py": 'dag = DAG(dag_id="j." + Variable.get("settings", deserialize_json=True)["days"][0])',
        "blank.py": 'dag = DAG(dag_id="b." + repr(Variable.get("blank", default="d")).replace("\'", "_"))',
        "default.py": 'dag = DAG(dag_id="d." + Variable.get("nothing", default="fallback"))',
        "missing.py": 'dag = DAG(dag_id="m." + Variable.get("nothing"))',
        "connection.py": 'c = Connection.get("db")\ndag = DAG(dag_id=f"c.{c.conn_type}.{c.login}.{c.port}.{c.schema}")',
        "extra.py": 'dag = DAG(dag_id="e." + Connection.get("db").extra_dejson["sslmode"])',
        "bare.py": 'c = Connection.get("bare")\ndag = DAG(dag_id=f"n.{c.host}.{c.password}.{c.extra}")',
        "no_connection.py": 'Connection.get("nothing")\ndag = DAG(dag_id="never")',
        "old.py": 'from airflow.models import Variable as Old\ndag = DAG(dag_id="o." + Old.get("region"))',
        "hook.py": (
            'from airflow.sdk.bases.hook import BaseHook\ndag = DAG(dag_id="h." + BaseHook.get_connection("db").login)'
        ),
    }
    job, _ = parsed(on_postgresql, tmp_path, files)
    (run,) = on_postgresql.store.outcomes(job.rollout_id)
    ours = {dag.dag_id for file in run.files for dag in file.dags}
    broken = {file.path for file in run.files if file.problems}
    settings = home(tmp_path / "stock", tmp_path / "dags", "dags-folder")
    settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = driver(on_postgresql.url)
    airflow("dag-processor", "--num-runs", "1", **settings)
    assert ours == on_postgresql.live().keys()
    assert len(ours) == len(files) - len(broken)
    assert broken == {name for (name,) in on_postgresql.rows("SELECT filename FROM import_error")}
    assert broken == {"missing.py", "no_connection.py"}
