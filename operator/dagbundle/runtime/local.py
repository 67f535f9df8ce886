"""Runs the parser as a subprocess over a local folder: the laptop's and the CI job's runtime."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import subprocess
from collections.abc import Generator, Iterator

from dagbundle import errors
from dagbundle.resources import protocol
from dagbundle.runtime import process
from dagbundle.runtime.process import ParserProcess

_NOT_CODE = frozenset({".git", "__pycache__", ".hg", ".svn"})


class LocalRuntime:
    """Parses a folder on this machine.

    Args:
        folder: The bundle's root.
        python: The parser's interpreter, with Airflow installed; a path or a name on PATH. Default: this one.
        hash_seed: PYTHONHASHSEED of the parser; None leaves it to the environment.
        standing_by: A parser of that interpreter that was started already, for the first run. Who started it ends it.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        python: str | None = None,
        hash_seed: int | None = None,
        standing_by: ParserProcess | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._python = python
        self._hash_seed = hash_seed
        self._standing_by = [standing_by] if standing_by else []
        self._digests: dict[str, tuple[tuple[int, ...], bytes]] = {}
        self._running: set[ParserProcess] = set()
        self._stopped = False

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
        with self._parser() as parser:
            self._running.add(parser)
            if self._stopped:
                parser.terminate()
            try:
                yield from parser.ask(request.model_dump_json(by_alias=True))
            except errors.RunError as error:
                raise errors.RunError(
                    f"the parser of subdir {request.subdir} {error.message}",
                    hint="its last output is above",
                ) from error
            finally:
                self._running.discard(parser)

    def _parser(self) -> ParserProcess:
        """The parser that stands by, once; then a new one."""
        with contextlib.suppress(IndexError):
            return self._standing_by.pop()
        return ParserProcess(self._python, hash_seed=self._hash_seed)

    def stop(self) -> None:
        """End the parsers that are running; see `runtime.base.Runtime`."""
        self._stopped = True
        for parser in tuple(self._running):
            parser.terminate()

    def call(self, command: str, document: str) -> str:
        """Run one of the parser's other commands, such as `next-execution`, and return what it printed.

        Raises:
            RunError: It failed; the message holds its output.
        """
        done = subprocess.run(
            [*process.command(self._python), command],
            input=document,
            capture_output=True,
            text=True,
            check=False,
            env=process.environment(self._hash_seed),
        )
        if done.returncode:
            said = done.stderr[-process.OUTPUT_TAIL :].strip()
            raise errors.RunError(f"{command} {process.describe(done.returncode)}:\n{said}")
        return done.stdout


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield all files and links below a folder in one order, whatever the file system's."""
    pending = _sorted(folder)
    while pending:
        entry = pending.pop()
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_CODE:
                pending += _sorted(entry.path)
        elif entry.is_symlink() or (entry.is_file() and not entry.name.endswith(".pyc")):
            yield pathlib.Path(entry.path)


def _sorted(folder: str | pathlib.Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, the last first."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name, reverse=True)
