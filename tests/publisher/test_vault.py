"""Airflow's own Vault backend makes a path of each name: no name leads out of what a namespace is granted."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dagbundle.rollout import policy
from publisher.conftest import Deployment
from publisher.test_values import parsed
from support import vault as vaults
from support.vault import TOKEN, Vault

pytest.importorskip("airflow.providers.hashicorp", reason="needs the provider hashicorp (make test-providers)")

BACKEND = "airflow.providers.hashicorp.secrets.vault.VaultBackend"
GRANT = {"variables": ["sales_*"], "connections": ["sales_*"]}
SECRETS = {
    "secret/variables/sales_region": {"value": "north"},
    "secret/variables/sales_eu/region": {"value": "west"},
    "secret/variables/hr_payroll": {"value": "secret-of-hr"},
    "secret/connections/sales_db": {"conn_uri": "postgres://reader:pass@db.example:5432/sales"},
    "secret/connections/hr_db": {"conn_uri": "postgres://payroll:secret-of-hr@db.example:5432/hr"},
}
CLIMBING = [
    "sales_x/../hr_payroll", "sales_/../hr_payroll", "sales_x/y/../../hr_payroll", "sales_x/./../hr_payroll",
    "sales_x//../hr_payroll", "sales_x//../../hr_payroll", "sales_x/%2e%2e/hr_payroll", "sales_x/%2E./hr_payroll",
    "sales_x%2f..%2fhr_payroll", "sales_x/%252e%252e/hr_payroll", "sales_x/..%2fhr_payroll", "sales_x\\..\\hr_payroll",
    "sales_x/..\\hr_payroll", "sales_x/..;/hr_payroll", "sales_x/..;a=b/hr_payroll",
]  # fmt: skip
"""Each leads to hr_payroll where some server or proxy resolves it."""
CROOKED = [
    "sales_/./x", "sales_x//hr", "sales_x/", "sales_x/.", "sales_x/..", "sales_region?list=true",
    "sales_region#x", "sales_%72egion", "sales_region;x",
]  # fmt: skip
"""Each stays below the grant, but leads to another name than the one that it is."""


@pytest.fixture
def vault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    version = getattr(request, "param", 2)
    with vaults.running_vault(SECRETS) as found:
        kwargs = {"url": found.url, "token": TOKEN, "kv_engine_version": version}
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", BACKEND)
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
        yield found


def test_a_name_that_climbs_reaches_another_teams_secret_where_nobody_looks_at_it(
    on_postgresql: Deployment, vault: Vault
) -> None:
    assert on_postgresql.store.look_up("variable", "sales_x/../hr_payroll") == "secret-of-hr"
    assert vault.asked == ["/v1/secret/data/variables/hr_payroll"]
    for name in CLIMBING:
        assert vaults.resolved(f"/v1/secret/data/variables/{name}").endswith("/hr_payroll"), name


@pytest.mark.parametrize("vault", [1, 2], indirect=True, ids=["v1", "v2"])
def test_granted_names_are_answered_from_vault_and_no_request_is_made_for_names_that_climb(
    on_postgresql: Deployment, vault: Vault, tmp_path: pathlib.Path
) -> None:
    names = [*CLIMBING, *CROOKED, "sales_./x"]  # the last one is a name as any other
    files = {
        "granted.py": 'found = [Variable.get("sales_region"), Variable.get("sales_eu/region")]\n'
        'dag = DAG(dag_id=".".join([*found, Connection.get("sales_db").login]))',
        "climbing.py": f"names = {names!r}\nfound = {{Variable.get(name, default='nothing') for name in names}}\n"
        "dag = DAG(dag_id='climbing.' + '.'.join(sorted(found)))",
        "hr.py": 'dag = DAG(dag_id="hr." + Variable.get("hr_payroll", default="nothing"))',
        "connection.py": 'Connection.get("sales_x/../hr_db")\ndag = DAG(dag_id="never")',
    }
    job, said = parsed(on_postgresql, tmp_path, files, GRANT)
    (run,) = on_postgresql.store.outcomes(job.rollout_id)
    found = {file.path: [dag.dag_id for dag in file.dags] for file in run.files}
    assert found == {
        "granted.py": ["north.west.reader"], "climbing.py": ["climbing.nothing"], "hr.py": ["hr.nothing"],
        "connection.py": [],
    }  # fmt: skip
    assert {path.replace("/data/", "/") for path in vault.asked} == {
        "/v1/secret/variables/sales_region", "/v1/secret/variables/sales_eu/region", "/v1/secret/variables/sales_./x",
        "/v1/secret/connections/sales_db",
    }  # fmt: skip
    assert "secret-of-hr" not in said


PARTS = st.sampled_from(
    ["hr_payroll", "sales_region", "x", ".", "..", "...", "", " ", "%2e", "%252e", "%2f", "%", "\\", "?", "#", ";", "/",
     "//", "/..", "/../", "..;", "&", "=", ":", "@", "+", "~", "é", "\uff0e\uff0e", "\uff0f", "*", "{path}", "{", "\t"]
)  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Vault, Any]]:
    from airflow.providers.hashicorp.secrets.vault import VaultBackend  # noqa: PLC0415 - after AIRFLOW_HOME is set

    with vaults.running_vault(SECRETS) as found:
        yield found, VaultBackend(url=found.url, token=TOKEN)


@given(rest=st.lists(PARTS, max_size=6).map("".join))
@example(rest="x/../hr_payroll")
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_a_grant_allows_leads_below_it(shared: tuple[Vault, Any], rest: str) -> None:
    found, backend = shared
    name = f"sales_{rest}"
    if not policy.allows(GRANT["variables"], name):
        return
    found.asked.clear()
    backend.get_variable(name)
    assert found.asked == [f"/v1/secret/data/variables/{name}"]
