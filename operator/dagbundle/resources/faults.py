"""Says in plain words where a document does not fit a model: the field's path, a right value, and the one it has.

pydantic's own messages name a location, but neither alternatives nor an example, in words of Python. What a field takes
is read from the model's JSON schema, so that it is said in one way for each kind of fault.
"""

from __future__ import annotations

import difflib
import functools
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from dagbundle import errors

MAX_FAULTS = 20
"""How many faults of one document a message names."""
MAX_FAULT = 1_000
"""Characters of one of them."""

FORMS = {
    r"^(\d{1,5}h)?(\d{1,6}m)?(\d{1,8}s)?$": "a duration, as in 30s, 5m or 1h30m",
    r"^\d{1,16}(Ki|Mi|Gi|Ti|k|M|G|T)?$": "a number of bytes, as in 512Mi or 1Gi",
    r"^(100|[0-9]{1,2})%$": "a percentage up to 100%, as in 10%",
    r"^/[^\x00-\x1f]*$": "an absolute path, as in /opt/airflow/dags",
    r"^[^/\\\x00-\x1f][^\\\x00-\x1f]*$": "a path below the bundle's root, as in sales/ingest",
    r"^[^*\x00-\x1f]*([^*\x00-\x1f]|\*)$": "a name, or the beginning of names and *, as in sales_db or sales_*",
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "a name of lower-case letters, digits and -, as in team-sales",
    r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$": "a name of lower-case letters, digits, - and ., as in sales-parser",
    r"^[A-Za-z][\w.\-]*$": "a name that begins with a letter, of letters, digits, _, . and -, as in SinglePass",
    r"^[A-Za-z][A-Za-z0-9_.\-]*$": "a name that begins with a letter, of letters, digits, _, . and -, as in SinglePass",
    r"^[\w.\-]+$": "a text of letters, digits, _, . and -, as in sales_",
    r"^[^\x00-\x1f]+$": "a text without control characters, as in python3",
}
"""What the patterns of the models take. A test holds it to the models."""
_OWN_WORDS = {"value_error": "error"}
"""Kinds of faults whose words come from the models."""
_KEY = "[key]"
"""pydantic's last part of the location of a key that does not fit; the part before is the key."""
_SHOWN = 100
_MAX_PRINTED = 2**64
_NO_BREAK = "it begins with a no-break space, as text from a web page may: write spaces"


class _Brief(reprlib.Repr):
    """Shows also a number that Python refuses to print, as YAML's `0xfff…` can make it."""

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < _MAX_PRINTED else f"a number of {x.bit_length():,} bits"


_BRIEF = _Brief()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxlong = 3, 120, 120
_WORDS = {"None": "empty", "True": "true", "False": "false"}

Schema = Mapping[str, Any]


def error_of(model: type[pydantic.BaseModel], error: pydantic.ValidationError, *, what: str) -> errors.ResourceError:
    """Return the error of a document that does not fit: every line names a path and what is wrong there.

    Args:
        model: What it was to be.
        error: What pydantic found.
        what: What the document is, for messages: `DagBundle in bundle.yaml`.
    """
    found = error.errors(include_url=False)
    lines = sorted({_short(_described(model, item)) for item in found[:MAX_FAULTS]})
    if len(found) > MAX_FAULTS:
        lines.append(f"and {len(found) - MAX_FAULTS:,} more")
    return errors.ResourceError(
        f"{what} is not valid:\n" + "\n".join(f"  {line}" for line in lines),
        hint="correct the fields named above and try again",
    )


def _described(model: type[pydantic.BaseModel], item: Any) -> str:
    """Turn one of pydantic's faults into `path: what is wrong (what is there)`."""
    loc: tuple[int | str, ...] = item["loc"]
    path, owner = _walk(model, loc)
    kind: str = item["type"]
    if kind == "extra_forbidden":
        allowed = sorted(field.alias or name for name, field in owner.model_fields.items()) if owner else []
        close = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        spaces = f"; {_NO_BREAK}" if str(loc[-1]).startswith("\xa0") else ""
        return f"{path}: unknown field{guess} (allowed: {', '.join(allowed)}){spaces}"
    if kind == "literal_error":
        return f"{path}: {_shown(item['input'])} is not allowed (allowed: {item['ctx']['expected']})"
    if kind in _OWN_WORDS:
        return f"{path}: {item['ctx'][_OWN_WORDS[kind]]}"
    if kind == "invalid_key" or loc[-1:] == (_KEY,):
        return f"{path}: the name of a field must be a text: put it in quotes, as in '{_shown(item['input'])}'"
    branches = _branches(_leaf(_schema_of(model), loc))
    wanted = ", or ".join(dict.fromkeys(map(_wanted, branches))) or "another value"
    if kind == "missing":
        return f"{path}: required field is missing: it must be {wanted}"
    kinds = {branch.get("type") for branch in branches}
    if isinstance(item["input"], str) and kinds <= {"integer", "boolean"}:
        wanted += ", without quotes"
    if isinstance(item["input"], int | float) and kinds == {"string"}:
        wanted += ", in quotes"
    return f"{path}: must be {wanted} (it is {_shown(item['input'])})"


