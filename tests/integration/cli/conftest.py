"""Calls the installed command as a user would: another process, an environment and a database of its own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from support import airflow

COMMAND = str(pathlib.Path(sys.executable).parent / "dagbundle")
QUICKSTART = airflow.ROOT / "examples/quickstart"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Command:
    """`dagbundle …` with one database."""

    def __init__(self, folder: pathlib.Path, database_url: str | None = None, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DAGBUNDLE_DATABASE_URL": database_url or f"sqlite:///{folder / 'dagbundle.db'}",
            **environment,
        }

    def __call__(self, *arguments: str, code: int | None = 0) -> Answer:
        done = subprocess.run(
            [COMMAND, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if code is not None:
            assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return Answer(done.returncode, done.stdout, done.stderr)

    def apply(self, folder: pathlib.Path, *more: str, code: int | None = 0, minor: str = airflow.NEWEST) -> Answer:
        return self(
            "apply", "-f", str(QUICKSTART / "bundle.yaml"), "--local", "--folder", str(folder),
            "--grants", str(QUICKSTART / "grants.yaml"), "--python", airflow.python(minor), "-o", "json", *more,
            code=code,
        )  # fmt: skip


@pytest.fixture
def command(tmp_path: pathlib.Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cli")


MakeBundle = Callable[..., pathlib.Path]


@pytest.fixture
def bundle(tmp_path: pathlib.Path) -> MakeBundle:
    """Writes a bundle of files, by relative path, with a resource for the whole of it; returns its folder."""

    def make(**files: str) -> pathlib.Path:
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        (tmp_path / "resource.yaml").write_text(
            "apiVersion: dagbundle.dev/v1alpha1\nkind: DagBundle\nmetadata: {name: b, namespace: team}\n"
            "spec: {source: {image: {reference: r}}}\n"
        )
        return folder

    return make
