"""A real scheduler and a real triggerer beside hostile documents: both live on, and import nothing that one names.

Every string of a document, and every key, is replaced by the name of a module that all processes could import and that
says so when somebody does. What vetting takes of that is published, unpaused and run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.rollout import content
from dagbundle.rollout.model import BundleKey
from dagbundle.store.dagstore import DagStore
from publisher import living
from publisher.conftest import Deployment, allowing, dag, document, installed
from publisher.living import LivingAirflow
from support.postgres import PostgresServer

CANARY = "tenant_canary.Evil"
CONTROL = BundleKey("team-sales", "control")
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MOMENT = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
MOMENT_OF_START = {"__type": "datetime", "__var": START.timestamp()}
FILE = "airflow.providers.standard.triggers.file.FileDeleteTrigger"
NOTIFIER = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
FAST = {
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": "100",
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_TO_CREATE_PER_LOOP": "100",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
}
BEATS = max(3, int(os.environ.get("DAGBUNDLE_TEST_BESIDE_SECONDS", "0")))
"""Heartbeats of each process, a second apart, that are waited for; `DAGBUNDLE_TEST_BESIDE_SECONDS=60` for a minute."""


def whole(dag_id: str) -> dict[str, Any]:
    """A document with everything that scheduler and triggerer decode, import, call or compute, and which is allowed."""
    from airflow.providers.standard.operators.bash import BashOperator  # noqa: PLC0415 - after AIRFLOW_HOME is set
    from airflow.providers.standard.operators.empty import EmptyOperator  # noqa: PLC0415 - likewise
    from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync  # noqa: PLC0415 - likewise
    from airflow.sdk import DAG, Asset, AssetAlias, Label, Param, TaskGroup  # noqa: PLC0415 - likewise

    with DAG(
        dag_id, schedule=[Asset(f"in-{dag_id}", uri=f"x://in-{dag_id}")], start_date=START, catchup=False, tags=["t"],
        params={"p": Param("a", type="string", description="d")}, default_args={"owner": "me"}, description="d",
        doc_md="# d", owner_links={"me": "https://example.com"}, dagrun_timeout=dt.timedelta(hours=1),
        is_paused_upon_creation=False,
    ) as made:  # fmt: skip
        one = EmptyOperator(
            task_id="one", pool="default_pool", queue="default", doc="d",
            params={"q": Param("x", type="string")},
        )  # fmt: skip
        DateTimeSensorAsync(task_id="defers", target_time=START, start_from_trigger=True, end_from_trigger=True)
        with TaskGroup("group", tooltip="tip"):
            last = EmptyOperator(
                task_id="last", trigger_rule="all_done", weight_rule="upstream", executor_config={"a": "b"}
            )
        rule = {"trigger_rule": "all_failed"}  # both are made, mapped and skipped, and no executor has work
        assets = {
            "inlets": [Asset(f"inlet-{dag_id}")],
            "outlets": [Asset(f"out-{dag_id}"), AssetAlias(f"alias-{dag_id}")],
        }
        one >> BashOperator.partial(task_id="mapped", env={"a": "b"}, **assets, **rule).expand(bash_command=["true"])
        BashOperator.partial(task_id="by_value", **rule).expand(bash_command=one.output)
        one >> Label("label") >> last
    found: dict[str, Any] = json.loads(json.dumps(document(made, f"{dag_id}.py")))
    condition = found["dag"]["timetable"]["__var"]["asset_condition"]
    arguments = {"filepath": str(dropped(dag_id)), "poke_interval": 1.0}
    watcher = {"name": "watcher", "trigger": {"classpath": FILE, "kwargs": arguments}}
    next(_assets(condition))["watchers"] = [watcher]
    hourly = {"__type": "airflow.timetables.trigger.DeltaTriggerTimetable", "__var": {"delta": 3600.0, "interval": 0.0}}
    found["dag"]["timetable"] = {
        "__type": "airflow.timetables.assets.AssetOrTimeSchedule",
        "__var": {"asset_condition": condition, "timetable": hourly},
    }
    found["dag"]["deadline"] = [deadline()]
    (task,) = (item["__var"] for item in found["dag"]["tasks"] if item["__var"]["task_id"] == "defers")
    task["start_trigger_args"]["trigger_kwargs"] = {
        "__type": "dict",
        "__var": {"moment": MOMENT_OF_START, "end_from_trigger": True},
    }
    return found


def dropped(dag_id: str) -> pathlib.Path:
    """Return the file that a DAG's watcher waits for."""
    return pathlib.Path(os.environ["AIRFLOW_HOME"]) / f"{dag_id}.dropped"


def deadline(**data: Any) -> dict[str, Any]:
    callback = {"__classname__": "airflow.sdk.definitions.deadline.AsyncCallback", "__version__": 0,
                "__data__": {"path": NOTIFIER,
                             "kwargs": {"to": "a@example.com"}, **data}}  # fmt: skip
    alert = {"reference": {"reference_type": "DagRunQueuedAtDeadline"}, "interval": 1.0, "callback": callback}
    return {"__type": "deadline_alert", "__var": alert}


