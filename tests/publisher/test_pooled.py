"""Airflow's database behind PgBouncer, as many deployments have it: publishing, and upkeep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from publisher.conftest import OPS, SALES, Deployment, dag, opened
from support.pgbouncer import running_pgbouncer
from support.postgres import PostgresServer

MORE_THAN_A_DRIVER_PREPARES_AFTER = 8


@pytest.fixture
def pooled(server: PostgresServer, postgres_url: str) -> Iterator[Deployment]:
    with running_pgbouncer(server, default_pool_size=2, query_wait_timeout=30) as pooler:
        yield from opened(pooler.url(postgres_url))


def test_many_publications_reach_airflow_through_the_pooler(pooled: Deployment) -> None:
    for number in range(MORE_THAN_A_DRIVER_PREPARES_AFTER):
        for bundle, name in ((SALES, "a"), (OPS, "b")):
            files = {f"{name}.py": [dag(name, tags=[f"v{number}"], schedule="@daily")]}
            pooled.submit(files, bundle, version=f"v{number}")
    assert pooled.live() == {"a": f"v{number}", "b": f"v{number}"}
    assert pooled.rows("SELECT DISTINCT name FROM dag_tag") == [(f"v{number}",)]


def test_the_upkeep_goes_through_the_pooler(pooled: Deployment) -> None:
    pooled.submit({"a.py": [dag("a", schedule="@daily")]})
    for _ in range(MORE_THAN_A_DRIVER_PREPARES_AFTER):
        pooled.execute("UPDATE dag SET is_stale = true, next_dagrun = NULL")
        pooled.store.attend("controller-1")
        for bundle in pooled.store.refresh().behind:
            pooled.store.follow(bundle)
        assert pooled.live() == {"a": "v1"}
