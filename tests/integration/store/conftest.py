"""Marks for tests of the store."""

from __future__ import annotations

import pytest

BOTH = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)
