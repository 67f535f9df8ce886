"""Packs the untrusted parser so that any interpreter can run it: as one zipapp, or unpacked in a cache folder.

The parser shares no environment with this side: a tenant's interpreter must not see this side's packages, so only the
parser's own files are handed over. The unpacked form exists because Python caches bytecode there and not in archives.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

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
        base.mkdir(parents=True, exist_ok=True)
        fresh = pathlib.Path(tempfile.mkdtemp(prefix="parser-", dir=base))
        fresh.chmod(0o755)  # children that drop to a spare UID read it too
        _write(fresh, files)
        try:
            fresh.rename(home)
        except OSError:
            shutil.rmtree(fresh)
            if not home.is_dir():
                raise
    compiled = home / f"compiled-{hashlib.sha256(os.path.realpath(python).encode()).hexdigest()[:16]}"
    if not compiled.exists():
        # an interpreter that cannot even do this fails for the same reason, and with its own message, when it is run
        subprocess.run([python, "-m", "compileall", "-q", str(home)], check=False, capture_output=True)
        compiled.touch()
    return home


def _cache_folder() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - keeps `~` where HOME is unknown
    folder = pathlib.Path(base) / "dagbundle"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only or missing home: the cache then lasts as long as the machine's temporary folder
        return pathlib.Path(tempfile.gettempdir()) / f"dagbundle-{os.getuid()}"
    return folder


def _write(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    build_zipapp(pathlib.Path(sys.argv[1]))
