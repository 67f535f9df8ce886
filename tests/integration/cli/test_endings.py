"""docs/cli.md, "How a command ends", walked with a real parser: no command says yes when it means no."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from integration.cli.conftest import Command, MakeBundle
from support import airflow

pytestmark = pytest.mark.airflow

DAG = "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n"
PLAIN = DAG + 'with DAG("{0}", tags=["{1}"]):\n    EmptyOperator(task_id="t")\n'
BROKEN = DAG + "import nothing_like_this\n"


class Bundle:
    """A published bundle of one DAG, and the commands that compare it with its files."""

    def __init__(self, command: Command, make: MakeBundle) -> None:
        self.command = command
        self.make = make
        self.folder = make(a=PLAIN.format("a", "old"))
        self.file = self.folder.parent / "resource.yaml"
        assert self("apply", "--local", code=0)["outcome"] == "OK"

    def __call__(self, *arguments: str, python: str | None = None, code: int) -> dict[str, object]:
        name, *more = arguments
        answer = self.command(
            name, "-f", str(self.file), "--folder", str(self.folder), "--python", python or airflow.python(),
            "-o", "json", *more, code=code,
        )  # fmt: skip
        assert "Traceback" not in answer.err
        return dict(answer.data)

    def text(self, *arguments: str, code: int) -> str:
        name, *more = arguments
        return self.command(
            name, "-f", str(self.file), "--folder", str(self.folder), "--python", airflow.python(), *more, code=code
        ).out


@pytest.fixture
def published(command: Command, bundle: MakeBundle) -> Bundle:
    return Bundle(command, bundle)


def test_the_same_files_are_no_difference(published: Bundle) -> None:
    found = published("diff", "--exit-code", code=0)
    assert (found["outcome"], found["items"], found["problems"]) == ("OK", [], [])
    assert published.text("diff", "--exit-code", code=0) == "No differences.\n"


def test_changed_files_are_a_difference(published: Bundle) -> None:
    published.make(a=PLAIN.format("a", "new"))
    found = published("diff", "--exit-code", code=1)
    assert (found["outcome"], len(found["items"])) == ("DIFFERENT", 1)  # type: ignore[arg-type] # JSON
    assert published("diff", code=0)["outcome"] == "OK"


@pytest.mark.parametrize("more", [["--exit-code"], []])
def test_broken_files_are_never_no_difference(published: Bundle, more: list[str]) -> None:
    published.make(a=BROKEN)
    found = published("diff", *more, code=3)
    assert (found["outcome"], found["reason"], found["items"]) == ("KEPT_BACK", "KeptLastGood", [])
    text = published.text("diff", *more, code=3)
    assert "No differences" not in text
    assert "a.py:3: ModuleNotFoundError" in text
    assert "Not all could be compared: KeptLastGood: 1 broken file: a.py; 1 DAG would be kept" in text


def test_broken_files_are_no_difference_neither_where_their_dags_are_let_go(published: Bundle) -> None:
    published.file.write_text(published.file.read_text().replace("}}}", "}}, policy: {onImportError: Deactivate}}"))
    published.make(b=BROKEN)
    assert published("diff", "--exit-code", code=3)["outcome"] == "KEPT_BACK"


def test_a_misspelled_subdir_is_never_no_difference(published: Bundle) -> None:
    published.file.write_text(published.file.read_text().replace("}}}", "}}, subdirs: [{path: ingset}]}"))
    found = published("diff", "--exit-code", code=5)
    assert (found["outcome"], found["reason"]) == ("FAILED", "RunFailed")
    assert "ingset" in str(found["message"])
    assert published("apply", "--local", "--dry-run", code=5)["outcome"] == "FAILED"
    assert published.text("diff", "--exit-code", code=5).startswith("Failed: RunFailed: ")
    assert "\nFailed: RunFailed: " in published.text("apply", "--local", code=5)
    assert "An apply would end as Failed: RunFailed: " in published.text("apply", "--local", "--dry-run", code=5)


PARSING = {
    "apply": ["apply", "--local"],
    "apply --dry-run": ["apply", "--local", "--dry-run"],
    "apply --check-determinism": ["apply", "--local", "--check-determinism"],
    "dags reserialize": ["dags", "reserialize"],
    "diff": ["diff", "--exit-code"],
    "parse": ["parse"],
}
"""Every command that parses a bundle's files."""
MANIFEST = "version: v1beta\n"
CAUSES = {
    "no interpreter": ("", "no-such-python", 2, "no interpreter"),
    "no Airflow": ("", "bare/bin/python", 5, "AirflowNotInstalled"),
    "an invalid manifest": (f"{MANIFEST}nonsense: 1\n", "", 2, "nonsense"),
    "a manifest that the parser refuses": (
        f"{MANIFEST}bundle_config: {{loaders: {{nonsense: {{}}}}}}\n", "", 2, "ManifestInvalid",
    ),
    "an unknown parser": (f"{MANIFEST}bundle_parser: Nonsense\n", "", 5, "UnknownParser"),
}  # fmt: skip
"""What goes wrong: a manifest, an interpreter, the exit code, and a word of the message."""


