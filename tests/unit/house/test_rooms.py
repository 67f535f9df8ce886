"""CONTRIBUTING.md names places that there are."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[3]
SECTION = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where new things go\n")[2].partition("\n## ")[0]
PLACES = sorted(set(re.findall(r"`([a-z_]+/[\w./]*|requirements/)`", SECTION)))


@pytest.mark.parametrize("place", PLACES)
def test_a_place_for_new_things_exists(place: str) -> None:
    below = [ROOT, ROOT / "operator", ROOT / "operator" / "dagbundle"]
    assert any((folder / place).exists() for folder in below)


def test_each_planned_change_has_a_place() -> None:
    items = re.split(r"^- \*\*", SECTION, flags=re.MULTILINE)[1:]
    assert len(items) >= 12
    assert [item.partition("**")[0] for item in items if "`" not in item] == []
