from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
STUB = Path(__file__).with_name("stub_parser.py")

Parse = Callable[..., "Report"]


@dataclasses.dataclass
class Report:
    """What a run reported."""

    records: list[dict[str, Any]]
    returncode: int
    stderr: str
    raw: bytes = b""

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        return {record["path"]: record for record in self.records if record["type"] == "file"}

    @property
    def closed(self) -> bool:
        return bool(self.records) and self.records[-1]["type"] == "close"

    def error(self, path: str) -> dict[str, Any]:
        errors = self.files[path]["errors"]
        assert len(errors) == 1, errors
        found: dict[str, Any] = errors[0]
        return found


def request_for(root: Path, /, **changes: Any) -> dict[str, Any]:
    return {
        "protocol": 1, "run": "run", "attempt": "attempt", "bundle": "team.bundle", "root": str(root), "processes": 2,
        "parser": {"type": "SinglePass", "config": {}}, **changes,
    }  # fmt: skip


def stub_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR"}}
    return {
        **kept,
        "PYTHONPATH": str(ROOT / "operator"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AIRFLOW_HOME": "/nonexistent",
    }


def run_stub(
    root: Path,
    request_file: Path,
    /,
    *,
    python: str = sys.executable,
    env: dict[str, str] | None = None,
    **changes: Any,
) -> Report:
    request_file.write_text(json.dumps(request_for(root, **changes)))
    done = subprocess.run(
        [python, str(STUB), str(request_file)],
        capture_output=True,
        check=False,
        env={**stub_environment(), **(env or {})},
        timeout=120,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return Report(records, done.returncode, done.stderr.decode("utf-8", "replace"), done.stdout)


def write_bundle(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    return folder


@pytest.fixture
def parse(tmp_path: Path, bundle: Path) -> Parse:
    def run(files: dict[str, str | bytes] | None = None, /, **changes: Any) -> Report:
        write_bundle(bundle, files or {})
        return run_stub(bundle, tmp_path / "request.json", **changes)

    return run


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with a folder for everybody's temporary files."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return tmp_path
