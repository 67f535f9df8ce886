"""As root, files are users of their own: an error over what another one wrote says so."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from unit.parser.conftest import run_stub, write_bundle


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")
def test_an_error_over_another_users_file_says_so_and_what_to_do(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 60_043, 60_043)
    bundle = write_bundle(tmp_path / "bundle", {"a.py": f"DAGS = {{}}\nopen({str(theirs / 'x')!r}, 'w')\n"})
    error = run_stub(bundle, tmp_path / "request.json").error("a.py")
    assert error["kind"] == "PermissionError"
    assert f"{theirs} belongs to user 60043" in error["message"]
    assert "runAsUser" in error["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")
def test_an_error_over_a_file_of_roots_says_so_and_what_to_do(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"a.py": f"DAGS = {{}}\nopen('{tmp_path}/x', 'w')\n"})
    error = run_stub(bundle, tmp_path / "request.json").error("a.py")
    assert re.search(rf"{tmp_path} belongs to root, and this file is parsed as user \d+: .*runAsUser", error["message"])
