"""A whole Airflow lives on what we publish: no dag-processor runs, and all the others do as ever."""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from publisher import living
from publisher.living import LivingAirflow
from support.postgres import PostgresServer

LOCAL = "airflow.dag_processing.bundles.local.LocalDagBundle"
RELEASES = "publisher.releases.ReleaseDagBundle"

HEAD = """
import datetime as dt
import os
import pathlib
import time

from airflow.sdk import DAG, Asset, task

START = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
"""
HOURLY = f"""{HEAD}
with DAG("hourly", schedule=dt.timedelta(hours=1), start_date=START, catchup=False):
    @task
    def one():
        return "scheduled"
    one()
"""
MANUAL = f"""{HEAD}
with DAG("manual", schedule=None, tags=["by-hand"]):
    @task
    def numbers(dag_run=None):
        return dag_run.conf["numbers"]

    @task
    def squared(number):
        return number * number

    @task
    def total(found):
        return sum(found)
    total(squared.expand(number=numbers()))
"""
ASSETS = f"""{HEAD}
ORDERS = Asset("orders")
with DAG("producer", schedule=None):
    @task(outlets=[ORDERS])
    def produce():
        pass
    produce()
with DAG("consumer", schedule=[ORDERS]):
    @task
    def consume(triggering_asset_events=None):
        return [event.source_dag_id for events in triggering_asset_events.values() for event in events]
    consume()
"""
DAILY = f"""{HEAD}
with DAG("daily", schedule="@daily", start_date=START, catchup=False):
    @task
    def one(ds=None):
        return ds
    one()
"""
DEFERS = f"""{HEAD}
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync

with DAG("defers", schedule=None):
    for name, at_once in (("by_worker", False), ("at_once", True)):
        DateTimeSensorAsync(task_id=name, target_time=START.isoformat(), start_from_trigger=at_once)
"""
FILE_DELETE = "airflow.providers.standard.triggers.file.FileDeleteTrigger"
BROKEN = "from airflow.sdk import DAG, chian\n"
LIFE = {
    "hourly.py": HOURLY, "by_hand/manual.py": MANUAL, "assets.py": ASSETS, "daily.py": DAILY, "defers.py": DEFERS,
    "typo.py": BROKEN,
}  # fmt: skip


def at_the_gate(dag_id: str, gate: pathlib.Path, *, says: str, schedule: str = "None", more: str = "") -> str:
    """A DAG whose first task waits until the gate is there; each task returns which text of the file it is of."""
    return f"""{HEAD}
import helper

with DAG({dag_id!r}, schedule={schedule}, start_date=START, catchup=False, max_active_runs=1):
    @task
    def first():
        pathlib.Path({f"{gate}.{dag_id}"!r}).touch()
        while not os.path.exists({str(gate)!r}) and os.path.exists({str(gate.parent)!r}):
            time.sleep(0.1)
        return [{says!r}, helper.RELEASE]

    @task
    def second():
        return [{says!r}, helper.RELEASE]

    @task
    def third():
        return [{says!r}, helper.RELEASE]
    first() >> second(){more}
"""


def helper(release: str) -> str:
    """A module of the bundle: no DAG's definition says what is in it."""
    return f"RELEASE = {release!r}\n"


BEACON = f"""{HEAD}
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("beacon", schedule=dt.timedelta(seconds=1), start_date=START, catchup=False, max_active_runs=1):
    EmptyOperator(task_id="one")
"""


@pytest.fixture(scope="module")
def airflow(server: PostgresServer, postgres_template: str) -> Iterator[LivingAirflow]:
    """Ours: nothing but what was published tells it what DAGs there are."""
    names = ("life", "kept", "rolled", "watched")
    url = server.create_database(template=postgres_template)
    with living.living(url, {f"team-sales.{name}": RELEASES for name in names}) as deployment:
        yield deployment
    server.drop_database(url)


@pytest.fixture
def stock(server: PostgresServer, postgres_template: str) -> Iterator[LivingAirflow]:
    """One whose DAGs come from a stock dag-processor."""
    url = server.create_database(template=postgres_template)
    with living.living(url, {"kept": LOCAL}) as deployment:
        yield deployment
    server.drop_database(url)


