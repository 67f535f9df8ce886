"""An asset belongs to the bundle that defines it: Airflow itself lets whoever writes last define it."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.engine import engine
from dagbundle.rollout import assets
from dagbundle.rollout.model import BundleKey, Verdict
from dagbundle.store.dagstore import DagStore
from dagbundle.targets.airflow import assets as targets
from dagbundle.targets.airflow import vetting
from dagbundle.targets.airflow.target import AirflowTarget
from publisher.conftest import OPS, SALES, Deployment, dag, installed, opened

NAMES = ("orders", "s3://sales/orders")
EXTRA = {"owner": "sales", "rows": [1, {"a": 2}]}
FILE_DELETE = "airflow.providers.standard.triggers.file.FileDeleteTrigger"
ALLOWED = vetting.Allowed(triggers=frozenset({FILE_DELETE}))


def asset(*, watched: str = "", **settings: Any) -> Any:
    """An asset of the same name and URI, that a file starts where one is named."""
    from airflow.providers.standard.triggers.file import FileDeleteTrigger  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.sdk import Asset, AssetWatcher  # noqa: PLC0415 - likewise

    if watched:
        settings["watchers"] = [AssetWatcher(name="landed", trigger=FileDeleteTrigger(filepath=watched))]
    return Asset(*NAMES, **settings)


def reads(dag_id: str, found: Any) -> Any:
    """A DAG that an asset starts, not paused: only such a one's watchers are started."""
    return dag(dag_id, schedule=[found], is_paused_upon_creation=False)


def writes(dag_id: str, found: Any, *names: str) -> Any:
    """A DAG with tasks that write an asset."""
    from airflow.providers.standard.operators.empty import EmptyOperator  # noqa: PLC0415 - likewise

    made = dag(dag_id, tasks=())
    for name in names or ("write",):
        EmptyOperator(task_id=name, outlets=[found], dag=made)
    return made


@pytest.fixture
def deployment(url: str) -> Iterator[Deployment]:
    for found in opened(url):
        found.store.target = AirflowTarget(installed(), ALLOWED)
        yield found


def known(deployment: Deployment) -> list[tuple[Any, ...]]:
    """What Airflow has of the asset: its group and extra, and what its watchers run."""
    watched = "asset_trigger" if installed().minor == "3.1" else "asset_watcher"
    rows = deployment.rows(
        f'SELECT asset."group", asset.extra, t.classpath FROM asset LEFT JOIN {watched} AS w ON w.asset_id = asset.id'  # noqa: S608 - one of two names
        ' LEFT JOIN "trigger" AS t ON t.id = w.trigger_id'
    )
    return [(group, json.loads(extra) if isinstance(extra, str) else extra, path) for group, extra, path in rows]


def told(deployment: Deployment) -> list[tuple[str, str]]:
    return [(row.path, row.problem.kind) for row in deployment.store.list_errors().items]


def test_who_names_another_bundles_asset_leaves_its_extra_group_and_watchers(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [reads("a", asset(extra=EXTRA, group="raw", watched="/landing"))]}, "v1")
    before = known(deployment)
    assert before == [("raw", EXTRA, FILE_DELETE)]
    done = deployment.roll_out({"b.py": [reads("b", asset()), writes("c", asset())]}, "v1", bundle=OPS)
    assert done.judgement.reason == "Published"
    assert known(deployment) == before
    assert deployment.rows("SELECT dag_id FROM dag_schedule_asset_reference ORDER BY dag_id") == [("a",), ("b",)]
    assert deployment.rows("SELECT dag_id FROM task_outlet_asset_reference") == [("c",)]


@pytest.mark.parametrize(
    "settings",
    [
        {"extra": {"owner": "ops"}, "group": "raw", "watched": "/landing"},
        {"extra": EXTRA, "group": "raw"},
        {"extra": EXTRA, "group": "raw", "watched": "/elsewhere"},
        {"group": "mine"},  # a group alone makes nothing one's own, and is no mere name either
    ],
)
def test_another_definition_of_a_bundles_asset_breaks_its_file_and_changes_nothing_of_the_asset(
    deployment: Deployment, settings: dict[str, Any]
) -> None:
    deployment.roll_out({"a.py": [reads("a", asset(extra=EXTRA, group="raw", watched="/landing"))]}, "v1")
    before = known(deployment)
    deployment.roll_out({"b.py": [writes("b", asset())], "c.py": [dag("c")]}, "v1", bundle=OPS)
    files = {"b.py": [writes("b", asset(**settings))], "c.py": [dag("c", tags=["new"])]}
    done = deployment.roll_out(files, "v2", bundle=OPS)
    assert done.judgement.reason == "KeptLastGood"
    assert deployment.live() == {"a": "v1", "b": "v1", "c": "v2"}
    ((path, text),) = deployment.rows("SELECT filename, stacktrace FROM import_error")
    assert path == "b.py"
    assert "DAG 'b' defines asset 'orders' (s3://sales/orders), which belongs to bundle team-sales/sales" in text
    assert known(deployment) == before


