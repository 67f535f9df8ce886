"""Where the workers of tests/publisher/living.py find a version's code: each has a folder of its own.

On Kubernetes each version is an image, whose folder `ImageDagBundle` looks at. Workers that are processes of one
machine have all versions beside each other instead.
"""

from __future__ import annotations

import pathlib
from typing import Any

from dagbundle_airflow.bundle import ImageDagBundle


class ReleaseDagBundle(ImageDagBundle):
    """A bundle whose versions are folders.

    Args:
        path: Holds a folder for each version, named after it.
        **kwargs: Airflow's own.
    """

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(path=path, **kwargs)
        self._path = pathlib.Path(path) / (self.version or "without-a-version")
