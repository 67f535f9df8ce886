"""No document keeps the process that publishes busy, or fills it: a child decodes it, and ends instead."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.rollout import content
from dagbundle.rollout.moves import Candidate
from dagbundle.targets.airflow import documents, examining, limits, vetting, wire
from dagbundle.targets.airflow.child import Child, DocumentError
from dagbundle.targets.airflow.documents import Documents
from dagbundle.targets.airflow.examining import Examiner, on_behalf_of
from publisher.conftest import Deployment, dag, document, installed

PLUGIN = """
import ctypes, sys, time
from airflow.plugins_manager import AirflowPlugin
from airflow.timetables.base import Timetable

class Plain(Timetable):
    __module__ = "plugin_of_tests"
    def infer_manual_data_interval(self, **_): ...
    def next_dagrun_info(self, **_): ...

class Greedy(Plain):
    __module__ = "plugin_of_tests"
    @classmethod
    def deserialize(cls, _):
        kept = []
        while True:
            kept.append(bytearray(1 << 20))

class Leaving(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        sys.exit("bye")

class Crashing(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        ctypes.string_at(0)

class Printing(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        print("x" * 100_000)
        sys.stdin.read()

class Waiting(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        time.sleep(10**6)

class Endless(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        sum(range(10**18))

class Busy(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        began = time.process_time()
        while time.process_time() < began + 1:
            pass

class Growing(Plain):
    __module__ = "plugin_of_tests"
    def next_dagrun_info(self, **_):
        Growing.kept = bytearray(150 << 20)

class Plugin(AirflowPlugin):
    name = "of_tests"
    timetables = [Growing, Plain, Greedy, Endless, Leaving, Crashing, Printing, Waiting, Busy]
"""

PLUGINS = vetting.Allowed(classes=frozenset(f"plugin_of_tests.{name}" for name in ("Plain", "Endless", "Busy")))

SECRETS = {
    "DAGBUNDLE_DATABASE_URL": "sqlite:////canary",
    "AIRFLOW__CORE__FERNET_KEY": "canary",
    "AIRFLOW_CONN_BANK": "canary",
    "AIRFLOW__API_AUTH__JWT_SECRET": "canary",
}


@pytest.fixture(scope="module")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examiner]:
    """One for all tests, as a deployment has it, with a plugin."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "plugin_of_tests.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__PLUGINS_FOLDER", str(folder))
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        found = Examiner()
        yield found
        found.close()


def scheduled(timetable: Any, dag_id: str = "d") -> dict[str, Any]:
    """A document with a timetable as nobody's serializer wrote it, with the path of its file as publishing has it."""
    found = document(dag(dag_id, start_date=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), catchup=False), "d.py")
    found["dag"] |= {"timetable": timetable, "fileloc": "/d.py"}
    return found


def many_crons(count: int) -> dict[str, Any]:
    """The next 29 February that is a Sunday, searched many times. Vetting refuses so many where they are published."""
    expressions = ["0 0 29 2 0"] * count
    known = {"expressions": expressions, "timezone": "UTC", "interval": 0.0, "run_immediately": False}
    return {"__type": "airflow.timetables.trigger.MultipleCronTriggerTimetable", "__var": known}


def of_plugin(name: str, dag_id: str = "d") -> dict[str, Any]:
    return scheduled({"__type": f"plugin_of_tests.{name}", "__var": {}}, dag_id)


def plain(dag_id: str = "d") -> dict[str, Any]:
    found = document(dag(dag_id, schedule="@daily", start_date=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)), "d.py")
    found["dag"]["fileloc"] = "/d.py"
    return found


def test_an_answer_has_the_next_run_and_what_airflow_shows_of_the_timetable(examiner: Examiner) -> None:
    answer = examiner.examine(plain())
    assert answer["info"]["run_after"].endswith("T00:00:00+00:00")
    assert answer["description"] == "At 00:00"
    assert answer["cpu"] < limits.CPU_SECONDS


def test_answers_come_in_order_though_one_document_never_ends(examiner: Examiner) -> None:
    requests = [(number, plain() if number != 40 else of_plugin("Endless")) for number in range(80)]
    answers = list(examiner.each(requests, None))
    assert [number for number, _ in answers] == list(range(80))
    failed = {number: answer for number, answer in answers if isinstance(answer, DocumentError)}
    assert failed.keys() == {40}
    assert failed[40].ended
    assert failed[40].why == "computing from it takes more than 5 s of CPU time"


@pytest.mark.parametrize(
    ("name", "told", "ended"),
    [
        ("Greedy", "it takes more than 805,306,368 bytes of memory", True),
        ("Leaving", "it ends the process that computes from it (1)", True),
        ("Crashing", f"it ends the process that computes from it ({-signal.SIGSEGV})", True),
    ],
)
def test_what_a_document_does_to_the_child_is_said_and_the_next_is_answered(
    examiner: Examiner, name: str, told: str, ended: bool
) -> None:
    (_, refused), (_, answer) = examiner.each([("bad", of_plugin(name)), ("good", plain())], None)
    assert isinstance(refused, DocumentError)
    assert (refused.why, refused.ended) == (told, ended)
    assert isinstance(answer, Mapping)


def test_a_document_that_waits_is_ended_too(examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> None:
    examiner.examine(plain())
    monkeypatch.setattr(limits, "WALL_SECONDS", 1)
    with pytest.raises(DocumentError, match="takes more than 1 s"):
        examiner.examine(of_plugin("Waiting"))


def test_what_a_plugin_prints_is_no_answer(examiner: Examiner) -> None:
    assert examiner.examine(of_plugin("Printing"))["info"] is None


def test_what_airflow_cannot_read_is_refused_with_its_words(examiner: Examiner) -> None:
    with pytest.raises(DocumentError, match=r"Airflow .* cannot read it: .*nowhere\.Timetable") as caught:
        examiner.examine(scheduled({"__type": "nowhere.Timetable", "__var": {}}))
    assert not caught.value.ended


def test_a_field_of_a_task_that_takes_the_place_of_a_method_is_refused(examiner: Examiner) -> None:
    found = plain()
    found["dag"]["tasks"][0]["__var"]["get_extra_links"] = "x"
    with pytest.raises(DocumentError, match="field get_extra_links of task one would take the place of a method"):
        examiner.examine(found)


def test_a_document_of_many_megabytes_goes_through_the_pipes(examiner: Examiner) -> None:
    found = plain()
    found["dag"]["doc_md"] = "é" * (4 << 20)
    answers = dict(examiner.each(((number, copy.deepcopy(found)) for number in range(4)), None))
    assert [answer["info"] is not None for answer in answers.values() if isinstance(answer, Mapping)] == [True] * 4


def test_the_child_has_no_key_of_the_deployment(examiner: Examiner) -> None:
    examiner.examine(plain())
    children = [
        found for found in psutil.Process().children() if "dagbundle.targets.airflow.examiner" in found.cmdline()
    ]
    environments = [child.environ() for child in children]
    assert any("AIRFLOW__CORE__PLUGINS_FOLDER" in found for found in environments)
    assert "canary" not in str(environments)


def test_the_child_goes_with_its_parent() -> None:
    script = (
        "import os, psutil, signal\n"
        "from dagbundle.targets.airflow.examining import Examiner\n"
        "Examiner().prepare()\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    child = psutil.Process(int(done.stdout))
    child.wait(timeout=120)  # it may still be importing Airflow


def test_a_child_that_does_not_start_says_what_it_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no airflow here >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(errors.StoreUnavailableError, match=r"did not start \(3\)\. It printed: no airflow here"):
        Examiner().examine(plain())


def test_a_rollouts_documents_are_looked_at_until_a_few_have_ended_the_child(
    examiner: Examiner,
) -> None:
    items = [
        Candidate(f"d{number}", ".", f"d{number}.py", content.split(of_plugin("Endless", f"d{number}")))
        for number in range(6)
    ]
    checking = Documents(examiner, PLUGINS)
    assert checking.refused(items[:2])["d1"].message == "DAG d1: computing from it takes more than 5 s of CPU time"
    with pytest.raises(
        errors.TargetError, match=r"not all of them were looked at\. The last one is DAG d3, file d3\.py"
    ):
        checking.refused(items)


def test_a_rollouts_documents_are_looked_at_until_they_have_taken_their_time(
    examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROLLOUT_CPU_SECONDS", 1.5)
    items = [
        Candidate(f"d{number}", ".", "d.py", content.split(of_plugin("Busy", f"d{number}"))) for number in range(4)
    ]
    with pytest.raises(errors.TargetError, match="The last one is DAG d1"):
        Documents(examiner, PLUGINS).refused(items)


def test_what_was_judged_minutes_ago_is_written_without_being_computed_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    each = Examiner.each

    def counting(examiner: Examiner, requests: Any, allowed: vetting.Allowed) -> Any:
        return each(examiner, (asked.append(item[0]) or item for item in requests), allowed)

    monkeypatch.setattr(Examiner, "each", counting)
    monkeypatch.setattr(documents, "_FRESH", 0.0)  # as after a minute
    deployment.roll_out({"a.py": [dag("a")], "b.py": [dag("b")]}, "v1")
    assert len(asked) == 2
    monkeypatch.setattr(documents, "_CARRIED", 0.0)
    deployment.roll_out({"a.py": [dag("a", doc_md="2")]}, "v2")
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("crons", "told"),
    [
        (40, "the next run of DAG a of bundle team-sales.sales cannot be"),
        (50_000, "it has none: computing from it takes"),
    ],
)
def test_the_upkeep_goes_on_where_a_dag_has_become_one_that_cannot_be_computed(
    deployment: Deployment, caplog: pytest.LogCaptureFixture, crons: int, told: str
) -> None:
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    made = {f"{name}.py": [dag(name, schedule="@daily", start_date=start, catchup=False)] for name in ("a", "b")}
    deployment.submit(made)
    model, stored = installed().Dag.__table__, installed().SerializedDag.__table__
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    with deployment.store.db.engine.begin() as connection:
        late = {"next_dagrun": long_ago, "next_dagrun_create_after": long_ago}
        connection.execute(sa.update(model).values(is_paused=True, **late))
        found = connection.execute(sa.select(stored.c.data).where(stored.c.dag_id == "a")).scalar_one()
        found["dag"]["timetable"] = many_crons(crons)
        connection.execute(sa.update(stored).where(stored.c.dag_id == "a").values(data=found))
    deployment.store.refresh()
    with deployment.store.db.engine.connect() as connection:
        due = dict(connection.execute(sa.select(model.c.dag_id, model.c.next_dagrun_create_after)).all())
    assert due["b"] > long_ago
    if crons > 1_000 or "postgres" in deployment.url:  # SQLite takes a description of any length
        assert told in caplog.text


def test_several_threads_share_the_child(examiner: Examiner) -> None:
    found: dict[int, list[int]] = {}

    def ask(thread: int) -> None:
        found[thread] = [key for key, _ in examiner.each([(number, plain()) for number in range(50)], None)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {thread: list(range(50)) for thread in range(3)}


def test_a_namespace_with_many_slow_documents_gives_others_their_turn(examiner: Examiner) -> None:
    examining, answered = threading.Event(), list[str]()

    def slow() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for _ in range(12):
            yield "slow", of_plugin("Busy")
            examining.set()

    def ask(namespace: str, requests: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        with on_behalf_of(namespace):
            for name, _ in examiner.each(requests, None):
                answered.append(name)

    busy = threading.Thread(target=ask, args=("team-sales", slow()))
    busy.start()
    assert examining.wait(60)
    ask("team-ops", [("quick", plain())] * 50)
    assert answered.count("slow") < 12
    busy.join()
    assert (answered.count("slow"), answered.count("quick")) == (12, 50)


@pytest.mark.parametrize("name", ["Growing", "Greedy", "Crashing"])
def test_a_namespace_whose_documents_cost_the_child_again_and_again_costs_one_child_in_a_turn(
    examiner: Examiner, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, turns = list[None](), list[int]()
    turn = Examiner._turn

    class Counted(Child):
        def __init__(self) -> None:
            started.append(None)
            super().__init__()

    def counting(self: Examiner, *arguments: Any) -> Any:
        before = len(started)
        try:
            return turn(self, *arguments)
        finally:
            turns.append(len(started) - before)

    examiner.examine(plain())
    monkeypatch.setattr(examining, "Child", Counted)
    monkeypatch.setattr(Examiner, "_turn", counting)
    requests = [(number, of_plugin(name) if number % 3 else plain()) for number in range(7)]
    answers = list(examiner.each(requests, None))
    assert [number for number, _ in answers] == list(range(7))
    assert all(isinstance(answer, Mapping) for number, answer in answers if not number % 3)
    assert max(turns) == 1
    assert sum(turns) >= 4


def test_a_document_after_which_the_child_is_replaced_is_charged_for_the_next_ones_start(examiner: Examiner) -> None:
    examiner.examine(plain())
    assert examiner.examine(of_plugin("Growing"))["cpu"] >= limits.START_CPU_SECONDS
    assert examiner.examine(plain())["cpu"] < limits.START_CPU_SECONDS


def test_documents_of_a_rollout_that_fill_the_memory_count_among_those_that_end_the_child(examiner: Examiner) -> None:
    items = [
        Candidate(f"d{number}", ".", f"d{number}.py", content.split(of_plugin("Greedy", f"d{number}")))
        for number in range(6)
    ]
    allowed = vetting.Allowed(classes=frozenset({"plugin_of_tests.Greedy"}))
    with pytest.raises(errors.TargetError, match=r"The last one is DAG d3, file d3\.py: it takes more than"):
        Documents(examiner, allowed).refused(items)


def test_a_document_is_vetted_where_it_can_be_ended_and_not_in_this_process(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vetting, "check", None)
    bad = document(dag("bad"), "bad.py")
    bad["dag"]["timetable"] = {"__type": "tenant.Evil", "__var": {}}
    done = deployment.roll_out({"bad.py": [bad], "good.py": [dag("good")]}, "v1")
    assert done.judgement.reason == "KeptLastGood"
    ((text,),) = deployment.rows("SELECT stacktrace FROM import_error")
    assert "no such class is allowed. Next: the platform team allows it by DAGBUNDLE_ALLOWED_CLASSES" in text


def test_a_child_that_takes_anothers_place_knows_what_documents_may_name(examiner: Examiner) -> None:
    requests = [(name, of_plugin(name)) for name in ("Plain", "Endless", "Plain")]
    first, ended, last = (answer for _, answer in examiner.each(requests, PLUGINS))
    assert isinstance(ended, DocumentError)
    assert ended.ended
    assert isinstance(first, Mapping)
    assert isinstance(last, Mapping)
    ((_, refused),) = examiner.each(requests[:1], vetting.Allowed())
    assert isinstance(refused, DocumentError)
    assert (refused.reason, refused.ended) == ("NotAllowed", False)


def test_a_document_that_was_stored_before_its_nesting_was_bounded_is_refused_and_the_next_is_answered(
    examiner: Examiner,
) -> None:
    deep = plain()
    for _ in range(10_000):
        deep["dag"]["params"] = [deep["dag"].get("params")]
    (_, refused), (_, answer) = examiner.each([("deep", deep), ("good", plain())], PLUGINS)
    assert isinstance(refused, DocumentError)
    assert (refused.reason, refused.why) == ("NotAllowed", "it is nested more than 100 levels deep")
    assert isinstance(answer, Mapping)


def test_a_child_that_was_killed_before_it_was_ready_has_a_successor() -> None:
    examiner = Examiner()
    examiner.prepare()
    assert examiner._child is not None
    examiner._child._process.kill()
    with contextlib.closing(examiner):
        with pytest.raises(errors.StoreUnavailableError, match="did not start"):
            examiner.examine(plain())
        assert examiner.examine(plain())["description"] == "At 00:00"


def test_a_child_takes_no_request_after_its_end() -> None:
    child = Child()
    child.end()
    with pytest.raises(RuntimeError, match="was ended"):
        child.send(b"x")
    with pytest.raises(RuntimeError, match="was ended"):
        child.answer(1)


def test_a_request_that_cannot_be_drawn_leaves_no_answer_to_the_next_namespace(examiner: Examiner) -> None:
    def failing() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for _ in range(4):
            yield "a", plain()
        raise ValueError("not drawn")

    with on_behalf_of("team-a"), pytest.raises(ValueError, match="not drawn"):
        list(examiner.each(failing(), None))
    with on_behalf_of("team-b"):
        ((_, refused),) = examiner.each([("b", scheduled({"__type": "nowhere.Timetable", "__var": {}}))], None)
    assert isinstance(refused, DocumentError)


def test_an_answer_to_another_request_is_dropped_with_its_child(examiner: Examiner) -> None:
    examiner.examine(plain())
    left = examiner._child
    assert left is not None
    left.send(wire.examination(plain(), None, vet=False, number=0))  # of which nobody awaits the answer
    with pytest.raises(DocumentError, match=r"cannot read it: .*nowhere\.Timetable"):
        examiner.examine(scheduled({"__type": "nowhere.Timetable", "__var": {}}))
    assert examiner._child is not left
