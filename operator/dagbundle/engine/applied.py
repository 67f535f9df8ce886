"""What an apply, a dry run or a rollback did, for whoever reports it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dagbundle.rollout.model import BundleKey, DagContent, Hold, Judgement, RunOutcome


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did, or what it would do."""

    bundle: BundleKey
    version: str
    judgement: Judgement
    runs: tuple[RunOutcome, ...] = ()
    base_revision: int = 0
    revision: int = 0
    """The bundle's revision afterwards; equal to `base_revision` when nothing was published."""
    dry_run: bool = False
    contents: Mapping[str, DagContent] = dataclasses.field(default_factory=dict)
    """Contents that are not in the store, by SHA-256 (dry runs only)."""
    rejudged: tuple[BundleKey, ...] = ()
    """Other bundles that were published too, because this one let go of a dag_id that they waited for."""
    lifted: tuple[Hold, ...] = ()
    """Holds that ended with this publication, or would: another version or spec was published."""

    @property
    def is_empty(self) -> bool:
        """Whether files were looked for, and none holds DAGs."""
        return bool(self.runs) and not any(run.files or not run.closed for run in self.runs)


class Deactivated(NamedTuple):
    """What the deletion of a bundle did."""

    dag_ids: tuple[str, ...]
    """Those that were live, sorted."""
    rejudged: tuple[BundleKey, ...] = ()
    """Other bundles that were published, because they waited for one of them."""
