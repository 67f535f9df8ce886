"""Variables and Connections for DAG files that are parsed: who is given what, and that nobody else hears of it."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle.resources import protocol
from dagbundle.rollout import policy
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, FileOutcome
from dagbundle.store.records import JobRow
from integration.parser.conftest import MINORS, find_airflow
from integration.server.conftest import Authority, Caller, Parser, Serve, World
from integration.server.helpers import metric
from support import reports
from support.store_process import Process
from support.store_server import Answer, Exchange, scripted_server

pytestmark = pytest.mark.postgres
SECRET = "correct-horse-battery"
DATABASE = {
    "conn_type": "postgres", "host": "db.example", "schema": "sales", "login": "reader", "password": SECRET,
    "port": 5432, "extra": json.dumps({"sslkey": "key-" + SECRET}),
}  # fmt: skip
VALUES: dict[str, Any] = {
    "variable sales_region": "north-east",
    "variable sales/nested key": "slashed",
    "variable sales_token": SECRET,
    "variable sales_settings": json.dumps({"days": ["monday"], "api_key": SECRET}),
    "variable sales_large": "x" * 5000,
    "variable sales_down": "broken",
    "variable payroll": SECRET,
    "connection sales_db": DATABASE,
}


@pytest.fixture(scope="session")
def values(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("values") / "values.json"
    path.write_text(json.dumps(VALUES))
    return path


@pytest.fixture(scope="module")
def giving(start: Serve, values: pathlib.Path) -> Iterator[Process]:
    """A server that knows values; none of them is in anything that it said."""
    process = start(values=values, lookups_per_second=1000, value_bytes=4000)
    yield process
    assert process.stop() == 0
    assert process.other == []
    assert_kept(json.dumps(process.lines))


def assert_kept(text: str) -> None:
    for secret in (SECRET, "north-east", "slashed", "monday", "xxxxx"):
        assert secret not in text


def granted(world: World, *, variables: tuple[str, ...] = ("sales*",), spec: list[str] | None = None) -> JobRow:
    """A run of a bundle that may read some values; `spec` is what its spec.parser.variables says."""
    rules = policy.Policy(connections=("sales_*",), variables=variables)
    return world.job(world.rollout(document=RolloutDocument({"parser": {"variables": spec}}, rules)))


def kept(world: World, job: JobRow) -> dict[tuple[str, str], str | None]:
    """What is kept of a run's lookups."""
    table = world.store.db.tables.lookup
    with world.store.db.engine.connect() as connection:
        rows = connection.execute(sa.select(table).where(table.c.run_id == job.run_id)).all()
    return {(row.kind, row.key): row.digest for row in rows}