def _branches(schema: Schema) -> Sequence[Schema]:
    """Return what a field takes: one schema, or several where it takes values of several kinds."""
    return [branch for branch in schema.get("anyOf", [schema]) if branch.get("type") != "null"]


def _wanted(schema: Schema) -> str:
    """Say what a field takes, with an example."""
    if allowed := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return " or ".join(map(repr, allowed))
    fields = schema.get("properties")
    says: dict[str, Callable[[], str]] = {
        "string": lambda: FORMS.get(schema.get("pattern", ""), "a text, as in 'sales'") + _measure(schema, "Length"),
        "integer": lambda: "a whole number" + _range(schema),
        "boolean": lambda: "true or false",
        "array": lambda: "a list, as in [a, b]" + _measure(schema, "Items"),
        "object": lambda: (
            f"a mapping of fields ({', '.join(sorted(fields))})"
            if fields
            else "a mapping, as in {name: value}" + _measure(schema, "Properties")
        ),
    }
    say = says.get(schema.get("type", ""))
    return say() if say else "another value"


def _range(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    example = f", as in {2 if least is None else max(2, least)}"
    if least is None or most is None:
        return (f" of at least {least}" if least is not None else "") + example
    return f" from {least:,} to {most:,}{example}"


def _measure(schema: Schema, of: str) -> str:
    """Say how long a text, a list or a mapping may be, where that is bounded."""
    least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}")
    nouns = "characters" if of == "Length" else "entries"
    if most is None:
        return f", with at least {least} {nouns}" if least > 1 else ""
    return f", with {least} to {most:,} {nouns}" if least else f", with at most {most:,} {nouns}"


@functools.cache
def _schema_of(model: type[pydantic.BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _leaf(root: Schema, loc: Sequence[int | str]) -> Schema:
    """Follow a location into a schema. A part that is not there is pydantic's name of a union's branch: passed over."""
    current = _resolved(root, root)
    for part in loc:
        options = [current, *(_resolved(root, branch) for branch in current.get("anyOf", ()))]
        below = [_below(option, part) for option in options]
        current = _resolved(root, next((found for found in below if found), current))
    return current


def _below(schema: Schema, part: int | str) -> Schema | None:
    other = schema.get("additionalProperties")
    found: Schema | None = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
    return found or (other if isinstance(other, dict) else None)


def _resolved(root: Schema, schema: Schema) -> Schema:
    """Follow a reference to another model; what stands beside it (a description) says nothing of the value."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return {**schema, "anyOf": [_resolved(root, branch) for branch in schema["anyOf"]]}
    return schema


def _short(line: str) -> str:
    """Cut a line that holds long names or values of the document."""
    return line if len(line) <= MAX_FAULT else f"{line[:MAX_FAULT]}…"


def _shown(value: object) -> str:
    """Return the first characters of a value's text; the text of a large value is never made whole."""
    text = _BRIEF.repr(value)[:_SHOWN]
    return _WORDS.get(text, text)


def _walk(model: type[pydantic.BaseModel], loc: Sequence[int | str]) -> tuple[str, type[pydantic.BaseModel] | None]:
    """Follow a location into the models. Returns the path as people write it, and the model that owns the last part."""
    path = ""
    owner: type[pydantic.BaseModel] | None = model
    current: type[pydantic.BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            path += f"[{_shown(part)}]"
            continue
        if part == _KEY:
            continue
        owner = current
        field = next((f for n, f in owner.model_fields.items() if part in {n, f.alias}), None) if owner else None
        if field is None and part.startswith("constrained-"):
            owner = None
            continue  # pydantic's name of a union's branch, which is no part of the document
        path += f".{part}" if path else part
        current = _model_in(field.annotation) if field else None
    return path or "(the document)", owner


def _model_in(annotation: Any) -> type[pydantic.BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    return next((found for arg in typing.get_args(annotation) if (found := _model_in(arg))), None)
