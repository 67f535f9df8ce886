"""Every error that the trusted side raises on purpose, in one tree, so that callers know what to catch.

    DagBundleError                  what a user can read and act on; the CLI prints its message and hint
    ├── UsageError                  a command was called in a way that cannot work
    ├── ResourceError               a DagBundle, grants file or manifest is not valid; names the field
    ├── ProtocolError               a parser's report cannot be trusted: cut, repeated, too large, ill-typed
    ├── ContentError                a value cannot be stored (NaN, NUL, too deep, too large, or the database refuses it)
    ├── RunError                    a parser run could not be carried out (no interpreter, no Airflow, killed)
    ├── ClusterError                the Kubernetes API refused, or could not be reached
    │   ├── AccessDeniedError       an account may not do what it was asked to; the message names the missing right
    │   ├── RefusedError            an object was refused: by admission, a quota, or because it is not valid
    │   ├── JobConflictError        somebody else's Job has the name of one of ours
    │   └── StaleError              the object changed meanwhile: look again
    ├── CallerError                 the store's server refuses a call; `reason` is a word that a program can match
    └── StoreError                  the database refused
        ├── SchemaError             the database's tables are missing, older or newer than this program
        ├── ConflictError           somebody else published first: judge again on what is live now
        │   ├── FencedError         a newer attempt at the run began: this one must not report any more
        │   ├── RunClosedError      another attempt has closed the run: nothing is left to do
        │   ├── RunOpenError        a run is not closed, or not any more: these results cannot be published
        │   └── SupersededError     a newer rollout of the bundle began: this one must not publish any more
        ├── OwnershipError          a dag_id belongs to another bundle
        ├── TargetError             a target, such as Airflow's own tables, cannot take what was judged
        ├── NotFoundError           no such bundle, DAG, version, task or revision
        └── StoreUnavailableError   locked, restarting or gone; nothing was changed, the call can be repeated
            └── StoreUnusableError  repeating does not help: a password, a name, a file or a disk must be mended first

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
    """A DagBundle, a grants file or a manifest is not valid, or asks for more than it is granted.

    Args:
        message: As above.
        hint: As above.
        reason: The word that conditions carry (docs/status.md).
    """

    def __init__(self, message: str, *, hint: str = "", reason: str = "InvalidSpec") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class ProtocolError(DagBundleError):
    """A parser's report cannot be trusted."""


class ContentError(DagBundleError):
    """One DAG's serialized data cannot be stored, or a value of it that only the database refuses."""

    reason: str = "ContentRefused"
    """The word that conditions carry (docs/status.md)."""


class RunError(DagBundleError):
    """A parser run could not be carried out."""


class StoreError(DagBundleError):
    """The database refused a statement."""


class SchemaError(StoreError):
    """The database's tables are missing, older or newer than this program."""


class ConflictError(StoreError):
    """Somebody else published first."""


class FencedError(ConflictError):
    """A newer attempt at the run began."""


class RunClosedError(ConflictError):
    """Another attempt has closed the run."""


class RunOpenError(ConflictError):
    """A run whose results were to be published is not closed."""


class SupersededError(ConflictError):
    """A newer rollout of the bundle began.

    Args:
        message: As above.
        hint: As above.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(
            message,
            hint=hint
            or "a newer apply of the bundle decides what is published, and `dagbundle history` shows it; apply again "
            "if these files are to be live",
        )


class OwnershipError(StoreError):
    """A dag_id belongs to another bundle."""


class TargetError(StoreError):
    """A target cannot take what was judged: nothing is published.

    Args:
        message: As above.
        hint: As above.
        reason: The word that conditions carry (docs/status.md).
    """

    def __init__(self, message: str, *, hint: str = "", reason: str = "TargetRefused") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class NotFoundError(StoreError):
    """No such bundle, DAG, version, task or revision."""


class StoreUnavailableError(StoreError):
    """The database is locked, restarting or gone; nothing was changed."""


class StoreUnusableError(StoreUnavailableError):
    """The database cannot be used until somebody mends its URL, account, file or disk; nothing was changed.

    A program that goes on (server, controller) treats it as its base does: it tries again until that is done.
    """


class ClusterError(DagBundleError):
    """The Kubernetes API refused a call, or could not be reached; nothing else was done."""


class AccessDeniedError(ClusterError):
    """An account may not do what it was asked to."""


class RefusedError(ClusterError):
    """The API server refused an object: admission, a quota, or it is not valid."""


class JobConflictError(ClusterError):
    """A Job of the right name exists that is not ours; it is never adopted."""


class StaleError(ClusterError):
    """The object changed since it was read."""


class CallerError(DagBundleError):
    """The store's server refuses a call.

    Args:
        reason: A CamelCase word of `dagbundle.server.problems.REASONS`.
        message: What is wrong, for the log.
        told: The reason that the caller hears where the real one is none of its business; then not the message either.
    """

    def __init__(self, reason: str, message: str, *, told: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.told = told or reason
