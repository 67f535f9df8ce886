"""What the images of tests stand on: Debian with Python, and virtual environments that are made here and run there.

The base is made by debootstrap and kept, as that takes most of a minute. A virtual environment is built by this
machine's own Python 3.11, which must be Debian's as it is in the image: then the path of the interpreter is right in
both.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from e2e.cluster import layout
from e2e.cluster.errors import ClusterError
from e2e.cluster.images import Image, Layer, layer_of
from e2e.cluster.processes import run

PYTHON = pathlib.Path("/usr/bin/python3.11")
_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_UNNEEDED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale")


def debian() -> Image:
    """Return Debian 12 with Python 3.11; made the first time, which needs root and takes most of a minute.

    `DAGBUNDLE_CLUSTER_DEBIAN` names another mirror than debootstrap's own.
    """
    key = hashlib.sha256(repr((_SUITE, _PACKAGES, _UNNEEDED)).encode()).hexdigest()[:12]
    path = layout.layers() / f"debian-{_SUITE}-{key}.gz"
    with layout.lock("base"):
        layer = Layer.recall(path) or _bootstrap(path)
    return Image((layer,))


def _bootstrap(path: pathlib.Path) -> Layer:
    mirror = os.environ.get("DAGBUNDLE_CLUSTER_DEBIAN")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        root = pathlib.Path(folder) / "root"
        include = f"--include={','.join(_PACKAGES)}"
        run("debootstrap", "--variant=minbase", include, _SUITE, root, *([mirror] if mirror else []))
        for name in _UNNEEDED:
            for inside in (root / name).iterdir():
                shutil.rmtree(inside) if inside.is_dir() and not inside.is_symlink() else inside.unlink()
        # Debian compiled its Python files by their times, and its users own theirs
        layer = layer_of(root, keep_owners=True, keep_times=True, path=path)
    layer.remember()
    return layer


def unpack(package: str, folder: pathlib.Path) -> None:
    """Unpack a package of this machine's Debian, which must be the image's, into a folder; nothing is installed."""
    with tempfile.TemporaryDirectory() as name:
        run("apt-get", "update", "--quiet=2")
        # as root, since apt's own user may not write where nobody else may look
        options = ("--quiet=2", "--option=APT::Sandbox::User=root")
        run("sh", "-c", 'cd "$0" && exec apt-get download "$@"', name, *options, package)
        (archive,) = pathlib.Path(name).glob("*.deb")
        run("dpkg-deb", "--extract", archive, folder)


def virtualenv_layer(
    uv: pathlib.Path,
    *requirements: str,
    prefix: str = "/opt/dagbundle",
    uid: int = 0,
    gid: int = 0,
    path: pathlib.Path | None = None,
) -> Layer:
    """Make a layer that has a virtual environment at `prefix`, all of it compiled.

    Args:
        uv: The program that installs, with the index that it is configured for.
        requirements: Arguments of `uv pip install`, such as `--require-hashes -r requirements/runtime.txt` or a wheel.
        prefix: Where it lies in the image.
        uid: Whom it belongs to.
        gid: Which group it belongs to.
        path: Where to write it; see `layer_of`.

    Raises:
        ClusterError: This machine's Python is not the image's, or uv could not install something.
    """
    if not PYTHON.exists():
        raise ClusterError(
            f"{PYTHON} is missing: virtual environments for images are built on Debian 12, with python3-venv"
        )
    layout.runs().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.runs()) as folder:
        place = pathlib.Path(folder) / "venv"
        # what is set for the project's own environment must not lead elsewhere
        clean = {"VIRTUAL_ENV": str(place), "PYTHONDONTWRITEBYTECODE": ""}
        run(uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", str(PYTHON), place, environment=clean)
        python = place / "bin" / "python"
        run(uv, "pip", "install", "--quiet", "--python", str(python), *requirements, environment=clean)
        compile_all(place, prefix)
        return layer_of(place, prefix, uid, gid, path=path)


def compile_all(place: pathlib.Path, prefix: str) -> None:
    """Compile everything for where it will lie; what is not for this Python, such as a template, stays as it is."""
    line = [str(place / "bin" / "python"), "-m", "compileall", "-q", "-s", str(place), "-p", prefix]
    line += ["--invalidation-mode", "unchecked-hash", str(place / "lib")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
