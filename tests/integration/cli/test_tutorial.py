"""docs/tutorials/laptop.md, command by command as it stands, in a copy of the checkout."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

from support import airflow, tutorials

pytestmark = pytest.mark.airflow

PAGE = airflow.ROOT / "docs/tutorials/laptop.md"
MADE = (".venv", ".venvs")
READ = ("Makefile", "pyproject.toml", "requirements", "examples")


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """What the commands read of a checkout, with the environments of this session, which `make` finds made."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in READ:
        source = airflow.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (0, 0))  # older than each environment's stamp
    for name in MADE:
        (folder / name).symlink_to(airflow.ROOT / name)
    return folder


def test_the_commands_of_the_laptop_tutorial_do_and_print_what_it_shows(checkout: pathlib.Path) -> None:
    steps = tutorials.steps(PAGE)
    done = subprocess.run(
        ["bash", "-c", tutorials.script(steps)], cwd=checkout, capture_output=True, text=True, check=False, timeout=300,
        env={key: value for key, value in os.environ.items() if not key.startswith(("DAGBUNDLE_", "AIRFLOW_"))},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rest = done.stdout
    for number, step in enumerate(steps):
        _, _, rest = rest.partition(f"{tutorials.mark(number)}\n")
        answer = rest.partition(tutorials.mark(number + 1))[0]
        assert [line for line in step.shown if line not in answer] == [], f"{step.script}\n{answer}"
    assert not (checkout / "build/tutorial").exists()


def test_a_step_that_ends_otherwise_than_the_tutorial_has_it_ends_the_script(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ntrue  # exit code 3\n```\n\n```sh\ntouch later\n```\n")
    done = subprocess.run(["bash", "-c", tutorials.script(tutorials.steps(page))], cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "later").exists()
