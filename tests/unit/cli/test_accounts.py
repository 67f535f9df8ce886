"""As which user a checkout's DAG files may run where root parses them."""

from __future__ import annotations

import os
import pwd

import pytest

from dagbundle import errors
from dagbundle.cli import accounts
from dagbundle.resources.bundle import DagBundle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

ACCOUNT = next(entry for entry in pwd.getpwall() if entry.pw_uid not in {0, 65_534})
SPARE = next(uid for uid in range(50_000, 60_000) if uid not in {entry.pw_uid for entry in pwd.getpwall()})


def bundle(uid: int | None) -> DagBundle:
    subdirs = [{"path": "sales", **({} if uid is None else {"runAsUser": uid})}]
    return DagBundle.model_validate(
        {
            "apiVersion": "dagbundle.dev/v1alpha1",
            "kind": "DagBundle",
            "metadata": {"name": "sales", "namespace": "team"},
            "spec": {"source": {"image": {"reference": "r/i:1"}}, "subdirs": subdirs},
        }
    )


def test_an_account_of_this_machine_is_refused() -> None:
    with pytest.raises(errors.ResourceError, match="subdir sales is the account") as caught:
        accounts.check(bundle(ACCOUNT.pw_uid), {})
    assert ACCOUNT.pw_name in caught.value.message
    assert f"DAGBUNDLE_RUN_AS_USERS={ACCOUNT.pw_uid}" in caught.value.hint


@pytest.mark.parametrize("uid", [None, SPARE, 65_534])
def test_a_user_without_files_on_this_machine_is_taken(uid: int | None) -> None:
    accounts.check(bundle(uid), {})


def test_an_account_that_was_allowed_is_taken() -> None:
    accounts.check(bundle(ACCOUNT.pw_uid), {"DAGBUNDLE_RUN_AS_USERS": f"{SPARE}, {ACCOUNT.pw_uid}"})
