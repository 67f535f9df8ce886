"""Which files of a subdir hold DAGs: Airflow's own rules, without importing Airflow.

Equal to Airflow's lister where that is safe (a test compares them). Where it differs, it is on purpose: a link that
leaves the bundle is an error instead of being followed, a folder that cannot be read is an error instead of silently
having no DAGs, and a folder that is linked twice is listed once instead of ending the whole listing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import posixpath
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dagbundle_parser.cpu import CpuBudget, OutOfTimeError
from dagbundle_parser.errors import FileProblem, RunError
from dagbundle_parser.handing import is_closed
from dagbundle_parser.ignorefile import IGNORE_FILE, IgnoreRule, SlowPatternError, is_ignored, read_rules
from dagbundle_parser.loaders.base import AbstractDagLoader, Candidate
from dagbundle_parser.settings import AirflowSettings

MAX_SOURCE_BYTES = 64 << 20
"""Listing reads sources, in the process that no limit of a file holds."""
MAX_IGNORE_BYTES = 4 << 20
PATH_CPU_SECONDS = 5.0
"""How much the patterns of ignore files may take for one path, or those of one file to be compiled."""
PATTERNS_CPU_SECONDS = 300.0
"""How much they may take in one listing."""
_SOURCES = (".py", ".yaml", ".yml")
LOOKS = "(Python that mentions airflow and dag, YAML with tasks, a zip archive)"
"""What holds DAGs, by its looks; for people."""


@dataclasses.dataclass(frozen=True)
class ListedFile:
    """A path that gets a file record.

    Attributes:
        path: relative to the bundle's root, `/` separated.
        loader: who loads it; None where `problem` says why nobody does.
        problem: why the file cannot be parsed at all.
        digest: SHA-256 of the content, in hex, where listing it had to read it.
        open_to_others: whether any user may read it.
    """

    path: str
    loader: AbstractDagLoader | None
    problem: FileProblem | None = None
    digest: str | None = None
    open_to_others: bool = True


class Lister:
    """Lists one subdir.

    Args:
        root: the bundle's root, absolute.
        settings: how Airflow is configured to list.
        loaders: asked in order; the first that claims a file gets it.
    """

    def __init__(self, root: str, settings: AirflowSettings, loaders: Sequence[AbstractDagLoader]) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._settings = settings
        self._loaders = loaders
        self._found: dict[str, ListedFile] = {}
        self._visited: set[str] = set()
        self._folders: list[tuple[str, list[IgnoreRule]]] = []
        self._links: list[tuple[str, list[IgnoreRule]]] = []
        self._subdir = ""
        self._exclude: frozenset[str] = frozenset()
        self._shard = (0, 1)
        self._budget = CpuBudget(PATH_CPU_SECONDS, PATTERNS_CPU_SECONDS)
        self._ignored: set[str] = set()

    def list_files(
        self, subdir: str = ".", exclude: Sequence[str] = (), *, shard: int = 0, shards: int = 1
    ) -> list[ListedFile]:
        """All files of `subdir` that hold DAGs or cannot be read, sorted by path.

        Args:
            subdir: relative to the root.
            exclude: folders that belong to others, relative to the root.
            shard: which part of them; files of others are not even read.
            shards: into how many parts they are divided.

        Raises:
            RunError: `IgnoreFileTooSlow`: patterns of ignore files take too long.
        """
        self._subdir = "" if subdir == "." else subdir
        self._shard = (shard, shards)
        self._exclude = frozenset(exclude)
        self._folders = [("", [])]
        while self._folders or self._links:
            # links last, so that a folder is listed where it lies, not where it is linked
            path, rules = self._folders.pop() if self._folders else self._links.pop(0)
            try:
                self._list(path, rules)
            except SlowPatternError as slow:
                raise _too_slow(slow) from slow
        return sorted(self._found.values(), key=lambda file: file.path)

    def why_not(self, path: str) -> str:
        """Why a file of the bundle is not listed; after `list_files`."""
        if not Path(self._root, path).exists():
            return "does not exist in the bundle"
        above = (path, *map(str, PurePosixPath(path).parents))
        ignored = next((name for name in above if name in self._ignored), None)
        if ignored is not None:
            return f"is not listed: {IGNORE_FILE} names " + ("it" if ignored == path else f"its folder {ignored}")
        if not (self._in_subdir(path) and self._exclude.isdisjoint(above)):
            return f"is not listed: it lies outside of the subdir {self._subdir or '.'!r}"
        return "is not listed: it does not look like it holds DAGs " + LOOKS

    def _list(self, directory: str, rules: list[IgnoreRule]) -> None:
        absolute = posixpath.join(self._root, directory) if directory else self._root
        real = os.path.realpath(absolute)
        if real in self._visited:
            return
        self._visited.add(real)
        try:
            with os.scandir(absolute) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self._problem(directory or ".", "UnreadableDirectory", f"the folder cannot be listed: {error.strerror}")
            return
        rules = self._own_rules(directory, entries, rules)
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if not entry.name.isprintable():
                self._unprintable(path, entry, rules)
                continue
            if entry.name != IGNORE_FILE and self._wanted(path):
                self._entry(path, entry, rules)

    def _own_rules(self, directory: str, entries: list[os.DirEntry[str]], rules: list[IgnoreRule]) -> list[IgnoreRule]:
        for entry in entries:
            if entry.name == IGNORE_FILE and entry.is_file() and self._inside(entry.path):
                try:
                    if entry.stat().st_size > MAX_IGNORE_BYTES:
                        raise ValueError(f"it has more than {MAX_IGNORE_BYTES:,} bytes")  # noqa: TRY301 - as the others
                    text = Path(entry.path).read_text(encoding="utf-8")
                    own = read_rules(
                        text, directory=directory, syntax=self._settings.ignore_syntax, budget=self._budget
                    )
                except (OSError, ValueError) as error:
                    path = posixpath.join(directory, IGNORE_FILE)
                    self._problem(path, "UnreadableIgnoreFile", f"{path} cannot be used: {error}")
                else:
                    return rules + own
        return rules

    def _ignores(self, rules: list[IgnoreRule], path: str, *, is_dir: bool = False) -> bool:
        return is_ignored(path, rules, is_dir=is_dir, budget=self._budget)

    def _wanted(self, path: str) -> bool:
        """Whether `path` lies in the subdir (or on the way to it) and in no folder that belongs to others."""
        if path in self._exclude:
            return False
        subdir = self._subdir
        return not subdir or path == subdir or path.startswith(subdir + "/") or subdir.startswith(path + "/")

    def _in_subdir(self, path: str) -> bool:
        return not self._subdir or path.startswith(self._subdir + "/") or path == self._subdir

    def _inside(self, absolute: str) -> bool:
        real = os.path.realpath(absolute)
        return real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/")

    def _entry(self, path: str, entry: os.DirEntry[str], rules: list[IgnoreRule]) -> None:
        try:
            info = entry.stat()
        except OSError:
            return  # a link to nothing, or one that is gone by now; Airflow passes it over, too
        if stat.S_ISDIR(info.st_mode):
            self._directory(path, entry, rules)
        elif stat.S_ISREG(info.st_mode) and self._in_subdir(path):
            if self._ignores(rules, path):
                self._ignored.add(path)
            else:
                self._file(path, entry, info)

    def _directory(self, path: str, entry: os.DirEntry[str], rules: list[IgnoreRule]) -> None:
        if self._ignores(rules, path, is_dir=True):
            self._ignored.add(path)
            return
        if entry.name.startswith(".."):
            return  # `..data` is how Kubernetes mounts a ConfigMap: its files are linked beside it
        if not entry.is_symlink():
            self._folders.append((path, rules))
        elif self._inside(entry.path):
            self._links.append((path, rules))
        elif self._in_subdir(path):
            self._outside(path, "folder")

    def _file(self, path: str, entry: os.DirEntry[str], info: os.stat_result) -> None:
        if not self._ours(path):
            return
        suffix = posixpath.splitext(path)[1].lower()
        loaders = [loader for loader in self._loaders if loader.may_claim(suffix)]
        if not loaders:
            return
        if entry.is_symlink() and not self._inside(entry.path):
            if any(suffix in loader.suffixes for loader in loaders):
                self._outside(path, "file")
            return
        if suffix in _SOURCES and info.st_size > MAX_SOURCE_BYTES:
            text = f"{path} has {info.st_size} bytes, more than the {MAX_SOURCE_BYTES} that a source may have"
            self._problem(path, "SourceTooLarge", f"{text}: split it, or name it in {IGNORE_FILE}")
            return
        candidate = _ContentOf(path, entry.path, suffix, info.st_size, self._settings)
        try:
            loader = next((loader for loader in loaders if loader.claims(candidate)), None)
        except OSError as error:
            self._problem(path, "UnreadableFile", f"{path} cannot be read: {error.strerror}")
            return
        if loader is not None:
            digest = candidate.digest()
            self._found[path] = ListedFile(path, loader, digest=digest, open_to_others=not is_closed(info))

    def _unprintable(self, path: str, entry: os.DirEntry[str], rules: list[IgnoreRule]) -> None:
        """A name that no record can carry: with control characters, or not UTF-8."""
        wanted = entry.is_dir() or any(entry.name.lower().endswith(loader.suffixes) for loader in self._loaders)
        if wanted and self._in_subdir(path) and not self._ignores(rules, path, is_dir=entry.is_dir()):
            shown = ascii(path)[1:-1]
            self._problem(shown, "UnusableName", f"{shown}: a name may hold only printable characters: rename it")

    def _outside(self, path: str, what: str) -> None:
        target = os.path.realpath(posixpath.join(self._root, path))
        self._problem(
            path,
            "SymlinkOutsideBundle",
            f"{path} is a link to {target}, outside of the bundle, and is not followed: "
            f"put the {what} itself into the bundle, or name it in {IGNORE_FILE}",
        )

    def _problem(self, path: str, kind: str, message: str) -> None:
        if self._ours(path):
            self._found.setdefault(path, ListedFile(path, None, FileProblem(kind, message)))

    def _ours(self, path: str) -> bool:
        shard, shards = self._shard
        return shard_of(path, shards) == shard


def _too_slow(slow: SlowPatternError) -> RunError:
    path, limit = posixpath.join(slow.directory, IGNORE_FILE), slow.__cause__
    assert isinstance(limit, OutOfTimeError)  # noqa: S101 - for mypy
    doing = f"match {slow.path}" if slow.path else "compile"
    took = (
        f"takes more than {limit.seconds:g} s of CPU time to {doing}"
        if limit.is_one_step
        else f"was matched last, when all patterns had taken {limit.seconds:g} s of CPU time"
    )
    return RunError(
        "IgnoreFileTooSlow",
        f"the pattern {slow.line[:200]!r} of {path} {took}, so the files of this subdir cannot be listed. Make the "
        "pattern simpler: a repetition inside of a repetition, such as (a+)+, tries all ways to divide a name. "
        "Or write globs ([core] dag_ignore_file_syntax = glob)",
    )


def shard_of(path: str, shards: int) -> int:
    """Which shard a file belongs to, from 0: the CRC-32 of its path's UTF-8, modulo their number.

    Every shard lists the whole subdir and keeps its own, so they need not talk to each other.

    Args:
        path: relative to the bundle's root.
        shards: how many there are.
    """
    return zlib.crc32(path.encode("utf-8", "surrogateescape")) % shards


class _ContentOf(Candidate):
    """A file that is being listed; its content is read once, when a loader first asks for it."""

    def __init__(self, path: str, absolute: str, suffix: str, size: int, settings: AirflowSettings) -> None:
        self.path, self.suffix, self.size, self.safe_mode = path, suffix, size, settings.safe_mode
        self._absolute = absolute
        self._content: bytes | None = None

    def content(self) -> bytes:
        if self._content is None:
            self._content = Path(self._absolute).read_bytes()
        return self._content

    def is_zip(self) -> bool:
        return zipfile.is_zipfile(self._absolute)

    def digest(self) -> str | None:
        return None if self._content is None else hashlib.sha256(self._content).hexdigest()
