"""The real server over TLS and a real PostgreSQL; parsers are the real program or what a hostile one would send."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.client
import itertools
import json
import os
import pathlib
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
import trustme

from dagbundle.engine import collecting
from dagbundle.resources import bundle as bundle_models
from dagbundle.resources import protocol
from dagbundle.rollout import plan
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import JobRow, RolloutRow
from support import reports
from support.postgres import PostgresServer
from support.store_process import ROOT, Kubernetes, Process

PARSER = ROOT / "operator" / "dagbundle_parser"
Serve = Callable[..., Process]
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Authority:
    """Who vouches for the server, in files."""

    pem: str
    certificate: pathlib.Path
    key: pathlib.Path

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.pem)


def issue(made: trustme.CA, folder: pathlib.Path) -> Authority:
    found = made.issue_cert("127.0.0.1", "localhost")
    folder.mkdir(exist_ok=True)
    found.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    found.private_key_pem.write_to_path(folder / "tls.key")
    return Authority(made.cert_pem.bytes().decode(), folder / "tls.crt", folder / "tls.key")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return issue(trustme.CA(), tmp_path_factory.mktemp("tls") / "files")


@pytest.fixture(scope="session")
def shared_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """One database for all tests: runs do not see each other, as tenants do not."""
    url = postgres_server.create_database(template=migrated_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def shared_store(shared_url: str) -> Iterator[DagStore]:
    with DagStore.open(shared_url, timeout=5) as opened:
        yield opened


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Kubernetes:
    return Kubernetes(tmp_path_factory.mktemp("kubernetes") / "world.json")


@pytest.fixture(scope="session")
def start(shared_url: str, kubernetes: Kubernetes, authority: Authority) -> Serve:
    def start(**settings: Any) -> Process:
        settings = {"token_seconds": 0.001, "requests_per_second": 1000, "calls_per_second": 1000, **settings}
        return Process.start(
            shared_url, kubernetes.path, certificate=authority.certificate, key=authority.key, **settings
        )

    return start


@pytest.fixture
def serve(start: Serve) -> Iterator[Serve]:
    """Starts servers with settings of their own."""
    started: list[Process] = []

    def begin(**settings: Any) -> Process:
        started.append(start(**settings))
        return started[-1]

    yield begin
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def server(start: Serve) -> Iterator[Process]:
    """One for all tests that need no settings of its own, and do it no harm."""
    process = start()
    yield process
    assert process.stop() == 0
    assert process.other == []


@dataclasses.dataclass
class World:
    """What a controller would have made."""

    store: DagStore
    root: pathlib.Path
    kubernetes: Kubernetes
    authority: Authority

    def rollout(
        self,
        key: BundleKey | None = None,
        subdirs: tuple[str, ...] = (".",),
        document: RolloutDocument | None = None,
    ) -> RolloutRow:
        key = key or BundleKey("team-sales", "sales")
        self.store.register_bundle(key, str(key))
        version = f"v{next(_numbers)}"
        return self.store.start_rollout(
            key, version=version, template_hash=version, subdirs=subdirs, document=document or RolloutDocument()
        )

    def job(
        self,
        rollout: RolloutRow | None = None,
        subdir: str = ".",
        *,
        shards: int = 1,
        account: str = "parser",
        exclude: tuple[str, ...] = (),
        created: bool = True,
    ) -> JobRow:
        rollout = rollout or self.rollout()
        run = plan.RunPlan(subdir=subdir, exclude=exclude, run_as_user=None, service_account_name=account)
        settings = collecting.RunSettings(rollout.id, str(rollout.bundle), bundle_models.Parser())
        request = collecting.request_for(run, settings, attempt="", root=str(self.root), known={})
        row = self.store.record_job(
            rollout.id,
            subdir,
            namespace=rollout.bundle.namespace,
            service_account=account,
            name=f"job-{rollout.id[:8]}",
            shards=shards,
            request=request.model_dump(mode="json", by_alias=True, exclude={"run", "attempt", "known", "run_as_user"}),
        )
        if created:
            self.store.job_created(row.run_id, f"job-uid-{row.run_id[:8]}")
        return self.store.job(row.run_id)

    def pod(self, job: JobRow, name: str = "", **more: Any) -> Caller:
        name = name or f"pod-{next(_numbers)}"
        more = {"namespace": job.namespace, "account": job.service_account, "job": job.uid, **more}
        return Caller(job.run_id, self.kubernetes.pod(name, **more), name, self.authority)


@dataclasses.dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def reason(self) -> str:
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert self.document["status"] == self.status
        found: str = self.document["reason"]
        return found


@dataclasses.dataclass
class Caller:
    """One pod, with its token."""

    run: str
    token: str
    name: str
    authority: Authority

    @property
    def uid(self) -> str:
        return f"uid-of-{self.name}"

    @property
    def request(self) -> protocol.RunRequest:
        """What a report must repeat."""
        return protocol.RunRequest.model_construct(run=self.run, attempt=self.uid)

    def ask(self, server: Process, path: str = "", *, run: str = "", method: str = "GET", **headers: str) -> Answer:
        return self._exchange(server, method, f"/v1/runs/{run or self.run}{path}", None, headers)

    def send(self, server: Process, body: bytes | Iterable[bytes], *, run: str = "", **headers: str) -> Answer:
        return self._exchange(server, "POST", f"/v1/runs/{run or self.run}/report", body, headers)

    def report(self, server: Process, *files: Mapping[str, Any], **headers: str) -> Answer:
        return self.send(server, self.lines(*files), **headers)

    def lines(self, *files: Mapping[str, Any]) -> bytes:
        return gzip.compress(b"".join(reports.lines(self.request, files)))

    def _exchange(
        self, server: Process, method: str, path: str, body: bytes | Iterable[bytes] | None, headers: Mapping[str, str]
    ) -> Answer:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=self.authority.context, timeout=30)
        sent = {
            "Authorization": f"Bearer {self.token}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        try:
            connection.connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # it may answer earlier
                connection.request(method, path, body, sent, encode_chunked=not isinstance(body, bytes | None))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


@pytest.fixture
def world(shared_store: DagStore, tmp_path: pathlib.Path, kubernetes: Kubernetes, authority: Authority) -> World:
    (tmp_path / "bundle").mkdir()
    return World(shared_store, tmp_path / "bundle", kubernetes, authority)


@dataclasses.dataclass
class Parser:
    """The real parser, as a pod of the operator would run it."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, pod: Caller, url: str, folder: pathlib.Path, *, python: str = sys.executable, **env: str) -> Parser:
        token = folder / f"{pod.name}.token"
        token.write_text(pod.token)
        return cls(
            subprocess.Popen(
                [python, str(PARSER), "work"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={
                    "PATH": os.environ["PATH"], "HOME": str(folder), "AIRFLOW_HOME": str(folder / "airflow"),
                    "PYTHONDONTWRITEBYTECODE": "1", "DAGBUNDLE_SERVER_URL": url, "DAGBUNDLE_RUN": pod.run,
                    "DAGBUNDLE_TOKEN_FILE": str(token), "DAGBUNDLE_SERVER_CA": pod.authority.pem,
                    "DAGBUNDLE_SCRATCH": str(folder), "DAGBUNDLE_TERMINATION_LOG": str(folder / "last-words"), **env,
                },
            )
        )  # fmt: skip

    def wait(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=90)
        return self.process.returncode, said


@pytest.fixture
def parse(tmp_path: pathlib.Path) -> Iterator[Callable[..., Parser]]:
    started: list[Parser] = []

    def start(pod: Caller, server: Process | str, **env: str) -> Parser:
        found = Parser.start(pod, server if isinstance(server, str) else server.url, tmp_path, **env)
        started.append(found)
        return found

    yield start
    for parser in started:
        if parser.process.poll() is None:
            parser.process.kill()
            parser.process.wait()
        for stream in (parser.process.stdout, parser.process.stderr):
            if stream is not None:
                stream.close()
