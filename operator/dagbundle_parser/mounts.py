"""The few calls by which a process gets a view of the file system of its own: a mount namespace and binds in it.

Used by what makes the view of a run's children: scratch.py, handing.py and copies.py. A path is opened folder by folder
and without following links, because others may own folders on the way and put links in their place meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator

from dagbundle_parser.descent import LIBC

_CLONE_NEWNS = 0x0002_0000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 1 << 19


def separate() -> None:
    """Leave the machine's mount namespace for one of this process's own.

    It follows what is mounted and unmounted in the machine's, and changes nothing there.

    Raises:
        OSError: the kernel, the container or its seccomp profile does not allow it.
    """
    if LIBC is None:
        raise OSError
    _check(LIBC.unshare(_CLONE_NEWNS))
    _check(LIBC.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))


def current() -> int:
    """A descriptor of this process's mount namespace.

    Raises:
        OSError: there is no /proc.
    """
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def enter(view: int) -> None:
    """Enter a mount namespace; the working folder and the root are then its root.

    Raises:
        OSError: it is not allowed.
    """
    _check(LIBC.setns(view, _CLONE_NEWNS) if LIBC else -1)


def bind(source: str, target: str) -> None:
    """Show a file or a folder, with what is mounted in it, at another path.

    Args:
        source: a path without links.
        target: a path without links, to a file if the source is a file, else to a folder.

    Raises:
        OSError: it is not allowed, or one of them is not there.
    """
    with opened(source) as shown:
        bind_at(shown, target)


def bind_at(shown: int, target: str) -> None:
    """Do the same with a descriptor of what is shown.

    Raises:
        OSError: see `bind`.
    """
    if LIBC is None:
        raise OSError
    with opened(target) as place:
        flags = ctypes.c_ulong(_MS_BIND | _MS_REC)
        _check(LIBC.mount(via(shown).encode(), via(place).encode(), None, flags, None))


def via(descriptor: int) -> str:
    """A path that leads to what a descriptor of this process holds."""
    return f"/proc/self/fd/{descriptor}"


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """Hold a place, by a path none of whose parts is a link.

    Raises:
        OSError: it is not there, or a part is a link.
    """
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in filter(None, path.split("/")):
            inner = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = inner
        if stat.S_ISLNK(os.fstat(here).st_mode):
            raise NotADirectoryError(path)
        yield here
    finally:
        os.close(here)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
