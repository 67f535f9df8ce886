"""Says which Python files provably leave nothing behind in their process, so that several may share a child.

A list of what is allowed, not of what is forbidden: calls of Airflow's own classes and decorators, a few functions of
a few modules, literals, loops, and names that the file itself bound. No store into anything that was imported, no
attribute with an underscore, no method but those listed. What is not understood is not plain and gets a child of its
own. A check of the process after each file (loaders/traces.py) is the second line.

An import is fine, whatever it brings, if the process has it already and the file does not use it while it is parsed.
Bodies that do not run while a file is parsed are not looked at: those of tasks (`@task`), of callables that are only
handed to operators (`python_callable=f`), and of functions that only such bodies use.
"""

from __future__ import annotations

import ast
from collections.abc import Container, Mapping

_AIRFLOW_NAMES = frozenset(
    {"DAG", "dag", "task", "task_group", "TaskGroup", "chain", "chain_linear", "cross_downstream", "Param", "Label",
     "Asset", "AssetAlias", "AssetAll", "AssetAny", "Dataset", "TriggerRule", "setup", "teardown", "timezone",
     "CronDataIntervalTimetable", "CronTriggerTimetable", "DeltaDataIntervalTimetable", "AssetOrTimeSchedule",
     "EdgeModifier", "XComArg", "asset", "AssetWatcher", "AssetAccessControl", "Metadata", "RetryAction",
     "ObjectStoragePath", "MinimumCount", "WaitForAll", "PartitionedAtRuntime"}
)  # fmt: skip
_AIRFLOW_SUFFIXES = (
    "Operator", "Sensor", "OperatorAsync", "SensorAsync", "Timetable", "Trigger", "Mapper", "Window", "RetryPolicy",
    "RetryRule",
)  # fmt: skip
_MODULE_MEMBERS: dict[str, frozenset[str]] = {
    "__future__": frozenset({"annotations"}),
    "datetime": frozenset({"datetime", "timedelta", "date", "time", "timezone", "UTC"}),
    "itertools": frozenset({"chain", "product", "islice", "combinations", "permutations"}),
    "json": frozenset({"dumps", "loads"}),
    "logging": frozenset({"getLogger", "Logger"}),
    "math": frozenset({"ceil", "floor", "sqrt", "log", "log2", "pow", "pi"}),
    "os": frozenset({"getenv", "path", "sep"}),
    "pathlib": frozenset({"Path", "PurePath", "PurePosixPath"}),
    "pendulum": frozenset({"datetime", "duration", "timezone", "DateTime", "Duration", "UTC", "date", "tz"}),
    "textwrap": frozenset({"dedent", "indent"}),
    "typing": frozenset(
        {"Any", "Dict", "List", "Optional", "Sequence", "Mapping", "Union", "TYPE_CHECKING", "Literal"}
    ),
    "zoneinfo": frozenset({"ZoneInfo"}),
}
_BUILTINS = frozenset(
    {"range", "len", "str", "int", "float", "bool", "list", "dict", "set", "tuple", "frozenset", "enumerate", "zip",
     "sorted", "reversed", "min", "max", "sum", "any", "all", "abs", "round", "repr", "True", "False", "None",
     "Exception", "ValueError", "TypeError", "KeyError", "ImportError", "ModuleNotFoundError", "AttributeError",
     "OSError", "ConnectionError", "TimeoutError", "RuntimeError", "__file__", "__name__", "__doc__"}
)  # fmt: skip
_METHODS = frozenset(
    {"set_downstream", "set_upstream", "expand", "expand_kwargs", "partial", "override", "as_setup", "as_teardown",
     "format", "join", "items", "keys", "values", "strip", "lower", "upper", "split", "title", "startswith", "endswith",
     "datetime", "timedelta", "isoformat", "strftime", "total_seconds", "bash", "branch", "virtualenv",
     "external_python", "short_circuit", "sensor", "docker", "kubernetes", "partition", "today", "multi"}
)  # fmt: skip
_DOC_ATTRIBUTES = frozenset({"doc_md", "doc", "doc_json", "doc_yaml", "doc_rst"})
_ALLOWED: tuple[type[ast.AST], ...] = (
    ast.Module, ast.Expr, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.With, ast.withitem, ast.Import,
    ast.ImportFrom, ast.alias, ast.For, ast.If, ast.IfExp, ast.Return, ast.Pass, ast.Continue, ast.Break, ast.JoinedStr,
    ast.FormattedValue, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Starred,
    ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Name,
    ast.Lambda, ast.arguments, ast.arg, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.comprehension,
    ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.AsyncFunctionDef,
    ast.Try, ast.ExceptHandler,
)  # fmt: skip
_SDK = "airflow.sdk"
"""Airflow's public interface, a package whose members come in at first use."""
_TASK_DECORATORS = frozenset({"task", "setup", "teardown", "asset"})
_CALLED_BY_TASKS_ONLY = frozenset(
    {"python_callable", "on_failure_callback", "on_success_callback", "on_retry_callback", "on_execute_callback",
     "on_skipped_callback", "sla_miss_callback"}
)  # fmt: skip
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def is_plain(tree: ast.Module, loaded: Mapping[str, object]) -> bool:
    """Whether a parsed Python file provably leaves nothing behind in the process that imports it.

    Args:
        tree: the file; it is changed.
        loaded: modules that the process has imported already, by name, none of them from a bundle.
    """
    try:
        return _Gate(tree, loaded).passes()
    except RecursionError:
        return False


