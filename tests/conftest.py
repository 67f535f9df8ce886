"""Temporary folders that any user can reach, as most folders of DAG files are.

pytest's own are closed to other users. As root, files are parsed as users of their own, which are handed the bundle and
what Python needs and nothing else that is closed: a log or a pipe that a test shares with them must lie in the open.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOST_NAME = 30


class OpenFolders:
    """Stands in for pytest's factory of temporary folders.

    Args:
        base: where they are made.
    """

    def __init__(self, base: Path) -> None:
        self._base = base

    def mktemp(self, basename: str, numbered: bool = True) -> Path:  # noqa: FBT002, ARG002 - as pytest's has it
        """Make a folder."""
        folder = Path(tempfile.mkdtemp(prefix=f"{basename}-", dir=self._base))
        folder.chmod(0o755)
        return folder

    def getbasetemp(self) -> Path:
        """Return the folder in which all lie."""
        return self._base


@pytest.fixture(scope="session")
def tmp_path_factory() -> Iterator[OpenFolders]:
    """Make folders, which are removed at the end."""
    base = Path(tempfile.mkdtemp(prefix="dagbundle-tests-")).resolve()
    base.chmod(0o755)
    yield OpenFolders(base)
    subprocess.run(["rm", "-rf", str(base)], check=False)  # some are nested deeper than Python recurses


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: OpenFolders) -> Path:
    """Return a folder of the test's own."""
    return tmp_path_factory.mktemp(re.sub(r"\W", "_", request.node.name)[:_MOST_NAME])