@pytest.fixture(scope="module")
def life(airflow: LivingAirflow) -> str:
    """The bundle of what runs are made of, published; its version."""
    return airflow.publish("life", LIFE, code=3)


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("life")
def test_a_run_that_is_due_is_made_and_succeeds(airflow: LivingAirflow) -> None:
    run = airflow.ended("hourly", kind="scheduled")
    assert run["state"] == "success"
    assert airflow.said("hourly", run["dag_run_id"], "one") == "scheduled"


def test_a_run_that_somebody_starts_maps_its_tasks_and_succeeds_in_the_version_that_was_published(
    airflow: LivingAirflow, life: str
) -> None:
    run = airflow.ended("manual", airflow.trigger("manual", numbers=[1, 2, 3]))
    assert (run["state"], run["run_type"], run["bundle_version"]) == ("success", "manual", life)
    assert airflow.said("manual", run["dag_run_id"], "total") == 14
    mapped = [task for task in airflow.tasks("manual", run["dag_run_id"]) if task["task_id"] == "squared"]
    assert [(task["map_index"], task["state"]) for task in mapped] == [(0, "success"), (1, "success"), (2, "success")]


@pytest.mark.usefixtures("life")
def test_what_one_dag_makes_of_an_asset_starts_the_dag_that_waits_for_it(airflow: LivingAirflow) -> None:
    assert airflow.ended("producer", airflow.trigger("producer"))["state"] == "success"
    run = airflow.ended("consumer", kind="asset_triggered")
    assert run["state"] == "success"
    assert airflow.said("consumer", run["dag_run_id"], "consume") == ["producer"]


def test_a_backfill_makes_a_run_for_each_day_and_all_succeed(airflow: LivingAirflow, life: str) -> None:
    made = airflow.post(
        "backfills",
        {"dag_id": "daily", "from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"},
    )  # fmt: skip
    assert made["dag_id"] == "daily"
    for day in ("2026-01-01", "2026-01-02"):
        run = airflow.ended("daily", f"backfill__{day}T00:00:00+00:00")
        assert (run["run_type"], run["state"], run["bundle_version"]) == ("backfill", "success", life)
        assert airflow.said("daily", run["dag_run_id"], "one") == day


@pytest.mark.usefixtures("life")
def test_tasks_that_defer_are_taken_up_by_the_triggerer_and_succeed(airflow: LivingAirflow) -> None:
    run = airflow.trigger("defers")
    assert airflow.ended("defers", run)["state"] == "success"
    assert airflow.states("defers", run) == {"by_worker": "success", "at_once": "success"}


def test_what_an_assets_watcher_sees_starts_the_dag_that_waits_for_it_until_no_dag_does(airflow: LivingAirflow) -> None:
    dropped = airflow.folder / "dropped"
    airflow.publish("watched", {"watched.py": watched(dropped)})
    dropped.touch()
    run = airflow.ended("watched", kind="asset_triggered")
    assert run["state"] == "success"
    assert airflow.said("watched", run["dag_run_id"], "one") == [True]
    assert not dropped.exists()  # what watches takes it away

    airflow.publish("watched", {"watched.py": BROKEN}, code=3)
    assert "watched.py" in [error["filename"] for error in errors_of(airflow, "team-sales.watched")]
    dropped.touch()
    airflow.until("second run", lambda: airflow.runs("watched")[1:])  # a DAG that is kept is started as before
    airflow.publish("watched", {"another.py": MANUAL.replace("manual", "another")})
    airflow.until("end of the watch", lambda: FILE_DELETE not in airflow.triggers())


def watched(path: pathlib.Path) -> str:
    """A DAG that a file starts, as soon as it is there; its task returns what the watcher said."""
    return f"""{HEAD}
from airflow.providers.standard.triggers.file import FileDeleteTrigger
from airflow.sdk import AssetWatcher

SEES = FileDeleteTrigger(filepath={str(path)!r}, poke_interval=0.2)
with DAG("watched", schedule=[Asset("files", watchers=[AssetWatcher(name="drop", trigger=SEES)])]):
    @task
    def one(triggering_asset_events=None):
        return [event.extra["payload"] for events in triggering_asset_events.values() for event in events]
    one()
"""


