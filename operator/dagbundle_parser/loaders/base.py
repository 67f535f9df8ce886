"""What a loader is (AIP-85's DagLoader): it turns one file into serialized DAGs.

A third party adds one through the entry point group `dagbundle.loaders`. It has three moments: it claims files while
they are listed (nothing imported yet), warms up once in the parent that all children are forked from, and loads a
file inside a child.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dagbundle_parser.errors import FileProblem


class Candidate(abc.ABC):
    """A file that is being listed, as a loader sees it when it decides whether to claim it.

    Attributes:
        path: relative to the bundle's root.
        suffix: in lower case, with its dot.
        size: in bytes.
        safe_mode: `[core] dag_discovery_safe_mode`: claim only what looks like it holds DAGs.
    """

    path: str
    suffix: str
    size: int
    safe_mode: bool

    @abc.abstractmethod
    def content(self) -> bytes:
        """The whole content.

        Raises:
            OSError: it cannot be read.
        """

    @abc.abstractmethod
    def is_zip(self) -> bool:
        """Whether it is a zip archive."""


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file to load.

    Attributes:
        path: relative to the bundle's root, `/` separated.
        root: the bundle's root, absolute.
        bundle: the bundle's name.
    """

    path: str
    root: str
    bundle: str

    @property
    def absolute(self) -> str:
        """The absolute path."""
        return f"{self.root.rstrip('/')}/{self.path}"


@dataclasses.dataclass(frozen=True)
class LoadedDag:
    """One serialized DAG.

    Attributes:
        dag_id: as in the data.
        relative_fileloc: the file that defines it, relative to the root; inside of a zip file it names the member.
        dag_hash: what Airflow's own store computes.
        data: what Airflow's own serializer made: only JSON's types.
    """

    dag_id: str
    relative_fileloc: str
    dag_hash: str
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LoadedWarning:
    """A Python warning that the file raised; `line` is None where another file is to blame."""

    category: str
    message: str
    line: int | None = None


@dataclasses.dataclass
class LoadResult:
    """What a file held.

    Attributes:
        errors: any error makes the file broken as a whole.
        sources: text by path relative to the root: the file itself and every relative_fileloc.
        dynamic: what the loader knows to make the result depend on more than files, such as `Variable`.
    """

    dags: list[LoadedDag] = dataclasses.field(default_factory=list)
    errors: list[FileProblem] = dataclasses.field(default_factory=list)
    warnings: list[LoadedWarning] = dataclasses.field(default_factory=list)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    dynamic: set[str] = dataclasses.field(default_factory=set)


class AbstractDagLoader(abc.ABC):
    """Turns a file into serialized DAGs.

    Attributes:
        name: goes into the file's record.
        suffixes: in lower case, with their dots; a link out of the bundle with one of them is reported.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def configure(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 - a loader may have nothing to be set
        """Take what the manifest says of this loader (`bundle_config.loaders.<name>`); called before files are listed.

        Raises:
            RunError: `ManifestInvalid`.
        """

    def gives_way(self, path: str) -> bool:  # noqa: ARG002 - for those who override it
        """Whether a file of this loader is left alone where another loader's file opens it."""
        return False

    def may_claim(self, suffix: str) -> bool:
        """Whether `claims` should be asked about files with this suffix."""
        return suffix in self.suffixes

    @abc.abstractmethod
    def claims(self, candidate: Candidate) -> bool:
        """Whether the file holds DAGs for this loader; called before Airflow is imported.

        Raises:
            OSError: the file cannot be read, which becomes an error of the file.
        """

    def warm_up(self, files: Sequence[SourceFile]) -> None:  # noqa: B027 - a loader may have nothing to warm
        """Import what the files need, in the process that children are forked from; never the files themselves.

        Raises:
            RunError: the loader cannot work here at all.
        """

    @abc.abstractmethod
    def load(self, file: SourceFile) -> LoadResult:
        """Load one file; called in a child.

        Any exception that comes out of it becomes an error of the file.
        """

    def is_plain(self, file: SourceFile) -> bool:  # noqa: ARG002 - for those who override it
        """Whether the file provably leaves nothing behind in its process, so that it may share a child."""
        return False

    def traces(self) -> tuple[object, ...]:
        """What a plain file must leave as it is, compared by equality before and after it in a shared child."""
        return ()
