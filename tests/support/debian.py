"""Programs of Debian's packages for tests, unpacked beside the checkout: nothing is installed, so nobody need be root.

What a package's programs need of other packages comes with it, where this machine lacks it. apt checks signatures as
ever. Its lists and archives lie in a folder of our own, so that another apt may run at the same time.

`python -m support.debian PACKAGE FOLDER` unpacks one.
"""

from __future__ import annotations

import getpass
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile


def unpack(package: str, folder: pathlib.Path) -> None:
    """Unpack a package, and those that it needs and this machine lacks.

    Args:
        package: Its name in this machine's Debian.
        folder: Where to; it is made.

    Raises:
        RuntimeError: There is no apt, or it failed; with what it printed.
    """
    if not shutil.which("apt-get"):
        raise RuntimeError(f"There is no apt-get here: install {package} by your own system's means")
    with tempfile.TemporaryDirectory(prefix="dagbundle-apt-") as name:
        state, archives = pathlib.Path(name, "state"), pathlib.Path(name, "cache", "archives")
        for place in (state / "lists" / "partial", archives / "partial", folder):
            place.mkdir(parents=True, exist_ok=True)
        options = {
            "Dir::State": state,
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": archives.parent,
            "APT::Sandbox::User": getpass.getuser(),
            "Debug::NoLocking": 1,
        }
        apt = ["apt-get", "--quiet=2", *(f"--option={key}={value}" for key, value in options.items())]
        _run(*apt, "update")
        _run(*apt, "install", "--download-only", "--yes", "--no-install-recommends", "--reinstall", package)
        for archive in sorted(archives.glob("*.deb")):
            _run("dpkg-deb", "--extract", str(archive), str(folder))


def _run(*line: str) -> None:
    done = subprocess.run(
        line,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    unpack(sys.argv[1], pathlib.Path(sys.argv[2]))
