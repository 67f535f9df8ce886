from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dagbundle import errors
from dagbundle.engine import intake
from dagbundle.resources import protocol
from dagbundle.rollout import budgets, content, plan
from support import serialized

WHOLE = plan.RunPlan(".", (), None, None)


def record(path: str = "d.py", **fields: Any) -> protocol.File:
    return protocol.File.model_validate({"type": "file", "seq": 1, "path": path, "status": "parsed", **fields})


def dag(dag_id: str = "d", path: str = "d.py", **fields: Any) -> dict[str, Any]:
    data = serialized.dag(dag_id, [serialized.task("t")], **{"relative_fileloc": path, **fields})
    return {"dag_id": dag_id, "relative_fileloc": path, "dag_hash": "h", "data": data}


def test_a_good_file_yields_its_dags_and_their_contents() -> None:
    taken = intake.take(record(dags=[dag()], duration=0.5), WHOLE)
    assert [item.dag_id for item in taken.outcome.dags] == ["d"]
    assert taken.contents[0].sha256 == taken.outcome.dags[0].sha256
    assert taken.contents[0].dag_hash == "h"


def test_one_bad_dag_breaks_its_file_with_a_message_that_names_dag_and_place() -> None:
    taken = intake.take(record(dags=[dag(), dag("e", params={"x": float("nan")})]), WHOLE)
    assert taken.contents == ()
    (problem,) = taken.outcome.problems
    assert problem.kind == "InvalidContent"
    assert "DAG e" in problem.message
    assert "$.dag.params.x is NaN" in problem.message


def test_a_dag_that_is_nested_too_deeply_breaks_its_file() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    taken = intake.take(record(dags=[dag(), dag("e", params=deep)]), WHOLE)
    assert taken.contents == ()
    (problem,) = taken.outcome.problems
    assert problem.kind == "InvalidContent"
    assert problem.message == "DAG e cannot be stored: it is nested more than 100 levels deep"


@pytest.mark.parametrize(
    "lie",
    [
        dag("d", relative_fileloc="other.py"),
        {**dag(), "relative_fileloc": "other.py"},
        {**dag(), "dag_id": "e"},
        dag("d", relative_fileloc="d.py-not"),
    ],
)
def test_a_dag_that_speaks_of_another_file_or_id_is_refused(lie: dict[str, Any]) -> None:
    taken = intake.take(record(dags=[lie]), WHOLE)
    assert [problem.kind for problem in taken.outcome.problems] == ["InvalidContent"]


def test_a_dag_in_a_zip_belongs_to_the_zip() -> None:
    taken = intake.take(record("x.zip", dags=[dag(path="x.zip/d.py")]), WHOLE)
    assert not taken.outcome.problems


def test_a_file_outside_its_runs_subdir_ends_the_run() -> None:
    run = plan.RunPlan("ingest", ("ingest/other",), None, None)
    for path in ("reporting/a.py", "ingest/other/a.py", "ingestion/a.py"):
        with pytest.raises(errors.ProtocolError, match="does not belong to subdir ingest"):
            intake.take(record(path), run)
    assert intake.take(record("ingest/a.py"), run).outcome.path == "ingest/a.py"


def test_an_unchanged_file_carries_nothing_but_its_path() -> None:
    taken = intake.take(record(status="unchanged"), WHOLE)
    assert taken.outcome.unchanged


@hypothesis.given(st.text(st.characters()))
def test_every_text_becomes_storable(text: str) -> None:
    found = content.storable(text)
    assert "\0" not in found
    found.encode()


def test_a_long_message_keeps_its_beginning_and_end() -> None:
    found = content.storable("start" + "x" * 10**6 + "end")
    assert len(found) < content.MAX_MESSAGE + 100
    assert found.startswith("start")
    assert found.endswith("end")
    assert "left out" in found


def test_a_closure_that_cannot_be_stored_only_costs_the_skip() -> None:
    large = {f"{number:01000}": "absent" for number in range(budgets.CLOSURE_BYTES // 1000)}
    for closure in ({"a": "\0"}, {"a": "\ud800"}, large):
        assert intake.take(record(closure=closure), WHOLE).closure == {}
    assert intake.take(record(closure={"a": "1"}), WHOLE).closure == {"a": "1"}


@pytest.mark.parametrize(
    ("line", "kept"), [(3, 3), (2**31 - 1, 2**31 - 1), (2**31, None), (2**40, None), (0, None), (-1, None)]
)
def test_a_line_that_no_column_holds_is_left_out_of_errors_and_warnings(line: int, kept: int | None) -> None:
    found = {"message": "m", "line": line}
    taken = intake.take(
        record(errors=[{"kind": "SyntaxError", **found}], warnings=[{"category": "UserWarning", **found}]), WHOLE
    )
    assert [item.line for item in (*taken.outcome.problems, *taken.outcome.warnings)] == [kept, kept]


@pytest.mark.parametrize("place", ["x.zip/../../etc/passwd", "x.zip/./d.py", "x.zip//d.py", "x.zip/d\x01.py"])
@pytest.mark.parametrize("where", ["record", "data"])
def test_a_place_that_leads_out_of_its_archive_is_refused(place: str, where: str) -> None:
    found = dag(path=place) if where == "data" else {**dag(path="x.zip/d.py"), "relative_fileloc": place}
    taken = intake.take(record("x.zip", dags=[found]), WHOLE)
    assert [problem.kind for problem in taken.outcome.problems] == ["InvalidContent"]
