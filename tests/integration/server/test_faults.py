"""The real parser against the real server while things break: nothing is lost, nothing counts twice."""

from __future__ import annotations

import http.client
import os
import pathlib
import signal
import ssl
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dagbundle.store.dagstore import DagStore
from integration.parser.conftest import find_airflow
from integration.server.conftest import Authority, Parser, Serve, World
from integration.server.helpers import publish, wait_until_open
from support import reports
from support.postgres import PostgresServer, running_postgres
from support.store_process import Kubernetes, Process

pytestmark = pytest.mark.postgres
Parse = Callable[..., Parser]
LINKS = 40


@pytest.fixture
def files(world: World) -> list[str]:
    """Files that are reported without Airflow: links that leave the bundle."""
    for number in range(LINKS):
        (world.root / f"{number}.py").symlink_to("/etc/hostname")
    return sorted(f"{number}.py" for number in range(LINKS))


def paths(world: World, rollout_id: str) -> list[str]:
    (outcome,) = world.store.outcomes(rollout_id)
    assert outcome.closed, outcome.failure
    return [file.path for file in outcome.files]


def test_the_parser_fetches_its_run_and_delivers_its_report(
    world: World, server: Process, parse: Parse, files: list[str]
) -> None:
    job = world.job()
    assert parse(world.pod(job), server).wait() == (0, "")
    assert paths(world, job.rollout_id) == files


def test_shards_deliver_their_parts_to_two_replicas(world: World, serve: Serve, parse: Parse, files: list[str]) -> None:
    servers = [serve(), serve()]
    job = world.job(shards=3)
    parsers = [
        parse(world.pod(job, index=index), servers[index % 2], JOB_COMPLETION_INDEX=str(index)) for index in range(3)
    ]
    assert [parser.wait()[0] for parser in parsers] == [0, 0, 0]
    assert paths(world, job.rollout_id) == files


def test_another_replica_may_get_the_report_and_a_third_the_repetition(world: World, serve: Serve) -> None:
    first, second, third = serve(), serve(), serve()
    job = world.job()
    pod = world.pod(job)
    assert pod.ask(first).status == 200
    assert pod.report(second, reports.parsed("a.py", "a")).status == 200
    assert pod.report(third, reports.parsed("a.py", "a")).status == 200
    assert paths(world, job.rollout_id) == ["a.py"]


def test_a_server_killed_in_mid_stream_costs_nothing(world: World, serve: Serve) -> None:
    first = serve()
    job = world.job()
    pod = world.pod(job)
    lines = reports.lines(pod.request, [reports.parsed(f"{n}.py", f"d{n}") for n in range(50)])

    def killed() -> Iterator[bytes]:
        yield b"".join(lines[:30])
        wait_until_open(world, job.rollout_id)
        first.stop(signal.SIGKILL)
        yield from lines[30:]

    with pytest.raises((ConnectionError, http.client.HTTPException, ssl.SSLError)):
        pod.send(first, killed())
    assert not world.store.outcomes(job.rollout_id)[0].closed
    second = serve()
    assert pod.send(second, b"".join(lines)).status == 200
    assert len(paths(world, job.rollout_id)) == 50


def wait_until_blocked(server: PostgresServer) -> None:
    event = threading.Event()
    for _ in range(600):
        if server.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            return
        event.wait(0.05)
    raise AssertionError("nothing was blocked")


AIRFLOW_DAG = """
import os, time
from airflow.sdk import DAG
{wait}
seen = sorted(name for name in os.environ if "DAGBUNDLE" in name or "COMPLETION" in name)
with DAG({dag_id!r}, schedule=None, doc_md=repr(seen)):
    pass
"""
WAIT = "open({pipe!r}).read()"


def test_a_server_killed_and_a_token_expired_while_a_real_parser_streams(
    world: World, serve: Serve, tmp_path: pathlib.Path, parse: Parse
) -> None:
    """With real Airflow; one DAG file waits for a pipe, so that all that happens while the report is open."""
    airflow = find_airflow("3.3", tmp_path / "home")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (world.root / "a.py").write_text(AIRFLOW_DAG.format(dag_id="a", wait=""))
    (world.root / "b.py").write_text(AIRFLOW_DAG.format(dag_id="b", wait=WAIT.format(pipe=str(pipe))))
    first = serve()
    job = world.job()
    pod = world.pod(job)
    parser = parse(pod, first, python=str(airflow.python), JOB_COMPLETION_INDEX="0")
    wait_until_open(world, job.rollout_id)
    port = first.port
    first.stop(signal.SIGKILL)
    world.kubernetes.world["tokens"]["renewed"] = world.kubernetes.world["tokens"][pod.token]
    world.kubernetes.forget(token=pod.token)
    (tmp_path / f"{pod.name}.token").write_text("renewed")
    second = serve(port=port)
    with pipe.open("w"):
        pass
    code, said = parser.wait()
    assert (code, "trying again" in said) == (0, True), said
    second.wait_for(lambda line: line.get("result") == "Closed")
    assert paths(world, job.rollout_id) == ["a.py", "b.py"]
    (outcome,) = world.store.outcomes(job.rollout_id)
    for file in outcome.files:
        assert file.problems == ()
        header = world.store.content(file.dags[0].sha256).header
        assert header["dag"]["doc_md"] == "[]"  # nothing of the way to the server is in the environment of DAG files


