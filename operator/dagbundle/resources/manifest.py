"""The manifest, `dagbundle.yaml` in a bundle's root (AIP-85, v1beta): the authors' own parser configuration.

A tenant writes it, so it can only choose how its own bundle is parsed; the resource's spec wins where both speak.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from dagbundle.resources import base

FILE_NAME = "dagbundle.yaml"
MAX_BYTES = 256 * 1024


class YamlLoader(base.Model):
    """Settings of the loader for YAML in dag-factory's format; the parser reads them itself, from the bundle."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=None)

    enabled: bool = True
    """False: no YAML is loaded."""
    patterns: (
        Annotated[list[Annotated[str, pydantic.Field(max_length=4096)]], pydantic.Field(max_length=1000)] | None
    ) = None
    """Which YAML files are loaded, as lines of `.airflowignore`; these also where a Python file reads them."""
    defaults: dict[str, Any] = pydantic.Field(default_factory=dict)
    """What a `defaults.yml` of dag-factory holds; then no such file counts."""


class Loaders(base.Model):
    """Settings of loaders, by name. A third party's loader takes whatever it defines."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, frozen=True, alias_generator=None)

    yaml: YamlLoader = pydantic.Field(default_factory=YamlLoader)


class BundleConfig(base.Model):
    """Settings of the parser that the manifest names."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=None, populate_by_name=True
    )

    processes: Annotated[int | None, pydantic.Field(ge=1, le=64)] = None
    """How many files are parsed at a time."""
    loaders: Loaders = pydantic.Field(default_factory=Loaders)


class Manifest(base.Model):
    """AIP-85's manifest: snake_case fields, as the proposal writes them."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=None, populate_by_name=True
    )

    version: Literal["v1beta"]
    bundle_parser: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z][\w.\-]*$", max_length=100)] = (
        "SinglePassBundleParser"
    )
    """A parser's name, with or without the ending `BundleParser`."""
    bundle_config: BundleConfig = pydantic.Field(default_factory=BundleConfig)

    @property
    def parser_type(self) -> str:
        """The parser's name as a resource writes it."""
        return self.bundle_parser.removesuffix("BundleParser") or self.bundle_parser
