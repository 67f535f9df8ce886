"""`dags next-execution` lets Airflow see nothing of a stored DAG but its schedule, and for a while only."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import pytest

from dagbundle.store.dagstore import DagStore
from integration.cli.conftest import Command
from support import airflow, applying, reports

DAILY = {
    "__type": "airflow.timetables.trigger.CronTriggerTimetable",
    "__var": {"expression": "0 0 * * *", "timezone": "UTC", "interval": 0.0, "run_immediately": False},
}
EVIL = {"__type": "airflow_exc_ser", "__var": {"exc_cls_name": "os.system", "args": ["touch CANARY"], "kwargs": {}}}
FIRST_OF_2020 = 1_577_836_800.0


@pytest.fixture
def store_dag(migrated_file: pathlib.Path, command: Command) -> Any:
    """Publishes a document as a parser without Airflow's serializer would report it."""
    file = command.folder / "dagbundle.db"
    file.write_bytes(migrated_file.read_bytes())

    def store_dag(**fields: Any) -> None:
        file_of_dag = reports.parsed("d.py", "d", timezone="UTC", catchup=True, **fields)
        task = {"start_date": FIRST_OF_2020, "_task_module": "airflow.providers.standard.operators.empty"}
        file_of_dag["dags"][0]["data"]["dag"]["tasks"][0]["__var"] |= task
        with DagStore.open(f"sqlite:///{file}") as store:
            applying.apply(store, file_of_dag)

    return store_dag


def next_execution(command: Command, minor: str, code: int = 0) -> Any:
    return command("dags", "next-execution", "d", "-o", "json", "--python", airflow.python(minor), code=code)


@pytest.mark.parametrize("minor", airflow.MINORS[1:])
def test_the_first_run_follows_the_dates_of_tasks(store_dag: Any, command: Command, minor: str) -> None:
    store_dag(timetable=DAILY)
    (run,) = next_execution(command, minor).data["items"]
    assert run["run_after"] == "2020-01-01T00:00:00+00:00"


def test_an_interpreter_without_airflow_ends_as_for_other_commands(
    store_dag: Any, command: Command, tmp_path: pathlib.Path
) -> None:
    store_dag(timetable=DAILY)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    told = command("dags", "next-execution", "d", "--python", str(tmp_path / "bare/bin/python"), code=5).err
    assert "Hint: name the Python of an environment that has Airflow 3: --python" in told
    assert command("dags", "next-execution", "d", "--python", "no-such-python", code=2).err


@pytest.mark.parametrize("minor", airflow.MINORS[1:])
def test_nothing_of_a_dag_but_its_schedule_is_decoded(store_dag: Any, command: Command, minor: str) -> None:
    store_dag(timetable=DAILY, default_args={"__type": "dict", "__var": {"x": EVIL}}, params=[["p", EVIL]], doc_md=EVIL)
    assert next_execution(command, minor).data["items"]
    assert not list(command.folder.rglob("CANARY"))


@pytest.mark.parametrize("timetable", [EVIL, {"__type": "tenant_canary.Timetable", "__var": {}}])
def test_a_schedule_that_names_what_is_not_airflows_is_refused(
    store_dag: Any, command: Command, timetable: dict[str, Any]
) -> None:
    store_dag(timetable=timetable)
    answer = next_execution(command, airflow.NEWEST, code=5)
    assert "The schedule of DAG d is not given to Airflow: dag.timetable" in answer.err


@pytest.mark.parametrize("minor", airflow.MINORS[1:])
def test_what_never_ends_is_ended(store_dag: Any, command: Command, minor: str, tmp_path: pathlib.Path) -> None:
    plugins = tmp_path / "home" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "slow.py").write_text(
        "from airflow.plugins_manager import AirflowPlugin\nfrom airflow.timetables.base import Timetable\n"
        "class Slow(Timetable):\n    __module__ = 'slow'\n    def infer_manual_data_interval(self, **_): ...\n"
        "    def next_dagrun_info(self, **_):\n        sum(range(10**18))\n"
        "class Plugin(AirflowPlugin):\n    name = 'slow'\n    timetables = [Slow]\n"
    )
    store_dag(timetable={"__type": "slow.Slow", "__var": {}})
    command.environment |= {"AIRFLOW_HOME": str(plugins.parent), "DAGBUNDLE_ALLOWED_CLASSES": "slow.Slow"}
    answer = next_execution(command, minor, code=5)
    assert "the schedule cannot be computed: it takes more than 20 s of CPU time" in answer.err
