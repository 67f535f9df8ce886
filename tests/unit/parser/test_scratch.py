"""As root, files are users of their own: where they write together, and that nothing of it stays."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.parser.conftest import STUB, Report, request_for, run_stub, stub_environment, write_bundle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")
FLOW = """
import os, tempfile
from pathlib import Path
cache = Path(tempfile.gettempdir(), "cache-of-flows")
cache.mkdir(exist_ok=True)
(cache / "{name}").write_text("x")
(cache / "shared").write_text("x")
DAGS = {{"{name}": {{"tmp": tempfile.gettempdir(), "home": str(Path.home()), "names": [os.environ[n] for n in ("TMPDIR", "TMP", "TEMP", "HOME")], "uid": os.getuid()}}}}
"""
FLOWS: dict[str, str | bytes] = {f"{name}.py": FLOW.format(name=name) for name in "abcd"}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A machine's folder for temporary files."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        (Path(name) / "tmp").mkdir()
        (Path(name) / "tmp").chmod(0o1777)
        Path(name).chmod(0o755)
        yield Path(name) / "tmp"


def parse(shared: Path, files: dict[str, str | bytes] = FLOWS, **changes: Any) -> Report:
    bundle = write_bundle(shared.parent / "bundle", files)
    return run_stub(bundle, shared.parent / "request.json", env={"TMPDIR": str(shared)}, **changes)


def data(report: Report) -> list[Any]:
    assert {path: file["errors"] for path, file in report.files.items() if file["errors"]} == {}
    return [file["dags"][0]["data"] for file in report.files.values()]


@pytest.mark.parametrize("user", [None, 60_041])
def test_files_of_a_run_share_what_they_write_among_temporary_files(shared: Path, user: int | None) -> None:
    found = data(parse(shared, runAsUser=user))
    assert len(found) == 4
    assert len({one["tmp"] for one in found}) == 1
    assert {name for one in found for name in (*one["names"], one["home"])} == {found[0]["tmp"]}
    assert len({one["uid"] for one in found}) == (2 if user is None else 1)


def test_nothing_that_files_write_there_stays(shared: Path) -> None:
    assert parse(shared).closed
    assert list(shared.iterdir()) == []


def test_the_folder_is_the_same_at_the_next_run(shared: Path) -> None:
    assert {one["tmp"] for one in data(parse(shared))} == {one["tmp"] for one in data(parse(shared))}


@pytest.mark.parametrize("kind", ["link", "folder of another user", "file"])
def test_what_somebody_else_put_in_its_place_is_not_used(shared: Path, kind: str) -> None:
    path = Path(data(parse(shared))[0]["tmp"]).parent
    target = shared.parent / "target"
    target.mkdir()
    if kind == "link":
        path.symlink_to(target)
    elif kind == "file":
        path.touch()
    else:
        path.mkdir()
        os.chown(path, 60_042, 60_042)
    again = Path(data(parse(shared))[0]["tmp"]).parent
    assert again != path
    assert list(shared.iterdir()) == [path]
    assert list(target.iterdir()) == []


def test_it_is_removed_when_the_parser_is_killed_and_links_in_it_are_not_followed(shared: Path) -> None:
    victim = shared.parent / "victim"
    victim.mkdir()
    (victim / "file").touch()
    victim.chmod(0o777)
    os.mkfifo(shared.parent / "gate")
    (shared.parent / "gate").chmod(0o666)
    source = f"import os, tempfile, time\nDAGS = {{}}\nos.symlink({str(victim)!r}, tempfile.gettempdir() + '/link')\nopen({str(shared.parent / 'gate')!r}, 'w').close()\ntime.sleep(600)\n"
    bundle = write_bundle(shared.parent / "bundle", {"a.py": source})
    (shared.parent / "request.json").write_text(json.dumps(request_for(bundle, limits={"fileSeconds": 120})))
    with subprocess.Popen(
        [sys.executable, str(STUB), str(shared.parent / "request.json")],
        stdout=subprocess.PIPE, env={**stub_environment(), "TMPDIR": str(shared)},
    ) as process:  # fmt: skip
        (shared.parent / "gate").read_bytes()
        assert len(list(shared.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert list(shared.iterdir()) == []
    assert (victim / "file").exists()


def test_an_error_over_another_users_file_says_so_and_what_to_do(shared: Path) -> None:
    (shared / "theirs").mkdir()
    os.chown(shared / "theirs", 60_043, 60_043)
    error = parse(shared, {"a.py": f"DAGS = {{}}\nopen({str(shared / 'theirs' / 'x')!r}, 'w')\n"}).error("a.py")
    assert error["kind"] == "PermissionError"
    assert f"{shared / 'theirs'} belongs to user 60043" in error["message"]
    assert "runAsUser" in error["message"]
