"""What the engine tells whoever watches while it works: a progress bar, a log, later an event stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagbundle.rollout.model import BundleKey


@dataclass(frozen=True, slots=True)
class RolloutBegan:
    """An apply began to write: what becomes of it is found by this name."""

    rollout_id: str


@dataclass(frozen=True, slots=True)
class RunOpened:
    """A run began to report; `files` records will come."""

    subdir: str
    files: int


@dataclass(frozen=True, slots=True)
class FileParsed:
    """One file arrived."""

    subdir: str
    path: str
    unchanged: bool
    problems: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run ended; `failure` is empty when it closed."""

    subdir: str
    failure: str


@dataclass(frozen=True, slots=True)
class RejudgeFailed:
    """A bundle that waited for a dag_id of another could not be judged again."""

    bundle: BundleKey
    message: str


Event = RolloutBegan | RunOpened | FileParsed | RunEnded | RejudgeFailed
Watcher = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Watch nothing."""