def _assets(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("__type") == "asset":
            yield value
        for item in value.values():
            yield from _assets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _assets(item)


Path = tuple[Any, ...]


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, bool]]:
    """Return where strings are, and whether each is a key."""
    if isinstance(value, str):
        yield path, False
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), True
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def replaced(found: Any, path: Path, *, key: bool) -> Any:
    """Return a document with one of its strings replaced."""
    holder = found
    for part in path[:-1]:
        holder = holder[part]
    if key:
        holder[CANARY] = holder.pop(path[-1])
    else:
        holder[path[-1]] = CANARY
    return found


def variants() -> Mapping[str, tuple[Path, dict[str, Any]]]:
    """Return, by dag_id, what was replaced and the document."""
    template = json.dumps(whole("the-dag"))
    made: dict[str, tuple[Path, dict[str, Any]]] = {"plain": ((), json.loads(template.replace("the-dag", "plain")))}
    for path, key in places(json.loads(template)):
        if "params" in path and path[:2] == ("dag", "tasks") and path[2] > 0:
            continue  # every task has the DAG's
        dag_id = f"d{len(made)}"
        found = json.loads(template.replace("the-dag", dag_id))
        made[dag_id] = ((*path, "key") if key else path, replaced(found, path, key=key))
    return made


def attacks() -> Mapping[str, dict[str, Any]]:
    """Return, by dag_id, documents that have somebody else's process import, call or do what it should not."""
    template = json.dumps(whole("the-dag"))
    calls = "airflow.triggers.callback.CallbackTrigger"
    arguments = {"callback_path": CANARY, "callback_kwargs": {}}

    def made(dag_id: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        found = json.loads(template.replace("the-dag", dag_id))
        tasks = {item["__var"]["task_id"]: item["__var"] for item in found["dag"]["tasks"]}
        return found, found["dag"], tasks

    watcher, dag, _ = made("a.watcher")
    next(_assets(dag["timetable"]))["watchers"][0]["trigger"] = {"classpath": calls, "kwargs": arguments}
    ending, dag, _ = made("a.ending")  # an asset's event cannot hold the moment that it yields
    next(_assets(dag["timetable"]))["watchers"][0]["trigger"] = {
        "classpath": MOMENT, "kwargs": {"moment": MOMENT_OF_START},
    }  # fmt: skip
    start, _, tasks = made("a.start")
    tasks["defers"]["start_trigger_args"] |= {
        "trigger_cls": calls, "trigger_kwargs": {"__type": "dict", "__var": arguments},
    }  # fmt: skip
    following, _, tasks = made("a.following")
    tasks["defers"]["start_trigger_args"]["next_kwargs"] = {
        "__type": "dict",
        "__var": {"error": {"__type": "airflow_exc_ser", "__var": {"exc_cls_name": CANARY, "args": [], "kwargs": {}}}},
    }
    called, dag, _ = made("a.deadline")
    dag["deadline"] = [deadline(path=CANARY)]
    nested, dag, _ = made("a.nested")
    dag["deadline"] = [deadline(kwargs={"to": {"__classname__": CANARY, "__version__": 1, "__data__": {}}})]
    rendered, dag, _ = made("a.rendered")
    dag["deadline"] = [deadline(kwargs={"to": "{% for i in range(10**9) %}{% endfor %}"})]
    carried, dag, _ = made("a.carried")
    dag["deadline"] = [deadline(executor=None)]
    dag["deadline"][0]["__var"]["callback"]["__classname__"] = "airflow.sdk.definitions.deadline.SyncCallback"
    fetched, dag, _ = made("a.fetched")
    dag["params"][0][1]["schema"] = {"__type": "dict", "__var": {"$ref": f"file:///{CANARY}"}}
    method, _, tasks = made("a.method")
    tasks["one"]["iter_mapped_dependants"] = CANARY
    attribute, _, tasks = made("a.attribute")
    tasks["one"]["is_mapped"] = True
    counted, _, tasks = made("a.counted")
    tasks["mapped"]["expand_input"]["value"]["__var"] = {"bash_command": ["true"] * 10_000, "env": [{}] * 10_000}
    found = (watcher, ending, start, following, called, nested, rendered, carried, fetched, method, attribute, counted)
    return {item["dag"]["dag_id"]: item for item in found}


def chosen() -> dict[str, Any]:
    """A document whose task has work for an executor, and names one that is none."""
    from airflow.providers.standard.operators.bash import BashOperator  # noqa: PLC0415 - after AIRFLOW_HOME is set

    made = dag("chosen", tasks=(), schedule=dt.timedelta(hours=1), start_date=START, is_paused_upon_creation=False)
    BashOperator(task_id="one", bash_command="true", dag=made)
    found = document(made, "chosen.py")
    found["dag"]["tasks"][0]["__var"]["executor"] = CANARY
    return found


@dataclasses.dataclass
class Beside:
    """What the tests look at.

    Attributes:
        airflow: Runs.
        deployment: Its database.
        marker: A file that the canary writes when it is imported.
        replaced: The path of what was replaced, by dag_id.
    """

    airflow: LivingAirflow
    deployment: Deployment
    marker: pathlib.Path
    replaced: Mapping[str, Path]

    def imported(self) -> str:
        """Return which programs imported the canary."""
        return self.marker.read_text() if self.marker.exists() else ""

    def scheduled(self) -> bool:
        """Tell whether every DAG that could have a run has one; one whose Params are not valid has none."""
        without = "SELECT dag_id FROM dag WHERE NOT is_stale AND dag_id NOT IN (SELECT dag_id FROM dag_run)"
        return all("params" in self.replaced.get(dag_id, ()) for (dag_id,) in self.deployment.rows(without))

    def triggered(self) -> bool:
        """Tell whether the triggerer ran what started from a trigger, and a watcher, of the DAG without a canary."""
        deferred = "SELECT state FROM task_instance WHERE dag_id = 'plain' AND task_id = 'defers'"
        events = "SELECT 1 FROM asset_event JOIN asset ON asset.id = asset_id WHERE asset.name = 'in-plain'"
        ended = any(state not in {None, "deferred"} for (state,) in self.deployment.rows(deferred))
        return ended and bool(self.deployment.rows(events))

    def beat(self, times: int) -> None:
        """Wait until both processes have beaten so often, and are alive."""
        last = self._beats()
        assert last.keys() == {"SchedulerJob", "TriggererJob"}
        for _ in range(times):
            for process, before in last.items():
                last[process] = self.airflow.until(
                    f"heartbeat of {process}", functools.partial(self._later, process, before)
                )

    def _later(self, process: str, before: Any) -> Any:
        now = self._beats().get(process)
        return None if now == before else now

    def _beats(self) -> dict[str, Any]:
        return dict(self.deployment.rows("SELECT job_type, latest_heartbeat FROM job WHERE state = 'running'"))  # type: ignore[arg-type] # two columns


@pytest.fixture(scope="module")
def beside(
    server: PostgresServer, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beside]:
    """Both processes, and everything published that may be."""
    folder = tmp_path_factory.mktemp("canary")
    marker = folder / "imported"
    (folder / "tenant_canary.py").write_text(
        f"import sys\nwith open({str(marker)!r}, 'a') as file:\n    print(sys.argv, file=file)\nclass Evil:\n    pass\n"
    )
    path = f"{folder}:{living.ROOT}:{os.environ.get('PYTHONPATH', '')}"
    url = server.create_database(template=postgres_template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.syspath_prepend(str(folder))
        ended()  # the next one knows the canary
        with (
            living.living(url, {}, api_server=False, PYTHONPATH=path, **FAST) as airflow,
            DagStore.open(url) as store,
        ):
            deployment = allowing(Deployment(url, store), FILE)
            replacing = variants()
            documents = {**{dag_id: found for dag_id, (_, found) in replacing.items()}, **attacks(), "chosen": chosen()}
            files = {}
            for dag_id, found in documents.items():
                with contextlib.suppress(errors.ContentError):  # the server takes no such document
                    content.split(found)
                    files[f"{dag_id}.py"] = [found]
            done = deployment.roll_out(files, "v1")
            assert done.judgement.reason == "KeptLastGood", done.judgement.message
            yield Beside(airflow, deployment, marker, {dag_id: path for dag_id, (path, _) in replacing.items()})
        ended()
    server.drop_database(url)


def ended() -> None:
    """End the child that decodes documents for this process; the next one has today's environment."""
    examiner = installed().examiner
    assert examiner is not None
    examiner.close()


def test_a_name_that_airflow_would_import_or_call_and_what_would_end_a_process_is_refused(beside: Beside) -> None:
    live = beside.deployment.live()
    assert not live.keys() & attacks().keys()
    imports = {"classpath", "trigger_cls", "path", "__classname__", "__type", "__class", "_expand_input_attr"}
    taken = {path for dag_id, path in beside.replaced.items() if dag_id in live and path[-1:] != ("key",)}
    assert {path for path in taken if path and path[-1] in imports} == set()
    assert imports <= {path[-1] for path in beside.replaced.values() if path}
    assert len(taken) > 50
    assert {"plain", "chosen"} <= live.keys()


def test_scheduler_and_triggerer_live_on_beside_all_that_is_taken_and_import_nothing_that_it_names(
    beside: Beside,
) -> None:
    beside.airflow.until("runs of all DAGs", beside.scheduled, seconds=1_200)
    dropped("plain").touch()
    beside.airflow.until("end of what the triggerer runs", beside.triggered, seconds=600)
    beside.beat(BEATS)
    assert beside.imported() == ""
    assert "tenant_canary" not in sys.modules


def test_the_triggerer_imports_that_name_where_a_deployment_allows_it(beside: Beside) -> None:
    found = whole("allowed")
    next(_assets(found["dag"]["timetable"]))["watchers"][0]["trigger"] = {"classpath": CANARY, "kwargs": {}}
    allowing(beside.deployment, FILE, CANARY).roll_out({"allowed.py": [found]}, "v1", bundle=CONTROL)
    assert "triggerer" in beside.airflow.until("import of the canary", beside.imported)
    beside.beat(1)
