"""What files need and cannot reach, because a folder above it is closed to others: it is shown to them at its own path.

A parser that is root reads everything; its children are spare users and hold no capability. Bundles, interpreters and
folders of `sys.path` often lie below a closed folder such as root's home. In the view of the children (scratch.py) a
folder of the run stands in for each such folder, and holds what is needed and nothing else: files and folders are
bound, links are made again. A home that is closed is covered likewise, and is theirs to write in.
"""

# ruff: noqa: PTH100, PTH101, PTH102, PTH111, PTH112, PTH115, PTH116, PTH118, PTH119, PTH120, PTH208, PTH211 - texts, as in scratch.py

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from dagbundle_parser import mounts

_MAX_LINKS = 40
_MAX_BINDS = 1000
_OF_PREFIX = ("bin", "lib", "lib64", "share", "pyvenv.cfg")
"""What children may need of a folder that Python is installed in, which may be a home."""
_READ_AND_SEARCH = stat.S_IROTH | stat.S_IXOTH


def needed_by_python() -> list[str]:
    """The paths that this interpreter imports from, and those that belong to it."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    own = [os.path.join(prefix, name) for prefix in sorted(prefixes) for name in _OF_PREFIX]
    return [*filter(None, sys.path), sys.executable, os.path.dirname(os.__file__), *own]


def closed_home() -> str:
    """The home where it is closed to others; else nothing."""
    home = os.path.realpath(os.path.expanduser("~"))
    try:
        return home if os.path.isdir(home) and not os.stat(home).st_mode & stat.S_IRWXO else ""
    except OSError:
        return ""


def is_closed(status: os.stat_result) -> bool:
    """Whether other users cannot read it, or cannot list and search it where it is a folder."""
    wanted = _READ_AND_SEARCH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    return status.st_mode & wanted != wanted


def lies_in(path: str, folder: str) -> bool:
    """Whether a path is a folder, or lies below it."""
    return path == folder or path.startswith(os.path.join(folder, ""))


class Handing:
    """Which folders are to be stood in for, and what by.

    Args:
        root: the bundle's root; empty for none.
        places: what else children must be able to read.
        seen: a folder that is to exist for them, with nothing in it.
    """

    def __init__(self, root: str, places: Iterable[str], seen: str = "") -> None:
        self._root = os.path.realpath(root) if root else ""
        self._known: dict[str, os.stat_result] = {}
        self._inner: dict[str, set[str]] = {}
        self._needed: set[str] = set()
        self._closed: set[str] = set()
        self._home = ""
        self._binds = 0
        for place in dict.fromkeys([*([root] if root else []), *places]):
            self._add(place)
        if seen and self._closed:
            self._add(seen, is_needed=False)

    @property
    def is_needless(self) -> bool:
        """Whether nothing is closed."""
        return not self._closed

    def add_home(self, home: str) -> None:
        """Have a closed home covered by a folder that children may write in, unless it is needed as it is."""
        if home in self._needed or (self._root and lies_in(home, self._root)):
            return
        self._add(home, is_needed=False)
        self._closed.add(home)
        self._home = home

    def _add(self, place: str, *, is_needed: bool = True) -> None:
        """Note what each step on the way to a place needs."""
        try:
            passed, here = self._way(place)
        except OSError:
            return  # what is not there hides nothing
        status = self._status(here)
        links = [entry for entry in passed if stat.S_ISLNK(self._status(entry).st_mode)]
        if not {self._status(link).st_uid for link in links} <= {0, status.st_uid}:
            return  # somebody else's link chooses what it is
        for entry in passed:
            self._inner.setdefault(os.path.dirname(entry), set()).add(os.path.basename(entry))
            mode = self._status(entry).st_mode
            if stat.S_ISDIR(mode) and entry != here and not mode & stat.S_IXOTH:
                self._closed.add(entry)
        if is_needed:
            self._needed.add(here)
            if stat.S_ISDIR(status.st_mode) and is_closed(status):
                self._closed.add(here)

    def _way(self, place: str) -> tuple[list[str], str]:
        """The entries that the kernel passes on the way to a place, in their order, and the place without links."""
        passed: list[str] = []
        here, rest, links = "/", os.path.abspath(place).split("/")[::-1], 0
        while rest:
            name = rest.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            entry = os.path.join(here, name)
            passed.append(entry)
            if not stat.S_ISLNK(self._status(entry).st_mode):
                here = entry
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(entry)
            rest += target.split("/")[::-1]
            here = "/" if target.startswith("/") else here
        return passed, here

    def _status(self, path: str) -> os.stat_result:
        if path not in self._known:
            self._known[path] = os.lstat(path)
        return self._known[path]

    def cover(self, gid: int, folder: str) -> list[str]:
        """Cover the closed folders, in a process that has left the machine's mount namespace.

        Args:
            gid: the group of those who may look into what stands in for them.
            folder: a new one, closed to others, for what is made.

        Returns:
            What is covered.

        Raises:
            OSError: it is not possible.
        """
        self._gid, self._folder, self._made = gid, folder, 0
        tops = self._topmost("/")
        stand_ins = [(self._stand_in(top), top) for top in tops]
        for made, top in stand_ins:  # only now: what was bound lies below them
            mounts.bind(made, top)
        return tops

    def _topmost(self, folder: str) -> list[str]:
        """The closed folders below a folder that lie in no other closed one."""
        found: list[str] = []
        for path in sorted(self._closed):
            if path != folder and lies_in(path, folder) and not any(lies_in(path, top) for top in found):
                found.append(path)
        return found

    def _stand_in(self, folder: str) -> str:
        self._made += 1
        made = os.path.join(self._folder, str(self._made))
        self._fill(folder, made)
        return made

    def _fill(self, folder: str, made: str, *, is_own_mount: bool = False) -> None:
        """Make a folder that holds what children need of another one."""
        os.mkdir(made, 0o700)
        os.chown(made, 0, self._gid)
        os.chmod(made, 0o2770 if folder == self._home else 0o750)
        if is_own_mount:
            self._bind(made, made)  # so that nobody who may write in the folder above can rename it
        is_whole = folder in self._needed
        for name in sorted(self._names(folder)):
            source, target = os.path.join(folder, name), os.path.join(made, name)
            try:
                status = os.lstat(source)
            except FileNotFoundError:
                continue  # it is gone by now
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(source), target)
            elif source in self._closed or (
                stat.S_ISDIR(status.st_mode) and not is_whole and source not in self._needed
            ):
                self._fill(source, target, is_own_mount=folder == self._home)
            else:
                os.mkdir(target) if stat.S_ISDIR(status.st_mode) else Path(target).touch()
                self._bind(source, target)
                for inner in self._topmost(source):
                    self._bind(self._stand_in(inner), target + inner[len(source) :])

    def _names(self, folder: str) -> set[str]:
        names = set(self._inner.get(folder, ()))
        if folder in self._needed:
            hidden = not (self._root and lies_in(folder, self._root))  # of no use for imports, and often secret
            names.update(name for name in os.listdir(folder) if not (hidden and name.startswith(".")))
        return names

    def _bind(self, source: str, target: str) -> None:
        self._binds += 1
        if self._binds > _MAX_BINDS:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        mounts.bind(source, target)


def is_open(folder: str) -> bool:
    """Whether any user may list and search a folder."""
    try:
        return not is_closed(os.stat(folder))
    except OSError:
        return True
