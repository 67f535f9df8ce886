"""Checks the fields of a DAG and of its tasks: their types, and that every column that they end in holds them.

A wrong type is not only refused by a column. Airflow's scheduler reads documents of all teams in one loop, and what it
does not expect there can end it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from dagbundle.targets.airflow.vetting import calls, names, walk
from dagbundle.targets.airflow.vetting.allowed import VARIABLE, Allowed
from dagbundle.targets.airflow.vetting.columns import LIMITS

_TEXTS = {
    "description": 1_000_000,
    "doc_md": 1_000_000,
    "dag_display_name": LIMITS["dag.dag_display_name"],
    "_dag_display_property_value": LIMITS["dag.dag_display_name"],
    "relative_fileloc": LIMITS["dag.relative_fileloc"],
}
_FLAGS = ("is_paused_upon_creation", "catchup", "fail_fast", "disable_bundle_versioning", "has_on_failure_callback",
          "has_on_success_callback", "render_template_as_native_obj", "rerun_with_latest_version")  # fmt: skip
_COUNTS = ("max_active_tasks", "max_active_runs", "max_consecutive_failed_dag_runs", "_concurrency")
MAX_TAGS = 1_000
MAX_LINKS = 1_000
_LINK_SCHEMES = frozenset({"http", "https", "mailto"})

_TASK_TEXTS = {
    "owner": LIMITS["dag_owner_attributes.owner"],
    "pool": LIMITS["task_instance.pool"],
    "queue": LIMITS["task_instance.queue"],
    "executor": LIMITS["task_instance.executor"],
    "task_type": LIMITS["task_instance.operator"],
    "_task_type": LIMITS["task_instance.operator"],
    "_operator_name": LIMITS["task_instance.custom_operator_name"],
    "_task_module": 1_000,
    "_task_display_name": LIMITS["task_instance.task_display_name"],
    "task_display_name": LIMITS["task_instance.task_display_name"],
    "weight_rule": 1_000,
    "map_index_template": 10_000,
}
_TASK_COUNTS = {
    "retries": 0,
    "pool_slots": 1,
    "priority_weight": -walk.INT32,
    "max_active_tis_per_dag": 0,
    "max_active_tis_per_dagrun": 0,
}
"""Whole numbers, with the least that is allowed."""
_TASK_TIMES = ("retry_delay", "max_retry_delay", "execution_timeout")
_TASK_FLAGS = (
    "depends_on_past", "wait_for_downstream", "ignore_first_depends_on_past", "wait_for_past_depends_before_skipping",
    "do_xcom_push", "email_on_failure", "email_on_retry", "multiple_outputs", "start_from_trigger", "is_setup",
    "is_teardown", "on_failure_fail_dagrun", "_on_failure_fail_dagrun", "_is_mapped", "_is_sensor", "_is_empty",
    "_can_skip_downstream", "_needs_expansion", "allow_nested_operators", "has_on_execute_callback",
    "has_on_failure_callback", "has_on_retry_callback", "has_on_skipped_callback", "has_on_success_callback",
    "has_retry_policy",
)  # fmt: skip
MAX_SECONDS = 100 * 366 * 86_400
"""A century: what a timedelta and a database's interval both hold."""


def header(dag: Mapping[str, Any], allowed: Allowed) -> None:
    """Check the fields of a DAG, its tasks aside."""
    walk.only("dag", dag, names.DAG_FIELDS)
    for name, most in _TEXTS.items():
        if dag.get(name) is not None:
            walk.text(f"dag.{name}", dag[name], most)
    for name in _FLAGS:
        _flag(f"dag.{name}", dag.get(name))
    for name in _COUNTS:
        if dag.get(name) is not None:
            walk.integer(f"dag.{name}", dag[name], least=0)
    if dag.get("dagrun_timeout") is not None:
        walk.number("dag.dagrun_timeout", dag["dagrun_timeout"], least=0, most=MAX_SECONDS)
    _tags(dag.get("tags"))
    _owner_links(dag.get("owner_links"))
    if dag.get("allowed_run_types") is not None:
        for item in walk.items("dag.allowed_run_types", dag["allowed_run_types"], len(names.RUN_TYPES)):
            if not walk.is_one_of(item, names.RUN_TYPES):
                walk.refuse("dag.allowed_run_types", item, "there is no such type of run")
    _edges(dag.get("edge_info"))
    calls.deadlines("dag.deadline", dag.get("deadline"), allowed)


def task(path: str, body: Mapping[str, Any], allowed: Allowed, *, starts: bool) -> None:
    """Check the fields of a task, or of what is given to every task or every mapped one.

    Args:
        path: Of it in the document.
        body: It.
        allowed: What the deployment allows.
        starts: Whether a task with these fields may start from its trigger.
    """
    for name, value in body.items():
        if value is not None and name in _TASK_CHECKS:
            _TASK_CHECKS[name](f"{path}.{name}", value)
    _rules(path, body)
    for name in ("inlets", "outlets"):
        if body.get(name):
            _assets(f"{path}.{name}", body[name])
    for name, chosen in (("executor", allowed.executors), ("pool", allowed.pools), ("queue", allowed.queues)):
        value = body.get(name)
        if value is not None and chosen is not None and not walk.is_one_of(value, chosen):
            walk.refuse(f"{path}.{name}", value, "it is not allowed", setting=f"{VARIABLE}{name.upper()}S")
    calls.start_trigger(f"{path}.start_trigger_args", body.get("start_trigger_args"), allowed, starts=starts)


def _assets(path: str, found: object) -> None:
    """Check that what a task reads and writes can be told: Airflow decodes it where it is stored, not with the task."""
    for index, item in enumerate(found if isinstance(found, list) else ()):
        if isinstance(item, Mapping) and not isinstance(item.get("__type"), str):
            walk.refuse(f"{path}[{index}]", item, "it does not say what it is")


