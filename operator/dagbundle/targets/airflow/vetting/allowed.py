"""What a deployment allows a serialized DAG to name, besides Airflow's own classes. Exact names only.

A pattern such as `airflow.triggers.*` would allow what takes a second name as an argument and calls it:
`airflow.triggers.callback.CallbackTrigger(callback_path="subprocess.check_output")`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dagbundle import errors
from dagbundle.targets.airflow.vetting import names

DEFAULT_EXECUTOR = "default"
"""Stands for the deployment's default executor in `Allowed.callback_executors`."""
VARIABLE = "DAGBUNDLE_ALLOWED_"
NEVER = frozenset(
    {
        "airflow.triggers.callback.CallbackTrigger",
        "airflow.triggers.deadline.DeadlineCallbackTrigger",
        "airflow.triggers.testing.SuccessTrigger",
        "airflow.triggers.testing.FailureTrigger",
    }
)
"""Triggers that call what an argument names, or are made for tests. No setting allows them."""


def _nothing() -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a deployment allows besides Airflow's own classes.

    Attributes:
        classes: Import paths of timetables, partition mappers, windows and deadline references that its plugins bring.
        triggers: Import paths of trigger classes, which the triggerer imports and starts.
        callbacks: Import paths of what a deadline may call; None for the notifiers of the installed providers.
        callback_executors: Executors that carry out a deadline's SyncCallback; `default` is the deployment's default
            one. A callback for an executor that cannot carry it ends the scheduler at every start.
        executors: Names that a task may choose; None allows any, as for `pools` and `queues`.
        pools: Likewise.
        queues: Likewise.
        shared_assets: Whether bundles may define one asset differently: the DAG that is written last counts, as in
            stock Airflow.
        notifiers: Returns what `callbacks` None means. A function, since looking for it takes a moment.
    """

    classes: frozenset[str] = frozenset()
    triggers: frozenset[str] = names.TRIGGERS
    callbacks: frozenset[str] | None = None
    callback_executors: frozenset[str] = frozenset()
    executors: frozenset[str] | None = None
    pools: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    shared_assets: bool = False
    notifiers: Callable[[], frozenset[str]] = _nothing

    def is_trigger(self, name: str) -> bool:
        """Tell whether the triggerer may import and start this class."""
        return name not in NEVER and name in self.triggers

    def is_callback(self, name: str) -> bool:
        """Tell whether triggerer, scheduler and executor may import and call this."""
        return name in (self.notifiers() if self.callbacks is None else self.callbacks)


def read(environ: Mapping[str, str] = os.environ, notifiers: Callable[[], frozenset[str]] = _nothing) -> Allowed:
    """Read what is allowed from the environment: `DAGBUNDLE_ALLOWED_CLASSES=a.B,c.D`, and so on for each attribute.

    Args:
        environ: The environment.
        notifiers: Returns the import paths of the installed providers' notifiers.

    Raises:
        UsageError: A name is a pattern, which an earlier version took, or a switch is neither true nor false.
    """

    def listed(name: str) -> frozenset[str] | None:
        text = environ.get(f"{VARIABLE}{name}")
        if text is None:
            return None
        found = frozenset(item.strip() for item in text.split(",") if item.strip())
        patterns = sorted(item for item in found if set(item) & set("*?["))
        if patterns:
            raise errors.UsageError(
                f"{VARIABLE}{name} holds the pattern {patterns[0]!r:.200}; only exact names are allowed",
                hint="name each class by its import path",
            )
        return found

    triggers = listed("TRIGGERS")
    return Allowed(
        classes=listed("CLASSES") or frozenset(),
        triggers=names.TRIGGERS if triggers is None else triggers,
        callbacks=listed("CALLBACKS"),
        callback_executors=listed("CALLBACK_EXECUTORS") or frozenset(),
        executors=listed("EXECUTORS"),
        pools=listed("POOLS"),
        queues=listed("QUEUES"),
        shared_assets=_switch(environ, "SHARED_ASSETS"),
        notifiers=notifiers,
    )


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(f"{VARIABLE}{name}", "false")
    if text not in {"true", "false"}:
        raise errors.UsageError(f"{VARIABLE}{name}={text!r:.80} is neither true nor false")
    return text == "true"