def test_equal_definitions_in_two_bundles_are_no_conflict_and_the_second_has_it_when_the_first_goes(
    deployment: Deployment,
) -> None:
    deployment.roll_out({"a.py": [reads("a", asset(extra=EXTRA, watched="/landing"))]}, "v1")
    done = deployment.roll_out({"b.py": [reads("b", asset(extra=EXTRA, watched="/landing"))]}, "v1", bundle=OPS)
    assert done.judgement.reason == "Published"
    deployment.roll_out({"a.py": [reads("a", asset(extra={"of": "sales"}))]}, "v2")
    assert known(deployment) == [("asset", {"of": "sales"}, None)]
    deployment.roll_out({"a.py": [dag("a")]}, "v3")
    assert known(deployment) == [("asset", EXTRA, FILE_DELETE)]
    done = deployment.roll_out({"a.py": [reads("a", asset(extra={"of": "sales"}))]}, "v4")
    assert [item.problem.kind for item in done.judgement.problems] == ["AssetOwned"]


def test_who_waits_for_an_asset_has_it_when_the_owners_last_definition_goes(deployment: Deployment) -> None:
    mine = asset(extra=EXTRA)
    deployment.roll_out({"a.py": [writes("a", mine), writes("a2", mine)]}, "v1")
    deployment.roll_out({"b.py": [writes("b", asset(extra={"of": "ops"}))]}, "v1", bundle=OPS)
    assert told(deployment) == [("b.py", "AssetOwned")]
    done = deployment.roll_out({"a.py": [writes("a", mine), dag("a2")]}, "v2")
    assert done.rejudged == ()
    done = deployment.roll_out({"a.py": [writes("a", asset()), dag("a2")]}, "v3")
    assert done.rejudged == (OPS,)
    assert (told(deployment), deployment.live()["b"]) == ([], "v1")
    assert known(deployment) == [("asset", {"of": "ops"}, None)]


def test_who_waits_is_published_when_the_owner_defines_the_asset_likewise(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [writes("a", asset(extra=EXTRA))]}, "v1")
    deployment.roll_out({"b.py": [writes("b", asset(extra={"of": "ops"}))]}, "v1", bundle=OPS)
    done = deployment.roll_out({"a.py": [writes("a", asset(extra={"of": "ops"}))]}, "v2")
    assert (done.rejudged, told(deployment)) == ((OPS,), [])


def test_a_waiting_bundle_that_was_forgotten_is_judged_again_by_the_upkeep(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [writes("a", asset(extra=EXTRA))]}, "v1")
    deployment.roll_out({"b.py": [writes("b", asset(extra={"of": "ops"}))]}, "v1", bundle=OPS)
    carrying = engine.Engine(deployment.store)
    assert carrying.hand_over() == ()
    deployment.store.deactivate_bundle(SALES)
    assert carrying.hand_over() == (OPS,)
    assert known(deployment) == [("asset", {"of": "ops"}, None)]


def test_watchers_end_with_the_bundle_that_defined_them(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [reads("a", asset(extra=EXTRA, watched="/landing"))]}, "v1")
    deployment.roll_out({"b.py": [reads("b", asset())]}, "v1", bundle=OPS)
    deployment.store.deactivate_bundle(SALES)
    assert known(deployment) == [("asset", {}, None)]


def test_in_one_bundle_a_definition_counts_whichever_dag_is_written_last(deployment: Deployment) -> None:
    defines = [reads("z", asset(extra=EXTRA, watched="/landing"))]
    deployment.roll_out({"z.py": defines, "a.py": [writes("a", asset())]}, "v1")
    before = known(deployment)
    assert before == [("asset", EXTRA, FILE_DELETE)]
    deployment.roll_out({"z.py": defines, "a.py": [writes("a", asset(), "one", "two")]}, "v2")
    assert known(deployment) == before


def test_a_rollback_does_not_define_what_is_another_bundles_by_now(deployment: Deployment) -> None:
    deployment.roll_out({"b.py": [writes("b", asset(extra={"of": "ops"}))]}, "v1", bundle=OPS)
    deployment.roll_out({"b.py": [dag("b")]}, "v2", bundle=OPS)
    deployment.roll_out({"a.py": [writes("a", asset(extra=EXTRA))]}, "v1")
    with pytest.raises(errors.OwnershipError, match=r"'orders' belongs to bundle team-sales\.sales"):
        engine.Engine(deployment.store).rollback(OPS)
    assert known(deployment) == [("asset", EXTRA, None)]


def test_a_full_sync_leaves_the_owners_definition(deployment: Deployment) -> None:
    deployment.roll_out({"a.py": [writes("a", asset(extra=EXTRA))]}, "v1")
    deployment.roll_out({"b.py": [writes("b", asset(extra=EXTRA))]}, "v1", bundle=OPS)
    deployment.roll_out({"a.py": [writes("a", asset(extra={"of": "sales"}))]}, "v2")
    deployment.store.follow(OPS)
    assert known(deployment) == [("asset", {"of": "sales"}, None)]


