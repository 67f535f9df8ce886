"""Looks at the JSON schemas of Params: Airflow validates with them in scheduler and API server.

`$ref` may name a URL. The validator fetches it, without a limit of time and from inside the platform's network.
References within one schema can multiply the work at each level, so they are refused too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagbundle.targets.airflow.vetting import names, walk

MAX_SCHEMA_DEPTH = 20
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef", "$id", "id", "$schema"})
_DRAFTS = "://json-schema.org/"
MAX_PATTERN = 500
"""Characters of a regular expression."""


def check(path: str, found: object) -> None:
    """Check `params` of a DAG or a task: pairs of a name and a Param, or an object of those.

    Raises:
        TargetError: A schema holds a reference or an address, or is nested too deeply.
    """
    if found is None:
        return
    pairs = list(found.items()) if isinstance(found, Mapping) else found
    for index, pair in enumerate(walk.items(path, pairs, 10_000)):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):  # noqa: PLR2004 - a pair
            walk.refuse(f"{path}[{index}]", pair, "a name and a Param are expected")
        name, param = pair
        if isinstance(param, Mapping) and "__class" in param:
            if param["__class"] not in names.PARAMS:
                walk.refuse(f"{path}.{name:.60}.__class", param["__class"], "it is no Param's class")
            schema = param.get("schema")
            if schema is not None:
                _schema(f"{path}.{name:.60}.schema", walk.mapping(f"{path}.{name:.60}.schema", schema), 0, named=False)


def _schema(path: str, value: Any, depth: int, *, named: bool) -> None:
    """Look at a schema.

    Args:
        path: Of it.
        value: It.
        depth: Levels above it.
        named: Whether its keys are names of properties and no keywords.
    """
    if depth > MAX_SCHEMA_DEPTH * 2:  # Airflow wraps each object once
        walk.refuse(path, "…", f"a schema is nested at most {MAX_SCHEMA_DEPTH} levels deep")
    if isinstance(value, list):
        for index, item in enumerate(value):
            _schema(f"{path}[{index}]", item, depth + 1, named=False)
    elif isinstance(value, Mapping):
        if value.get("__type") == "dict" and "__var" in value:
            _schema(path, value["__var"], depth + 1, named=named)
            return
        for name, item in value.items():
            place = f"{path}.{name:.60}"
            if not named and name in _REFERENCES and isinstance(item, str):
                _reference(place, name, item)
            if not named and name == "pattern" and isinstance(item, str):
                walk.text(place, item, MAX_PATTERN)
            _schema(place, item, depth + 1, named=name in {"properties", "patternProperties", "definitions", "$defs"})


def _reference(path: str, name: str, value: str) -> None:
    if name == "$schema" and _DRAFTS in value:
        return  # a draft's name: the validator has them
    if name in {"$ref", "$dynamicRef", "$recursiveRef"}:
        walk.refuse(path, value, "a Param's schema may not refer to another one: write it out")
    walk.refuse(path, value, "a Param's schema may have no address")
