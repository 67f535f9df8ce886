"""Variables and Connections, as Airflow's own lookup asks for them while a file is parsed (3.0 to 3.3).

In stock Airflow a process that parses asks its supervisor, after the environment and a deployment's secrets backend.
Here an object takes the supervisor's place, and answers with what the store's server says. Nothing of Airflow's is
changed: what is a default, what raises, and what its masker hears is its own doing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from dagbundle_parser.values import CONNECTION, VALUES, VARIABLE

_KINDS = {VARIABLE: "Variable", CONNECTION: "Connection"}


class Supervisor:
    """What Airflow takes for the connection to its supervisor."""

    def __init__(self) -> None:
        comms: Any = importlib.import_module("airflow.sdk.execution_time.comms")
        exceptions: Any = importlib.import_module("airflow.sdk.exceptions")
        self._comms, self._errors, self._raised = comms, exceptions.ErrorType, exceptions.AirflowRuntimeError
        self._answers = {
            comms.GetVariable: lambda message: self.variable(message.key),
            comms.GetConnection: lambda message: self.connection(message.conn_id),
        }

    def send(self, message: Any) -> Any:
        """Answer a message.

        Raises:
            AirflowRuntimeError: it is none that a file may send while it is parsed, as stock raises for such.
            LookupFailed: nobody can say what a value is.
        """
        answer = self._answers.get(type(message))
        if answer is not None:
            return answer(message)
        name = type(message).__name__
        if name == "MaskSecret":
            VALUES.hide(message.value)
            return None
        why = f"{name} was refused: while a file is parsed Variables and Connections can be read, and nothing else done"
        VALUES.refused.add(why)  # some minors only log what is raised
        raise self._raised(self._comms.ErrorResponse(error=self._errors.GENERIC_ERROR, detail={"message": why}))

    async def asend(self, message: Any) -> Any:
        """Answer a message to who asks in an event loop."""
        return self.send(message)

    def variable(self, key: str) -> Any:
        """The answer about a Variable."""
        value = VALUES.ask(VARIABLE, key)
        if value is None:
            return self._missing(self._errors.VARIABLE_NOT_FOUND, key=key)
        return self._comms.VariableResult(key=key, value=value)

    def connection(self, conn_id: str) -> Any:
        """The answer about a Connection."""
        fields = VALUES.ask(CONNECTION, conn_id)
        if fields is None:
            return self._missing(self._errors.CONNECTION_NOT_FOUND, conn_id=conn_id)
        return self._comms.ConnectionResult.model_validate({**fields, "conn_id": conn_id, "type": "ConnectionResult"})

    def _missing(self, error: Any, **what: str) -> Any:
        return self._comms.ErrorResponse(error=error, detail=what)


def supervise() -> None:
    """Take the supervisor's place. It imports what a task needs, for a tenth of a second: only where somebody asks."""
    runner: Any = importlib.import_module("airflow.sdk.execution_time.task_runner")
    if not isinstance(getattr(runner, "SUPERVISOR_COMMS", None), Supervisor):
        runner.SUPERVISOR_COMMS = Supervisor()


def watch(used: set[str]) -> None:
    """Take the supervisor's place once anything is asked for, and note in `used` of what kind, whoever answers."""
    context = importlib.import_module("airflow.sdk.execution_time.context")
    for name in ("_get_variable", "_set_variable", "_delete_variable", "_get_variable_keys"):
        _watch(context, name, _KINDS[VARIABLE], used)
    for name in ("_get_connection", "_async_get_connection"):
        _watch(context, name, _KINDS[CONNECTION], used)
    models = importlib.import_module("airflow.models.variable")
    _watch(models.Variable, "get_variable_from_secrets", _KINDS[VARIABLE], used, static=True)
    connections = importlib.import_module("airflow.models.connection")
    _watch(connections.Connection, "get_connection_from_secrets", _KINDS[CONNECTION], used, static=True)


def _watch(owner: Any, name: str, what: str, used: set[str], *, static: bool = False) -> None:
    """Note each call of a function: the result of a file that makes one depends on more than files."""
    original: Callable[..., Any] | None = getattr(owner, name, None)
    if original is None:
        return

    def watched(*args: Any, **kwargs: Any) -> Any:
        used.add(what)
        supervise()
        return original(*args, **kwargs)

    setattr(owner, name, staticmethod(watched) if static else watched)
