"""Refuses to parse as an account of this machine only because a checkout says so.

As root, `spec.subdirs[].runAsUser` decides as which user DAG files run. A checkout that names a person's account, or a
database's, would read the files of that account.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagbundle import errors

if TYPE_CHECKING:
    from dagbundle.resources.bundle import DagBundle

ALLOWED = "DAGBUNDLE_RUN_AS_USERS"
"""The environment variable that names the accounts which DAG files may run as: UIDs, separated by commas."""
_NOBODY = 65_534


def check(resource: DagBundle, environ: Mapping[str, str] = os.environ) -> None:
    """Check the UIDs that a DagBundle names, where this process could become them.

    Args:
        resource: The DagBundle.
        environ: May allow accounts, by ALLOWED.

    Raises:
        ResourceError: A UID has an account on this machine, and nobody allowed it.
    """
    if os.geteuid() != 0:
        return
    allowed = {word.strip() for word in environ.get(ALLOWED, "").split(",")}
    for subdir in resource.spec.subdirs:
        uid = subdir.run_as_user
        if uid is None or uid == _NOBODY or str(uid) in allowed:
            continue
        try:
            account = pwd.getpwuid(uid).pw_name
        except KeyError:
            continue
        name = f"{resource.metadata.namespace}/{resource.metadata.name}"
        raise errors.ResourceError(
            f"DagBundle {name}: runAsUser {uid} of subdir {subdir.path} is the account {account!r} of this machine, "
            f"so DAG files could read and change the files of {account}",
            hint=f"choose a UID that has no account, or allow this one: {ALLOWED}={uid}",
        )
