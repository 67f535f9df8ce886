"""Closed files and folders of a bundle, for children that are not root: copies cover them in the children's view.

Where an archive was extracted as root, or with a strict umask, root alone can read its DAG files. They are copied into
the run's folder, readable for the group of the run, and the copies are bound over the originals. The bundle may belong
to another user, who may change it meanwhile. So each entry is opened in its folder, links are not followed, and of
closed entries only those of the root folder's owner are copied. A copy holds nothing that this owner cannot read, and
nothing outside of the bundle.
"""

# ruff: noqa: PTH101, PTH102, PTH118, PTH208, PTH211 - descriptors, and texts, as in scratch.py

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from dagbundle_parser import mounts
from dagbundle_parser.errors import RunError
from dagbundle_parser.handing import is_closed

MAX_BYTES = 512 << 20
MAX_ENTRIES = 100_000
_MAX_COVERS = 20
"""A folder in which more entries are closed is covered itself: each entry that is covered is a mount."""
_MAX_DEPTH = 200
_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LEFT = ".git"
"""Not copied: large, of no use for other users (Git refuses it), and it may hold the credentials of a checkout."""


class _Folder(NamedTuple):
    """A folder of the bundle: its descriptor, its path, and how deep below the root it lies."""

    held: int
    path: str
    depth: int

    def inner(self, name: str, held: int) -> _Folder:
        return _Folder(held, os.path.join(self.path, name), self.depth + 1)


class Copies:
    """The copies of one bundle's closed content.

    Args:
        root: the bundle's root, a path without links.
        gid: the group of those who may read the copies.
        folder: a new one, closed to others, for the copies.
    """

    def __init__(self, root: str, gid: int, folder: str) -> None:
        self._root, self._gid, self._folder = root, gid, folder
        self._bytes = self._entries = 0
        self._owner = -1
        self._covers: list[tuple[str, str]] = []

    def make(self) -> None:
        """Copy what is closed, in a process that has left the machine's mount namespace.

        Raises:
            OSError: it is not possible.
            RunError: `BundleClosed`: it is too much; `BundleChanged`: it changed meanwhile.
        """
        with mounts.opened(self._root) as held:
            self._owner = os.fstat(held).st_uid
            top = os.open(mounts.via(held), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._walk(_Folder(top, self._root, 0))
        finally:
            os.close(top)

    def cover(self) -> None:
        """Cover the originals, after `make` and after all that covers folders above them.

        Raises:
            OSError: it is not possible.
            RunError: `BundleChanged`.
        """
        for made, path in self._covers:
            _cover(made, path)

    def _walk(self, folder: _Folder) -> None:
        """Copy what is closed in a folder that itself is open, or stood in for."""
        entries = [entry for entry in self._entries_of(folder) if not _is_left(folder, entry[0])]
        closed = [entry for entry in entries if _is_closed(entry[1])]
        if len(closed) > _MAX_COVERS:
            self._cover_whole(folder)
        else:
            for name, status in closed:
                self._copy(folder, name, status, self._new(os.path.join(folder.path, name)))
        for name, status in entries:
            if stat.S_ISDIR(status.st_mode) and not _is_closed(status) and folder.depth < _MAX_DEPTH:
                held = self._opened(folder, name, _FOLDER)
                try:
                    self._walk(folder.inner(name, held))
                finally:
                    os.close(held)

    def _cover_whole(self, folder: _Folder) -> None:
        """Cover a folder by one with copies of its files, in which its open folders are bound."""
        made = self._new(folder.path)
        os.mkdir(made, 0o700)
        for name, status in self._entries_of(folder):
            target = os.path.join(made, name)
            if stat.S_ISDIR(status.st_mode) and (_is_left(folder, name) or not _is_closed(status)):
                os.mkdir(target)
                held = self._opened(folder, name, _FOLDER)
                try:
                    mounts.bind_at(held, target)
                finally:
                    os.close(held)
            else:
                self._copy(folder, name, status, target)
        self._give(made, 0o750, os.fstat(folder.held))

    def _entries_of(self, folder: _Folder) -> Iterator[tuple[str, os.stat_result]]:
        for name in os.listdir(folder.held):
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise self._too_much(f"it has over {MAX_ENTRIES:,} files")
            try:
                yield name, os.stat(name, dir_fd=folder.held, follow_symlinks=False)
            except FileNotFoundError:
                continue  # it is gone by now

    def _new(self, path: str) -> str:
        self._covers.append((os.path.join(self._folder, str(len(self._covers))), path))
        return self._covers[-1][0]

    def _copy(self, folder: _Folder, name: str, status: os.stat_result, made: str) -> None:
        """Copy an entry; what is not to be copied gets a place that is as closed as it is."""
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=folder.held), made)
            os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(made, 0o700)
            held = self._opened(folder, name, _FOLDER)
            try:
                self._copy_content(folder.inner(name, held), made)
            finally:
                os.close(held)
        else:
            target = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if stat.S_ISREG(status.st_mode) and self._copy_file(folder, name, target):
                    self._give(made, 0o750 if status.st_mode & 0o111 else 0o640, status)
            finally:
                os.close(target)

    def _copy_content(self, folder: _Folder, made: str) -> None:
        status = os.fstat(folder.held)
        if folder.depth > _MAX_DEPTH or not self._may_copy(status):
            return
        for name, inner in self._entries_of(folder):
            self._copy(folder, name, inner, os.path.join(made, name))
        self._give(made, 0o750, status)

    def _copy_file(self, folder: _Folder, name: str, target: int) -> bool:
        source = self._opened(folder, name, _FILE)
        try:
            before, around = os.fstat(source), os.fstat(folder.held)
            is_linked = before.st_nlink > 1 and (around.st_mode & 0o022 or around.st_uid != self._owner)
            if not stat.S_ISREG(before.st_mode) or not self._may_copy(before) or (is_linked and _is_closed(before)):
                return False  # a hard link may be the work of who cannot read it
            while data := os.read(source, _CHUNK):
                self._bytes += len(data)
                if self._bytes > MAX_BYTES:
                    raise self._too_much(f"there are over {MAX_BYTES >> 20} MiB of it")
                while data:
                    data = data[os.write(target, data) :]
            after = os.fstat(source)
        finally:
            os.close(source)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise _changed(os.path.join(folder.path, name))
        return True

    def _may_copy(self, status: os.stat_result) -> bool:
        return status.st_uid == self._owner or not _is_closed(status)

    def _opened(self, folder: _Folder, name: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=folder.held)
        except OSError as error:  # something else has taken its place
            raise _changed(os.path.join(folder.path, name)) from error

    def _give(self, made: str, mode: int, status: os.stat_result) -> None:
        os.chown(made, 0, self._gid)
        os.chmod(made, mode)
        os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _too_much(self, what: str) -> RunError:
        return RunError(
            "BundleClosed",
            f"files in {self._root} are closed to others. They are parsed as users that are not root, for whom what is "
            f"closed is copied, and {what}. Open it (chmod -R o+rX {self._root}), or set the subdir's runAsUser to a "
            "user that may read it",
        )


def _cover(made: str, path: str) -> None:
    try:
        mounts.bind(made, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _changed(path) from error


def _is_left(folder: _Folder, name: str) -> bool:
    return folder.depth == 0 and name == _LEFT


def _is_closed(status: os.stat_result) -> bool:
    return (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)) and is_closed(status)


def _changed(path: str) -> RunError:
    return RunError("BundleChanged", f"{path} changed while the run began: try again")