@pytest.mark.parametrize("name", PARSING)
def test_one_cause_has_one_exit_code_in_every_command_that_parses(
    command: Command, bundle: MakeBundle, tmp_path: pathlib.Path, name: str
) -> None:
    folder = bundle(a=PLAIN.format("a", "old"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    files = [str(folder)] if name == "parse" else ["-f", "resource.yaml", "--folder", str(folder)]
    for cause, (manifest, python, code, word) in CAUSES.items():
        (folder / "dagbundle.yaml").write_text(manifest or MANIFEST)
        answer = command(*PARSING[name], *files, "--python", python or airflow.python(), "-o", "json", code=None)
        assert answer.code == code, (cause, answer.out, answer.err)
        assert answer.data["outcome"] == {2: "USAGE", 5: "FAILED"}[code], cause
        assert word in str(answer.data.get("message") or answer.data["error"]["message"]), cause


def test_a_suspended_bundle_is_never_no_difference(published: Bundle) -> None:
    published.file.write_text(published.file.read_text().replace("}}}", "}}, suspend: true}"))
    assert published("diff", "--exit-code", code=4)["outcome"] == "BLOCKED"


def test_a_dry_run_never_says_that_something_is_published(published: Bundle) -> None:
    published.make(a=PLAIN.format("a", "new"))
    text = published.text("apply", "--local", "--dry-run", code=0)
    assert "An apply would end as Published: version sha256:" in text
    assert text.endswith(" would be published\n")
    published.make(b=BROKEN)
    found = published("apply", "--local", "--dry-run", code=3)
    assert "0 DAGs would be kept at the last good definition" in str(found["message"])


def test_a_dry_run_and_a_diff_before_anything_was_published_make_no_database(
    command: Command, bundle: MakeBundle, tmp_path: pathlib.Path
) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    arguments = ("-f", "resource.yaml", "--folder", str(folder), "--python", airflow.python(), "-o", "json")
    answer = command("apply", "--local", "--dry-run", *arguments)
    assert [change["change"] for change in answer.data["changes"]] == ["Added"]
    assert "compared with nothing" in answer.err
    assert command("diff", "--exit-code", *arguments, code=1).data["outcome"] == "DIFFERENT"
    assert not (tmp_path / "dagbundle.db").exists()


def test_every_answer_has_the_keys_of_the_table(published: Bundle, command: Command, tmp_path: pathlib.Path) -> None:
    document = (airflow.ROOT / "docs/cli.md").read_text().partition("| command | keys |")[2].partition("### ")[0]
    rows = re.findall(r"^\| (`.*) \| (`.*) \|$", document, re.MULTILINE)
    table = {
        name: set(re.findall(r"`(\w+)`", keys)) for names, keys in rows for name in re.findall(r"`([^`]+)`", names)
    }
    of_files = ["-f", str(published.file), "--folder", str(published.folder), "--python", airflow.python()]
    calls = {
        "apply": ["--local", *of_files],
        "dags reserialize": of_files,
        "diff": ["team/b"],
        "parse": [str(published.folder), "--python", airflow.python()],
        "history": ["team/b"],
        "get bundles": [],
        "get dags": [],
        "get versions": ["a"],
        "get errors": [],
        "get tasks": ["a"],
        "dags list": [],
        "dags show": ["a"],
        "dags details": ["a"],
        "dags next-execution": ["a", "--python", airflow.python()],
        "rollback": ["team/b"],
        "resume": ["team/b"],
        "delete": ["team/b", "--dry-run"],
        "db backup": [str(tmp_path / "copy.db")],
        "db gc": [],
        "db upgrade": [],
        "db downgrade": ["0004", "--yes"],
    }
    published.make(a=PLAIN.format("a", "new"))
    for name, arguments in calls.items():
        answer = command(*name.split(), *arguments, "-o", "json").data
        assert answer.pop("outcome") == "OK", name
        assert answer.keys() == table.pop(name), name
    drifting = DAG + 'with DAG("drifts", doc_md=" ".join({"a", "b", "c", "d", "e", "f", "g"})):\n    pass\n'
    published.make(a=drifting)
    assert published("apply", "--local", "--check-determinism", code=1).keys() == {"outcome", "items", "next_cursor"}
    del table["apply --check-determinism"], table["prune"], table["airflow sync"], table["airflow check"]  # elsewhere
    assert not table
