"""Looks at a DAG's `access_control` before it is published, where the FAB auth manager carries it out.

FAB raises for a role, a resource or an action that it does not know while it writes, which would take the whole
publication back. Here it is found beforehand, so that it costs its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from dagbundle.rollout.model import Problem
from dagbundle.rollout.moves import Candidate
from dagbundle.targets.airflow import adapter
from dagbundle.targets.airflow.sessions import session_in

_DAGS = "DAGs"
"""The resource that is meant where an `access_control` names none."""


def refused(airflow: adapter.Adapter, connection: Connection, candidates: Sequence[Candidate]) -> dict[str, Problem]:
    """Return what FAB would refuse of vetted DAGs, by dag_id.

    Args:
        airflow: The installed Airflow.
        connection: In a transaction; nothing is written.
        candidates: DAGs that have an `access_control`.
    """
    if not airflow.has_fab_permissions:
        return {}
    found: dict[str, Problem] = {}
    with session_in(connection) as session:
        try:
            manager = airflow.security_manager(session)
        except ImportError:  # the provider is missing here: what is written then says so, and `airflow check`
            return {}
        known = manager.RESOURCE_DETAILS_MAP
        roles = {role.name for role in manager.get_all_roles()}
        for item in candidates:
            why = next(_unknown(airflow.decoded(item.content.header).access_control, roles, known), None)
            if why:
                found[item.dag_id] = Problem(
                    "AccessNotKnown",
                    f"DAG {item.dag_id}: its access_control includes {why}. Next: mend it, or have the role made",
                )
    return found


def _unknown(access: Any, roles: set[str], known: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(access, dict):
        yield "no mapping of roles"
        return
    for role, actions in access.items():
        if role not in roles:
            yield f"a role named {role!r:.200}, but that role does not exist"
        for resource, names in (actions if isinstance(actions, dict) else {_DAGS: actions}).items():
            if resource not in known:
                yield f"the invalid resource name: {resource!r:.200}; valid are {', '.join(sorted(known))}"
            elif not isinstance(names, set | list | tuple):
                yield f"no list of permissions for the role {role!r:.200}"
            elif wrong := sorted(
                str(name) for name in names if not isinstance(name, str) or name not in known[resource]["actions"]
            ):
                valid = ", ".join(sorted(known[resource]["actions"]))
                yield f"the invalid permissions: {', '.join(wrong):.200}; valid for {resource} are {valid}"
