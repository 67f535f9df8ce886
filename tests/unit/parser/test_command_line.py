"""The parser as a process: how it is started, what it exits with, where its report goes."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import Any

import pytest

from dagbundle_parser import discovery
from support import pythons
from unit.parser.conftest import ROOT, STUB, Parse, request_for, run_stub, stub_environment, write_bundle

PACKAGE = ROOT / "operator" / "dagbundle_parser"


def start(program: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    env = {**stub_environment(), **options.pop("env", {})}
    env.pop("PYTHONPATH")
    return subprocess.run([sys.executable, *program], capture_output=True, check=False, timeout=60, env=env, **options)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    shutil.copytree(PACKAGE, folder / "in" / "dagbundle_parser", ignore=shutil.ignore_patterns("__pycache__"))
    zipapp.create_archive(folder / "in", folder / "parser.pyz", main="dagbundle_parser.__main__:main", compressed=True)
    return folder / "parser.pyz"


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_it_runs_from_a_directory_and_from_one_file(form: str, archive: Path, bundle: Path, tmp_path: Path) -> None:
    program = str(PACKAGE if form == "directory" else archive)
    assert start([program, "version"]).stdout.strip()
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle)))
    done = start([program, "run", str(tmp_path / "request.json")])
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["open", "close"]


def test_the_report_goes_to_the_descriptor_that_the_environment_names(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle)))
    read, write = os.pipe()
    done = start(
        [str(PACKAGE), "run", str(tmp_path / "request.json")],
        pass_fds=(write,),
        env={"DAGBUNDLE_REPORT_FD": str(write)},
    )
    os.close(write)
    with os.fdopen(read) as report:
        assert [json.loads(line)["type"] for line in report] == ["open", "close"]
    assert done.stdout == b""


@pytest.mark.parametrize("ahead", [[], ["--ahead"]])
def test_the_request_may_come_on_stdin(ahead: list[str], bundle: Path) -> None:
    done = start([str(PACKAGE), "run", *ahead, "-"], input=json.dumps(request_for(bundle)).encode())
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["open", "close"]


def test_a_request_on_stdin_that_is_cut_is_refused(bundle: Path) -> None:
    done = start([str(PACKAGE), "run", "-"], input=json.dumps(request_for(bundle)).encode()[:-9])
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"the run request on stdin is not JSON" in done.stderr


def test_a_descriptor_that_is_not_open_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle)))
    done = start([str(PACKAGE), "run", str(tmp_path / "request.json")], env={"DAGBUNDLE_REPORT_FD": "77"})
    assert done.returncode == 2
    assert b"DAGBUNDLE_REPORT_FD='77' is not an open descriptor" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "/nonexistent.json"], ["unknown"]])
def test_a_command_line_that_cannot_be_used_exits_with_2(arguments: list[str]) -> None:
    done = start([str(PACKAGE), *arguments])
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"root": "/nonexistent/bundle"}, "BundleNotFound"),
        ({"subdir": "no/such"}, "SubdirNotFound"),
        ({"parser": {"type": "NoSuchParser"}}, "UnknownParser"),
    ],
)
def test_a_run_that_cannot_be_carried_out_ends_with_fail(
    change: dict[str, Any], kind: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text(json.dumps({**request_for(bundle), **change}))
    done = start([str(PACKAGE), "run", str(tmp_path / "request.json")])
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["type"], last["kind"], done.returncode) == ("fail", kind, 0)


def test_without_airflow_a_bundle_with_dags_fails_and_says_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, {"a.py": "import airflow  # dag\n"})
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle)))
    done = start([str(PACKAGE), "run", str(tmp_path / "request.json")])
    first, last = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["airflow"], first["files"]) == (None, 1)
    assert (last["type"], last["kind"]) == ("fail", "AirflowNotInstalled")


def test_records_are_numbered_lines_of_ascii_with_a_digest_over_all_before_the_close(
    bundle: Path, tmp_path: Path
) -> None:
    write_bundle(bundle, {f"{name}.py": f"DAGS = {{'{name}': {{'é': 'ü'}}}}" for name in "abc"})
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle)))
    done = subprocess.run(
        [sys.executable, str(STUB), str(tmp_path / "request.json")],
        capture_output=True,
        check=True,
        env=stub_environment(),
    )
    assert done.stdout.isascii()
    lines = done.stdout.splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    assert [record["seq"] for record in records[1:-1]] == [1, 2, 3]
    assert records[-1]["digest"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert records[-1]["counts"] == {"files": 3, "dags": 3, "errors": 0}
    assert records[0]["parser"]["name"] == "SinglePass"


def test_only_the_files_that_were_asked_for_are_parsed(parse: Parse) -> None:
    files: dict[str, str | bytes] = {"a.py": "DAGS = {'a': {}}", "b.py": "DAGS = {}", "no.txt": ""}
    report = parse(files, files=["a.py", "no.txt", "gone.py"])
    assert report.records[-1]["files"] == ["a.py", "gone.py", "no.txt"]
    assert report.files["a.py"]["errors"] == []
    assert report.error("gone.py")["kind"] == report.error("no.txt")["kind"] == "NotListed"


def test_a_file_that_is_not_listed_says_which_one_reason_it_has(parse: Parse) -> None:
    files: dict[str, str | bytes] = {
        ".airflowignore": "b.py\nsub/\n", "a.py": "DAGS = {'a': {}}", "b.py": "DAGS = {}", "sub/deep/c.py": "DAGS = {}",
        "no.txt": "", "own/d.py": "DAGS = {}",
    }  # fmt: skip
    wanted = ["a.py", "b.py", "sub/deep/c.py", "no.txt", "gone.py", "own/d.py"]
    report = parse(files, files=wanted, exclude=["own"])
    said = {path: report.error(path)["message"].removeprefix(f"{path} ") for path in wanted[1:]}
    assert said == {
        "b.py": "is not listed: .airflowignore names it",
        "sub/deep/c.py": "is not listed: .airflowignore names its folder sub",
        "no.txt": f"is not listed: it does not look like it holds DAGs {discovery.LOOKS}",
        "gone.py": "does not exist in the bundle",
        "own/d.py": "is not listed: it lies outside of the subdir '.'",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_kills_the_children_and_leaves_the_report_cut(
    number: signal.Signals, bundle: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "started")
    (tmp_path / "started").chmod(0o666)
    source = (
        f"import os, time\nDAGS = {{}}\nfd = os.open({str(tmp_path / 'started')!r}, os.O_WRONLY)\n"
        "os.write(fd, str(os.getpid()).encode())\nos.close(fd)\ntime.sleep(600)\n"
    )
    write_bundle(bundle, {"a.py": source})
    (tmp_path / "request.json").write_text(json.dumps(request_for(bundle)))
    process = subprocess.Popen(
        [sys.executable, str(STUB), str(tmp_path / "request.json")], stdout=subprocess.PIPE, env=stub_environment()
    )
    child = int((tmp_path / "started").read_text())
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["open"]
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize("python", [pythons.oldest()])
def test_it_runs_on_the_oldest_python_that_tenants_may_have(bundle: Path, tmp_path: Path, python: str | None) -> None:
    if python is None:
        pytest.skip("this machine has no Python 3.10; ruff holds the syntax to it")
    files: dict[str, str | bytes] = {
        "a.py": "import lib\nDAGS = {'a': {'x': lib.X}}", "lib.py": "X = 1", "bad.py": "DAGS = {}\n1 / 0\n",
        "shared/b.py": "DAGS = {'b': {}}", "shared/c.py": "DAGS = {'c': {}}", "exit.py": "import os\nDAGS={}\nos._exit(1)",
    }  # fmt: skip
    report = run_stub(write_bundle(bundle, files), tmp_path / "request.json", python=python)
    assert report.closed, report.stderr
    assert report.records[0]["python"].startswith("3.10.")
    assert {"a.py", "lib.py"} <= set(report.files["a.py"]["closure"])
    assert [report.error(path)["kind"] for path in ("bad.py", "exit.py")] == ["ZeroDivisionError", "ProcessExited"]
