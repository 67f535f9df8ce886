"""No process of a run outlives it: counted after every way out, for everything that a DAG file may start."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.parser.conftest import STUB, request_for, run_stub, stub_environment, write_bundle

SECONDS = 5.0
"""Within which all processes must be gone."""
USERS = [{}, {"STUB_UID": "60011"}] if os.geteuid() == 0 else [{}]
IDS = ["root", "user"][: len(USERS)]
LINGER = "    while True: time.sleep(60)\n"
STARTS = {
    "fork.py": "import os, time\nDAGS = {'a': {}}\nif os.fork() == 0:\n" + LINGER,
    "double_fork.py": (
        "import os, time\nDAGS = {'b': {}}\nif os.fork() == 0:\n    if os.fork() == 0:\n    " + LINGER + "    os._exit(0)\n"
    ),
    "daemon.py": (
        "import os, time\nDAGS = {'c': {}}\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.setsid()\n"
        "        os.chdir('/')\n        os.closerange(0, 64)\n    " + LINGER + "    os._exit(0)\n"
    ),
    "threads.py": (
        "import os, threading, time\nDAGS = {'d': {}}\ndef go():\n    if os.fork() == 0:\n        while True: time.sleep(60)\n"
        "threads = [threading.Thread(target=go) for _ in range(4)]\n[t.start() for t in threads]\n[t.join() for t in threads]\n"
    ),
    "deaf.py": (
        "import os, signal, time\nDAGS = {'e': {}}\nif os.fork() == 0:\n    os.setsid()\n"
        "    for n in set(signal.Signals) - {9, 19}:\n        signal.signal(n, signal.SIG_IGN)\n" + LINGER
    ),
    "chain.py": (
        "import os, time\nDAGS = {'f': {}}\nif os.fork() == 0:\n    for _ in range(20):\n        if os.fork():\n"
        "            os._exit(0)\n        os.setsid()\n" + LINGER
    ),
    "returns.py": "import os\nDAGS = {'g': {}}\nfor _ in range(5):\n    os.fork()\n",
    "program.py": "import subprocess\nDAGS = {'h': {}}\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n",
}  # fmt: skip
"""Files that leave processes behind, by every way there is."""
HANGS = "import os, time\nDAGS = {{}}\nopen({gate!r}, 'w').close()\nwhile True: time.sleep(60)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose path is on the command line, or in the environment, of every process of a run."""
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "gate").chmod(0o666)
    yield tmp_path
    for pid in _processes(tmp_path):  # of a test that failed
        os.kill(pid, signal.SIGKILL)


def _processes(folder: Path) -> list[int]:
    """Living processes that were started with `folder` on their command line, or in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            started = str(folder) in (entry / "cmdline").read_text(errors="replace") or str(folder) in (
                entry / "environ"
            ).read_text(errors="replace")
            dead = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if started and not dead:
            found.append(int(entry.name))
    return found


def _parents(pids: list[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        found[pid] = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return found


def _gone(folder: Path) -> bool:
    """Whether all processes are gone in time."""
    end = time.monotonic() + SECONDS
    while _processes(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def _hangups_end_programs() -> Iterator[None]:
    """Let a hangup end what is started here, also where these tests run under nohup, which every program inherits."""
    before = signal.getsignal(signal.SIGHUP)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _start(folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run of all files, and return when they have started theirs and one that hangs runs."""
    bundle = write_bundle(folder / "bundle", {**STARTS, "zz_hangs.py": HANGS.format(gate=str(folder / "gate"))})
    limits = {"fileSeconds": 120, "processesPerFile": 200}
    (folder / "request.json").write_text(json.dumps(request_for(bundle, limits=limits, processes=1)))
    process = subprocess.Popen(
        [sys.executable, str(STUB), str(folder / "request.json")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**stub_environment(), "MARK": str(folder), **env},
    )  # fmt: skip
    (folder / "gate").read_bytes()
    return process


