"""Packs the untrusted parser so that any interpreter can run it: as one zipapp, or unpacked in a cache folder.

The parser shares no environment with this side: a tenant's interpreter must not see this side's packages, so only the
parser's own files are handed over. The unpacked form exists because Python caches bytecode there and not in archives.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.util
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable

from dagbundle import errors

_MAIN = "from dagbundle_parser.__main__ import main\n\nmain()\n"


def source_files() -> dict[str, bytes]:
    """Return the parser's files by path below the archive's root, without importing any of them."""
    spec = importlib.util.find_spec("dagbundle_parser")
    if spec is None or spec.origin is None:
        raise errors.RunError("the package dagbundle_parser is not installed", hint="reinstall dagbundle-operator")
    package = pathlib.Path(spec.origin).parent
    files = {
        f"dagbundle_parser/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*.py"))
    }
    return files | {"__main__.py": _MAIN.encode()}


def build_zipapp(target: pathlib.Path) -> None:
    """Write the parser as one executable file that runs on Python 3.10 or newer."""
    import zipapp  # noqa: PLC0415 - an apply has its parser to start

    with tempfile.TemporaryDirectory() as folder:
        _write(pathlib.Path(folder), source_files())
        target.parent.mkdir(parents=True, exist_ok=True)
        zipapp.create_archive(folder, target, interpreter="/usr/bin/env python3", compressed=True)


def unpacked(python: str) -> pathlib.Path:
    """Return a folder that `python FOLDER` runs the parser from; made on first use, then shared by all calls.

    It is named after its content's hash, and appears whole or not at all, so that two programs may race for it.

    Args:
        python: The interpreter that will run it. Its bytecode is written here once, because a parser that runs with
            PYTHONDONTWRITEBYTECODE, or as a user who may not write here, would compile itself at every start.
    """
    files = source_files()
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    base = _cache_folder()
    home = base / f"parser-{digest}"
    if not home.is_dir():
        fresh = pathlib.Path(tempfile.mkdtemp(prefix="parser-", dir=base))
        fresh.chmod(0o755)  # children that drop to a spare UID read it too
        _write(fresh, files)
        try:
            fresh.rename(home)
        except OSError:
            shutil.rmtree(fresh)
            if not home.is_dir():
                raise
    elif not _is_our_tree(home):
        home = _private_folder() / f"parser-{digest}"
        _write(home, files)
    compiled = home / f"compiled-{hashlib.sha256(os.path.realpath(python).encode()).hexdigest()[:16]}"
    if not compiled.exists():
        # an interpreter that cannot even do this fails for the same reason, and with its own message, when it is run
        subprocess.run([python, "-m", "compileall", "-q", str(home)], check=False, capture_output=True, umask=0o022)
        compiled.touch(mode=0o644)
    return home


def _cache_folder() -> pathlib.Path:
    """Return a folder that nobody else can have written to: what lies in it is run as this user, who may be root."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - keeps `~` where HOME is unknown
    shared = pathlib.Path(tempfile.gettempdir()) / f"dagbundle-{os.geteuid()}"
    for folder in (pathlib.Path(base) / "dagbundle", shared):  # a read-only or missing home: as long as /tmp lasts
        with contextlib.suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o755)
            if _is_our_folder(folder):
                return folder
    return _private_folder()


def _private_folder() -> pathlib.Path:
    """Return a new folder, which is gone with this process."""
    folder = tempfile.mkdtemp(prefix="dagbundle-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pathlib.Path(folder).chmod(0o755)
    return pathlib.Path(folder)


def _is_our_folder(folder: pathlib.Path) -> bool:
    """Tell whether a folder is this user's alone, and nobody else can put another one in its place."""
    if not _is_ours(folder, stat.S_ISDIR):
        return False
    for parent in pathlib.Path(os.path.realpath(folder)).parents:
        status = parent.stat()
        foreign = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
        if status.st_uid not in {0, os.geteuid()} or (foreign and not status.st_mode & stat.S_ISVTX):
            return False
    return True


def _is_our_tree(folder: pathlib.Path) -> bool:
    """Tell whether all that lies in a folder, and the folder, is this user's alone."""
    if not _is_ours(folder, stat.S_ISDIR):
        return False
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    for entry in entries:
        inner = pathlib.Path(entry.path)
        if not (_is_our_tree(inner) if entry.is_dir(follow_symlinks=False) else _is_ours(inner, stat.S_ISREG)):
            return False
    return True


def _is_ours(path: pathlib.Path, is_kind: Callable[[int], bool]) -> bool:
    status = path.lstat()
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _write(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        for made in (*reversed(path.parents[: len(pathlib.PurePath(name).parents)]), path):
            if made == path:
                path.write_bytes(data)
                path.chmod(0o644)
            elif not made.is_dir():
                made.mkdir(parents=True)
                made.chmod(0o755)  # whatever the umask is


if __name__ == "__main__":
    build_zipapp(pathlib.Path(sys.argv[1]))
