"""What the spare users of one run share: a folder to write in, seen where temporary files usually are.

As root each child has a user of its own, so a file that one of them makes among the temporary files is closed to the
next, and in stock Airflow it is not. Here the children of a run enter a mount namespace in which a folder of the run
covers the one for temporary files. What lay there before is seen in it as before. The path stays, because DAGs hold it.
In the same namespace they are handed what they need and cannot reach (handing.py, copies.py). Made by the sandbox; the
keeper removes the folder.
"""

# ruff: noqa: PTH101, PTH102, PTH106, PTH109, PTH115, PTH116, PTH118, PTH208, PTH211 - the sandbox around it speaks in descriptors and texts, too

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from dagbundle_parser import mounts
from dagbundle_parser.copies import Copies
from dagbundle_parser.errors import RunError
from dagbundle_parser.handing import Handing, closed_home, lies_in

PREFIX = "dagbundle-scratch-"
"""The names of such folders, whose rest is random."""
UMASK = 0o002
"""In the children: what one of them writes, the others may change, as their group."""
_MAX_ENTRIES = 1000
_TRIES = 10
_MAX_WORD_BYTES = 1 << 16


class Scratch:
    """The folder of one run, and the view in which it covers others; both last as long as this process.

    Args:
        view: a descriptor of the mount namespace.
        held: a descriptor of the folder, whose lock says that it is in use.
        path: the folder.
        gid: the group that may write in it.
        umask: what children do not allow others in what they make; None for what it is already.
    """

    def __init__(self, view: int, held: int, path: str, gid: int, umask: int | None) -> None:
        self.gid = gid
        self._view, self._held, self._path, self._umask = view, held, path, umask

    def enter(self) -> None:
        """Let this process, a child that is still root, see the folder in place of what it covers."""
        folder = ""
        with contextlib.suppress(OSError):
            folder = os.getcwd()
        mounts.enter(self._view)
        with contextlib.suppress(OSError):
            os.chdir(folder)  # else it is the root of the namespace
        if self._umask is not None:
            os.umask(self._umask)

    def remove(self) -> None:
        """Remove the folder at once, where there is no keeper."""
        os.close(self._view)
        os.close(self._held)
        remove(self._path)


@dataclasses.dataclass(frozen=True)
class _View:
    """What a view shows.

    Attributes:
        outer: the run's folder.
        shared: the folder of temporary files that is covered; empty for none.
        handing: what is stood in for.
        root: the root of the bundle whose closed content is copied; empty for none.
        gid: the group of the children.
        spare: the UIDs of children, of this run and of others.
    """

    outer: str
    shared: str
    handing: Handing
    root: str
    gid: int
    spare: Collection[int]


def make(
    gid: int, spare: Collection[int], handing: Handing, bundle: tuple[str, bool], bequeath: Callable[[str], None]
) -> Scratch | None:
    """Make a run's folder and the view; None where that is impossible, or not safe.

    Args:
        gid: the group of its children, which no other run has.
        spare: the UIDs of children, of this run and of others.
        handing: what children need.
        bundle: its root, empty for none, and whether closed content of it is needed.
        bequeath: has the folder removed when the run has ended.

    Raises:
        RunError: the bundle's closed content cannot be copied.
    """
    root, is_closed = os.path.realpath(bundle[0]) if bundle[0] else "", bundle[1]
    try:
        temporary = os.path.realpath(tempfile.gettempdir())
        if root and lies_in(temporary, root):
            return None
        shared = temporary if _is_shared(temporary) else ""
        if not (shared and root) and handing.is_needless and not is_closed:
            return None
        home = closed_home()
        if home and shared and not lies_in(shared, home):
            handing.add_home(home)
        _sweep(temporary)
        outer, held = _fresh(temporary)
        bequeath(outer)
        view = _made(_View(outer, shared, handing, root if is_closed else "", gid, spare))
    except OSError:
        return None
    if isinstance(view, int):
        return Scratch(view, held, outer, gid, UMASK if shared else None)
    os.close(held)
    remove(outer)
    if view is not None:
        raise view
    return None


def _is_shared(folder: str) -> bool:
    """Whether a folder is one where every user makes temporary files, which they reach, and which is not too full."""
    status = os.lstat(folder)
    everybody = stat.S_ISVTX | stat.S_IRWXO
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & everybody != everybody:
        return False
    return len(os.listdir(folder)) <= _MAX_ENTRIES and all(
        os.stat(above).st_mode & stat.S_IXOTH for above in Path(folder).parents
    )


def _fresh(shared: str) -> tuple[str, int]:
    """A new folder, closed to all others, and its descriptor.

    Raises:
        OSError: none can be made.
    """
    for _ in range(_TRIES):
        outer = tempfile.mkdtemp(prefix=PREFIX, dir=shared)
        held = _hold(outer)
        if held is not None:
            return outer, held
    raise FileNotFoundError(shared)  # other runs sweep each one before it is held


