"""A real PgBouncer before the tests' PostgreSQL, with the settings that Debian's package has, but transaction pooling.

Its program is the system's where it has one, else the one that `make` unpacks from Debian's package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psycopg
import pytest

from support import postgres

PLACE = pathlib.Path(__file__).parents[2] / ".venvs" / "pgbouncer"
"""Where `make` unpacks the package."""
_USER = "tester"
_PASSWORD = "secret"


@dataclasses.dataclass(frozen=True)
class PgBouncer:
    """A running pooler."""

    port: int
    log: pathlib.Path

    def url(self, direct: str) -> str:
        """Return the URL that leads through the pooler to the database of a URL that does not."""
        return f"postgresql://{_USER}:{_PASSWORD}@127.0.0.1:{self.port}/{direct.rpartition('/')[2]}"

    def ask(self, question: str) -> list[dict[str, object]]:
        """Return what its console shows, such as `SHOW CONFIG`."""
        with psycopg.connect(self.url("/pgbouncer"), autocommit=True, prepare_threshold=None) as console:
            # the console understands plain queries only
            cursor = psycopg.ClientCursor(console, row_factory=psycopg.rows.dict_row)
            return cursor.execute(question).fetchall()  # type: ignore[call-overload] # the tests' own text


@contextlib.contextmanager
def running_pgbouncer(server: postgres.PostgresServer, **settings: object) -> Iterator[PgBouncer]:
    """Start a pooler before a server, on a free port, and stop it at the end.

    Args:
        server: Where it connects to.
        settings: Of its configuration file, where they are not those of Debian's package.

    Raises:
        RuntimeError: No program was found, or it did not start; with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="dagbundle-pgbouncer-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        program, libraries = _program(folder)
        (folder / "users.txt").write_text(f'"{_USER}" "{_PASSWORD}"\n')
        port = postgres.free_port()
        chosen: dict[str, object] = {
            # as in Debian's file, but for the places
            "logfile": folder / "log.txt", "pidfile": folder / "pid", "unix_socket_dir": "",
            "listen_addr": "127.0.0.1", "listen_port": port, "auth_type": "md5", "auth_file": folder / "users.txt",
            "pool_mode": "transaction", "admin_users": _USER, **settings,
        }  # fmt: skip
        lines = "\n".join(f"{key} = {value}" for key, value in chosen.items())
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(f"[databases]\n* = host=127.0.0.1 port={server.port}\n\n[pgbouncer]\n{lines}\n")
        postgres.give_away(folder)
        environment = {**postgres.environment(), "LD_LIBRARY_PATH": str(libraries)}
        process = subprocess.Popen(
            [program, configuration], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=folder, env=environment, start_new_session=True, **postgres.identity(),
        )  # fmt: skip
        try:
            pooler = PgBouncer(port, folder / "log.txt")
            _wait(pooler, process)
            yield pooler
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: postgres.PostgresServer) -> Iterator[PgBouncer]:
    """One pooler for the whole session."""
    with running_pgbouncer(postgres_server) as pooler:
        yield pooler


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, postgres_url: str) -> str:
    """A database of a test's own, with all tables, through the pooler."""
    return pgbouncer.url(postgres_url)


def _wait(pooler: PgBouncer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + postgres.START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(pooler.url("/postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    printed = pooler.log.read_text(errors="replace")[-4000:] if pooler.log.exists() else "nothing"
    raise RuntimeError(f"PgBouncer did not start: {printed}")


def _program(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the program, and where its libraries lie: the system's, or a copy that an unprivileged UID can run."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    if found := shutil.which("pgbouncer", path=search):
        return pathlib.Path(found), pathlib.Path("/nowhere")
    if not (PLACE / "usr" / "sbin" / "pgbouncer").exists():
        raise RuntimeError("No PgBouncer was found: run `make pgbouncer`, or install it by your own system's means")
    copy = folder / "program"
    shutil.copytree(PLACE / "usr", copy, symlinks=True, ignore=shutil.ignore_patterns("share"))
    (library,) = {path.parent for path in copy.glob("lib/*/*.so.*")} or {copy}
    return copy / "sbin" / "pgbouncer", library
