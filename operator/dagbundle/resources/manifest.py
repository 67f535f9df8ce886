"""The manifest, `dagbundle.yaml` in a bundle's root (AIP-85, v1beta): the authors' own parser configuration.

A tenant writes it, so it can only choose how its own bundle is parsed; the resource's spec wins where both speak. The
parser reads it and applies it (`dagbundle_parser.manifest`), on a cluster in the tenant's pod. This side looks at the
manifest of a local folder before it starts anything. tests/unit/house/test_manifest_readers.py holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from dagbundle.resources import base

FILE_NAME = "dagbundle.yaml"
MAX_BYTES = 256 * 1024
MAX_PROCESSES = 64

_ENDING = "BundleParser"


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it must have printable characters only")
    return value


Interval = Annotated[str, pydantic.Field(min_length=1, max_length=100), pydantic.AfterValidator(_printable)]
"""A time as the proposal writes it, `5 minutes`: taken, and without effect."""


def _folder(value: str) -> str:
    parts = [part for part in _printable(value).split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError(f"{value[:100]!r} must lie in the bundle, without '..'")
    return "/".join(parts) or "."


class _Part(base.Model):
    """A mapping of the manifest: snake_case fields, as the proposal writes them.

    A key without a value counts as if it were not there: its author has taken out what stood below it.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=None, populate_by_name=True
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None or not cls._takes(key)}

    @classmethod
    def _takes(cls, key: object) -> bool:
        """Tell whether a key is one of this mapping's: another one is an error, without a value, too."""
        return key in cls.model_fields


class YamlLoader(_Part):
    """Settings of the loader for YAML in dag-factory's format; the parser reads them itself, from the bundle."""

    enabled: bool = True
    """False: no YAML is loaded."""
    patterns: (
        Annotated[list[Annotated[str, pydantic.Field(max_length=4096)]], pydantic.Field(max_length=1000)] | None
    ) = None
    """Which YAML files are loaded, as lines of `.airflowignore`; these also where a Python file reads them."""
    defaults: dict[str, Any] = pydantic.Field(default_factory=dict)
    """What a `defaults.yml` of dag-factory holds; then no such file counts."""


class Loaders(_Part):
    """Settings of loaders, by name. A third party's loader takes whatever it defines."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[Any, Any]] = pydantic.Field(init=False)

    yaml: YamlLoader = pydantic.Field(default_factory=YamlLoader)

    @classmethod
    def _takes(cls, key: object) -> bool:
        return isinstance(key, str)


class Directory(_Part):
    """A folder that is scanned."""

    path: Annotated[str, pydantic.Field(min_length=1, max_length=1024), pydantic.AfterValidator(_folder)]
    """Below the bundle's root, whether it begins with `/` or not."""
    scan_interval: Interval | None = None
    """Without effect."""
    min_file_parse_interval: Interval | None = None
    """Without effect."""


class BundleConfig(_Part):
    """Settings of the parser that the manifest names."""

    processes: Annotated[int | None, pydantic.Field(ge=1, le=MAX_PROCESSES)] = None
    """How many files are parsed at a time."""
    loaders: Loaders = pydantic.Field(default_factory=Loaders)
    directories_to_scan: Annotated[list[Directory], pydantic.Field(min_length=1, max_length=1000)] | None = None
    """The folders that alone are scanned."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_list(cls, value: Any) -> Any:
        """Take the proposal's form, too: a list of mappings."""
        if not isinstance(value, list):
            return value
        found: dict[Any, Any] = {}
        for number, item in enumerate(value):
            if not isinstance(item, dict | None):
                raise ValueError(f"item {number} of the list must be a mapping")  # noqa: TRY004 - pydantic takes it
            for name, setting in (item or {}).items():
                if setting is not None and found.get(name) is not None:
                    raise ValueError(f"{str(name)[:100]} is given twice: keep one of the two")
                found[name] = setting if setting is not None else found.get(name)
        return found


class Manifest(_Part):
    """AIP-85's manifest."""

    version: Literal["v1beta"]
    bundle_parser: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z][A-Za-z0-9_.\-]*$", max_length=100)] | None = None
    """A parser's name, with or without the ending `BundleParser`."""
    bundle_fetch_interval: Interval | None = None
    """Without effect."""
    bundle_config: BundleConfig = pydantic.Field(default_factory=BundleConfig)

    @property
    def parser_type(self) -> str | None:
        """The parser's name as a resource writes it; None where the manifest leaves it open."""
        return None if self.bundle_parser is None else self.bundle_parser.removesuffix(_ENDING) or self.bundle_parser
