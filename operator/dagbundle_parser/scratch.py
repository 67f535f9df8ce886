"""What the spare users of one run share: a folder to write in, seen where temporary files usually are.

As root each child has a user of its own, so a file that one of them makes among the temporary files is closed to the
next, and in stock Airflow it is not. Here the children of a run enter a mount namespace in which a folder of the run
covers the one for temporary files. What lay there before is seen in it as before. The path stays, because DAGs hold it.
A home that is closed to the children is covered likewise. Made by the sandbox; the keeper removes the folder.
"""

# ruff: noqa: PTH101, PTH102, PTH106, PTH109, PTH115, PTH116, PTH118, PTH208, PTH211 - the sandbox around it speaks in descriptors and texts, too

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from dagbundle_parser.descent import LIBC

PREFIX = "dagbundle-scratch-"
"""The names of such folders, whose rest is random."""
UMASK = 0o002
"""In the children: what one of them writes, the others may change, as their group."""
_MAX_ENTRIES = 1000
_TRIES = 10
_CLONE_NEWNS = 0x0002_0000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 1 << 19


class Scratch:
    """The folder of one run, and the view in which it covers others; both last as long as this process.

    Args:
        view: a descriptor of the mount namespace.
        held: a descriptor of the folder, whose lock says that it is in use.
        gid: the group that may write in it.
    """

    def __init__(self, view: int, held: int, gid: int) -> None:
        self.gid = gid
        self._view, self._held = view, held

    def enter(self) -> None:
        """Let this process, a child that is still root, see the folder in place of what it covers."""
        folder = ""
        with contextlib.suppress(OSError):
            folder = os.getcwd()
        _check(LIBC.setns(self._view, _CLONE_NEWNS) if LIBC else -1)
        with contextlib.suppress(OSError):
            os.chdir(folder)  # else it is the root of the namespace
        os.umask(UMASK)


def make(gid: int, spare: Collection[int], root: str, home: str, bequeath: Callable[[str], None]) -> Scratch | None:
    """Make a run's folder and the view; None where that is impossible, or not safe.

    Args:
        gid: the group of its children, which no other run has.
        spare: the UIDs of children, of this run and of others.
        root: the bundle's root.
        home: a folder to cover likewise, in which nothing is shown; empty for none.
        bequeath: has the folder removed when the run has ended.
    """
    try:
        shared = os.path.realpath(tempfile.gettempdir())
        if LIBC is None or not _is_shared(shared) or _lies_in(shared, os.path.realpath(root)):
            return None
        _sweep(shared)
        outer, held = _fresh(shared)
        bequeath(outer)
        covered = {home: os.path.join(outer, "home")} if home and not _lies_in(shared, home) else {}
        covered[shared] = os.path.join(outer, "tmp")  # at last: it covers the new folder, too
        view = _view(covered, shared, gid, spare)
    except OSError:
        return None
    if view is None:
        os.close(held)
        remove(outer)
        return None
    return Scratch(view, held, gid)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _is_shared(folder: str) -> bool:
    """Whether a folder is one where every user makes temporary files."""
    status = os.lstat(folder)
    everybody = stat.S_ISVTX | stat.S_IRWXO
    return stat.S_ISDIR(status.st_mode) and status.st_mode & everybody == everybody


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


def _view(covered: dict[str, str], shared: str, gid: int, spare: Collection[int]) -> int | None:
    """The descriptor of a mount namespace in which folders cover others, made in a process that ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                socket.send_fds(theirs, [b"\0"], [_mounted(covered, shared, gid, spare)])
            finally:
                os._exit(0)
        theirs.close()
        _, views, _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(pid, 0)
    for view in views:
        os.set_inheritable(view, False)
    return views[0] if views else None


def _mounted(covered: dict[str, str], shared: str, gid: int, spare: Collection[int]) -> int:
    """Leave the machine's mount namespace for one of this process's own, and cover folders there.

    Raises:
        OSError: the kernel, the container or its seccomp profile does not allow it.
    """
    libc = LIBC
    if libc is None:
        raise OSError
    before = os.stat("/")
    _check(libc.unshare(_CLONE_NEWNS))
    # this namespace follows what is mounted and unmounted in the machine's, and changes nothing there
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))
    for place, folder in covered.items():
        os.mkdir(folder, 0o700)
        os.chown(folder, 0, gid)
        os.chmod(folder, 0o2770)  # noqa: S103 - the group is that of the run
        if place == shared:
            _show(place, folder, spare)
        _bind(folder, place)
    view = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _check(libc.setns(view, _CLONE_NEWNS))  # as children do
    if not os.path.samestat(before, os.stat("/")):
        raise OSError  # a process with another root would leave it
    return view


def _show(place: str, folder: str, spare: Collection[int]) -> None:
    """Show what lies in a place in a folder too, apart from what earlier children left there."""
    with os.scandir(place) as scanned:
        entries = list(scanned)
    if len(entries) > _MAX_ENTRIES:
        raise OSError
    for entry in entries:
        path = os.path.join(folder, entry.name)
        try:
            if entry.name.startswith(PREFIX) or entry.stat(follow_symlinks=False).st_uid in spare:
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), path)
                continue
            os.mkdir(path) if entry.is_dir() else os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            _bind(entry.path, path)
        except FileNotFoundError:  # it is gone by now
            continue


def _bind(source: str, target: str) -> None:
    if LIBC is not None:
        flags = ctypes.c_ulong(_MS_BIND | _MS_REC)
        _check(LIBC.mount(os.fsencode(source), os.fsencode(target), None, flags, None))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


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
