"""What a runtime is, so that the engine works the same on a laptop and on a cluster."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from dagbundle.resources import protocol


class Runtime(Protocol):
    """Starts parser runs over one bundle's files."""

    @property
    def root(self) -> str:
        """Absolute path of the bundle's root as the parser sees it."""

    def resolve_version(self) -> str:
        """Return the bundle version of the files as they are now: an image digest, a commit or `sha256:…`."""

    def report(self, request: protocol.RunRequest) -> Generator[bytes]:
        """Carry out one run and yield its report's bytes as they arrive.

        Raises:
            RunError: The run could not be started, or ended badly; bytes that were yielded before may be incomplete.
        """

    def stop(self) -> None:
        """End all runs that are going on, from another thread; their reports end with a `RunError`."""
