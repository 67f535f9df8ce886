"""The quickstart's story, told by the command line with real Airflow: each test is one sentence of the README."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from integration.cli.conftest import QUICKSTART, Answer, Command
from support import airflow

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def story(module_folder: pathlib.Path) -> dict[str, Answer]:
    """The answers of one session at the terminal, in its order; the bundle stays in one folder, as on a laptop."""
    command = Command(module_folder)
    folder = module_folder / "bundle"
    folder.symlink_to(QUICKSTART / "v1")
    told: dict[str, Answer] = {}
    told["dry run"] = command.apply(folder, "--dry-run")
    told["nothing yet"] = command("get", "bundles", "-o", "json", code=2)
    told["v1"] = command.apply(folder)
    told["v1 again"] = command.apply(folder)
    told["dags"] = command("get", "dags", "-o", "json")
    told["details"] = command("dags", "details", "ingest.orders", "-o", "json")
    told["show"] = command("dags", "show", "ingest.orders")
    told["tasks"] = command("get", "tasks", "reporting.revenue", "-o", "json")
    told["next"] = command(
        "dags", "next-execution", "ingest.orders", "-n", "2", "-o", "json", "--python", airflow.python()
    )
    folder.unlink()
    folder.symlink_to(QUICKSTART / "v2")
    told["v2"] = command.apply(folder, code=3)
    told["errors"] = command("get", "errors", "-o", "json")
    told["diff"] = command("diff", "team-sales/sales", "-o", "json", code=3)
    told["rollback"] = command("rollback", "team-sales/sales", "-o", "json")
    told["held"] = command.apply(folder, code=4)
    told["resume"] = command("resume", "team-sales/sales", "-o", "json")
    told["strict"] = command(
        "apply", "-f", str(QUICKSTART / "bundle-strict.yaml"), "--local", "--folder", str(folder),
        "--python", airflow.python(), "-o", "json", code=4,
    )  # fmt: skip
    told["history"] = command("history", "team-sales/sales", "-o", "json")
    told["versions"] = command("get", "versions", "ingest.orders", "-o", "json")
    return told


def changes(answer: Answer) -> dict[str, str]:
    return {item["dag_id"]: item["change"] for item in answer.data["changes"]}


def test_a_dry_run_says_what_would_happen_and_writes_nothing(story: dict[str, Answer]) -> None:
    assert set(changes(story["dry run"]).values()) == {"Added"}
    assert story["dry run"].data["dryRun"]
    assert "would be published" in story["dry run"].data["message"]
    assert "is not there" in story["nothing yet"].data["error"]["message"]


def test_the_first_apply_publishes_python_and_yaml_dags_of_both_subdirs(story: dict[str, Answer]) -> None:
    assert changes(story["v1"]) == changes(story["dry run"])
    assert (story["v1"].data["revision"], story["v1"].data["ready"]) == (1, True)
    places = {row["dag_id"]: row["path"] for row in story["dags"].data["items"]}
    assert places["ingest.customers"] == "ingest/customers.yaml"
    assert places["reporting.revenue"] == "reporting/revenue.py"


def test_the_second_apply_skips_every_file_and_writes_no_revision(story: dict[str, Answer]) -> None:
    again = story["v1 again"].data
    assert (again["revision"], again["changes"], again["unchanged"]) == (1, [], 6)
    assert all(file["unchanged"] for run in again["runs"] for file in run["files"])


def test_a_dag_is_shown_with_its_settings_graph_and_tasks(story: dict[str, Answer]) -> None:
    details = story["details"].data
    assert (details["bundle"], details["subdir"], details["number"]) == ("team-sales/sales", "ingest", 1)
    assert details["settings"]["dag_id"] == "ingest.orders"
    assert story["show"].out.startswith('digraph "ingest.orders" {')
    assert "->" in story["show"].out
    assert any(task["group_id"] for task in story["tasks"].data["items"])


def test_the_next_runs_are_computed_by_airflow_from_the_stored_dag(story: dict[str, Answer]) -> None:
    runs: list[dict[str, Any]] = story["next"].data["items"]
    assert len(runs) == 2
    assert runs[0]["run_after"] < runs[1]["run_after"]


def test_a_broken_file_keeps_its_last_good_dags_and_the_rest_is_published(story: dict[str, Answer]) -> None:
    assert changes(story["v2"]) == {
        "ingest.orders": "Changed",
        "ingest.returns": "Removed",
        "reporting.revenue": "Changed",
        "reporting.stock": "Kept",
    }
    assert (story["v2"].data["reason"], story["v2"].data["ready"]) == ("KeptLastGood", False)
    (error,) = story["errors"].data["items"]
    assert error["path"] == "reporting/stock.py"
    assert error["problem"]["kind"] == "ImportError"


def test_the_diff_names_what_changed_task_by_task(story: dict[str, Answer]) -> None:
    found = {item["dag_id"]: item for item in story["diff"].data["items"]}
    assert found["ingest.returns"]["change"] == "Removed"
    assert any(found["ingest.orders"]["diff"][part] for part in ("tasks_added", "tasks_changed", "fields"))
    assert [item["path"] for item in story["diff"].data["problems"]] == ["reporting/stock.py"]


def test_a_rollback_publishes_the_old_result_again_and_holds_the_refused_version(story: dict[str, Answer]) -> None:
    assert story["rollback"].data["revision"] == 3
    assert story["held"].data["reason"] == "Held"
    assert len(story["resume"].data["items"]) == 1


def test_a_guard_blocks_and_says_which_dags_would_go(story: dict[str, Answer]) -> None:
    assert story["strict"].data["reason"] == "TooManyRemovedDags"
    assert "ingest.returns" in story["strict"].data["message"]


def test_history_and_versions_tell_what_was_live_when(story: dict[str, Answer]) -> None:
    rows = story["history"].data["items"]
    assert [(row["revision"], row["kind"]) for row in rows] == [(3, "Rollback"), (2, "Publish"), (1, "Publish")]
    assert [row["number"] for row in story["versions"].data["items"]] == [3, 2, 1]
