"""`delete` and `prune`: the first for bundles of a command line, the second for those of a cluster."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Collection
from typing import Any

import pytest
import typer

from dagbundle.cli.exits import Exit
from dagbundle.engine import engine
from dagbundle.rollout import policy
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes import client
from dagbundle.store.dagstore import DagStore
from support import applying, reports


@pytest.fixture
def url(tmp_path: pathlib.Path) -> str:
    """A database with the bundle team/sales of a command line, and team/stock of a cluster without a name."""
    found = f"sqlite:///{tmp_path / 'test.db'}"
    with DagStore.open(found, upgrade=True) as store:
        applying.apply(store, reports.parsed("a.py", "a", "b"))
        controlled(store)
    return found


def controlled(store: DagStore, cluster: str = "", name: str = "stock") -> None:
    """Publish a bundle as a controller does."""
    wanted = applying.resource(name)
    rules = policy.resolve(wanted, None)
    carrying = engine.Engine(store, cluster=cluster)
    rollout = carrying.start(wanted, version="v1", rules=rules, image="r/i:1", requested_at="")
    run = store.open_run(rollout.id, ".", attempt="1", airflow=None, python="3")
    store.close_run(run, "1", [])
    carrying.finish(rollout.id)


def dags(url: str, name: str = "sales") -> Collection[str]:
    with DagStore.open(url) as store:
        return store.live(BundleKey("team", name)).dags.keys()


@pytest.fixture
def no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without a DagBundle."""

    class Cluster:
        def bundle_versions(self) -> dict[tuple[str, str], str]:
            return {}

    monkeypatch.setattr(client, "Cluster", Cluster)


def test_a_bundle_is_deleted_with_all_its_dags(call: Any, url: str) -> None:
    code, out, _ = call("delete", "team/sales", "--yes")
    assert code == Exit.OK
    assert out.splitlines() == [
        "- a",
        "- b",
        "Deleted bundle team/sales: 2 DAGs deactivated.",
        "`dagbundle rollback team/sales --to-revision 1` brings back what was live.",
    ]
    assert not dags(url)


def test_what_was_deleted_comes_back_by_the_rollback_that_the_answer_names(call: Any, url: str) -> None:
    call("delete", "team/sales", "--yes")
    assert call("rollback", "team/sales", "--to-revision", "1")[0] == Exit.OK
    assert dags(url) == {"a", "b"}
    assert call("delete", "team/sales", "--yes")[0] == Exit.OK
    assert not dags(url)


def test_a_rollback_after_a_bundle_came_back_does_not_deactivate_all_of_it_again(call: Any, url: str) -> None:
    call("delete", "team/sales", "--yes")
    with DagStore.open(url) as store:
        applying.apply(store, reports.parsed("a.py", "a"), version="v2")
    assert call("rollback", "team/sales")[0] == Exit.OK
    assert dags(url) == {"a", "b"}


@pytest.mark.parametrize("answer", [False, True])
def test_deleting_asks_first(call: Any, url: str, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    asked: list[str] = []

    def confirm(question: str, **_: object) -> None:
        asked.append(question)
        if not answer:
            raise typer.Abort

    monkeypatch.setattr(typer, "confirm", confirm)
    code, _, _ = call("delete", "team/sales")
    assert asked == ["This deactivates 2 DAGs of bundle team/sales (a, b). Continue?"]
    assert (code, bool(dags(url))) == ((Exit.OK, False) if answer else (Exit.FAILED, True))


def test_a_dry_run_of_a_deletion_changes_nothing_and_does_not_ask(call: Any, url: str) -> None:
    code, out, _ = call("delete", "team/sales", "--dry-run")
    assert code == Exit.OK
    assert out.endswith("Dry run, nothing was written. 2 DAGs of bundle team/sales would be deactivated.\n")
    assert dags(url) == {"a", "b"}


@pytest.mark.usefixtures("url")
def test_the_document_of_a_deletion_has_what_went(call: Any) -> None:
    dry = json.loads(call("delete", "team/sales", "--dry-run", "-o", "json")[1])
    done = json.loads(call("delete", "team/sales", "--yes", "-o", "json")[1])
    same = {"outcome": "OK", "bundle": {"namespace": "team", "name": "sales"}, "dags": ["a", "b"], "rejudged": []}
    assert dry == {**same, "baseRevision": 1, "revision": 1, "dryRun": True}
    assert done == {**same, "baseRevision": 1, "revision": 2, "dryRun": False}


def test_a_bundle_that_waited_for_a_dag_is_published_by_the_deletion(call: Any, url: str) -> None:
    with DagStore.open(url) as store:
        applying.apply(store, reports.parsed("mine.py", "a"), name="other")
    _, out, _ = call("delete", "team/sales", "--yes")
    assert "Also published team/other, which waited for a DAG that was let go of.\n" in out
    assert dags(url, "other") == {"a"}


def test_deleting_again_changes_nothing(call: Any, url: str) -> None:
    call("delete", "team/sales", "--yes")
    code, out, _ = call("delete", "team/sales", "--yes")
    assert (code, out) == (Exit.OK, "Deleted bundle team/sales: 0 DAGs deactivated.\n")
    with DagStore.open(url) as store:
        assert store.live(BundleKey("team", "sales")).revision == 2


def test_a_clusters_bundle_is_deleted_with_its_dagbundle_and_not_here(call: Any, url: str) -> None:
    with DagStore.open(url) as store:
        controlled(store, "prod", "news")
    for name, cluster in (("stock", ""), ("news", " 'prod'")):
        code, out, err = call("delete", f"team/{name}", "--yes")
        assert (code, out) == (Exit.USAGE, "")
        assert f"bundle team/{name} belongs to a DagBundle of the cluster{cluster}, and is deleted with it" in err
        assert f"run: kubectl delete dagbundle {name} --namespace team" in err


@pytest.mark.usefixtures("no_bundles")
def test_what_a_command_line_applied_is_no_orphan_of_a_cluster_in_the_same_database(call: Any, url: str) -> None:
    code, out, _ = call("prune", "--yes", "-o", "json")
    found = json.loads(out)["items"]
    assert (code, [item["name"] for item in found]) == (Exit.OK, ["stock"])
    assert dags(url) == {"a", "b"}


@pytest.mark.usefixtures("no_bundles")
def test_what_was_deleted_and_rolled_back_is_no_orphan_of_a_cluster(call: Any, url: str) -> None:
    call("delete", "team/sales", "--yes")
    call("rollback", "team/sales", "--to-revision", "1")
    call("prune", "--yes")
    assert dags(url) == {"a", "b"}
