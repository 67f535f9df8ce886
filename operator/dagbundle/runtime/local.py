"""Runs the parser as a subprocess over a local folder: the laptop's and the CI job's runtime.

The parser process gets a pipe for its report and nothing of this side: no database URL, no open files, an interpreter
of the user's choosing. What it prints is kept, bounded, for the error text of a run that fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import IO

from dagbundle import errors
from dagbundle.resources import protocol
from dagbundle.runtime import parser_home

_CHUNK = 256 * 1024
_OUTPUT_TAIL = 8 * 1024
_STOP_SECONDS = 10
_NOT_CODE = frozenset({".git", "__pycache__", ".hg", ".svn"})


class LocalRuntime:
    """Parses a folder on this machine.

    Args:
        folder: The bundle's root.
        python: The parser's interpreter, with Airflow installed; a path or a name on PATH. Default: this one.
        hash_seed: PYTHONHASHSEED of the parser; None leaves it to the environment.
    """

    def __init__(self, folder: pathlib.Path, *, python: str | None = None, hash_seed: int | None = None) -> None:
        self._folder = folder.absolute()
        self._python = python or sys.executable
        self._hash_seed = hash_seed
        self._digests: dict[str, tuple[tuple[int, ...], bytes]] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    @property
    def root(self) -> str:
        """Absolute path of the folder."""
        return str(self._folder)

    def resolve_version(self) -> str:
        """Return `sha256:` and the hash of every file's path and bytes (bytecode and version control left out).

        Raises:
            ResourceError: The folder is not there, or a file of it cannot be read.
        """
        if not self._folder.is_dir():
            raise errors.ResourceError(f"{self._folder} is no folder", hint="--folder names the bundle's root")
        digest = hashlib.sha256()
        for path in _files(self._folder):
            name = path.relative_to(self._folder).as_posix()
            try:
                body = str(path.readlink()).encode() if path.is_symlink() else self._digest(path)
            except OSError as error:
                raise errors.ResourceError(f"{path} cannot be read: {error.strerror}") from error
            digest.update(f"{name!r} {len(body)} ".encode() + body)
        return f"sha256:{digest.hexdigest()}"

    def _digest(self, path: pathlib.Path) -> bytes:
        """Hash a file; again only if its metadata changed, so that asking twice costs little."""
        status = path.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._digests.get(str(path))
        if known is None or known[0] != stamp:
            with path.open("rb") as file:
                known = (stamp, hashlib.file_digest(file, "sha256").digest())
            self._digests[str(path)] = known
        return known[1]

    def report(self, request: protocol.RunRequest) -> Generator[bytes]:
        """Run the parser and yield its report; see `runtime.base.Runtime`."""
        python = self._interpreter()
        command = [python, str(parser_home.unpacked(python)), "run"]
        with tempfile.TemporaryDirectory(prefix="dagbundle-") as scratch:
            request_file = pathlib.Path(scratch) / "request.json"
            request_file.write_text(request.model_dump_json(by_alias=True))
            with _started([*command, str(request_file)], self._environment()) as (process, reader, tail):
                self._running.add(process)
                try:
                    while chunk := reader.read(_CHUNK):
                        yield chunk
                    status = process.wait()
                finally:
                    self._running.discard(process)
            if status:
                raise errors.RunError(
                    f"the parser of subdir {request.subdir} {_describe(status)}{tail.text()}",
                    hint="its last output is above; nothing was published",
                )

    def stop(self) -> None:
        """End the parsers that are running; see `runtime.base.Runtime`."""
        for process in tuple(self._running):
            process.terminate()

    def call(self, command: str, document: str) -> str:
        """Run one of the parser's other commands, such as `next-execution`, and return what it printed.

        Raises:
            RunError: It failed; the message holds its output.
        """
        python = self._interpreter()
        done = subprocess.run(
            [python, str(parser_home.unpacked(python)), command],
            input=document,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment(),
        )
        if done.returncode:
            raise errors.RunError(f"{command} {_describe(done.returncode)}:\n{done.stderr[-_OUTPUT_TAIL:].strip()}")
        return done.stdout

    def _interpreter(self) -> str:
        found = shutil.which(self._python)
        if found is None:
            raise errors.UsageError(
                f"no interpreter {self._python!r}", hint="--python names the Python of an environment that has Airflow"
            )
        return found

    def _environment(self) -> Mapping[str, str]:
        """The user's environment without this side's own settings, which may hold a database password."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DAGBUNDLE_")}
        if self._hash_seed is not None:
            kept["PYTHONHASHSEED"] = str(self._hash_seed)
        return kept


class _Tail:
    """Drains a stream in a thread, so that its writer never blocks, and keeps the last part of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while chunk := self._stream.read1(_CHUNK):  # type: ignore[attr-defined] # a BufferedReader, which IO does not say
            self._kept = (self._kept + chunk)[-_OUTPUT_TAIL:]

    def text(self) -> str:
        """Return what was kept, as an indented block; call it after the process ended."""
        self._thread.join(timeout=_STOP_SECONDS)
        lines = self._kept.decode(errors="replace").strip().splitlines()
        return "".join(f"\n    {line}" for line in lines)


@contextlib.contextmanager
def _started(
    command: list[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], _Tail]]:
    """Start the parser with a report pipe; whatever happens, it is gone afterwards."""
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[write_end],
            env={**environment, "DAGBUNDLE_REPORT_FD": str(write_end)},
            start_new_session=True,
        )
    except OSError as error:
        os.close(read_end)
        raise errors.RunError(f"the parser could not be started: {error}") from error
    finally:
        os.close(write_end)
    assert process.stdout is not None  # noqa: S101 - PIPE above; tells the type checker
    with open(read_end, "rb", buffering=0) as reader, process.stdout:  # noqa: PTH123 - a descriptor has no path
        tail = _Tail(process.stdout)
        try:
            yield process, reader, tail
        finally:
            _stop(process)
            tail.text()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the parser: politely, so that it kills the children that run DAG files, then for good."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield all files and links below a folder in one order, whatever the file system's."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_CODE:
                yield from _files(pathlib.Path(entry.path))
        elif entry.is_symlink() or (entry.is_file() and not entry.name.endswith(".pyc")):
            yield pathlib.Path(entry.path)


def _describe(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status} ({signal.strsignal(-status)})"
    return f"failed with exit code {status}"
