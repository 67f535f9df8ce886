"""A parser process on this machine: started with nothing of this side, asked once, read to its end, always reaped.

It can be started before there is anything to ask, because an interpreter takes time to come up and Airflow much more
to be imported; meanwhile this side loads its own modules, of which this one needs none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Self

from dagbundle import errors
from dagbundle.runtime import parser_home

_CHUNK = 256 * 1024
OUTPUT_TAIL = 8 * 1024
"""How many bytes of what a parser printed are kept for messages."""
_STOP_SECONDS = 10
_SECRETS = ("FERNET_KEY", "SECRET_KEY", "JWT_SECRET", "SQL_ALCHEMY_CONN", "RESULT_BACKEND", "BROKER_URL")
"""How the names of Airflow's settings end that hold keys, or passwords in URLs."""


class ParserProcess:
    """One parser that waits for one request. A context manager: whatever happens, it is gone afterwards.

    Args:
        python: Its interpreter, a path or a name on PATH; None is this one.
        hash_seed: Its PYTHONHASHSEED; None leaves that to the environment.
        ahead: Import Airflow before the request comes. Only for who knows that something will be parsed.

    Raises:
        UsageError: There is no such interpreter.
        RunError: It could not be started.
    """

    def __init__(self, python: str | None = None, *, hash_seed: int | None = None, ahead: bool = False) -> None:
        read_end, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command(python), "run", *(["--ahead"] if ahead else []), "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[write_end],
                env={**environment(hash_seed), "DAGBUNDLE_REPORT_FD": str(write_end)},
                start_new_session=True,
            )
        except OSError as error:
            os.close(read_end)
            raise errors.RunError(f"the parser could not be started: {error}") from error
        except errors.UsageError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        assert self._process.stdin is not None  # noqa: S101 - PIPE above; tells the type checker
        assert self._process.stdout is not None  # noqa: S101 - likewise
        self._report = open(read_end, "rb", buffering=0)  # noqa: PTH123, SIM115 - a descriptor has no path; see __exit__
        self._tail = _Tail(self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: str) -> Iterator[bytes]:
        """Send the request, yield the report's bytes as they arrive, and wait for the end.

        Args:
            request: A run request as JSON.

        Raises:
            RunError: The parser ended badly; what was yielded before may be incomplete.
        """
        assert self._process.stdin is not None  # noqa: S101 - as above
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:  # it died: its exit code says how
            stdin.write(request.encode())
        while chunk := self._report.read(_CHUNK):
            yield chunk
        if status := self._process.wait():
            raise errors.RunError(f"{describe(status)}{self._tail.text()}")

    def terminate(self) -> None:
        """Ask it to end; may be called from another thread."""
        self._process.terminate()

    def close(self) -> None:
        """End it: politely, so that it kills the children that run DAG files, then for good."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._tail.text()
        self._report.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what it was not told any more
                    stream.close()


class _Tail:
    """Drains a stream in a thread, so that its writer never blocks, and keeps the last part of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while chunk := self._stream.read1(_CHUNK):  # type: ignore[attr-defined] # a BufferedReader, which IO does not say
            self._kept = (self._kept + chunk)[-OUTPUT_TAIL:]

    def text(self) -> str:
        """Return what was kept, as an indented block; call it after the process ended."""
        self._thread.join(timeout=_STOP_SECONDS)
        lines = self._kept.decode(errors="replace").strip().splitlines()
        return "".join(f"\n    {line}" for line in lines)


def command(python: str | None) -> list[str]:
    """Return what starts the parser's command line with an interpreter. Raises `UsageError` where there is none."""
    wanted = python or sys.executable
    found = shutil.which(wanted)
    if found is None:
        raise errors.UsageError(
            f"no interpreter {wanted!r}",
            hint="--python, DAGBUNDLE_PYTHON or pyproject.toml names the Python of an environment that has Airflow",
        )
    return [found, str(parser_home.unpacked(found))]


def environment(hash_seed: int | None = None) -> Mapping[str, str]:
    """Return the user's environment without this side's settings, and without Airflow's keys and connections."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DAGBUNDLE_") and not (name.startswith("AIRFLOW__") and name.endswith(_SECRETS))
    }
    if hash_seed is not None:
        kept["PYTHONHASHSEED"] = str(hash_seed)
    return kept


def describe(status: int) -> str:
    """Say how a process ended."""
    if status < 0:
        return f"was killed by signal {-status} ({signal.strsignal(-status)})"
    return f"failed with exit code {status}"