def test_an_expired_token_ends_the_parser_with_the_reason(
    world: World, server: Process, parse: Parse, files: list[str]
) -> None:
    pod = world.pod(world.job())
    world.kubernetes.forget(token=pod.token)
    code, said = parse(pod, server).wait()
    assert (code, "TokenRefused" in said) == (4, True)
    assert files


def test_a_retried_pod_after_the_run_closed_has_nothing_to_do(
    world: World, server: Process, parse: Parse, files: list[str]
) -> None:
    job = world.job()
    assert parse(world.pod(job), server).wait()[0] == 0
    code, said = parse(world.pod(job), server).wait()
    assert (code, "closed already" in said) == (0, True)
    assert paths(world, job.rollout_id) == files


def test_a_superseded_pod_ends_with_the_reason(world: World, server: Process, parse: Parse, files: list[str]) -> None:
    pod = world.pod(world.job())
    world.rollout()
    code, said = parse(pod, server).wait()
    assert (code, "RunOver" in said) == (4, True)
    assert files


def test_what_is_unchanged_is_confirmed_and_known_files_are_served(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    remembered = {**reports.parsed("a.py", "a"), "fingerprint": "f", "closure": {"a.py": "0" * 64}}
    assert pod.report(server, remembered).status == 200
    publish(world, job.rollout_id)
    job = world.job()
    pod = world.pod(job)
    answer = pod.ask(server, Accept_Encoding="gzip")
    assert answer.status == 200
    known = pod.ask(server).document["known"]
    assert known["a.py"]["fingerprint"] == "f"
    assert known["a.py"]["age"] >= 0
    assert pod.report(server, reports.unchanged("a.py")).status == 200
    (outcome,) = world.store.outcomes(job.rollout_id)
    assert [(file.path, file.unchanged, len(file.dags)) for file in outcome.files] == [("a.py", True, 1)]
    assert world.pod(job).report(server, reports.unchanged("b.py")).reason == "RunClosed"


# --- The database ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def test_a_database_restarted_while_it_stages_costs_nothing(
    own_postgres: PostgresServer, kubernetes: Kubernetes, authority: Authority, tmp_path: pathlib.Path
) -> None:
    url = own_postgres.create_database()
    with DagStore.open(url, upgrade=True) as store:
        world = World(store, tmp_path, kubernetes, authority)
        server = Process.start(url, kubernetes.path, certificate=authority.certificate, key=authority.key)
        try:
            job = world.job()
            pod = world.pod(job)
            files = [reports.parsed(f"{n}.py", f"d{n}") for n in range(1200)]
            lines = reports.lines(pod.request, files)

            def restarted() -> Iterator[bytes]:
                yield lines[0]
                wait_until_open(world, job.rollout_id)
                with psycopg.connect(url) as connection:
                    connection.execute("SELECT id FROM dagbundle.parse_run FOR UPDATE")
                    yield b"".join(lines[1:700])
                    wait_until_blocked(own_postgres)  # a batch is being staged, and its transaction is cut
                    own_postgres.restart()
                    connection.close()
                yield b"".join(lines[700:])

            answer = pod.send(server, restarted())
            if answer.status != 200:  # it was away for longer than the server tries
                assert (answer.status, answer.reason) == (503, "StoreUnavailable")
                assert pod.send(server, b"".join(lines)).status == 200
            assert len(paths(world, job.rollout_id)) == 1200
            own_postgres.stop(signal.SIGQUIT)
            gone = pod.ask(server)
            assert (gone.status, gone.reason, "Retry-After" in gone.headers) == (503, "StoreUnavailable", True)
        finally:
            server.stop()


def test_a_server_starts_without_its_database_and_is_ready_when_it_is_there(
    empty_postgres_url: str, kubernetes: Kubernetes, authority: Authority
) -> None:
    server = Process.start(empty_postgres_url, kubernetes.path, certificate=authority.certificate, key=authority.key)

    def get(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    try:
        assert get("/healthz") == (200, b"ok\n")
        status, text = get("/readyz")
        assert (status, b"has no tables of dagbundle yet" in text) == (503, True)
        DagStore.open(empty_postgres_url, upgrade=True).close()
        assert get("/readyz") == (200, b"ok\n")
        assert b"dagbundle_server_reports_open 0.0" in get("/metrics")[1]
    finally:
        assert server.stop() == 0