class _Gate:
    def __init__(self, tree: ast.Module, loaded: Mapping[str, object]) -> None:
        tree.body = [statement for statement in tree.body if not _is_main_guard(statement)]
        _empty_bodies_that_do_not_run(tree)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        self._nodes = [node for node in ast.walk(tree) if not _brings_nothing(node, used, loaded)]
        self._modules: set[str] = set()
        self._imported: set[str] = set()
        self._bound: set[str] = set()
        self._not_calls: set[str] = set()
        self._bases: set[int] = set()
        self._called: set[int] = set()

    def passes(self) -> bool:
        if not all(isinstance(node, _ALLOWED) for node in self._nodes):
            return False
        return self._imports() and self._bindings() and all(self._node(node) for node in self._nodes)

    def _imports(self) -> bool:
        for node in self._nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name not in _MODULE_MEMBERS:
                        return False
                    self._modules.add(alias.asname or alias.name)
            elif isinstance(node, ast.ImportFrom):
                if node.level or not all(_may_import(node.module or "", alias.name) for alias in node.names):
                    return False
                self._imported.update(alias.asname or alias.name for alias in node.names)
        return True

    def _bindings(self) -> bool:
        """Collect the names that the file binds; those of imports must not be bound to anything else."""
        for node in self._nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self._bound.add(node.id)
            elif isinstance(node, _Function):
                self._bound.add(node.name)
                self._not_calls.add(node.name)
            elif isinstance(node, ast.arg):
                self._bound.add(node.arg)
                self._not_calls.add(node.arg)
            elif isinstance(node, (ast.For, ast.comprehension)):
                self._not_calls.update(_names_in(node.target))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not isinstance(node.value, ast.Call):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self._not_calls.update(name for target in targets for name in _names_in(target))
        for node in self._nodes:
            if isinstance(node, ast.Attribute):
                self._bases.add(id(node.value))
            elif isinstance(node, ast.Call):
                self._called.add(id(node.func))
        return self._bound.isdisjoint(self._modules | self._imported | _BUILTINS | {"globals", "vars"})

    def _node(self, node: ast.AST) -> bool:  # noqa: PLR0911 - one return per kind of node
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Subscript):
            return isinstance(node.ctx, ast.Load)
        if isinstance(node, ast.Call):
            return self._call(node.func)
        if isinstance(node, _Function):
            return not node.name.startswith("__") and all(
                self._decorator(decorator) for decorator in node.decorator_list
            )
        if isinstance(node, ast.With):
            return all(
                isinstance(item.context_expr, ast.Call)
                and isinstance(item.context_expr.func, ast.Name)
                and item.context_expr.func.id in self._imported
                for item in node.items
            )
        return True

    def _name(self, node: ast.Name) -> bool:
        if isinstance(node.ctx, ast.Store):
            return True
        if node.id in self._modules:  # a module as a value could be changed where it is no longer seen
            return id(node) in self._bases
        return node.id in self._bound or node.id in self._imported or node.id in _BUILTINS

    def _attribute(self, node: ast.Attribute) -> bool:
        if node.attr.startswith("_"):
            return False
        base = node.value
        if isinstance(base, ast.Name) and base.id in self._modules:
            members = [known for module, known in _MODULE_MEMBERS.items() if self._is_alias(base.id, module)]
            return isinstance(node.ctx, ast.Load) and any(node.attr in known for known in members)
        if isinstance(node.ctx, ast.Load):
            return True
        own = isinstance(base, ast.Name) and base.id in self._bound and base.id not in self._not_calls
        return isinstance(node.ctx, ast.Store) and own and node.attr in _DOC_ATTRIBUTES

    def _is_alias(self, name: str, module: str) -> bool:
        return any(
            alias.name == module and (alias.asname or alias.name) == name
            for node in self._nodes
            if isinstance(node, ast.Import)
            for alias in node.names
        )

    def _call(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Name):
            return True  # `_name` says whether the name may be used
        if isinstance(function, ast.Attribute):
            base = function.value
            return (isinstance(base, ast.Name) and base.id in self._modules) or function.attr in _METHODS
        return isinstance(function, ast.Call)  # `task(…)(…)`

    def _decorator(self, node: ast.expr) -> bool:
        return _root_of(node) in self._imported


