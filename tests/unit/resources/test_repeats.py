from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dagbundle.resources.repeats import Repeats

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=10,
)


def repeated(text: str) -> list[str]:
    """Return the keys that a text repeats."""
    keys = Repeats()
    found = [keys.look(event) for event in yaml.parse(text, Loader=yaml.SafeLoader)]
    return [key for key in found if key is not None]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a: 1\na: 2\n", ["a"]),
        ("a: {b: 1, c: {d: 1, d: 2}}\n", ["d"]),
        ("- {a: 1}\n- {a: 1}\n", []),
        ("a: {x: 1}\nb: {x: 1}\n", []),
        ("a: a\nb: a\n", []),
        ("a: [a, a]\n---\na: 1\n", []),
        ("? [a, b]\n: 1\n? {a: 1}\n: 2\na: 3\n", []),
        ("x: &one {a: 1}\ny: *one\nx: 2\n", ["x"]),
        ("1: a\n'1': b\n", []),
    ],
)
def test_a_key_that_its_mapping_has_already_is_found(text: str, keys: list[str]) -> None:
    assert repeated(text) == keys


@given(st.lists(VALUES, max_size=3))
def test_what_is_dumped_repeats_nothing(documents: list[Any]) -> None:
    assert repeated(yaml.safe_dump_all(documents)) == []