def _hold(folder: str) -> int | None:
    """Take the lock of such a folder, which a process that ends gives back; None where another one has it."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(held).st_uid == os.geteuid() and os.path.samestat(os.fstat(held), os.lstat(folder)):
            return held
    except OSError:
        pass
    os.close(held)
    return None


def _made(view: _View) -> int | RunError | None:
    """The descriptor of a mount namespace, made in a process that ends; or why there is none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                socket.send_fds(theirs, [b"\0"], [_mounted(view)])
            except RunError as error:
                theirs.sendall(f"{error.kind} {error}".encode("utf-8", "surrogateescape")[:_MAX_WORD_BYTES])
            finally:
                os._exit(0)
        theirs.close()
        word, views, _, _ = socket.recv_fds(ours, _MAX_WORD_BYTES, 1)
    os.waitpid(pid, 0)
    for descriptor in views:
        os.set_inheritable(descriptor, False)
        return descriptor
    kind, _, message = word.decode("utf-8", "replace").partition(" ")
    return RunError(kind, message) if message else None


def _mounted(view: _View) -> int:
    """Leave the machine's mount namespace for one of this process's own, and cover folders there.

    Raises:
        OSError: the kernel, the container or its seccomp profile does not allow it.
        RunError: the bundle's closed content cannot be copied.
    """
    before = os.stat("/")
    mounts.separate()
    for name in ("hands", "copies", "tmp"):
        os.mkdir(os.path.join(view.outer, name), 0o700)
    copies = Copies(view.root, view.gid, os.path.join(view.outer, "copies")) if view.root else None
    if copies is not None:
        copies.make()
    covered = view.handing.cover(view.gid, os.path.join(view.outer, "hands"))
    if copies is not None:
        copies.cover()
    if view.shared:  # at last: it covers the run's folder, too
        folder = os.path.join(view.outer, "tmp")
        os.chown(folder, 0, view.gid)
        os.chmod(folder, 0o2770)  # noqa: S103 - the group is that of the run
        _show(view, folder, covered)
        mounts.bind(folder, view.shared)
    descriptor = mounts.current()
    mounts.enter(descriptor)  # as children do
    if not os.path.samestat(before, os.stat("/")):
        raise OSError  # a process with another root would leave it
    return descriptor


def _show(view: _View, folder: str, covered: Collection[str]) -> None:
    """Show what lies among the temporary files in a folder too, apart from what earlier children left there.

    An entry that is closed to others needs no mount: one that says the same of itself takes its place.
    """
    with os.scandir(view.shared) as scanned:
        entries = list(scanned)
    for entry in entries:
        path = os.path.join(folder, entry.name)
        try:
            status = entry.stat(follow_symlinks=False)
            if entry.name.startswith(PREFIX) or status.st_uid in view.spare:
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), path)
                continue
            is_folder = entry.is_dir()
            os.mkdir(path) if is_folder else os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            if _is_out_of_reach(status) and status.st_gid not in view.spare and entry.path not in covered:
                _imitate(path, status)
            else:
                mounts.bind(entry.path, path)
        except FileNotFoundError:  # it is gone by now
            continue


def _is_out_of_reach(status: os.stat_result) -> bool:
    """Whether other users can neither look into it nor write to it: more than that they cannot read it."""
    if stat.S_ISDIR(status.st_mode):
        return not status.st_mode & stat.S_IRWXO
    return stat.S_ISREG(status.st_mode) and not status.st_mode & (stat.S_IROTH | stat.S_IWOTH)


def _imitate(path: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        os.truncate(path, status.st_size)
    os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, status.st_mode & 0o1777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _sweep(shared: str) -> None:
    """Remove the folders of runs whose processes were all killed."""
    for name in os.listdir(shared):
        if name.startswith(PREFIX):
            remove(os.path.join(shared, name))


def remove(path: str) -> None:
    """Remove the folder of a run that has ended, as far as that is possible; no other one."""
    if not Path(path).name.startswith(PREFIX):
        return
    with contextlib.suppress(OSError):
        held = _hold(path)
        if held is not None:
            try:
                if not os.fstat(held).st_mode & 0o077:
                    _empty(held)
                    os.rmdir(path)
            finally:
                os.close(held)


def _empty(top: int) -> None:
    """Remove all that lies in a folder, however deep: what lies in a folder below it is moved up first."""
    count = 0
    while names := os.listdir(top):
        for name in names:
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                for item in os.listdir(inner):
                    if _is_folder(item, inner):
                        count += 1
                        os.rename(item, f"moved-{count}", src_dir_fd=inner, dst_dir_fd=top)
                    else:
                        os.unlink(item, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
