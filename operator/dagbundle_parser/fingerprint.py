"""The fingerprint of all that every file's result depends on and no single file's closure names.

Python, what is installed, importable folders that no distribution owns, Airflow's configuration and plugins, its and
Python's variables, the time zone. It is made without importing Airflow. It names nothing of this machine: the same
files in another folder, with another AIRFLOW_HOME or of another user have the same.
"""

# ruff: noqa: PTH118 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import configparser
import dataclasses
import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dagbundle_parser import PROTOCOL, __version__
from dagbundle_parser.importable import content_of, importable, installed, stamp_of, tree
from dagbundle_parser.prober import Places, lasting
from dagbundle_parser.request import RunRequest
from dagbundle_parser.settings import AirflowSettings
from dagbundle_parser.warmup import installed_directories

ZONE_FILES = ("/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone")
"""Covered by the fingerprint instead of by closures: Python reads a zone once per process."""
_PACKAGES = (
    "/var/lib/dpkg/status", "/lib/apk/db/installed", "/etc/os-release", "/etc/ld.so.cache",
)  # fmt: skip
_DATABASES = ("/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages")
"""What an image's own packages are: C libraries read and decide what nothing here sees."""
_COUNTED = ("AIRFLOW", "PYTHON", "LC_", "LANG", "TZ")
_NOT_COUNTED = frozenset(
    {"AIRFLOW_HOME", "AIRFLOW_CONFIG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
)
"""They name places: what lies there counts. Or they change no result."""
_SECRETS = ("fernet_key", "secret_key", "jwt_secret", "internal_api_secret_key", "sql_alchemy_conn", "result_backend")
"""Settings that no DAG's definition should depend on, and that each home has its own of."""


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the process was started in. Read it first: importing Airflow adds to the environment and to `sys.path`.

    Attributes:
        settings: Airflow's settings that decide what is listed.
        environ: the environment.
        path: `sys.path`.
    """

    settings: AirflowSettings
    environ: Mapping[str, str]
    path: Sequence[str]

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Surroundings:
        """Look around."""
        return cls(AirflowSettings.read(environ), dict(environ), list(dict.fromkeys(sys.path)))

    def places(self, root: str) -> Places:
        """Where things lie, for the words of closures."""
        home = "" if root == self.settings.home else self.settings.home.rstrip("/")
        return Places(root.rstrip("/"), home, self._libraries(root))

    def _libraries(self, root: str) -> list[str]:
        """The folders and archives of `sys.path` that are neither Python's, nor installed, nor the bundle's own."""
        directories = installed_directories()
        found = [os.path.abspath(entry) for entry in self.path]  # noqa: PTH100 - see above
        return [
            entry
            for entry in found
            if not f"{entry}/".startswith((*directories, f"{root.rstrip('/')}/")) and os.path.exists(entry)  # noqa: PTH110
        ]

    def _installed(self) -> list[str]:
        directories = installed_directories()
        return [entry for entry in self.path if f"{entry}/".startswith(directories)]

    def parts(self, root: str) -> Iterator[str]:
        """All that counts, in texts that name nothing of this machine."""
        settings = self.settings
        yield f"parser {__version__} {PROTOCOL}"
        yield f"python {sys.version} {platform.machine()}"
        yield f"zone {time.tzname}"
        for path in (*ZONE_FILES, "/usr/share/zoneinfo/tzdata.zi", *_DATABASES):
            yield f"stamp {path} {stamp_of(path)}"
        for path in _PACKAGES:
            yield f"package {content_of(path)}"
        for name, value in lasting(self.environ):
            if name.startswith(_COUNTED) and name not in _NOT_COUNTED and not name.lower().endswith(_SECRETS):
                yield f"env {name}={self._without_places(value, root)}"
        for setting in self._configuration(root):
            yield f"config {setting}"
        yield from tree(settings.plugins_folder)
        yield from tree(os.path.join(settings.home, "config"))
        for directory in self._installed():
            yield f"installed {installed(directory)}"
        for directory in self._libraries(root):
            yield f"importable {importable(directory, without=root)}"

    def _configuration(self, root: str) -> Iterator[str]:
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            parser.read_string(Path(self.settings.config_file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        except configparser.Error:
            yield content_of(self.settings.config_file)
            return
        for section in parser.sections():
            for key, value in sorted(parser.items(section)):
                if not key.endswith(_SECRETS):
                    yield f"{section}.{key}={self._without_places(value or '', root)}"

    def _without_places(self, value: str, root: str) -> str:
        for name, place in sorted({"HOME": self.settings.home, "ROOT": root}.items(), key=lambda item: -len(item[1])):
            if place.strip("/"):
                value = value.replace(place, "{" + name + "}")
        return value


def fingerprint(request: RunRequest, surroundings: Surroundings, counted: Sequence[str] = ()) -> str:
    """The fingerprint as SHA-256 in hex.

    Args:
        request: for the bundle's name and root.
        surroundings: everything else.
        counted: what counts besides, of third parties' parsers and loaders.
    """
    return _digest(f"bundle {request.bundle}", *surroundings.parts(request.root), *counted)


def whole(request: RunRequest, surroundings: Surroundings, common: str) -> str:
    """All that is known of the environment, as SHA-256 in hex: what a broken file may have failed of.

    Args:
        request: for the bundle's root and for the user that files are run as.
        surroundings: everything else.
        common: the fingerprint.
    """
    user = f"user {os.geteuid()} {request.run_as_user}"
    variables = [f"{name}={value}" for name, value in lasting(surroundings.environ)]
    return _digest(common, request.root, user, sys.prefix, *surroundings.path, *variables)


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
