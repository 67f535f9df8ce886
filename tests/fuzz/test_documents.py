"""Serialized DAGs that no serializer writes, on a real Airflow: refused, or what Airflow makes of them is harmless.

A document that was published is read as the scheduler, the triggerer and the API server read it. `make fuzz` runs this
on each minor.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("airflow", reason="runs in the publisher's environments (make fuzz)")

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dagbundle import errors
from dagbundle.rollout import content
from fuzz import fuzzing
from publisher.conftest import (
    Deployment,
    allowing,
    dag,
    document,
    installed,
    opened,
    postgres_template,
    server,
)
from publisher.test_hostile import FILE, calling
from support.postgres import PostgresServer

__all__ = ["postgres_template", "server"]
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.filterwarnings("ignore:The `airflow")]
"""Airflow warns of its own modules, as in tests/publisher."""

CPU = 20.0
MEMORY = 1 << 30
EXPECTED = frozenset({"NotAllowed", "NotReadable"})
"""Reasons of errors that name the DAG, its file and its fault. Any other reason is a fault of ours."""
MOST = 4 << 20
"""Bytes of an input."""
TRIGGERS = frozenset(
    {
        FILE,
        "airflow.providers.standard.triggers.temporal.DateTimeTrigger",
        "airflow.providers.standard.triggers.temporal.TimeDeltaTrigger",
    }
)
"""The triggers that are allowed by default, and the seed's watcher's."""
NOTIFIER = re.compile(r"airflow\.providers(\.\w+)+Notifier")
"""The callbacks that are."""


@pytest.fixture(scope="module", autouse=True)
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Let this process and the examiner's find the canary, whose import makes a file."""
    folder = tmp_path_factory.mktemp("canary")
    mark = folder / "imported"
    evil = "class Evil:\n    deserialize = classmethod(lambda cls, _: cls())\n"
    (folder / f"{fuzzing.CANARY}.py").write_text(f"open({str(mark)!r}, 'w').close()\n{evil}")
    sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    yield mark
    sys.path.remove(str(folder))
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def shared(server: PostgresServer, postgres_template: str) -> Iterator[Deployment]:
    url = server.create_database(template=postgres_template)
    for found in opened(url):
        yield allowing(found, FILE)
    server.drop_database(url)


def seeds() -> list[dict[str, Any]]:
    """Documents with all that a serializer writes, each with another timetable."""
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    plain = json.loads(json.dumps(document(dag("hostile", start_date=start, catchup=False), "h.py")))
    plain["dag"]["owner_links"] = {"airflow": "https://example.com"}
    plain["dag"]["max_active_tasks"] = 16
    found = [calling() for _ in range(4)]  # it has most of what matters
    for kind, fields in (
        ("interval.DeltaDataIntervalTimetable", {"delta": {"months": 1, "days": 1}}),
        ("interval.DeltaDataIntervalTimetable", {"delta": 86400.0}),
        ("interval.CronDataIntervalTimetable", {"expression": "0 0 * * *", "timezone": "UTC"}),
        ("trigger.CronTriggerTimetable",
         {"expression": "0 0 * * *", "timezone": "UTC", "interval": 0.0, "run_immediately": False}),
        ("trigger.MultipleCronTriggerTimetable",
         {"expressions": ["0 0 * * *"], "timezone": "UTC", "interval": 0.0, "run_immediately": False}),
        ("trigger.CronPartitionTimetable",
         {"expression": "0 0 * * *", "timezone": "UTC", "run_offset": 0, "run_immediately": False, "key_format": "%Y"}),
    ):  # fmt: skip
        made = json.loads(json.dumps(plain))
        made["dag"]["timetable"] = {"__type": f"airflow.timetables.{kind}", "__var": fields}
        found.append(made)
    return found


def test_a_document_is_refused_with_its_reason_or_what_airflow_makes_of_it_is_harmless(
    shared: Deployment, canary: pathlib.Path
) -> None:
    count = 0

    def check(value: Any) -> None:
        nonlocal count
        count += 1
        if not isinstance(value, dict) or not isinstance(value.get("dag"), dict) or len(json.dumps(value)) > MOST:
            return
        value["dag"]["dag_id"], value["dag"]["relative_fileloc"] = "hostile", "h.py"  # what a record is held to
        try:
            content.split(value)
        except errors.ContentError:
            return
        with fuzzing.budget(CPU, MEMORY):
            published = publish(shared, value, str(count))
        assert not canary.exists()
        assert fuzzing.CANARY not in sys.modules
        if published:
            with fuzzing.budget(CPU, MEMORY):
                read(shared)
            assert fuzzing.CANARY not in sys.modules
            look(shared)

    assert fuzzing.drive("documents", seeds(), check) > 1


def publish(deployment: Deployment, value: Any, version: str) -> bool:
    """Publish it; False where it was refused as a fault of its author's."""
    try:
        deployment.submit({"h.py": [value]}, version=version)
    except errors.TargetError as error:
        if error.reason not in EXPECTED:
            raise
        return False
    return True


def read(deployment: Deployment) -> None:
    """Decode what is stored and compute its next run, as the scheduler does."""
    with Session(deployment.store.db.engine) as session:
        for row in session.scalars(sa.select(installed().SerializedDag)):
            found = row.dag
            try:
                found.next_dagrun_info(None)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001, S112 - the scheduler itself goes on without a next run then
                continue


def look(deployment: Deployment) -> None:
    """Look at what scheduler, triggerer and browsers take from the tables."""
    with Session(deployment.store.db.engine) as session:
        for row in session.scalars(sa.select(installed().SerializedDag)):
            assert set(triggers(row.dag)) <= TRIGGERS
            assert all(NOTIFIER.fullmatch(path) for path in callbacks(row.dag))
        if sa.inspect(session.connection()).has_table("deadline_alert"):  # 3.2 and later keep them there
            for (callback,) in session.execute(sa.text("SELECT callback_def FROM deadline_alert")):
                assert NOTIFIER.fullmatch(callback["__data__"]["path"])
    links = [link for (link,) in deployment.rows("SELECT link FROM dag_owner_attributes")]
    assert all(link.startswith(("http://", "https://", "mailto:", "/")) for link in links)


def triggers(found: Any) -> Iterator[str]:
    """Return the names of the triggers of a decoded DAG's tasks and assets."""
    for task in found.task_dict.values():
        if (arguments := getattr(task, "start_trigger_args", None)) is not None:
            yield arguments.trigger_cls
    condition = getattr(found.timetable, "asset_condition", None)
    for _, asset in condition.iter_assets() if condition else ():
        yield from (watcher.trigger["classpath"] for watcher in asset.watchers)


def callbacks(found: Any) -> Iterator[str]:
    """Return the names of the callbacks of a decoded DAG's deadlines, where it has them itself, as in 3.1."""
    for alert in found.deadline or ():
        if not isinstance(alert, str):
            yield alert.callback.path