def _flag(path: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        walk.refuse(path, value, "true or false is expected")


def _time(path: str, value: object) -> None:
    """Check seconds, bare as in a task or wrapped as in what is given to mapped ones."""
    if isinstance(value, Mapping):
        value = value.get("__var")
    if value is not None:
        walk.number(path, value, least=0, most=MAX_SECONDS)


def _rules(path: str, body: Mapping[str, Any]) -> None:
    rule = body.get("trigger_rule")
    if rule is not None and not walk.is_one_of(rule, names.TRIGGER_RULES):
        walk.refuse(f"{path}.trigger_rule", rule, "there is no such rule")
    backoff = body.get("retry_exponential_backoff")
    if backoff is not None and not isinstance(backoff, bool):
        walk.number(f"{path}.retry_exponential_backoff", backoff, least=0, most=1_000)


_TASK_CHECKS: Mapping[str, Callable[[str, object], object]] = {
    **{name: functools.partial(walk.text, most=most) for name, most in _TASK_TEXTS.items()},
    **{name: functools.partial(walk.integer, least=least) for name, least in _TASK_COUNTS.items()},
    **dict.fromkeys(_TASK_TIMES, _time),
    **dict.fromkeys(_TASK_FLAGS, _flag),
}
"""What looks at a field of a task, by its name."""


def owners(dag: Mapping[str, Any]) -> None:
    """Check that the owners of all tasks together fit into a column, joined as Airflow joins them."""
    found = {
        str(owner)
        for item in dag.get("tasks", ())
        if isinstance(item, Mapping) and (owner := (item.get("__var") or {}).get("owner"))
    }
    length = len(", ".join(found))
    if length > LIMITS["dag.owners"]:
        walk.refuse(
            "the length of all tasks' owners", length, f"Airflow's dag.owners has {LIMITS['dag.owners']:,} characters"
        )


def dependencies(found: object, assets: frozenset[tuple[str, str]], aliases: frozenset[str]) -> None:
    """Check what Airflow's graph of all DAGs reads of each: one entry that it cannot read is an error for everybody.

    Args:
        found: `dag.dag_dependencies`.
        assets: Names and URIs of the assets in the document; of others there may be no row.
        aliases: Names of its asset aliases.
    """
    if found is None:
        return
    known = {f"{name}\0{uri}" for name, uri in assets}
    for index, item in enumerate(walk.items("dag.dag_dependencies", found, 100_000)):
        path = f"dag.dag_dependencies[{index}]"
        entry = walk.mapping(path, item)
        for name in ("source", "target", "dependency_type"):
            walk.text(f"{path}.{name}", entry.get(name), 5_000)
        for name in ("dependency_id", "label"):
            if entry.get(name) is not None:
                walk.text(f"{path}.{name}", entry[name], 10_000)
        kind, identity = entry["dependency_type"], entry.get("dependency_id")
        if kind not in names.DEPENDENCIES:
            walk.refuse(f"{path}.dependency_type", kind, "there is no such kind of dependency")
        if kind == "asset" and _asset_key(identity) not in known:
            walk.refuse(f"{path}.dependency_id", identity, "the DAG has no such asset")
        if kind == "asset-alias" and identity not in aliases:
            walk.refuse(f"{path}.dependency_id", identity, "the DAG has no such asset alias")
        if kind in {"trigger", "sensor"} and any(entry[name].startswith("asset:") for name in ("source", "target")):
            walk.refuse(path, item, "only an asset's name begins with asset:")


def _asset_key(identity: object) -> str:
    """Return name and URI of a key as Airflow writes it: a JSON object of the two."""
    try:
        found = json.loads(identity) if isinstance(identity, str) else None
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict) or found.keys() != {"name", "uri"}:
        return ""
    return f"{found['name']}\0{found['uri']}"


def _tags(found: object) -> None:
    if found is None:
        return
    listed = list(found) if isinstance(found, Mapping) else found
    for tag in walk.items("dag.tags", listed, MAX_TAGS):
        if not isinstance(tag, str) or len(tag) > LIMITS["dag_tag.name"]:
            walk.refuse("dag.tags", tag, f"a tag is a text of at most {LIMITS['dag_tag.name']} characters")


def _owner_links(found: object) -> None:
    """Check links that Airflow's pages show: one of the scheme `javascript` would run in who reads them."""
    if found is None:
        return
    links = walk.mapping("dag.owner_links", found)
    if len(links) > MAX_LINKS:
        walk.refuse("the number of dag.owner_links", len(links), f"at most {MAX_LINKS:,} are allowed")
    for owner, link in links.items():
        walk.text("the name of an owner in dag.owner_links", owner, LIMITS["dag_owner_attributes.owner"])
        path = f"dag.owner_links.{owner:.60}"
        walk.text(path, link, LIMITS["dag_owner_attributes.link"])
        try:
            scheme = urlsplit(link).scheme
        except ValueError:
            scheme = ""
        if scheme not in _LINK_SCHEMES or any(character.isspace() or not character.isprintable() for character in link):
            walk.refuse(path, link, "a link begins with https:, http: or mailto:")


def _edges(found: object) -> None:
    if found is None:
        return
    for source, edges in walk.mapping("dag.edge_info", found).items():
        for target, edge in walk.mapping(f"dag.edge_info.{source:.60}", edges).items():
            path = f"dag.edge_info.{source:.60}.{target:.60}"
            label = walk.mapping(path, edge).get("label")
            if label is not None:
                walk.text(f"{path}.label", label, 10_000)
