"""The json that was there before any file ran: a file may give its own process another one.

Airflow hashes and stores a DAG in a process that never runs its file, so what a file does to json changes neither.
"""

from __future__ import annotations

import importlib.util
import json
import types
from typing import Any


def _own_copy(name: str) -> Any:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JSONEncoder: Any = _own_copy("json.encoder").JSONEncoder
JSONDecoder: Any = _own_copy("json.decoder").JSONDecoder


def dumps(value: object, **options: Any) -> str:
    """As json.dumps."""
    return str(JSONEncoder(**options).encode(value))


def as_module() -> types.ModuleType:
    """A module to put in the place of `json` where another one has imported it."""
    module = types.ModuleType("json")
    vars(module).update({**vars(json), "dumps": dumps, "JSONEncoder": JSONEncoder, "JSONDecoder": JSONDecoder})
    return module
