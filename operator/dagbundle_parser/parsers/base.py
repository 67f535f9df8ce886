"""What a bundle parser is (AIP-85's AbstractBundleParser): the strategy of ingestion.

It has the bundle, loaders and the store, and decides what to load when. A third party adds one through the entry point
group `dagbundle.parsers`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from dagbundle_parser.discovery import ListedFile
from dagbundle_parser.running import FileRecord
from dagbundle_parser.store_client import DagStoreClient


@dataclasses.dataclass(frozen=True)
class BundleAccess:
    """What a parser can do with its bundle.

    Attributes:
        list_files: lists the run's subdir.
        is_unchanged: whether what the store remembers of a file still holds.
        load: loads files, several at once, and yields their records in the order in which they get done.
        facts: what the report's `open` record has of this process: `python`, `airflow`, `fingerprint`, and how
            many files are parsed at a time.
        config: the parser's own configuration, from the resource.
    """

    list_files: Callable[[], Sequence[ListedFile]]
    is_unchanged: Callable[[ListedFile], bool]
    load: Callable[[Sequence[ListedFile]], Iterator[FileRecord]]
    facts: dict[str, Any]
    config: Mapping[str, Any]


class AbstractBundleParser(abc.ABC):
    """A strategy of ingestion.

    Attributes:
        name: what a resource names it by; goes into the report.
        version: its own version; goes into the report.
    """

    name: ClassVar[str]
    version: ClassVar[str]

    def __init__(self, bundle: BundleAccess, store: DagStoreClient) -> None:
        self.bundle = bundle
        self.store = store

    @abc.abstractmethod
    def run(self) -> None:
        """Carry out one run, and close it in the store.

        Raises:
            RunError: the run as a whole cannot be carried out.
        """