def test_a_run_is_given_the_variables_and_connections_that_its_bundle_is_granted(world: World, giving: Process) -> None:
    pod = world.pod(granted(world))
    answer = pod.ask(giving, "/variables/sales_region")
    assert (answer.status, answer.document) == (200, {"value": "north-east"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert pod.ask(giving, "/variables/sales%2Fnested%20key").document == {"value": "slashed"}
    assert pod.ask(giving, "/connections/sales_db").document == {"value": DATABASE}
    assert pod.ask(giving).document["values"] is True


def test_what_is_not_granted_is_refused_and_the_refusal_names_the_grant(world: World, giving: Process) -> None:
    pod = world.pod(granted(world))
    answer = pod.ask(giving, "/variables/payroll")
    assert (answer.status, answer.reason) == (403, "NotGranted")
    assert "team-sales: the platform team grants it by tenants[].variables" in answer.document["detail"]
    assert "'payroll'" in answer.document["detail"]
    assert_kept(answer.body.decode())
    assert pod.ask(giving, "/connections/payroll").reason == "NotGranted"


def test_a_spec_narrows_the_grant_and_a_refusal_says_so(world: World, giving: Process) -> None:
    pod = world.pod(granted(world, variables=("sales_region",), spec=["sales_region"]))
    assert pod.ask(giving, "/variables/sales_region").status == 200
    answer = pod.ask(giving, "/variables/sales_token")
    assert (answer.status, answer.reason) == (403, "NotGranted")
    assert "spec.parser.variables does not name it" in answer.document["detail"]


def test_a_bundle_without_grants_is_given_nothing(world: World, giving: Process) -> None:
    pod = world.pod(world.job())
    assert [pod.ask(giving, path).reason for path in ("/variables/sales_region", "/connections/sales_db")] == [
        "NotGranted", "NotGranted",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["sales_missing", "%01", "sales" + "y" * 300, ""])
def test_what_is_not_there_or_cannot_be_there_is_missing(world: World, giving: Process, key: str) -> None:
    answer = world.pod(granted(world)).ask(giving, f"/variables/{key}")
    assert (answer.status, answer.reason) == (404, "NoSuchValue")


@pytest.mark.parametrize(
    "key", ["sales_x/../payroll", "sales_x%2f..%2fpayroll", "sales_%252e%252e%252fpayroll", "sales_x%3fa"]
)
def test_a_name_that_leads_elsewhere_in_a_backend_is_not_asked_for(world: World, giving: Process, key: str) -> None:
    answer = world.pod(granted(world)).ask(giving, f"/variables/{key}")
    assert answer.status in {403, 404}
    assert answer.reason in {"NotGranted", "NoSuchValue", "NotFound"}


def test_a_server_without_a_target_has_no_values_and_says_so_beforehand(world: World, server: Process) -> None:
    pod = world.pod(granted(world))
    assert pod.ask(server).document["values"] is False
    answer = pod.ask(server, "/variables/sales_region")
    assert (answer.status, answer.reason) == (404, "NoTarget")


def test_a_value_that_cannot_be_looked_up_is_no_missing_one(world: World, giving: Process) -> None:
    answer = world.pod(granted(world)).ask(giving, "/variables/sales_down")
    assert (answer.status, answer.reason, answer.headers["Retry-After"]) == (503, "ValueUnavailable", "2")


def test_a_value_that_is_too_long_is_not_given(world: World, giving: Process) -> None:
    answer = world.pod(granted(world)).ask(giving, "/variables/sales_large")
    assert (answer.status, answer.reason) == (413, "ValueTooLarge")
    assert_kept(answer.body.decode())


def test_a_run_may_ask_for_so_many_different_values_whoever_answers(
    world: World, serve: Serve, values: pathlib.Path
) -> None:
    servers = [serve(values=values, lookups_per_second=1000, lookups_per_run=2) for _ in range(2)]
    pod = world.pod(granted(world))
    assert pod.ask(servers[0], "/variables/sales_region").status == 200
    assert pod.ask(servers[1], "/variables/payroll").reason == "NotGranted"
    assert pod.ask(servers[0], "/connections/sales_db").reason == "TooManyLookups"
    assert pod.ask(servers[1], "/variables/sales_region").status == 200


def test_a_pod_that_asks_for_values_too_often_is_told_to_wait(world: World, serve: Serve, values: pathlib.Path) -> None:
    server = serve(values=values, lookups_per_second=0.01)
    pod = world.pod(granted(world))
    assert pod.ask(server, "/variables/sales_region").status == 200
    answer = pod.ask(server, "/variables/sales_region")
    assert (answer.status, answer.reason) == (429, "TooManyRequests")
    assert pod.ask(server).status == 200


def test_only_the_runs_own_pod_is_given_values_and_only_while_the_run_goes_on(world: World, giving: Process) -> None:
    job = granted(world)
    pod = world.pod(job)
    other = world.pod(world.job(world.rollout(BundleKey("team-ops", "ops"))))
    assert other.ask(giving, "/variables/sales_region", run=job.run_id).reason == "UnknownRun"
    stranger = world.pod(job, account="stranger")
    assert stranger.ask(giving, "/variables/sales_region").reason == "WrongAccount"
    assert pod.report(giving, reports.parsed("a.py", "a")).status == 200
    assert pod.ask(giving, "/variables/sales_region").reason == "RunClosed"
    over = world.pod(granted(world))
    world.rollout()
    assert over.ask(giving, "/variables/sales_region").reason == "RunOver"


def test_lookups_are_counted_by_kind_and_result(world: World, serve: Serve, values: pathlib.Path) -> None:
    server = serve(values=values)
    pod = world.pod(granted(world))
    for path in ("sales_region", "sales_region", "sales_missing", "payroll", "sales_down"):
        pod.ask(server, f"/variables/{path}")
    pod.ask(server, "/connections/sales_db")
    found = {
        (kind, result): metric(server, f'dagbundle_server_lookups_total{{kind="{kind}",result="{result}"}}')
        for kind in ("variable", "connection")
        for result in ("found", "missing", "refused", "failed")
    }
    assert {name: count for name, count in found.items() if count} == {
        ("variable", "found"): 2, ("variable", "missing"): 1, ("variable", "refused"): 1, ("variable", "failed"): 1,
        ("connection", "found"): 1,
    }  # fmt: skip


def test_what_is_kept_of_a_value_is_a_digest_that_no_guess_can_be_held_against(world: World, giving: Process) -> None:
    first, second = granted(world), granted(world, variables=("*",))
    assert world.pod(second).ask(giving, "/variables/sales_token").status == 200
    assert world.pod(second).ask(giving, "/variables/payroll").status == 200
    assert world.pod(second).ask(giving, "/variables/sales_missing").status == 404
    assert kept(world, first) == {}
    found = kept(world, second)
    assert found["variable", "sales_missing"] is None
    digest = found["variable", "sales_token"]
    assert digest is not None
    assert len(digest) == 64
    assert digest != found["variable", "payroll"], "the same value under another name"
    assert len(world.store.digest_key()) == 64


# --- With the real parser and real Airflow --------------------------------------------------------------------------

HEAD = "from airflow.sdk import DAG, Connection, Variable\n"
FILES = {
    "variable.py": 'dag = DAG(dag_id="region." + Variable.get("sales_region"))',
    "again.py": 'dag = DAG(dag_id="again." + Variable.get("sales_region"))',
    "parsed.py": 'dag = DAG(dag_id=Variable.get("sales_settings", deserialize_json=True)["days"][0])',
    "default.py": 'dag = DAG(dag_id=Variable.get("sales_missing", default="fallback"))',
    "missing.py": 'dag = DAG(dag_id=Variable.get("sales_missing"))',
    "connection.py": (
        'found = Connection.get("sales_db")\ndag = DAG(dag_id=f"{found.login}.{found.schema}.{found.port}")'
    ),
    "no_connection.py": 'Connection.get("sales_nothing")\ndag = DAG(dag_id="never")',
    "old_variable.py": (
        "from airflow.models import Variable as Old\n"
        'dag = DAG(dag_id="old." + Old.get("sales_region") + Old.get("sales_missing", default_var=".none"))'
    ),
    "old_hook.py": (
        "try:\n    from airflow.sdk.bases.hook import BaseHook\nexcept ImportError:\n"
        "    from airflow.hooks.base import BaseHook\n"
        'dag = DAG(dag_id="hook." + BaseHook.get_connection("sales_db").host)'
    ),
    "environment.py": 'dag = DAG(dag_id="environment." + Variable.get("payroll_day"))',
    "refused.py": 'dag = DAG(dag_id="refused." + Variable.get("payroll", default="nothing"))',
    "printed.py": 'print(Variable.get("sales_token"))\ndag = DAG(dag_id="printed")',
    "told.py": "raise RuntimeError(f\"cannot use {Variable.get('sales_token')}\")",
    "told_connection.py": (
        'found = Connection.get("sales_db")\nraise RuntimeError(f"{found.get_uri()} {found.password!r} {found.extra}")'
    ),
    "told_setting.py": (
        'found = Variable.get("sales_settings", deserialize_json=True)\nraise RuntimeError(str(found["api_key"]))'
    ),
    "down.py": 'dag = DAG(dag_id=Variable.get("sales_down", default="never"))',
    "hidden_down.py": (
        'try:\n    Variable.get("sales_down", "never")\nexcept BaseException:\n    pass\ndag = DAG(dag_id="x")'
    ),
    "writes.py": 'Variable.set("sales_region", "elsewhere")\ndag = DAG(dag_id="never")',
    "reads_nothing.py": 'dag = DAG(dag_id="reads_nothing")',
}


def write(world: World, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (world.root / name).write_text(HEAD + text + "\n")


def outcomes(world: World, job: JobRow) -> dict[str, FileOutcome]:
    (run,) = world.store.outcomes(job.rollout_id)
    assert run.closed, run.failure
    return {file.path: file for file in run.files}


def ids(file: FileOutcome) -> list[str]:
    assert file.problems == (), file
    return [dag.dag_id for dag in file.dags]


@pytest.mark.parametrize("minor", MINORS)
def test_files_read_values_as_they_do_under_a_stock_processor(
    world: World, giving: Process, parse: Callable[..., Parser], tmp_path: pathlib.Path, minor: str
) -> None:
    write(world, FILES)
    job = granted(world)
    pod = world.pod(job)
    airflow = find_airflow(minor, tmp_path / "home")
    parser = parse(pod, giving, python=str(airflow.python), AIRFLOW_VAR_PAYROLL_DAY="monday")
    code, said = parser.wait()
    assert code == 0, said
    assert_kept(said)
    found = outcomes(world, job)
    assert ids(found["variable.py"]) == ["region.north-east"]
    assert ids(found["again.py"]) == ["again.north-east"]
    assert ids(found["parsed.py"]) == ["monday"]
    assert ids(found["default.py"]) == ["fallback"]
    assert ids(found["connection.py"]) == ["reader.sales.5432"]
    assert ids(found["old_variable.py"]) == ["old.north-east.none"]
    assert ids(found["old_hook.py"]) == ["hook.db.example"]
    assert ids(found["environment.py"]) == ["environment.monday"]
    assert ids(found["refused.py"]) == ["refused.nothing"]
    assert ids(found["printed.py"]) == ["printed"]
    (problem,) = found["missing.py"].problems
    assert "VARIABLE_NOT_FOUND" in problem.message
    (problem,) = found["no_connection.py"].problems
    assert re.search("CONNECTION_NOT_FOUND|isn't defined", problem.message)
    assert "PutVariable was refused" in " ".join(item.message for item in found["writes.py"].warnings)
    (warning,) = [item for item in found["refused.py"].warnings if item.category == "ValueRefused"]
    assert "'payroll' was refused" in warning.message
    assert "tenants[].variables" in warning.message
    for name in ("told.py", "told_connection.py", "told_setting.py"):
        (problem,) = found[name].problems
        assert problem.kind == "RuntimeError"
        assert "***" in problem.message
    for name in ("down.py", "hidden_down.py"):
        (problem,) = found[name].problems
        assert (problem.kind, "sales_down" in problem.message) == ("ValueUnavailable", True)
    for file in found.values():
        assert_kept(" ".join(item.message for item in (*file.problems, *file.warnings)))
    paths = [line["key"] for line in giving.requests(pod.run) if "key" in line and line["status"] != 503]
    assert sorted(paths) == sorted(set(paths)), "each key is asked for once in a run, but where it fails"
    assert {key for _, key in kept(world, job)} == set(paths)


def test_without_a_target_only_the_environment_has_values(
    world: World, server: Process, parse: Callable[..., Parser], tmp_path: pathlib.Path
) -> None:
    write(world, {name: FILES[name] for name in ("default.py", "environment.py", "missing.py")})
    job = granted(world)
    pod = world.pod(job)
    airflow = find_airflow(MINORS[0], tmp_path / "home")
    code, said = parse(pod, server, python=str(airflow.python), AIRFLOW_VAR_PAYROLL_DAY="friday").wait()
    assert code == 0, said
    found = outcomes(world, job)
    assert ids(found["default.py"]) == ["fallback"]
    assert ids(found["environment.py"]) == ["environment.friday"]
    assert "not found" in found["missing.py"].problems[0].message.lower().replace("_", " ")
    assert [line for line in server.requests(pod.run) if "key" in line] == []


@pytest.mark.parametrize("minor", [MINORS[0], MINORS[-1]])
def test_nothing_of_a_report_but_a_dag_that_has_it_holds_a_value(
    parse: Callable[..., Parser], tmp_path: pathlib.Path, authority: Authority, minor: str
) -> None:
    root = tmp_path / "bundle"
    root.mkdir()
    names = ("printed.py", "told.py", "told_connection.py", "told_setting.py", "reads_nothing.py")
    for name in names:
        (root / name).write_text(f"{HEAD}{FILES[name]}\n")
    (root / "crashes.py").write_text(f'{HEAD}print(Variable.get("sales_token"), flush=True)\nimport os\nos.abort()\n')
    (root / "warns.py").write_text(f'{HEAD}import warnings\nwarnings.warn(Variable.get("sales_token"))\n')
    (root / "prints.py").write_text(f"{HEAD}print('nothing secret')\n")
    request = protocol.RunRequest(
        run="abc", attempt="pod-uid", bundle="team-sales.sales", root=str(root), subdir=".", exclude=[],
        parser={"type": "SinglePass", "config": {}}, processes=2, limits={}, run_as_user=None, force=False,
        max_unchanged_age=3600, known={}, values=True,
    ).model_dump(mode="json", by_alias=True)  # fmt: skip

    def answer(exchange: Exchange) -> Answer:
        kind, _, key = exchange.path.removeprefix("/v1/runs/abc").strip("/").partition("/")
        if exchange.method == "GET" and not kind:
            return Answer(document=request)
        return Answer(document={"value": VALUES.get(f"{kind.removesuffix('s')} {key}")})

    with scripted_server(answer) as server:
        python = find_airflow(minor, tmp_path / "home").python
        code, said = parse(Caller("abc", "token", "pod", authority), server.url, python=str(python)).wait()
    assert code == 0, said
    text = server.heard[-1].text.decode()
    assert SECRET not in text + said
    records = {record["path"]: record for record in map(json.loads, text.splitlines()) if record["type"] == "file"}
    assert records["printed.py"]["output"]["text"] == ""
    assert records["printed.py"]["output"]["bytes"] > len(SECRET)
    assert records["crashes.py"]["output"]["text"] == ""
    assert [error["kind"] for error in records["crashes.py"]["errors"]] == ["ProcessCrashed"]
    assert records["prints.py"]["output"]["text"] == "nothing secret\n"
    assert any("***" in warning["message"] for warning in records["warns.py"]["warnings"])
    assert {name for name, record in records.items() if record["closure"]} == {"prints.py", "reads_nothing.py"}
    assert records["told_connection.py"]["dynamic"] == ["Connection"]
    assert records["printed.py"]["dynamic"] == ["Variable"]