@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_what_files_start_is_gone_when_the_run_has_ended(folder: Path, env: dict[str, str]) -> None:
    bundle = write_bundle(folder / "bundle", {**STARTS})
    report = run_stub(
        bundle,
        folder / "request.json",
        env={**env, "MARK": str(folder)},
        limits={"fileSeconds": 20, "processesPerFile": 200},
    )
    assert _processes(folder) == []
    assert report.closed, report.stderr
    assert {path: file["errors"] for path, file in report.files.items() if file["errors"]} == {}


@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_what_a_file_starts_is_gone_while_other_files_still_run(folder: Path, env: dict[str, str]) -> None:
    process = _start(folder, env)
    alive = _processes(folder)
    process.kill()
    process.communicate()
    assert len(alive) == 4, "who was started, the keeper, the parser, and the process of the file that hangs"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_all_are_gone_when_what_was_started_is_killed(folder: Path, env: dict[str, str], number: int) -> None:
    process = _start(folder, env)
    process.send_signal(number)
    assert _gone(folder)
    process.communicate()


@pytest.mark.parametrize("below", [1, 2], ids=["keeper", "parser"])
@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_all_are_gone_when_one_of_the_processes_below_is_killed(folder: Path, env: dict[str, str], below: int) -> None:
    process = _start(folder, env)
    pid = process.pid
    for _ in range(below):
        (pid,) = (child for child, parent in _parents(_processes(folder)).items() if parent == pid)
    os.kill(pid, signal.SIGKILL)
    assert _gone(folder)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_all_are_gone_when_nobody_reads_the_report_any_more(folder: Path, env: dict[str, str]) -> None:
    process = _start(folder, env)
    assert process.stdout is not None
    process.stdout.close()
    assert _gone(folder)
    process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="as root, children are spare users")
def test_what_is_left_of_a_spare_user_when_all_that_watched_were_killed_ends_with_the_next_run(folder: Path) -> None:
    process = _start(folder, {})
    pids = _processes(folder)
    own = [pid for pid in pids if Path(f"/proc/{pid}").stat().st_uid == 0]
    for pid in own:
        os.kill(pid, signal.SIGSTOP)
    for pid in own:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    bundle = write_bundle(folder / "second", {"good.py": "DAGS = {'good': {}}\n"})
    assert run_stub(bundle, folder / "second.json").closed
    assert _processes(folder) == []


BOMB = (
    "import os, time\nDAGS = {'bomb': {}}\nos.setpgid(0, 0) if os.getpgid(0) != os.getpid() else None\n"
    "if os.fork() == 0:\n    while True:\n        try:\n            os.fork()\n            os.setsid()\n        except OSError:\n            pass\n"
)


@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_a_bomb_that_a_file_leaves_behind_is_gone_with_it(folder: Path, env: dict[str, str]) -> None:
    bundle = write_bundle(folder / "bundle", {"bomb.py": BOMB, "good.py": "DAGS = {'good': {}}\n"})
    report = run_stub(
        bundle,
        folder / "request.json",
        env={**env, "MARK": str(folder)},
        processes=2,
        limits={"fileSeconds": 20, "processesPerFile": 40},
    )
    assert _processes(folder) == []
    assert report.closed
    assert report.files["good.py"]["errors"] == []


@pytest.mark.parametrize("env", USERS, ids=IDS)
def test_a_file_that_forks_and_returns_twice_is_done_at_once(folder: Path, env: dict[str, str]) -> None:
    source = "import os\nDAGS = {'a': {}}\npid = os.fork()\nif pid == 0:\n    raise SystemExit(7)\nstatus = os.waitpid(pid, 0)[1]\nDAGS = {'a': {'code': status >> 8}}\n"
    bundle = write_bundle(folder / "bundle", {"a.py": source})
    report = run_stub(bundle, folder / "request.json", env=env, limits={"fileSeconds": 60})
    assert report.files["a.py"]["errors"] == []
    assert report.files["a.py"]["dags"][0]["data"] == {"code": 7}
    assert report.files["a.py"]["duration"] < 30
