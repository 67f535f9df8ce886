"""Says what an error means to a bundle: every class of the tree, and a defect, ends as a condition with a reason.

Without that a bundle whose reconcile fails keeps the status that it had, which says that it is being parsed, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagbundle import errors
from dagbundle.controller.status import Outcome

REASONS: Mapping[type[BaseException], str] = {
    errors.AccessDeniedError: "AccessDenied",
    errors.RefusedError: "JobRefused",
    errors.JobConflictError: "JobConflict",
    errors.OwnershipError: "BundleNameOwned",
    errors.StaleError: "Changing",
    errors.ClusterError: "ClusterUnavailable",
    errors.StoreUnavailableError: "StoreUnavailable",
    errors.SchemaError: "StoreNotReady",
    errors.ConflictError: "Changing",
    errors.StoreError: "StoreRefused",
    BaseException: "OperatorFailed",
}
"""By class, and for what is below it; a class that has a reason of its own keeps that."""

_WAITS = (errors.AccessDeniedError, errors.RefusedError, errors.JobConflictError, errors.OwnershipError)
"""Somebody has to change something, which nothing tells: looked at again now and then, without counting as failed."""
_PASSES = (errors.StoreUnavailableError, errors.ConflictError, errors.StaleError, errors.ClusterError)
"""These are over soon, and say nothing about the bundle."""


def waits(error: BaseException) -> bool:
    """Tell whether the bundle stands still until somebody changes something."""
    return isinstance(error, _WAITS)


def passes(error: BaseException) -> bool:
    """Tell whether an error passes by itself."""
    return isinstance(error, _PASSES) and not waits(error)


def reason_of(error: BaseException) -> str:
    """Return the word that conditions carry."""
    if isinstance(error, errors.ResourceError | errors.TargetError | errors.ContentError):
        return error.reason
    return next(REASONS[kind] for kind in type(error).__mro__ if kind in REASONS)


def outcome_of(error: BaseException) -> Outcome:
    """Return what an error makes of a bundle's status."""
    if not isinstance(error, errors.DagBundleError):
        message = f"the operator failed with {type(error).__name__}, which is its defect: its log says where. "
        return Outcome(False, reason_of(error), f"{message}It tries again", reconciling=True)
    message = error.message + (f". Next: {error.hint}" if error.hint else "")
    if waits(error) or isinstance(error, errors.ResourceError):
        return Outcome(False, reason_of(error), message, stalled=True, final=True)
    return Outcome(None if passes(error) else False, reason_of(error), message, reconciling=True)
