"""The README tells whoever leaves `airflow dag-processor` what becomes of each of its settings."""

from __future__ import annotations

import pathlib
import re

import airflow
import yaml

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_readme_says_what_becomes_of_every_setting_of_the_processor() -> None:
    described = pathlib.Path(str(airflow.__file__)).parent / "config_templates" / "config.yml"
    settings = yaml.safe_load(described.read_text())["dag_processor"]["options"]
    section = README.read_text().partition("## In place of")[2].partition("\n## ")[0]
    first_cells = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    assert settings.keys() - set(re.findall(r"`(\w+)`", first_cells)) == set()
