"""What all models share: strict camelCase fields, and values that are bounded. `faults` has the words of errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic.alias_generators import to_camel

from dagbundle import errors
from dagbundle.resources import faults


class Model(pydantic.BaseModel):
    """Base of the resource models: camelCase on the outside, unknown fields refused, no silent conversions."""

    model_config = pydantic.ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True
    )


ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_QUANTITY = re.compile(r"(\d+)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

MAX_BYTES = 2**53
"""What every reader of JSON takes for a whole number."""
MAX_OBJECT_BYTES = 16 * 1024
"""Bytes of a value that is passed on as it is, as JSON."""
MAX_OBJECT_DEPTH = 50
"""Levels of its lists and objects: pydantic cannot write a value that nests some hundred levels."""


def _countable(value: str) -> str:
    if quantity_bytes(value) > MAX_BYTES:
        raise ValueError(f"{value!r} is more than {MAX_BYTES:,} bytes")
    return value


def _small(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("it cannot be written as JSON") from error
    if size > MAX_OBJECT_BYTES:
        raise ValueError(f"it has {size:,} bytes as JSON, and at most {MAX_OBJECT_BYTES:,} are taken")
    level: list[Any] = [value]
    for _ in range(MAX_OBJECT_DEPTH):
        level = [item for found in level for item in _items(found)]
    if level:
        raise ValueError(f"it nests deeper than {MAX_OBJECT_DEPTH} levels")
    return value


def _items(value: object) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _settled(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError(f"{path!r} must not contain '..'")
    return path


Duration = Annotated[str, pydantic.Field(pattern=r"^(\d{1,5}h)?(\d{1,6}m)?(\d{1,8}s)?$", min_length=2, max_length=16)]
"""A duration as Flux writes it: `30s`, `5m`, `1h30m`."""
Quantity = Annotated[
    str, pydantic.Field(pattern=r"^\d{1,16}(Ki|Mi|Gi|Ti|k|M|G|T)?$", max_length=16), pydantic.AfterValidator(_countable)
]
"""Bytes as Kubernetes writes them: `512Mi`, `1Gi`, `1000000`."""
Object = Annotated[dict[str, Any], pydantic.AfterValidator(_small)]
"""A value of Kubernetes' or of somebody's parser, which is passed on as it is."""
BENDING = "%?#\\;"
"""Characters that a URL, and so some secrets backends, read as something else than a part of a name.

Some proxies drop a part of a path from its `;` on: `..;` is `..` for them.
"""


def is_straight(name: str) -> bool:
    """Tell whether a name leads where it says in a backend that makes a path or a URL of it, as Vault's does.

    Args:
        name: Of a Variable or Connection, or a pattern of such names.

    Returns:
        False where it has a `.`, `..` or empty part between slashes, or one of `BENDING`.
    """
    return not set(BENDING) & set(name) and not {"", ".", ".."} & set(name.split("/"))


def _straight(name: str) -> str:
    if not is_straight(name):
        raise ValueError(f"{name!r} must not have '.', '..' or nothing between slashes, nor one of {' '.join(BENDING)}")
    return name


AbsolutePath = Annotated[
    str, pydantic.Field(pattern=r"^/[^\x00-\x1f]*$", max_length=512), pydantic.AfterValidator(_settled)
]
"""A path from the root that leads where it says."""
NamePattern = Annotated[
    str,
    pydantic.Field(pattern=r"^[^*\x00-\x1f]*([^*\x00-\x1f]|\*)$", max_length=250),
    pydantic.AfterValidator(_straight),
]
"""A name of Airflow's, or the beginning of names and `*`: `sales_db`, `sales_*`."""
CountOrPercent = Annotated[int, pydantic.Field(ge=0)] | Annotated[str, pydantic.Field(pattern=r"^(100|[0-9]{1,2})%$")]
"""A number, or a percentage of what is live now, rounded up: `3`, `10%`."""


def seconds(duration: str) -> int:
    """Return a `Duration` in seconds."""
    match = _DURATION.fullmatch(duration)
    hours, minutes, secs = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    return hours * 3600 + minutes * 60 + secs


def quantity_bytes(quantity: str) -> int:
    """Return a `Quantity` in bytes."""
    match = _QUANTITY.fullmatch(quantity)
    return int(match[1]) * _UNITS.get(match[2] or "", 1) if match else 0


def validate(model: type[ModelT], document: object, *, what: str) -> ModelT:
    """Build a model from a decoded YAML or JSON document.

    Args:
        model: The model to build.
        document: Decoded data of any shape.
        what: What the document is, for messages: `DagBundle in bundle.yaml`.

    Raises:
        ResourceError: It does not fit; every line of the message names a path, what is wrong and what is allowed there.
    """
    if not isinstance(document, Mapping):
        raise errors.ResourceError(f"{what} is not valid: it is {_type_name(document)}, not a mapping of fields")
    try:
        return model.model_validate(dict(document))
    except pydantic.ValidationError as error:
        raise faults.error_of(model, error, what=what) from error


def _type_name(value: object) -> str:
    return {"NoneType": "empty", "list": "a list", "str": "a text"}.get(type(value).__name__, type(value).__name__)
