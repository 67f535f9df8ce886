"""As root, files are users of their own: an error over what another one wrote says so."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from unit.parser.conftest import run_stub, write_bundle


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")
def test_an_error_over_another_users_file_says_so_and_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        theirs = Path(name) / "theirs"
        theirs.mkdir()
        os.chown(theirs, 60_043, 60_043)
        bundle = write_bundle(Path(name) / "bundle", {"a.py": f"DAGS = {{}}\nopen({str(theirs / 'x')!r}, 'w')\n"})
        error = run_stub(bundle, Path(name) / "request.json").error("a.py")
    assert error["kind"] == "PermissionError"
    assert f"{theirs} belongs to user 60043" in error["message"]
    assert "runAsUser" in error["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")
def test_an_error_over_a_file_of_roots_says_so_and_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        bundle = write_bundle(Path(name) / "bundle", {"a.py": f"DAGS = {{}}\nopen('{name}/x', 'w')\n"})
        error = run_stub(bundle, Path(name) / "request.json").error("a.py")
    assert re.search(rf"{name} belongs to root, and this file is parsed as user \d+: .*runAsUser", error["message"])
