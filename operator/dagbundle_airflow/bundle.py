"""The bundle class that a worker finds its code by: it is in the worker's own image.

Airflow makes one for each task, with the version that the task's run is pinned to. An image has one version, so
another one is refused instead of running other code under its name.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from airflow.dag_processing.bundles import base

from dagbundle_airflow.errors import WorkerError

VERSION_VARIABLE = "DAGBUNDLE_BUNDLE_VERSION"
"""Says which bundle version the image holds. `hook` sets it; an image may also bring it."""

_as_version: Any = getattr(base, "BundleVersion", str)
"""Since 3.3 a version is an object there, and a plain text is deprecated."""


class ImageDagBundle(base.BaseDagBundle):  # type: ignore[misc] # Airflow is not where this is type-checked
    """A bundle whose files are a folder of this image.

    Args:
        path: The bundle's root, absolute.
        **kwargs: Airflow's own: `name`, `version`, `refresh_interval`, `view_url_template`.
    """

    supports_versioning = True

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._path = pathlib.Path(path)

    @property
    def path(self) -> pathlib.Path:
        """The bundle's root."""
        return self._path

    def initialize(self) -> None:
        """Check that the code is there, and that it is the version which was asked for.

        Raises:
            WorkerError: It is not.
        """
        here = os.environ.get(VERSION_VARIABLE)
        if self.version and here and self.version != here:
            raise WorkerError(
                f"Bundle {self.name} is needed at version {self.version}, and this image holds {here}. Run the task "
                "on the image of its version, or clear the run with the latest version"
            )
        if not self._path.is_dir():
            raise WorkerError(
                f"Bundle {self.name} should be in {self._path}, and there is no such folder in this image. Correct "
                "the path in the DagBundle's source, or in [dag_processor] dag_bundle_config_list"
            )
        super().initialize()

    def get_current_version(self) -> Any:
        """Return the image's version, or None where nothing says it."""
        here = os.environ.get(VERSION_VARIABLE)
        return _as_version(here) if here else None

    def refresh(self) -> None:
        """Do nothing: an image does not change."""