# --- The REST API -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("life")
def test_no_dag_processor_has_ever_run(airflow: LivingAirflow) -> None:
    health = airflow.get("monitor/health")
    assert (health["scheduler"]["status"], health["dag_processor"]["status"]) == ("healthy", None)


def test_the_rest_api_serves_what_was_published(airflow: LivingAirflow, life: str) -> None:
    listed = airflow.get("dags", limit=100)["dags"]
    ours = {dag["dag_id"]: dag for dag in listed if dag["bundle_name"] == "team-sales.life"}
    assert {dag_id: (dag["relative_fileloc"], dag["bundle_version"]) for dag_id, dag in ours.items()} == {
        "hourly": ("hourly.py", life), "manual": ("by_hand/manual.py", life), "producer": ("assets.py", life),
        "consumer": ("assets.py", life), "daily": ("daily.py", life), "defers": ("defers.py", life),
    }  # fmt: skip
    assert [tag["name"] for tag in ours["manual"]["tags"]] == ["by-hand"]
    tasks = airflow.get("dags/manual/tasks")["tasks"]
    assert {task["task_id"]: task["downstream_task_ids"] for task in tasks} == {
        "numbers": ["squared"], "squared": ["total"], "total": [],
    }  # fmt: skip
    (orders,) = (asset for asset in airflow.get("assets")["assets"] if asset["name"] == "orders")
    assert [dag["dag_id"] for dag in orders["scheduled_dags"]] == ["consumer"]


@pytest.mark.parametrize(
    ("dag_id", "path"), [("hourly", "hourly.py"), ("manual", "by_hand/manual.py"), ("consumer", "assets.py")]
)
def test_the_rest_api_serves_a_dags_source_and_version(
    airflow: LivingAirflow, life: str, dag_id: str, path: str
) -> None:
    source = airflow.get(f"dagSources/{dag_id}")
    assert (source["content"], source["version_number"]) == (LIFE[path], 1)
    (version,) = airflow.get(f"dags/{dag_id}/dagVersions")["dag_versions"]
    assert (version["version_number"], version["bundle_name"], version["bundle_version"]) == (
        1, "team-sales.life", life,
    )  # fmt: skip


@pytest.mark.usefixtures("life")
def test_the_rest_api_serves_import_errors(airflow: LivingAirflow) -> None:
    (error,) = errors_of(airflow, "team-sales.life")
    assert error["filename"] == "typo.py"
    assert "cannot import name 'chian'" in error["stack_trace"]


def errors_of(airflow: LivingAirflow, bundle: str) -> list[Any]:
    return [error for error in airflow.get("importErrors")["import_errors"] if error["bundle_name"] == bundle]


# --- Keep-last-good ---------------------------------------------------------------------------------------------------

EVERY_SECOND = "dt.timedelta(seconds=1)"


def test_a_broken_file_that_is_published_while_its_dag_runs_costs_no_run(airflow: LivingAirflow) -> None:
    gate = airflow.gate("kept")
    good = at_the_gate("kept", gate, says="good", schedule=EVERY_SECOND)
    version = airflow.publish("kept", {"kept.py": good, "helper.py": helper("1")})
    run = airflow.waiting("kept", gate)
    airflow.publish("kept", {"kept.py": BROKEN, "helper.py": helper("2")}, code=3)
    published = dt.datetime.now(dt.UTC)
    (error,) = errors_of(airflow, "team-sales.kept")
    assert error["filename"] == "kept.py"
    assert airflow.get("dagSources/kept")["content"] == good
    gate.touch()
    assert airflow.ended("kept", run["dag_run_id"])["state"] == "success"
    following = airflow.until("second run", lambda: airflow.runs("kept")[1:2])[0]
    assert airflow.ended("kept", following["dag_run_id"])["state"] == "success"
    assert dt.datetime.fromisoformat(following["queued_at"]) > published
    for made in (run, following):
        assert (made["run_type"], made["bundle_version"]) == ("scheduled", version)
        assert airflow.said("kept", made["dag_run_id"], "second") == ["good", "1"]

    mended = airflow.publish("kept", {"kept.py": good.replace("good", "better"), "helper.py": helper("3")})
    assert errors_of(airflow, "team-sales.kept") == []
    newer = airflow.until(
        "run of the mended version", lambda: [run for run in airflow.runs("kept") if run["bundle_version"] == mended]
    )[0]  # fmt: skip
    assert airflow.ended("kept", newer["dag_run_id"])["state"] == "success"
    assert airflow.said("kept", newer["dag_run_id"], "second") == ["better", "3"]
    airflow.pause("kept")


