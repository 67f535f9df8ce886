"""What Airflow's tables hold after our publications: as its processor would write it, and better where that loses."""

from __future__ import annotations

import json

import pytest

from dagbundle.rollout.model import Hold, Problem
from publisher.conftest import OPS, SALES, Deployment, dag, document, installed, opened, staged
from support.postgres import PostgresServer

BROKEN = Problem("SyntaxError", "invalid syntax (a.py, line 1)", 1)


def test_a_published_dag_is_there_with_its_version_and_source(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a", tags=["x"])]})
    assert deployment.rows(
        "SELECT d.dag_id, d.bundle_name, d.bundle_version, d.relative_fileloc, d.has_import_errors, v.version_number,"
        " v.bundle_version, c.source_code FROM dag d JOIN dag_version v ON v.dag_id = d.dag_id"
        " JOIN dag_code c ON c.dag_version_id = v.id WHERE NOT d.is_stale"
    ) == [("a", "team-sales.sales", "v1", "a.py", False, 1, "v1", "# a\n")]
    assert deployment.rows("SELECT name, version, active FROM dag_bundle") == [("team-sales.sales", "v1", True)]
    assert deployment.rows("SELECT last_parse_duration FROM dag") == [(0.5,)]


def test_a_dag_whose_tasks_name_pods_is_published_as_it_is_without_the_kubernetes_provider(
    deployment: Deployment,
) -> None:
    pod = {"__type": "k8s.V1Pod", "__var": {"spec": {"containers": [{"name": "base", "image": "a:1"}]}}}
    found = document(dag("a"), "a.py")
    config = {"__type": "dict", "__var": {"pod_override": pod}}
    found["dag"]["tasks"][0]["__var"]["executor_config"] = config
    deployment.submit({"a.py": [found]})
    assert deployment.live() == {"a": "v1"}
    ((data,),) = deployment.rows("SELECT data FROM serialized_dag")
    stored = json.loads(data) if isinstance(data, str) else data
    assert stored["dag"]["tasks"][0]["__var"]["executor_config"] == config


def test_a_user_of_our_schemas_name_finds_airflows_tables_and_not_ours_of_the_same_names(
    server: PostgresServer, postgres_url: str
) -> None:
    server.execute("CREATE ROLE dagbundle SUPERUSER LOGIN")
    for deployment in opened(postgres_url.replace("tester@", "dagbundle@")):
        deployment.submit({"a.py": [dag("a")]})
        assert deployment.live() == {"a": "v1"}


def test_a_dag_that_left_its_file_is_not_scheduled_any_more(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a"), dag("b")]})
    deployment.submit({"a.py": [dag("a")]}, version="v2")
    assert deployment.live() == {"a": "v2"}
    assert deployment.rows("SELECT dag_id FROM dag WHERE is_stale") == [("b",)]


def test_a_dag_whose_file_is_gone_is_not_scheduled_any_more(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    deployment.submit({"a.py": [dag("a")]}, version="v2")
    assert deployment.live() == {"a": "v2"}


def test_a_dag_that_comes_back_is_scheduled_again(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    deployment.submit({"a.py": [dag("a")]}, version="v2")
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]}, version="v3")
    assert deployment.live() == {"a": "v3", "b": "v3"}


def test_a_second_change_at_once_is_not_swallowed(deployment: Deployment) -> None:
    for number in range(3):
        deployment.submit({"a.py": [dag("a", description=f"number {number}")]}, version=f"v{number}")
    assert deployment.rows("SELECT description FROM dag") == [("number 2",)]
    ((data,),) = deployment.rows("SELECT data FROM serialized_dag")
    assert "number 2" in str(data)


def test_a_new_version_with_the_same_dag_moves_its_version_in_place(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.submit({"a.py": [dag("a")]}, version="v2")
    assert deployment.rows("SELECT version_number, bundle_version FROM dag_version") == [(1, "v2")]


def test_a_changed_dag_that_ran_gets_a_version_of_its_own(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    run(deployment, "a")
    deployment.submit({"a.py": [dag("a", tasks=["one", "two"])]}, version="v2")
    found = deployment.rows("SELECT version_number, bundle_version FROM dag_version ORDER BY version_number")
    assert found == [(1, "v1"), (2, "v2")]


def test_an_edit_that_changes_no_dag_shows_in_the_source(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    submit_texts(deployment, {"a.py": "# a comment\n"})
    assert deployment.rows("SELECT source_code FROM dag_code") == [("# a comment\n",)]


def test_a_broken_file_leaves_its_dag_schedulable_and_its_error_visible(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    deployment.submit({"a.py": BROKEN, "b.py": [dag("b")]}, version="v2")
    assert deployment.live() == {"a": "v1", "b": "v2"}
    assert deployment.rows("SELECT has_import_errors FROM dag WHERE dag_id = 'a'") == [(False,)]
    found = deployment.rows("SELECT bundle_name, filename, stacktrace FROM import_error")
    assert found == [("team-sales.sales", "a.py", "invalid syntax (a.py, line 1)")]


def test_an_error_is_gone_when_its_file_is_mended(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.submit({"a.py": BROKEN}, version="v2")
    deployment.submit({"a.py": [dag("a")]}, version="v3")
    assert deployment.rows("SELECT * FROM import_error") == []
    assert deployment.live() == {"a": "v3"}


def test_a_rollback_is_followed(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b", description="old")]})
    deployment.submit({"b.py": [dag("b", description="new")], "c.py": [dag("c")]}, version="v2")
    deployment.store.republish(SALES, to_revision=1, base_revision=2, hold=Hold("v2", "v2", "bad"))
    assert deployment.live() == {"a": "v1", "b": "v1"}
    assert deployment.rows("SELECT description FROM dag WHERE dag_id = 'b'") == [("old",)]


def test_a_deleted_bundle_leaves_nothing_scheduled(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": BROKEN})
    deployment.store.deactivate_bundle(SALES)
    assert deployment.live() == {}
    assert deployment.rows("SELECT * FROM import_error") == []


def test_other_bundles_are_left_alone(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.submit({"b.py": [dag("b")]}, bundle=OPS)
    deployment.store.deactivate_bundle(SALES)
    assert deployment.live() == {"b": "v1"}


def test_a_dag_that_somebody_left_in_our_bundle_is_made_stale(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    deployment.submit({"z.py": [dag("z")]}, bundle=OPS)
    deployment.execute("UPDATE dag SET bundle_name = :name WHERE dag_id = 'z'", name=str(SALES))
    deployment.submit({"a.py": [dag("a", description="changed")], "b.py": [dag("b")]}, version="v2")
    assert deployment.live() == {"a": "v2", "b": "v2"}


@pytest.mark.parametrize("its_dag", ["has no schedule any more", "is gone", "was deleted"])
def test_an_asset_that_schedules_no_dag_any_more_is_watched_by_no_trigger(deployment: Deployment, its_dag: str) -> None:
    from airflow.sdk import Asset  # noqa: PLC0415 - after AIRFLOW_HOME is set

    deployment.submit({"a.py": [dag("a", schedule=[Asset("in", uri="x://in")])], "b.py": [dag("b")]})
    deployment.execute("INSERT INTO \"trigger\" (classpath, kwargs, created_date) VALUES ('x', '', CURRENT_TIMESTAMP)")
    if installed().minor == "3.1":
        watched = "SELECT * FROM asset_trigger"
        watch = 'INSERT INTO asset_trigger (asset_id, trigger_id) SELECT asset.id, t.id FROM asset, "trigger" t'
    else:
        watched = "SELECT * FROM asset_watcher"
        watch = (
            "INSERT INTO asset_watcher (name, asset_id, trigger_id)"
            " SELECT 'watcher', asset.id, t.id FROM asset, \"trigger\" t"
        )
    deployment.execute(watch)
    assert len(deployment.rows(watched)) == 1
    if its_dag == "was deleted":  # by Airflow's API, which takes its references along
        deployment.execute("DELETE FROM dag_schedule_asset_reference WHERE dag_id = 'a'")
        deployment.store.refresh()
    else:
        still = {} if its_dag == "is gone" else {"a.py": [dag("a")]}
        deployment.submit({**still, "b.py": [dag("b")]}, version="v2")
    assert deployment.rows(watched) == []


def test_a_target_that_is_added_later_is_told_all_that_is_live(deployment: Deployment) -> None:
    target, deployment.store.target = deployment.store.target, None
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    assert deployment.live() == {}
    deployment.store.target = target
    deployment.submit({"a.py": [dag("a")], "b.py": [dag("b")]})
    assert deployment.live() == {"a": "v1", "b": "v1"}


def test_a_program_without_the_target_may_not_move_what_the_target_has(deployment: Deployment) -> None:
    from dagbundle import errors  # noqa: PLC0415 - one test's

    deployment.submit({"a.py": [dag("a")]})
    deployment.store.target = None
    with pytest.raises(errors.TargetError, match="published into airflow as well") as raised:
        deployment.submit({"a.py": [dag("a", description="changed")]}, version="v2")
    assert "DAGBUNDLE_TARGET=airflow" in raised.value.hint
    assert deployment.store.live(SALES).version == "v1"


def test_what_is_live_already_writes_nothing(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    before = deployment.rows("SELECT last_parsed_time FROM dag")
    deployment.submit({"a.py": [dag("a")]})
    assert deployment.rows("SELECT last_parsed_time FROM dag") == before


def run(deployment: Deployment, dag_id: str) -> None:
    """Let a run of a DAG exist, as the scheduler makes it."""
    from publisher.runs import add_run  # noqa: PLC0415 - imports Airflow

    add_run(deployment.store.db.engine, dag_id)


def submit_texts(deployment: Deployment, texts: dict[str, str]) -> None:
    import functools  # noqa: PLC0415

    from dagbundle.rollout import judge, policy  # noqa: PLC0415

    deployment.store.submit_dags(
        SALES, [staged(path, [dag("a")], text) for path, text in texts.items()], version="v2", template_hash="v2",
        judge=functools.partial(judge.judge, policy=policy.Policy()), python="3.11",
    )  # fmt: skip


@pytest.mark.parametrize("files", [{"a.py": ["a"]}, {}], ids=["with DAGs", "without"])
def test_a_bundle_is_active_in_airflow_until_it_is_deactivated_and_again_when_it_comes_back(
    deployment: Deployment, files: dict[str, list[str]]
) -> None:
    def publish() -> None:
        deployment.submit({path: [dag(dag_id) for dag_id in found] for path, found in files.items()})

    def active() -> bool:
        ((found,),) = deployment.rows("SELECT active FROM dag_bundle WHERE name = :name", name=str(SALES))
        return bool(found)

    publish()
    assert active()
    for _ in range(2):
        deployment.store.deactivate_bundle(SALES)
        assert (active(), deployment.live()) == (False, {})
    deployment.store.follow(SALES)  # as `dagbundle airflow sync` does with each bundle
    assert not active()
    publish()
    assert (active(), [*deployment.live()]) == (True, [dag_id for found in files.values() for dag_id in found])


def test_a_bundle_that_is_rolled_back_after_its_deactivation_is_active_again(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    deployment.store.deactivate_bundle(SALES)
    deployment.store.republish(SALES, to_revision=1, base_revision=2, hold=None)
    assert deployment.rows("SELECT active FROM dag_bundle") in ([(True,)], [(1,)])
    assert deployment.live() == {"a": "v1"}
