from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
MINORS = ("3.0", "3.1", "3.2", "3.3")
NEWEST = MINORS[-1]


@dataclasses.dataclass
class Airflow:
    """An interpreter with one Airflow minor."""

    minor: str
    python: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "AIRFLOW_HOME": str(self.home / "airflow"),
            "PYTHONHASHSEED": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def script(self, source: str, *arguments: str) -> Any:
        """Run a script that prints one JSON document as its last line."""
        done = subprocess.run(
            [str(self.python), "-c", source, *arguments],
            capture_output=True, check=False, env=self.environment, timeout=300, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    def parse(self, bundle: Path, *, env: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        """Run the parser over a bundle; its records by type, files by path."""
        request = self.home / "request.json"
        request.write_text(json.dumps({
            "protocol": 1, "run": "run", "attempt": "attempt", "bundle": "team.bundle", "root": str(bundle),
            "processes": 2, "parser": {"type": "SinglePass", "config": {}}, **changes,
        }))  # fmt: skip
        done = subprocess.run(
            [str(self.python), str(ROOT / "operator" / "dagbundle_parser"), "run", str(request)],
            capture_output=True, check=False, env={**self.environment, **(env or {})}, timeout=300,
        )  # fmt: skip
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert records, done.stderr.decode()[-4000:]
        files = {record["path"]: record for record in records if record["type"] == "file"}
        return {
            "open": records[0],
            "files": files,
            "last": records[-1],
            "stderr": done.stderr.decode(),
            "lines": done.stdout,
        }


def find_airflow(minor: str, home: Path) -> Airflow:
    environments = Path(os.environ.get("DAGBUNDLE_AIRFLOW_ENVS", ROOT / ".venvs"))
    python = environments / f"airflow-{minor}" / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{python} is missing: run `make airflow-envs`")
    (home / "airflow").mkdir(parents=True, exist_ok=True)
    return Airflow(minor, python, home)


@pytest.fixture(scope="session", params=MINORS)
def airflow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Each supported minor."""
    return find_airflow(request.param, tmp_path_factory.mktemp(f"airflow-{request.param}"))


@pytest.fixture(scope="session")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """The newest minor."""
    return find_airflow(NEWEST, tmp_path_factory.mktemp("airflow-newest"))


@pytest.fixture(scope="session")
def write() -> Callable[[Path, dict[str, str | bytes]], Path]:
    def write_bundle(root: Path, files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return write_bundle
