"""Every error that the trusted side raises on purpose, in one tree, so that callers know what to catch.

    DagBundleError                  what a user can read and act on; the CLI prints its message and hint
    ├── UsageError                  a command was called in a way that cannot work
    ├── ResourceError               a DagBundle, grants file or manifest is not valid; names the field
    ├── ProtocolError               a parser's report cannot be trusted: cut, repeated, too large, ill-typed
    ├── ContentError                one DAG's serialized data cannot be stored (NaN, NUL, too deep, too large)
    ├── RunError                    a parser run could not be carried out (no interpreter, no Airflow, killed)
    └── StoreError                  the database said no
        ├── SchemaError             the database's tables are missing, older or newer than this program
        ├── ConflictError           somebody else published first: judge again on what is live now
        │   └── SupersededError     a newer rollout of the bundle began: this one must not publish any more
        ├── OwnershipError          a dag_id belongs to another bundle
        ├── NotFoundError           no such bundle, DAG, version, task or revision
        └── StoreUnavailableError   locked, restarting or gone; nothing was changed, the call can be repeated

A message says what happened and to which bundle, subdir and file; `hint` says what to do next.
"""

from __future__ import annotations


class DagBundleError(Exception):
    """Base of the tree.

    Args:
        message: What happened, to which bundle, subdir and file.
        hint: What to do next, as one imperative sentence; empty when the message says it already.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DagBundleError):
    """A command was called in a way that cannot work."""


class ResourceError(DagBundleError):
    """A DagBundle, a grants file or a manifest is not valid."""


class ProtocolError(DagBundleError):
    """A parser's report cannot be trusted."""


class ContentError(DagBundleError):
    """One DAG's serialized data cannot be stored."""


class RunError(DagBundleError):
    """A parser run could not be carried out."""


class StoreError(DagBundleError):
    """The database said no."""


class SchemaError(StoreError):
    """The database's tables are missing, older or newer than this program."""


class ConflictError(StoreError):
    """Somebody else published first."""


class SupersededError(ConflictError):
    """A newer rollout of the bundle began."""


class OwnershipError(StoreError):
    """A dag_id belongs to another bundle."""


class NotFoundError(StoreError):
    """No such bundle, DAG, version, task or revision."""


class StoreUnavailableError(StoreError):
    """The database is locked, restarting or gone; nothing was changed."""
