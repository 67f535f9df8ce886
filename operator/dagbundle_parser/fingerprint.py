"""The fingerprint of all that every file's result depends on and no single file's closure names.

Python, the installed distributions, Airflow's configuration and plugins, the environment, the time zone, the bundle's
absolute path. It is made without importing Airflow and without reading distributions' metadata one by one.
"""

# ruff: noqa: PTH116, PTH118, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dagbundle_parser import PROTOCOL, __version__
from dagbundle_parser.request import RunRequest
from dagbundle_parser.settings import AirflowSettings

_VOLATILE = frozenset(
    {"PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME", "TERM", "COLUMNS", "LINES", "WINDOWID", "INVOCATION_ID",
     "JOURNAL_STREAM", "XDG_SESSION_ID", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"}
)  # fmt: skip
"""Variables that differ between runs of the same deployment; a DAG should not depend on them."""
ZONE_FILES = ("/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone")
"""Covered by the fingerprint instead of by closures: Python reads a zone once per process."""
_VOLATILE_PREFIXES = ("DAGBUNDLE_", "SSH_")
_MAX_TREE_FILES = 2000


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the process was started in. Read it first: importing Airflow adds to the environment and to `sys.path`.

    Attributes:
        settings: Airflow's settings that decide what is listed.
        common: the parts of the fingerprint that no request changes.
        directories: what is installed, by directory of `sys.path`.
    """

    settings: AirflowSettings
    common: Sequence[str]
    directories: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Surroundings:
        """Look around; a few milliseconds for each directory with many distributions."""
        settings = AirflowSettings.read(environ)
        directories = {directory: list(_distributions(directory)) for directory in sys.path}
        return cls(settings, list(_common_parts(settings, environ)), directories)


def fingerprint(request: RunRequest, surroundings: Surroundings) -> str:
    """The fingerprint as SHA-256 in hex.

    Args:
        request: for the bundle's name and root and for the user that files are run as.
        surroundings: everything else.
    """
    digest = hashlib.sha256()
    for part in _parts(request, surroundings):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _parts(request: RunRequest, surroundings: Surroundings) -> Iterator[str]:
    yield f"bundle {request.bundle} {request.root}"
    yield f"user {os.geteuid()} {request.run_as_user}"
    yield from surroundings.common
    for directory, distributions in surroundings.directories.items():
        if directory != request.root:
            yield from distributions


def _common_parts(settings: AirflowSettings, environ: Mapping[str, str]) -> Iterator[str]:
    yield f"parser {__version__} {PROTOCOL}"
    yield f"python {sys.version} {platform.machine()} {sys.prefix}"
    yield f"zone {time.tzname} {os.path.realpath('/etc/localtime')}"
    for path in (*ZONE_FILES, "/usr/share/zoneinfo/tzdata.zi"):
        yield f"zone {path} {_stamp(path)}"
    for name, value in sorted(environ.items()):
        if name not in _VOLATILE and not name.startswith(_VOLATILE_PREFIXES):
            yield f"env {name}={value}"
    yield f"config {_content(settings.config_file)}"
    yield from _tree(settings.plugins_folder)
    yield from _tree(os.path.join(settings.home, "config"))


def _distributions(directory: str) -> Iterator[str]:
    """Names and versions, which are in the folders' names; reinstalling one changes its RECORD's time or size."""
    yield f"path {directory}"
    try:
        names = sorted(os.listdir(directory or "."))
    except OSError:
        return
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith((".dist-info", ".egg-info")):
            yield f"dist {name} {_stamp(os.path.join(path, 'RECORD'))}"
        elif name.endswith((".pth", ".egg-link")):
            yield f"link {name} {_content(path)}"


def _tree(directory: str) -> Iterator[str]:
    count = 0
    for root, folders, files in os.walk(directory):
        folders[:] = sorted(folder for folder in folders if folder != "__pycache__")
        for name in sorted(files):
            count += 1
            path = os.path.join(root, name)
            yield f"file {path} {_content(path) if count <= _MAX_TREE_FILES else _stamp(path)}"


def _content(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "absent"


def _stamp(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError:
        return "absent"
    return f"{info.st_size} {info.st_mtime_ns}"
