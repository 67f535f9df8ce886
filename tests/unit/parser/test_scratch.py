"""As root, the files of a run share what they make among the temporary files, as those of stock Airflow do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagbundle_parser import descent, scratch
from unit.parser.conftest import STUB, Report, request_for, run_stub, stub_environment, write_bundle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")

START = "import os, tempfile\nfrom pathlib import Path\nDAGS = {}\ntmp = Path(tempfile.gettempdir())\n"
CACHE = START + "cache = tmp / 'cache'\ncache.mkdir(exist_ok=True)\nwith (cache / 'log').open('a') as log:\n    "
HANGS = START + "(tmp / 'mine').touch()\nopen('NEVER').read()\n"
WITHOUT_MOUNTS = f"""#!{sys.executable}
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def parse(machine: Path, files: dict[str, str], *, env: dict[str, str] | None = None, python: str = "") -> Report:
    bundle = write_bundle(machine / "bundle", dict(files))
    env = {"TMPDIR": str(machine / "tmp"), **(env or {})}
    return run_stub(bundle, machine / "request.json", env=env, python=python or sys.executable)


def errors(report: Report) -> dict[str, list[str]]:
    return {path: [error["message"] for error in record["errors"]] for path, record in report.files.items()}


def test_files_write_to_what_others_made_among_the_temporary_files(machine: Path) -> None:
    source = f"{CACHE}log.write('x')\nDAGS['NAME'] = {{'uid': os.getuid()}}\n"
    bundle = write_bundle(machine / "bundle", {f"{name}.py": source.replace("NAME", name) for name in "abcdef"})
    report = run_stub(bundle, machine / "request.json", env={"TMPDIR": str(machine / "tmp")}, processes=4)
    assert errors(report) == {f"{name}.py": [] for name in "abcdef"}
    assert len({record["dags"][0]["data"]["uid"] for record in report.files.values()}) > 1


def test_the_path_of_the_temporary_files_and_what_lay_there_stay(machine: Path) -> None:
    kept = machine / "tmp" / "kept"
    kept.mkdir()
    (kept / "file").write_text("content")
    (machine / "tmp" / "link").symlink_to(kept)
    source = f"{START}DAGS['n'] = {{'tmp': str(tmp), 'file': (tmp / 'kept/file').read_text(), "
    source += "'link': os.readlink(tmp / 'link'), 'names': sorted(os.listdir(tmp)), 'cwd': os.getcwd()}\n"
    data = parse(machine, {"a.py": source}).files["a.py"]["dags"][0]["data"]
    names = ["kept", "link"]
    tmp = str(machine / "tmp")
    assert data == {"tmp": tmp, "file": "content", "link": str(kept), "names": names, "cwd": str(Path.cwd())}


def test_nothing_that_files_made_among_the_temporary_files_is_left(machine: Path) -> None:
    deep = (
        START + "os.chdir(tmp)\nfor _ in range(3000):\n    os.mkdir('deep')\n    os.chdir('deep')\nopen('file', 'w')\n"
    )
    closed = START + "(tmp / 'closed').mkdir(mode=0)\n(tmp / 'link').symlink_to(tmp)\nos.mkfifo(tmp / 'pipe')\n"
    report = parse(machine, {"deep.py": deep, "closed.py": closed})
    assert errors(report) == {"deep.py": [], "closed.py": []}
    assert list((machine / "tmp").iterdir()) == []


def test_a_run_does_not_see_what_another_one_makes_meanwhile_and_sweeps_what_it_left(machine: Path) -> None:
    never = machine / "never"
    os.mkfifo(never, 0o644)
    bundle = write_bundle(machine / "one", {"hangs.py": HANGS.replace("NEVER", str(never))})
    (machine / "one.json").write_text(json.dumps(request_for(bundle)))
    env = {**stub_environment(), "TMPDIR": str(machine / "tmp")}
    with subprocess.Popen(
        [sys.executable, str(STUB), str(machine / "one.json")], stdout=subprocess.PIPE, env=env
    ) as run:
        writer = os.open(never, os.O_WRONLY)  # waits until the file reads
        (folder,) = (machine / "tmp").glob(f"{scratch.PREFIX}*")
        other = parse(machine, {"a.py": f"{START}DAGS['n'] = {{'names': os.listdir(tmp)}}\n"})
        assert other.files["a.py"]["dags"][0]["data"] == {"names": []}
        assert folder.exists()
        pids = [run.pid]
        while below := [pid for pid, parent, _ in descent.processes() if parent == pids[-1]]:
            os.kill(pids[-1], signal.SIGSTOP)  # so that none cleans up after another
            pids += below
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        run.wait()
        os.close(writer)
    parse(machine, {"a.py": START})
    assert not folder.exists()


def test_files_write_into_a_home_that_is_closed_to_them(machine: Path) -> None:
    home = machine / "home"
    home.mkdir(mode=0o700)
    (home / "secret").touch()
    source = START + "cache = Path.home() / 'cache'\ncache.mkdir(exist_ok=True)\n(cache / 'NAME').touch()\n"
    source += "DAGS['NAME'] = {'home': str(Path.home()), 'names': os.listdir(Path.home())}\n"
    files = {f"{name}.py": source.replace("NAME", name) for name in "ab"}
    report = parse(machine, files, env={"HOME": str(home)})
    assert errors(report) == {"a.py": [], "b.py": []}
    for path in ("a.py", "b.py"):
        assert report.files[path]["dags"][0]["data"] == {"home": str(home), "names": ["cache"]}
    assert [path.name for path in home.iterdir()] == ["secret"]


@pytest.mark.parametrize("way", ["no right to mount", "a folder of one user"])
def test_where_there_can_be_no_such_folder_an_error_names_what_to_do(machine: Path, way: str) -> None:
    files = {f"f{number}.py": f"{CACHE}log.write('x')\n" for number in range(2)}
    python = machine / "python"
    python.write_text(WITHOUT_MOUNTS)
    python.chmod(0o755)
    if way == "a folder of one user":
        (machine / "tmp").chmod(0o777)
    report = parse(machine, files, python=str(python) if way == "no right to mount" else "")
    assert report.closed
    (message,) = [message for found in errors(report).values() for message in found]
    assert "runAsUser" in message
    assert [path.name for path in (machine / "tmp").iterdir()] == ["cache"]


def test_a_folder_that_another_user_made_is_not_removed_and_none_that_is_open(machine: Path) -> None:
    for name, mode, owner in (("theirs", 0o700, 60_044), ("open", 0o755, 0)):
        folder = machine / "tmp" / f"{scratch.PREFIX}{name}"
        folder.mkdir(mode=mode)
        os.chown(folder, owner, owner)
    parse(machine, {"a.py": START})
    assert len(list((machine / "tmp").iterdir())) == 2
