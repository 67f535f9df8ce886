"""The manifest, `dagbundle.yaml` in a bundle's root (AIP-85, v1beta): the authors' own parser configuration.

A tenant writes it, so it can only choose how its own bundle is parsed; the resource's spec wins where both speak.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from dagbundle.resources import base

FILE_NAME = "dagbundle.yaml"
MAX_BYTES = 256 * 1024


class BundleConfig(base.Model):
    """Settings of the parser that the manifest names."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=None, populate_by_name=True
    )

    processes: Annotated[int | None, pydantic.Field(ge=1, le=64)] = None
    """How many files are parsed at a time."""


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
