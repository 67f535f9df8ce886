"""Calls the command line in this process, with a folder and a database of its own."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytest
import yaml

from dagbundle.cli import main

GOOD = {
    "apiVersion": "dagbundle.dev/v1alpha1",
    "kind": "DagBundle",
    "metadata": {"name": "sales", "namespace": "team-sales"},
    "spec": {"source": {"image": {"reference": "r/i:1"}}},
}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls `dagbundle …` in a folder and with a database of its own; returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGBUNDLE_DATABASE_URL", f"sqlite:///{tmp_path / 'test.db'}")
    (tmp_path / "bundle.yaml").write_text(yaml.safe_dump(GOOD))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dagbundle", *arguments])
        with pytest.raises(SystemExit) as caught:
            main.main()
        captured = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run