def test_where_assets_are_shared_whoever_writes_last_defines_them_as_in_stock_airflow(deployment: Deployment) -> None:
    deployment.store.target = AirflowTarget(installed(), dataclasses.replace(ALLOWED, shared_assets=True))
    deployment.roll_out({"a.py": [reads("a", asset(extra=EXTRA, watched="/landing"))]}, "v1")
    done = deployment.roll_out({"b.py": [reads("b", asset(extra={"of": "ops"}))]}, "v1", bundle=OPS)
    assert done.judgement.reason == "Published"
    assert known(deployment) == [("asset", {"of": "ops"}, None)]


def test_of_two_publishes_at_the_same_instant_one_gets_the_asset(on_postgresql: Deployment) -> None:
    start = threading.Barrier(2)

    def publish(bundle: BundleKey, name: str) -> None:
        with DagStore.open(on_postgresql.url) as store:
            store.target = AirflowTarget(installed())
            start.wait()
            made = writes(name, asset(extra={"of": bundle.name}))
            Deployment(on_postgresql.url, store).roll_out({f"{name}.py": [made]}, "v1", bundle=bundle)

    threads = [threading.Thread(target=publish, args=item) for item in ((SALES, "a"), (OPS, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = on_postgresql.live()
    assert known(on_postgresql) == [("asset", {"of": {"a": "sales", "b": "ops"}[winner]}, None)]
    assert [kind for _, kind in told(on_postgresql)] == ["AssetOwned"]


def many(dag_id: str, count: int, named: str = "") -> Any:
    """A DAG with a task that writes many assets."""
    from airflow.providers.standard.operators.empty import EmptyOperator  # noqa: PLC0415 - likewise
    from airflow.sdk import Asset  # noqa: PLC0415 - likewise

    made = dag(dag_id, tasks=())
    EmptyOperator(
        task_id="write", outlets=[Asset(f"{named or dag_id}{n}", f"x://{named or dag_id}/{n}") for n in range(count)],
        dag=made,
    )  # fmt: skip
    return made


def test_files_by_which_a_bundle_names_too_many_assets_break_and_the_others_are_published(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "MOST_NAMED", 10)
    files = {"a.py": [many("a", 4)], "b.py": [many("b", 5)], "c.py": [many("c", 6)]}
    done = deployment.roll_out(files, "v1")
    assert (done.judgement.verdict, done.judgement.reason) == (Verdict.PUBLISH, "KeptLastGood")
    assert deployment.live() == {"a": "v1", "b": "v1"}
    assert told(deployment) == [("c.py", "TooManyAssets")]
    again = deployment.roll_out({**files, "d.py": [many("d", 2)]}, "v2")  # with what is live already
    assert again.judgement.reason == "KeptLastGood"
    assert deployment.live() == {"a": "v2", "b": "v2"}
    assert told(deployment) == [("c.py", "TooManyAssets"), ("d.py", "TooManyAssets")]
    fewer = deployment.roll_out({**files, "b.py": [many("b", 1)], "c.py": [many("c", 6, "a")]}, "v3")
    assert fewer.judgement.reason == "Published"
    assert deployment.live() == {"a": "v3", "b": "v3", "c": "v3"}


def test_a_bundle_that_grows_by_few_assets_at_a_time_breaks_at_the_bound_too(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "MOST_NAMED", 5)
    files = {}
    for number, name in enumerate("abc"):
        files[f"{name}.py"] = [many(name, 2)]
        deployment.roll_out(files, f"v{number}")
    assert deployment.live() == {"a": "v2", "b": "v2"}
    assert told(deployment) == [("c.py", "TooManyAssets")]


def test_a_bundle_that_names_more_assets_than_one_statement_takes_is_written_in_parts(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.submit({f"{name}.py": [many(name, 3)] for name in "abcd"})
    monkeypatch.setattr(targets, "MOST_AT_ONCE", 7)
    deployment.execute("UPDATE dag SET is_stale = true")
    deployment.execute("DELETE FROM task_outlet_asset_reference")
    deployment.store.follow(SALES)
    assert deployment.live() == dict.fromkeys("abcd", "v1")
    assert deployment.rows("SELECT count(*) FROM task_outlet_asset_reference") == [(12,)]


def test_more_assets_than_postgresql_compares_in_one_statement_are_published(on_postgresql: Deployment) -> None:
    done = on_postgresql.roll_out({"a.py": [many("a", 4_900)], "b.py": [many("b", 4_900)]}, "v1")
    assert done.judgement.reason == "Published"
    assert on_postgresql.rows("SELECT count(*) FROM task_outlet_asset_reference") == [(9_800,)]
