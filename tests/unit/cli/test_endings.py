"""docs/cli.md, "How a command ends", walked: every command with every failure; what needs Airflow: integration/cli."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import typer.main
import yaml

from dagbundle import errors
from dagbundle.cli import endings, inputs, output, program, report
from dagbundle.cli.exits import Exit
from dagbundle.engine.applied import Applied
from dagbundle.rollout.model import BundleKey, Judgement, RunOutcome, Verdict

DOCUMENT = (pathlib.Path(__file__).parents[3] / "docs/cli.md").read_text()
DAGBUNDLE = [sys.executable, "-m", "dagbundle.cli.main"]

ARGUMENTS = {
    "apply": ["-f", "bundle.yaml", "--local", "--folder", "files"],
    "diff": ["team-sales/sales"],
    "parse": ["files", "--python", "no-such-python"],
    "history": ["team-sales/sales"],
    "rollback": ["team-sales/sales"],
    "resume": ["team-sales/sales"],
    "delete": ["team-sales/sales"],
    "crd": [],
    "controller": [],
    "prune": [],
    "server": [],
    "get bundles": [],
    "get dags": [],
    "get versions": ["a"],
    "get errors": [],
    "get tasks": ["a"],
    "dags list": [],
    "dags show": ["a"],
    "dags details": ["a"],
    "dags next-execution": ["a"],
    "dags reserialize": ["-f", "bundle.yaml", "--folder", "files"],
    "db upgrade": [],
    "db downgrade": ["0001", "--yes"],
    "db backup": ["copy.db"],
    "db gc": [],
    "airflow check": [],
    "airflow sync": [],
}
"""Every command, called as it may be."""
WITHOUT_DOCUMENT = {"crd", "controller", "server"}
MAKING = {"apply", "dags reserialize", "db upgrade"}
STORED = sorted(ARGUMENTS.keys() - WITHOUT_DOCUMENT - {"parse", "prune", "airflow check", "airflow sync"})
"""Commands that open a database and need nothing else for it: no cluster, and no Airflow beside this program."""


def _names(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(path)
    for name, child in getattr(command, "commands", {}).items():
        yield from _names(child, (*path, name))


def _refused(answer: tuple[int, str, str], outcome: Exit, words: str = "") -> None:
    """Hold an answer to what the document says of one that tells of an error."""
    code, out, err = answer
    assert code == outcome, err
    assert "Traceback" not in err
    document = json.loads(out)
    assert (document.keys(), document["outcome"]) == ({"outcome", "error"}, outcome.name)
    assert document["error"].keys() == {"kind", "message", "hint"}
    assert words in document["error"]["message"]
    told = re.sub(r"[\s│]+", "", err)
    assert re.sub(r"[\s│]+", "", document["error"]["message"]) in told or "Usage:" in err


@pytest.fixture(autouse=True)
def _files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "files").mkdir()


def test_every_command_is_walked() -> None:
    assert sorted(_names(typer.main.get_command(program.app))) == sorted(ARGUMENTS)


def test_every_error_of_the_tree_is_in_the_table_with_its_outcome() -> None:
    table = DOCUMENT.partition("| error | outcome |")[2].partition("### Answers")[0]
    rows = re.findall(r"^\| (`.*) \| (\w+) \|$", table, re.MULTILINE)
    told = {name: outcome for names, outcome in rows for name in re.findall(r"`(\w+)`", names)}
    tree = [errors.DagBundleError]
    for kind in tree:
        tree += kind.__subclasses__()
    for kind in tree:
        error = kind("Reason", "x") if kind is errors.CallerError else kind("x")
        assert told.pop(kind.__name__) == endings.code_of(error).name, kind
    assert told == {
        "OSError": "FAILED",
        "MemoryError": "FAILED",
        "Aborted": "FAILED",
        "InternalError": "INTERNAL",
        "Interrupted": "INTERRUPTED",
    }


@pytest.mark.parametrize("error", [errors.TargetError("x"), errors.ContentError("x"), errors.RunError("x")])
def test_a_cause_that_blocks_an_apply_ends_it_as_the_error_ends_another_command(error: errors.DagBundleError) -> None:
    reason = getattr(error, "reason", "RunFailed")
    blocked = Judgement(Verdict.BLOCK, reason, "x", ready=False)
    assert report.exit_of(Applied(BundleKey("team", "b"), "", blocked)) is endings.code_of(error)


def test_every_reason_of_the_table_of_causes_ends_as_it_says() -> None:
    table = DOCUMENT.partition("| cause | outcome |")[2].partition("Each error has an outcome")[0]
    rows = re.findall(r"^\| (.*) \| (\w+) \|$", table, re.MULTILINE)
    told = {word: outcome for cause, outcome in rows for word in re.findall(r"`([A-Z][a-z]\w+)`", cause)}
    kinds = {"ManifestInvalid", "AirflowNotInstalled", "UnknownParser"}
    assert kinds < told.keys()
    for word, outcome in told.items():
        run = RunOutcome(".", closed=False, failure=f"{word}: x" if word in kinds else "x")
        blocked = Judgement(Verdict.BLOCK, "RunFailed" if word in kinds else word, "x", ready=False)
        assert report.exit_of(Applied(BundleKey("team", "b"), "", blocked, (run,))).name == outcome, word


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_option_that_is_not_there_is_a_usage_error(call: Any, name: str) -> None:
    answer = call(*name.split(), *ARGUMENTS[name], "--nonsense", "-o", "json")
    _refused(answer, Exit.USAGE, "--nonsense")


def test_a_command_that_is_not_there_is_a_usage_error(call: Any) -> None:
    _refused(call("nonsense", "--output=json"), Exit.USAGE, "No such command")


@pytest.mark.parametrize("name", STORED)
def test_a_database_whose_file_is_not_there_is_neither_made_nor_empty(
    call: Any, tmp_path: pathlib.Path, name: str
) -> None:
    if name in MAKING:
        return
    answer = call(*name.split(), *ARGUMENTS[name], "--database-url", f"sqlite:///{tmp_path / 'typo.db'}", "-o", "json")
    _refused(answer, Exit.FAILED if name == "db downgrade" else Exit.USAGE, "typo.db")
    assert not (tmp_path / "typo.db").exists()
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("name", ["get bundles", "history", "resume", "db gc", "diff"])
def test_another_programs_database_gets_no_tables_from_who_only_reads(
    call: Any, tmp_path: pathlib.Path, name: str
) -> None:
    (tmp_path / "other.db").touch()
    answer = call(*name.split(), *ARGUMENTS[name], "--database-url", f"sqlite:///{tmp_path / 'other.db'}", "-o", "json")
    _refused(answer, Exit.FAILED, "has no tables of dagbundle yet")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


@pytest.mark.parametrize("name", STORED)
def test_a_file_that_is_no_database_is_not_said_to_come_back(call: Any, tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "text.db").write_text("this is not a database, but long enough to be looked at " * 20)
    answer = call(*name.split(), *ARGUMENTS[name], "--database-url", f"sqlite:///{tmp_path / 'text.db'}", "-o", "json")
    _refused(answer, Exit.FAILED, "not a database")


@pytest.mark.parametrize("name", sorted(MAKING))
def test_a_database_that_cannot_be_made_is_not_said_to_come_back(call: Any, tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "file").touch()
    url = f"sqlite:///{tmp_path / 'file/dagbundle.db'}"
    _refused(
        call(*name.split(), *ARGUMENTS[name], "--database-url", url, "-o", "json"), Exit.FAILED, "cannot be created"
    )


@pytest.mark.parametrize("name", sorted(set(STORED) - {"db backup"}))
def test_a_database_that_is_away_may_be_asked_again(call: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("dagbundle.store.database.FIRST_PAUSE", 0.0)
    url = "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"
    answer = call(*name.split(), *ARGUMENTS[name], "--database-url", url, "-o", "json")
    _refused(answer, Exit.RETRY, "Connection refused")


def test_a_host_that_is_not_known_is_not_said_to_come_back(call: Any) -> None:
    answer = call("get", "bundles", "--database-url", "postgresql://nobody@nowhere.invalid/none", "-o", "json")
    temporary = "Temporary failure" in answer[2]  # which a resolver without any server says of every name
    _refused(answer, Exit.RETRY if temporary else Exit.FAILED, "nowhere.invalid")


@pytest.mark.parametrize("settings", [None, "a: [", "apiVersion: v1\nkind: Config\n", "- 1\n"])
def test_who_has_no_cluster_is_told_what_to_set(
    call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, settings: str | None
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    if settings is not None:
        (tmp_path / "config").write_text(settings)
    answer = call("prune", "-o", "json")
    _refused(answer, Exit.FAILED, "no cluster is configured")
    assert "KUBECONFIG" in json.loads(answer[1])["error"]["hint"]


@pytest.mark.parametrize(
    ("raised", "outcome", "kind"),
    [
        (RuntimeError("a fault"), Exit.INTERNAL, "InternalError"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "Interrupted"),
        (OSError(28, "No space left on device", "/tmp/x"), Exit.FAILED, "OSError"),
        (MemoryError(), Exit.FAILED, "MemoryError"),
        (SystemExit("a message"), Exit.USAGE, "UsageError"),
    ],
)
def test_whatever_is_raised_ends_above_1_and_with_a_document(
    call: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, outcome: Exit, kind: str
) -> None:
    def fail(_: object) -> NoReturn:
        raise raised

    monkeypatch.setattr(inputs, "bundle_key", fail)
    call("db", "upgrade")
    code, out, err = call("history", "team/sales", "-o", "json")
    assert code == outcome
    assert (json.loads(out)["outcome"], json.loads(out)["error"]["kind"]) == (outcome.name, kind)
    assert ("Traceback" in err) == (outcome is Exit.INTERNAL)
    assert "Error: " in err


@pytest.mark.parametrize(
    "arguments", [["crd"], ["--help"], ["get", "bundles"], ["get", "bundles", "-o", "json"], ["--version"]]
)
def test_output_that_cannot_be_written_ends_as_failed_without_a_traceback(
    arguments: list[str], tmp_path: pathlib.Path
) -> None:
    environment = {**os.environ, "DAGBUNDLE_DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}"}
    subprocess.run([*DAGBUNDLE, "db", "upgrade"], env=environment, check=True, capture_output=True)
    with pathlib.Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*DAGBUNDLE, *arguments], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == Exit.FAILED
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_locale_that_lacks_a_character_is_no_reason_to_fail(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "DAGBUNDLE_DATABASE_URL": f"sqlite:///{tmp_path / 'test.db'}"}
    environment |= {"PYTHONIOENCODING": "latin-1"}
    subprocess.run([*DAGBUNDLE, "db", "upgrade"], env=environment, check=True, capture_output=True)
    copy = [*DAGBUNDLE, "db", "backup", str(tmp_path / "t→st.db")]
    done = subprocess.run(copy, env=environment, capture_output=True, check=False)
    assert (done.returncode, b"\\u2192" in done.stdout) == (0, True)


@pytest.mark.parametrize("name", ["apply", "diff"])
def test_a_resource_that_is_not_valid_is_a_usage_error(call: Any, name: str) -> None:
    pathlib.Path("bundle.yaml").write_text(yaml.safe_dump({"kind": "DagBundle"}))
    local = ["--local"] if name == "apply" else []
    _refused(call(name, "-f", "bundle.yaml", *local, "--folder", "files", "-o", "json"), Exit.USAGE, "apiVersion")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["get", "bundles"], "text"),
        (["get", "bundles", "-o", "json"], "json"),
        (["get", "bundles", "-ojson"], "json"),
        (["get", "bundles", "--output", "yaml"], "yaml"),
        (["get", "bundles", "--output=yaml"], "yaml"),
        (["apply", "-qo", "json"], "json"),
        (["apply", "-o"], "text"),
        (["apply", "-o", "nonsense"], "text"),
    ],
)
def test_an_error_is_shown_as_the_answer_was_to_be(arguments: list[str], wanted: str) -> None:
    assert endings.asked_format(arguments) is output.Format(wanted)
