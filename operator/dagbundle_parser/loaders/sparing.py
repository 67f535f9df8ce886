"""Imports Airflow without the work that hardly any DAG file ever needs; whoever needs it gets it at first use.

Every import of Airflow does it once for each process, most of which never see a task run: pydantic's validators of two
hundred models, and libcst, which takes the decorators out of a task's source text before a worker sends it elsewhere.
What Airflow itself does late, and slowly, is done faster here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

_USERS_OF_LIBCST = frozenset({"airflow.sdk.definitions._internal.decorators", "airflow.utils.decorators"})
"""Where `remove_task_decorator` is, from Airflow 3.1 on and in 3.0."""

_REGISTRIES_OF_METRICS = (
    "airflow._shared.observability.metrics.metrics_registry",
    "airflow.sdk._shared.observability.metrics.metrics_registry",
)
"""From Airflow 3.2 on."""


@contextlib.contextmanager
def sparing_imports() -> Iterator[None]:
    """Import Airflow in this block. What is defined in it stays as it is; what others import later is not concerned."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        with _deferred_models():
            yield
        _read_metrics_with_libyaml()
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def _deferred_models() -> Iterator[None]:
    """Let pydantic build what validates and serializes a model at the model's first use, which it documents."""
    config: Any = None
    with contextlib.suppress(Exception):  # then whoever needs pydantic says what is wrong with it
        config = importlib.import_module("pydantic").BaseModel.model_config
    if not isinstance(config, dict) or "defer_build" in config:
        yield
        return
    config["defer_build"] = True
    try:
        yield
    finally:
        del config["defer_build"]


def _read_metrics_with_libyaml() -> None:
    """Have the list of Airflow's metrics read by libyaml, in 8 ms instead of 80 ms, where a file makes Airflow need it.

    A path in an object store does, and then in each child anew.
    """
    yaml: Any = sys.modules.get("yaml")
    loader = getattr(yaml, "CSafeLoader", None)

    def read_metrics_yaml(yaml_path: str) -> Any:
        with open(yaml_path, "rb") as file:  # noqa: PTH123 - as Airflow's own
            return yaml.load(file, loader)["metrics"]

    for name in _REGISTRIES_OF_METRICS:
        module: Any = sys.modules.get(name)
        if loader is not None and hasattr(module, "read_metrics_yaml"):
            module.read_metrics_yaml = read_metrics_yaml


class _Finder(importlib.abc.MetaPathFinder):
    """Has the modules that use libcst loaded without it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _USERS_OF_LIBCST or "libcst" in sys.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutLibcst(spec.loader)
        return spec


class _WithoutLibcst(importlib.abc.Loader):
    """Runs a module with an empty class for the one of libcst's that it derives from, and again once it is needed."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        spec: Any = module.__spec__
        spec.loader = module.__loader__ = self._loader
        namespace: Any = module
        sys.modules["libcst"] = _StandIn("libcst")
        try:
            self._loader.exec_module(module)
        except AttributeError:  # it uses more of libcst while it is loaded
            del sys.modules["libcst"]
            self._loader.exec_module(module)
            return
        finally:
            if isinstance(sys.modules.get("libcst"), _StandIn):
                del sys.modules["libcst"]
        if not hasattr(module, "remove_task_decorator"):
            return

        @functools.wraps(namespace.remove_task_decorator)
        def remove_task_decorator(*args: Any, **kwargs: Any) -> Any:
            if namespace.remove_task_decorator is remove_task_decorator:
                self._loader.exec_module(module)
            return namespace.remove_task_decorator(*args, **kwargs)

        namespace.remove_task_decorator = remove_task_decorator


class _StandIn(types.ModuleType):
    """Stands in for libcst while a module that uses it is loaded."""

    CSTTransformer = object
