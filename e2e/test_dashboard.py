"""The dashboard's queries and the documented alerts, asked of a real Prometheus that scrapes both real programs.

Two versions of a bundle are rolled out meanwhile, the second with a broken file, with reports that are sent to the real
server with real pods' tokens; and somebody is refused.
"""

from __future__ import annotations

import gzip
import http.client
import json
import math
import pathlib
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from dagbundle.resources import protocol
from dagbundle.runtime.kubernetes.jobs import TOKEN_AUDIENCE
from dagbundle.store.dagstore import DagStore
from e2e.bare import NAMESPACE, ROOT, World
from e2e.cluster.apiserver import NAMESPACES_AND_GARBAGE, ApiServer
from e2e.prometheus import Prometheus, QueryError
from e2e.replica import Replica, Server, eventually
from support import postgres, reports

DASHBOARD = json.loads((ROOT / "charts/dagbundle-operator/files/dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
VARIABLE = next(item for item in DASHBOARD["templating"]["list"] if item["name"] == "job")
PROGRAMS = ("controller", "server")
RATE_INTERVAL = "1m"
WHOLE = {"ingest": [reports.parsed("ingest/a.py", "a")], "reporting": [reports.parsed("reporting/b.py", "b")]}
BROKEN = {**WHOLE, "ingest": [reports.broken("ingest/a.py")]}


def alerts() -> Sequence[str]:
    """Return the expressions of the table that says what is worth an alert."""
    text = (ROOT / "docs/operations.md").read_text().partition("## What to watch")[2].partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| (`.*?) \| .* \|$", text)
    return [expression for cell in cells for expression in re.findall(r"`([^`]+)`", cell)]


ALERTS = alerts()


class Kubelet:
    """Carries Jobs out: pods with real tokens, whose reports are a script's."""

    def __init__(self, world: World, server: Server, authority: pathlib.Path) -> None:
        self._world = world
        self._server = server
        self._context = ssl.create_default_context(cafile=str(authority))

    def run(self, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Report for every Job of the newest rollout, and complete it."""
        rollout = self._world.store.latest_rollout(self._world.key)
        assert rollout is not None
        there = {job["metadata"]["uid"]: job for job in self._world.jobs()}
        for row in self._world.store.jobs(rollout.id):
            job = there[row.uid]
            pod = self._world.pod(job, {"phase": "Running"})
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            token = self._world.kubectl.text(
                "create", "token", row.service_account, "--namespace", NAMESPACE, f"--audience={TOKEN_AUDIENCE}",
                "--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={uid}",
            ).strip()  # fmt: skip
            request = protocol.RunRequest.model_construct(run=row.run_id, attempt=uid)
            assert self.send(row.run_id, token, reports.lines(request, files[row.subdir])) == http.HTTPStatus.OK
            self._world.complete(job)

    def send(self, run: str, token: str, lines: Sequence[bytes]) -> int:
        """Send a report, and return how it was answered."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._server.port, context=self._context, timeout=30)
        headers = {"Authorization": f"Bearer {token}", "Content-Encoding": "gzip"}
        try:
            connection.request("POST", f"/v1/runs/{run}/report", gzip.compress(b"".join(lines)), headers)
            return connection.getresponse().status
        finally:
            connection.close()


def reason(world: World) -> str:
    conditions = ((world.bundle() or {}).get("status") or {}).get("conditions") or ()
    return next((str(item["reason"]) for item in conditions if item["type"] == "Ready"), "")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("monitored")
    with (
        postgres.running_postgres() as database,
        ApiServer(controllers=NAMESPACES_AND_GARBAGE) as api,
        DagStore.open(url := database.create_database(), upgrade=True) as store,
    ):
        world = World(api, store)
        world.prepare()
        server = Server("server", api, url, folder)
        controller = Replica("controller", api, url, folder)
        try:
            targets = dict(zip(PROGRAMS, (controller.metrics, server.metrics), strict=True))
            with Prometheus(folder, targets) as prometheus:
                eventually("both programs are up", lambda: controller.leads() and server.healthy())
                eventually("both are scraped", prometheus.ready)
                kubelet = Kubelet(world, server, api.authority.certificate)
                roll_out(world, kubelet, "registry.test/sales:1", WHOLE, "Published")
                roll_out(world, kubelet, "registry.test/sales:2", BROKEN, "KeptLastGood")
                assert kubelet.send("nobodys", "nobodys", []) == http.HTTPStatus.UNAUTHORIZED
                yield prometheus
        finally:
            controller.stop()
            server.stop()


def roll_out(
    world: World, kubelet: Kubelet, image: str, files: Mapping[str, Sequence[Mapping[str, Any]]], outcome: str
) -> None:
    """Roll a version out."""
    world.apply(image)
    eventually("its Jobs are made", lambda: made_for(world, image) == len(files))
    kubelet.run(files)
    eventually(f"it is {outcome}", lambda: reason(world) == outcome)


def made_for(world: World, image: str) -> int:
    """How many Jobs of the newest rollout were made, if it is of this image."""
    rollout = world.store.latest_rollout(world.key)
    if rollout is None or rollout.version != image:
        return 0
    return sum(bool(row.uid) for row in world.store.jobs(rollout.id))


def answered(prometheus: Prometheus, query: str) -> list[float]:
    """What a query gives, as soon as it gives numbers: a rate needs two scrapes."""

    def numbers() -> list[float]:
        found = [float(series["value"][1]) for series in prometheus.ask(query)]
        return [] if any(math.isnan(value) for value in found) else found

    values: list[float] = eventually(f"{query} has data", numbers)
    return values


def test_the_dashboards_variable_has_both_programs(prometheus: Prometheus) -> None:
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", VARIABLE["definition"])
    assert found is not None
    assert sorted(prometheus.values(found[2], found[1])) == sorted(PROGRAMS)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboard_has_data(query: str, prometheus: Prometheus) -> None:
    asked = query.replace("$__rate_interval", RATE_INTERVAL).replace("$job", "|".join(PROGRAMS))
    assert "$" not in asked
    assert answered(prometheus, asked)


@pytest.mark.parametrize("expression", ALERTS)
def test_an_alert_of_the_documents_can_be_evaluated(expression: str, prometheus: Prometheus) -> None:
    firing = prometheus.ask(expression)
    assert bool(firing) == ('ready="False"' in expression), "only the team with the broken file has something to do"


@pytest.mark.parametrize("expression", [expression for expression in ALERTS if not expression.startswith("absent(")])
def test_what_an_alert_compares_is_there(expression: str, prometheus: Prometheus) -> None:
    compared = re.fullmatch(r"(.*) (<|>|>=) \d+", expression)
    assert compared is not None
    assert answered(prometheus, compared[1])


def test_the_documents_have_alerts() -> None:
    assert any("dagbundle_leading" in expression for expression in ALERTS)
    assert len(ALERTS) > 4


def test_a_query_that_is_none_is_refused(prometheus: Prometheus) -> None:
    with pytest.raises(QueryError, match="parse error"):
        prometheus.ask("sum(")
