"""Programs that outlive the command that started them, known by their pid and the moment they started.

A pid alone is no name: it may be another program's by the time somebody wants to stop it. Everything here that starts
or stops a program goes through `Program`, which kills nothing but what it started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from e2e.cluster.errors import ClusterError

_TAIL_LINES = 15
_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0
_PORTS = range(20_000, 29_000)
"""Below what Linux gives to outgoing connections and Kubernetes to node ports: a restart finds its port free."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program with a log and a pid file in the folder of its cluster."""

    name: str
    arguments: Sequence[str]
    folder: pathlib.Path
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def log(self) -> pathlib.Path:
        """The file that has what the program printed, since its cluster was made."""
        return self.folder / "log" / f"{self.name}.log"

    @property
    def _record(self) -> pathlib.Path:
        return self.folder / "pid" / f"{self.name}.json"

    def start(self) -> None:
        """Start it, unless it is running."""
        if self.running():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._record.parent.mkdir(parents=True, exist_ok=True)
        path = find(self.arguments[0])
        # not Popen: its objects warn when they are collected before their program has ended
        pid = os.posix_spawn(
            path,
            [str(path), *self.arguments[1:]],
            {**os.environ, **self.environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # a Ctrl+C is for whoever started it, and so is the end of a terminal
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGPIPE),
        )
        self._record.write_text(json.dumps({"pid": pid, "started": _started(pid)}))

    @property
    def pid(self) -> int | None:
        """Its pid, if that is still the program that was started."""
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        started = _started(record["pid"])
        return record["pid"] if started is not None and started == record["started"] else None

    def running(self) -> bool:
        """Say whether it is running now."""
        return self.pid is not None

    def send(self, what: signal.Signals) -> None:
        """Send it a signal, if it is running."""
        with _handle(self) as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, what)

    def stop(self, what: signal.Signals = signal.SIGTERM, *, seconds: float = _STOP_SECONDS) -> None:
        """End it, with a signal first and for certain after some time."""
        with _handle(self) as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, what)
                if not _ended(handle, seconds):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    _ended(handle, _STOP_SECONDS)
        with contextlib.suppress(FileNotFoundError):
            pid = json.loads(self._record.read_text())["pid"]
            with contextlib.suppress(ChildProcessError):  # started by another command: then init reaps it
                os.waitpid(pid, os.WNOHANG)
            self._record.unlink()

    def tail(self) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-_TAIL_LINES:])


def stop_pid(pid: int, *, command: str) -> None:
    """Kill a process that one of our programs left behind, unless the pid has become another command's."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if command_of(pid) == command:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, _STOP_SECONDS)
        finally:
            os.close(handle)


def command_of(pid: int) -> str:
    """Return the name of a process's program as the kernel has it, empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(ready: Callable[[], bool], *, what: str, seconds: float, needs: Sequence[Program]) -> None:
    """Wait for something that programs bring about.

    Raises:
        ClusterError: One of the programs ended, or it took too long; with the end of the log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        for program in needs:
            if not program.running():
                raise ClusterError(f"{program.name} ended; {program.log} ends with:\n{program.tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"{program.log} ends with:\n{program.tail()}" for program in needs)
            raise ClusterError(f"{what} took longer than {seconds:.0f} s. {logs}")
        time.sleep(_POLL_SECONDS)


def run(*arguments: str | os.PathLike[str], environment: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """Run a command to its end and return what it printed.

    Raises:
        ClusterError: It failed; with the end of what it said.
    """
    path = find(os.fspath(arguments[0]))
    command = [path, *(os.fspath(argument) for argument in arguments[1:])]
    done = subprocess.run(
        command, input=stdin, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).splitlines()[-_TAIL_LINES:])
        line = " ".join([pathlib.Path(path).name, *command[1:]])
        raise ClusterError(f"{line[:300]} ended with {done.returncode}:\n{said}")
    return done.stdout


def find(program: str) -> str:
    """Return a program's path; Debian keeps some where only root's PATH looks.

    Raises:
        ClusterError: It is not there.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise ClusterError(f"{program} is missing: run `python -m e2e.cluster install`")
    return path


def free_ports(count: int, *, taken: Collection[int] = ()) -> list[int]:
    """Return ports that nobody listens on now, and that are not taken otherwise."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return found
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            if port not in taken:
                found.append(port)
    raise ClusterError(f"No {count} ports between {_PORTS.start} and {_PORTS.stop} are free")


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


@contextlib.contextmanager
def _handle(program: Program) -> Iterator[int | None]:
    """Open a handle that stays this process's even if its pid is used again; the check comes after the opening."""
    pid = program.pid
    try:
        handle = None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        handle = None
    try:
        yield handle if program.running() else None
    finally:
        if handle is not None:
            os.close(handle)


def _ended(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
