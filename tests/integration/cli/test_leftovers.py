"""A command line that is killed leaves no process of the run that it waited for."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from integration.cli.conftest import COMMAND, Command, MakeBundle
from support import airflow

pytestmark = pytest.mark.airflow

SECONDS = 5.0
HANGS = (
    "import os, time  # airflow dag\n"
    "for _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
    "            os.setsid()\n"
    "        time.sleep(600)\n"
    "open({gate!r}, 'w').close()\ntime.sleep(600)\n"
)


def _processes(mark: str) -> list[int]:
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                started = mark in (entry / "environ").read_text(errors="replace")
                dead = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
            except OSError:
                continue
            if started and not dead:
                found.append(int(entry.name))
    return found


@pytest.fixture
def _an_interrupt_ends_programs() -> Iterator[None]:
    """Let an interrupt end what is started here, also where a shell started these tests in the background."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_an_interrupt_ends_programs")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_of_a_run_outlives_the_command_that_waited_for_it(
    command: Command, bundle: MakeBundle, tmp_path: pathlib.Path, number: int
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    gate.chmod(0o666)
    folder = bundle(hangs=HANGS.format(gate=str(gate)))
    with subprocess.Popen(
        [COMMAND, "apply", "-f", "resource.yaml", "--local", "--folder", str(folder), "--python", airflow.python()],
        cwd=tmp_path, env={**command.environment, "MARK": f"mark of {tmp_path}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        gate.read_bytes()
        assert len(_processes(f"mark of {tmp_path}")) >= 8
        process.send_signal(number)
        end = time.monotonic() + SECONDS
        while _processes(f"mark of {tmp_path}") and time.monotonic() < end:
            time.sleep(0.01)
        assert _processes(f"mark of {tmp_path}") == []