def test_a_stock_processor_loses_the_dag_and_the_run_in_that_story(stock: LivingAirflow) -> None:
    gate = stock.gate("kept")
    good = at_the_gate("kept", gate, says="good", schedule=EVERY_SECOND)
    others = {"helper.py": helper("1"), "beacon.py": BEACON}
    stock.write("kept", {"kept.py": good, **others})
    stock.process_files("kept")
    run = stock.waiting("kept", gate)
    stock.write("kept", {"kept.py": BROKEN, **others})
    stock.process_files("kept")
    (error,) = errors_of(stock, "kept")
    assert error["filename"] == "kept.py"
    gate.touch()
    stock.until("end of the first task", lambda: stock.states("kept", run["dag_run_id"])["first"] == "success")
    before = len(stock.runs("beacon"))
    stock.until("more runs of the other DAG", lambda: len(stock.runs("beacon")) >= before + 3)
    (left,) = stock.runs("kept")
    assert (left["dag_run_id"], left["state"]) == (run["dag_run_id"], "running")
    assert stock.states("kept", run["dag_run_id"]) == {"first": "success", "second": None}
    assert [dag["dag_id"] for dag in stock.get("dags")["dags"]] == ["beacon"]
    assert stock.get("dags/kept")["is_stale"]


# --- Another version --------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_version_through_a_rollout_and_the_next_takes_the_new_one(airflow: LivingAirflow) -> None:
    gate = airflow.gate("rolled")
    rolled = at_the_gate("rolled", gate, says="the same")  # only the image changes, and with it the helper
    changed = at_the_gate("changed", gate, says="old")
    old = airflow.publish("rolled", {"rolled.py": rolled, "changed.py": changed, "helper.py": helper("1")})
    before = {dag_id: airflow.trigger(dag_id) for dag_id in ("rolled", "changed")}
    for dag_id in before:
        airflow.waiting(dag_id, gate)
    changed = at_the_gate("changed", gate, says="new", more=" >> third()")
    new = airflow.publish("rolled", {"rolled.py": rolled, "changed.py": changed, "helper.py": helper("2")})
    after = {dag_id: airflow.trigger(dag_id) for dag_id in before}
    gate.touch()
    assert [told(airflow, "rolled", runs["rolled"]) for runs in (before, after)] == [
        ("success", old, {"first": (1, ["the same", "1"]), "second": (1, ["the same", "1"])}),
        ("success", new, {"first": (1, ["the same", "2"]), "second": (1, ["the same", "2"])}),
    ]
    assert [told(airflow, "changed", runs["changed"]) for runs in (before, after)] == [
        ("success", old, {"first": (1, ["old", "1"]), "second": (1, ["old", "1"])}),
        ("success", new, {"first": (2, ["new", "2"]), "second": (2, ["new", "2"]), "third": (2, ["new", "2"])}),
    ]
    assert versions(airflow, "rolled") == [(1, new)]  # as stock Airflow has it: the definition is the same
    assert versions(airflow, "changed") == [(1, old), (2, new)]


def versions(airflow: LivingAirflow, dag_id: str) -> list[tuple[int, str]]:
    found = airflow.get(f"dags/{dag_id}/dagVersions")["dag_versions"]
    return sorted((version["version_number"], version["bundle_version"]) for version in found)


def told(airflow: LivingAirflow, dag_id: str, run_id: str) -> tuple[str, str, dict[str, tuple[int, Any]]]:
    """How a run ended, in which bundle version, and of each task the DAG's version and what it returned."""
    run = airflow.ended(dag_id, run_id)
    tasks = {
        task["task_id"]: (task["dag_version"]["version_number"], airflow.said(dag_id, run_id, task["task_id"]))
        for task in airflow.tasks(dag_id, run_id)
    }
    return run["state"], run["bundle_version"], tasks
