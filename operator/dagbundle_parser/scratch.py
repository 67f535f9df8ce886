"""The folder in which the files of one run write, where they are not the parser's user: TMPDIR and HOME in one.

Each of them is a user of its own there, and so could not write what another one made among the machine's temporary
files. The folder's path is the same at each run of a subdir, because DAGs may hold it, and nobody else's folder or link
of that name is ever used. The keeper takes it away when the run has ended.
"""

# ruff: noqa: PTH101, PTH102, PTH118, PTH208 - the sandbox around it speaks in descriptors and texts, too

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile

from dagbundle_parser import keeper

VARIABLES = ("TMPDIR", "TMP", "TEMP", "HOME")
"""What leads to it."""
UMASK = 0o002
"""In the children: what one of them writes, the others may change."""


def make(name: str, uid: int, gid: int) -> str | None:
    """Make a run's folder, and return its path; None where there can be none.

    Args:
        name: tells this run from others that may go on at the same time, and is the same next time.
        uid: who owns it.
        gid: whose group may write to it.
    """
    parent = os.path.realpath(tempfile.gettempdir())
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    with contextlib.suppress(OSError):
        outer = _taken(os.path.join(parent, f"dagbundle-run-{digest}"))
        if outer is None:
            outer = tempfile.mkdtemp(prefix=f"dagbundle-run-{digest}-", dir=parent)
        keeper.bequeath(outer)
        os.chmod(outer, 0o711)  # noqa: S103 - its users pass through it, and nobody lists it
        inner = os.path.join(outer, "tmp")
        os.mkdir(inner, 0o700)
        os.chown(inner, uid, gid)
        os.chmod(inner, 0o2770)  # noqa: S103 - the group is that of the run
        return inner
    return None


def _taken(path: str) -> str | None:
    """Take a folder by its path, empty; None where somebody else has it. It is held until this process ends."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(held)
    try:
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(path)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for entry in os.listdir(path):  # of a run whose keeper was killed; only this user can write to the folder
            shutil.rmtree(os.path.join(path, entry))
    except OSError:
        os.close(held)
        return None
    return path


def enter(path: str) -> None:
    """Let this process, a child, write there and nowhere else by default."""
    os.environ.update(dict.fromkeys(VARIABLES, path))
    tempfile.tempdir = None  # looked up anew
    os.umask(UMASK)
