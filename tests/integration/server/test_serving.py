"""How the server begins and ends, its certificates, its schema, and its command."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest
import trustme

from dagbundle import errors
from dagbundle.server import app, serving
from dagbundle.server.settings import Settings
from dagbundle.store.dagstore import DagStore
from integration.server.conftest import Serve, World, issue
from integration.server.helpers import opened, wait_for_reports
from support import reports
from support.store_process import ROOT, FileTokens, Kubernetes, Process

A = reports.parsed("a.py", "a")


@pytest.mark.postgres
def test_what_is_going_on_may_end_after_the_server_was_told_to_stop(world: World, serve: Serve) -> None:
    server = serve(grace_seconds=20)
    job = world.job()
    pod = world.pod(job)
    first, *rest = reports.lines(pod.request, [A])
    connection = opened(pod, server)
    wait_for_reports(server, 1)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for(lambda line: line["message"] == "stopping")
    wait_until_refused(server.port)
    assert probe(server.metrics_port, "/readyz") == 503
    assert probe(server.metrics_port, "/healthz") == 200
    body = b"".join(rest)
    connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert first
    connection.close()
    assert server.process.wait(30) == 0
    assert world.store.outcomes(job.rollout_id)[0].closed


@pytest.mark.postgres
def test_what_does_not_end_in_time_is_cut(world: World, serve: Serve) -> None:
    server = serve(grace_seconds=1)
    job = world.job()
    with opened(world.pod(job), server):
        wait_for_reports(server, 1)
        assert server.stop() == 0
    assert not world.store.outcomes(job.rollout_id)[0].closed


def wait_until_refused(port: int) -> None:
    event = threading.Event()
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            return
        event.wait(0.05)
    raise AssertionError("it still takes connections")


def probe(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.postgres
def test_a_renewed_certificate_is_used_without_a_restart(
    world: World, shared_url: str, kubernetes: Kubernetes, tmp_path: pathlib.Path
) -> None:
    old = issue(trustme.CA(), tmp_path / "tls")
    server = Process.start(shared_url, kubernetes.path, certificate=old.certificate, key=old.key)
    try:
        pod = world.pod(world.job())
        pod.authority = old
        assert pod.ask(server).status == 200
        new = issue(trustme.CA(), tmp_path / "tls")
        server.wait_for(lambda line: line["message"] == "the certificate was renewed")
        with pytest.raises(ssl.SSLCertVerificationError):
            pod.ask(server)
        pod.authority = new
        assert pod.ask(server).status == 200
    finally:
        server.stop()


def test_a_certificate_that_does_not_fit_its_key_is_not_used(tmp_path: pathlib.Path) -> None:
    made = issue(trustme.CA(), tmp_path / "a")
    other = issue(trustme.CA(), tmp_path / "b")
    with pytest.raises(errors.UsageError, match="cannot be used for TLS"):
        serving.Certificate(made.certificate, other.key)
    with pytest.raises(errors.UsageError, match="cannot be used for TLS"):
        serving.Certificate(tmp_path / "missing", made.key)
    certificate = serving.Certificate(made.certificate, made.key)
    assert not certificate.renew()
    made.certificate.write_bytes(other.certificate.read_bytes())
    with pytest.raises(ssl.SSLError):
        certificate.renew()
    made.key.write_bytes(other.key.read_bytes())
    assert certificate.renew()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")  # that is the point
@pytest.mark.postgres
def test_old_versions_of_tls_are_not_spoken(world: World, server: Process) -> None:
    context = ssl.create_default_context(cadata=world.authority.pem)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", server.port), 10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_schema_that_is_published_is_the_one_that_is_committed(
    sqlite_store: DagStore, tmp_path: pathlib.Path
) -> None:
    application = app.create(sqlite_store, FileTokens(tmp_path / "none"), Settings())
    found = json.dumps(application.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    committed = ROOT / "docs" / "openapi.json"
    if os.environ.get("DAGBUNDLE_WRITE_OPENAPI"):
        committed.write_text(found)
    assert committed.read_text() == found, "run this test with DAGBUNDLE_WRITE_OPENAPI=1 to write it anew"


@pytest.mark.postgres
def test_the_schema_is_served(world: World, server: Process) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=world.authority.context, timeout=10)
    connection.request("GET", "/openapi.json")
    document = json.loads(connection.getresponse().read())
    connection.close()
    assert sorted(document["paths"]) == [
        "/healthz", "/v1/runs/{run}", "/v1/runs/{run}/connections/{key}", "/v1/runs/{run}/report",
        "/v1/runs/{run}/variables/{key}",
    ]  # fmt: skip


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import typer, sys\nfrom dagbundle import errors\nfrom dagbundle.cli import serve\n"
        "app = typer.Typer(); app.command()(serve.server)\n"
        "try:\n    app()\nexcept errors.DagBundleError as e:\n    sys.exit(f'{e.message} | {e.hint}')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "operator"), **env},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        (["--host", "192.0.2.1"], {"DAGBUNDLE_DATABASE_URL": "postgresql://x/y"}, "tokens would travel unencrypted"),
        (["--host", ""], {"DAGBUNDLE_DATABASE_URL": "postgresql://x/y"}, "tokens would travel unencrypted"),
        (["--tls-cert", "x"], {"DAGBUNDLE_DATABASE_URL": "postgresql://x/y"}, "belong together"),
        (
            ["--tls-cert", "x", "--tls-key", "y"],
            {"DAGBUNDLE_DATABASE_URL": "postgresql://x/y"},
            "cannot be used for TLS",
        ),
        ([], {"DAGBUNDLE_DATABASE_URL": "sqlite:////tmp/x.db"}, "--allow-sqlite"),
        ([], {}, "DAGBUNDLE_DATABASE_URL"),
        ([], {"DAGBUNDLE_DATABASE_URL": "postgresql://x/y", "DAGBUNDLE_TARGET": "other"}, "is no target"),
        ([], {"DAGBUNDLE_SERVER_REPORTS": "many", "DAGBUNDLE_DATABASE_URL": "x"}, "DAGBUNDLE_SERVER_REPORTS"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(arguments: list[str], env: dict[str, str], text: str) -> None:
    done = command(*arguments, **env)
    assert done.returncode != 0
    assert text in done.stderr


@pytest.mark.postgres
def test_the_command_serves_until_it_is_told_to_stop(
    postgres_url: str, authority: object, tmp_path: pathlib.Path
) -> None:
    made = issue(trustme.CA(), tmp_path / "tls")
    assert authority
    code = "import typer\nfrom dagbundle.cli import serve\napp = typer.Typer(); app.command()(serve.server)\napp()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0", "--metrics-port", "0", "--log-format", "json"],
        stderr=subprocess.PIPE, text=True, env={
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "operator"), "DAGBUNDLE_DATABASE_URL": postgres_url,
            "DAGBUNDLE_TLS_CERT_FILE": str(made.certificate), "DAGBUNDLE_TLS_KEY_FILE": str(made.key),
        },
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert probe(line["ports"][1], "/readyz") == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