def _may_import(module: str, name: str) -> bool:
    if module in _MODULE_MEMBERS:
        return name in _MODULE_MEMBERS[module]
    if module == "airflow" or module.startswith("airflow."):
        return name in _AIRFLOW_NAMES or (name[:1].isupper() and name.endswith(_AIRFLOW_SUFFIXES))
    return False


def _empty_bodies_that_do_not_run(tree: ast.Module) -> None:
    """Replace the bodies of tasks, of callables that operators get, and of what only those use, by `pass`."""
    airflows = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "airflow"
        for alias in node.names
    }
    tasks = {name for name, original in airflows.items() if original in _TASK_DECORATORS}
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function)]
    for function in functions:
        if function.decorator_list and all(_root_of(item) in tasks for item in function.decorator_list):
            function.body = [ast.Pass()]
    while True:
        handed = {
            id(keyword.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and _root_of(node) in airflows  # the file's own functions may call what they get
            for keyword in node.keywords
            if keyword.arg in _CALLED_BY_TASKS_ONLY
        }
        used = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in handed
        }
        idle = [
            function
            for function in functions
            if not (function.decorator_list or function.name in used or isinstance(function.body[0], ast.Pass))
        ]
        if not idle:
            return
        for function in idle:
            function.body = [ast.Pass()]


def _brings_nothing(node: ast.AST, used: Container[str], loaded: Mapping[str, object]) -> bool:
    """Whether this imports only what is there already, under names that the rest of the file does not use."""
    if isinstance(node, ast.Import):
        return all(
            alias.name in loaded and (alias.asname or alias.name.partition(".")[0]) not in used for alias in node.names
        )
    if isinstance(node, ast.ImportFrom):
        return (
            not node.level
            and node.module is not None
            and node.module in loaded
            and all(
                alias.name != "*"
                and (alias.asname or alias.name) not in used
                and _is_there(loaded[node.module], node.module, alias.name)
                for alias in node.names
            )
        )
    return False


def _is_there(module: object, name: str, member: str) -> bool:
    """Whether `from name import member` loads no module: of a package, `member` may be one that is not loaded yet."""
    return name == _SDK or not hasattr(module, "__path__") or member in vars(module)


def _root_of(decorator: ast.expr) -> str:
    """The name that a decorator begins with: `task` of `@task.branch(retries=1)`."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(target, ast.Attribute):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def _names_in(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _is_main_guard(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, whose body never runs in a parser."""
    if not isinstance(statement, ast.If) or statement.orelse or not isinstance(statement.test, ast.Compare):
        return False
    test = statement.test
    return (
        isinstance(test.left, ast.Name)
        and test.left.id == "__name__"
        and len(test.ops) == 1
        and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value == "__main__"
    )
