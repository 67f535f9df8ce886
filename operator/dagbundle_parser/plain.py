"""Says which Python files provably leave nothing behind in their process, so that several may share a child.

A list of what is allowed, not of what is forbidden: calls of Airflow's own classes and decorators, a few functions of
a few modules, literals, loops, and names that the file itself bound. No store into anything that was imported, no
attribute with an underscore, no method but those listed. What is not understood is not plain and gets a child of its
own. A check of the process after each file (loaders/traces.py) is the second line.

What does not run while the file is parsed is not looked at (pruning.py). A class may derive from Airflow's operators,
timetables and the like, and its methods may set attributes of `self`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from dagbundle_parser.pruning import FUNCTION, prune, root_of

_AIRFLOW_NAMES = frozenset(
    {"DAG", "dag", "task", "task_group", "TaskGroup", "chain", "chain_linear", "cross_downstream", "Param", "Label",
     "Asset", "AssetAlias", "AssetAll", "AssetAny", "Dataset", "TriggerRule", "setup", "teardown", "timezone",
     "CronDataIntervalTimetable", "CronTriggerTimetable", "DeltaDataIntervalTimetable", "AssetOrTimeSchedule",
     "EdgeModifier", "XComArg", "asset", "AssetWatcher", "AssetAccessControl", "Metadata", "RetryAction",
     "ObjectStoragePath", "MinimumCount", "WaitForAll", "PartitionedAtRuntime", "AirflowPlugin"}
)  # fmt: skip
_AIRFLOW_SUFFIXES = (
    "Operator", "Sensor", "OperatorAsync", "SensorAsync", "Timetable", "Trigger", "Mapper", "Window", "RetryPolicy",
    "RetryRule", "Strategy",
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
     "OSError", "ConnectionError", "TimeoutError", "RuntimeError", "NotImplementedError", "property", "staticmethod",
     "classmethod", "__file__", "__name__", "__doc__"}
)  # fmt: skip
_METHODS = frozenset(
    {"set_downstream", "set_upstream", "expand", "expand_kwargs", "partial", "override", "as_setup", "as_teardown",
     "format", "join", "items", "keys", "values", "strip", "lower", "upper", "split", "title", "startswith", "endswith",
     "datetime", "timedelta", "isoformat", "strftime", "total_seconds", "bash", "branch", "virtualenv",
     "external_python", "short_circuit", "sensor", "docker", "kubernetes", "partition", "today", "multi", "get", "ref"}
)  # fmt: skip
_DOC_ATTRIBUTES = frozenset({"doc_md", "doc", "doc_json", "doc_yaml", "doc_rst"})
_ALLOWED: frozenset[type[ast.AST]] = frozenset({
    ast.Module, ast.Expr, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.With, ast.withitem, ast.Import,
    ast.ImportFrom, ast.alias, ast.For, ast.If, ast.IfExp, ast.Return, ast.Pass, ast.Continue, ast.Break, ast.JoinedStr,
    ast.FormattedValue, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Starred,
    ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Name,
    ast.Lambda, ast.arguments, ast.arg, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.comprehension,
    *ast.cmpop.__subclasses__(), ast.AsyncFunctionDef, ast.Try, ast.ExceptHandler, ast.Assert, ast.Raise, ast.ClassDef,
})  # fmt: skip
_CLASS_HOOKS = frozenset({"__slots__", "__classcell__", "__class__", "__init_subclass__", "__set_name__"})
_METHOD_DECORATORS = frozenset({"staticmethod", "classmethod", "property"})


def is_plain(nodes: Sequence[ast.AST], loaded: Mapping[str, object]) -> bool:
    """Whether a parsed Python file provably leaves nothing behind in the process that imports it.

    Args:
        nodes: what `pruning.strip` left of the file; they are changed.
        loaded: modules that the process has imported already, by name, none of them from a bundle.
    """
    try:
        return _Gate(nodes, loaded).passes()
    except RecursionError:
        return False


class _Gate:
    def __init__(self, nodes: Sequence[ast.AST], loaded: Mapping[str, object]) -> None:
        self._nodes = prune(nodes, loaded)
        self._classes = _Classes(self._nodes)
        self._modules: dict[str, set[str]] = {}
        self._imported: set[str] = set()
        self._bound: set[str] = set()
        self._not_calls: set[str] = set()
        self._bases: set[int] = set()
        self._called: set[int] = set()

    def passes(self) -> bool:
        if not _ALLOWED.issuperset(map(type, self._nodes)):
            return False
        return self._imports() and self._bindings() and all(self._node(node) for node in self._nodes)

    def _imports(self) -> bool:
        for node in self._nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name not in _MODULE_MEMBERS:
                        return False
                    self._modules.setdefault(alias.asname or alias.name, set()).update(_MODULE_MEMBERS[alias.name])
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
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
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
        return self._bound.isdisjoint({*self._modules} | self._imported | _BUILTINS | {"globals", "vars", "super"})

    def _node(self, node: ast.AST) -> bool:  # noqa: PLR0911 - one return per kind of node
        if self._classes.vouch_for(node):
            return True
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.ClassDef):
            return self._class(node)
        if isinstance(node, ast.Subscript):
            return isinstance(node.ctx, ast.Load)
        if isinstance(node, ast.Call):
            return self._call(node.func)
        if isinstance(node, FUNCTION):
            if node.name.startswith("__") and not self._classes.is_constructor(node):
                return False
            allowed = _METHOD_DECORATORS if self._classes.is_method(node) else frozenset()
            return all(
                self._decorator(item) or (isinstance(item, ast.Name) and item.id in allowed)
                for item in node.decorator_list
            )
        if isinstance(node, ast.With):
            return all(
                isinstance(item.context_expr, ast.Call)
                and isinstance(item.context_expr.func, ast.Name)
                and item.context_expr.func.id in self._imported
                for item in node.items
            )
        return True

    def _class(self, node: ast.ClassDef) -> bool:
        bases = [base.id if isinstance(base, ast.Name) else "" for base in node.bases]
        return (
            not (node.decorator_list or node.keywords or node.name.startswith("__"))
            and all(base in self._imported and base.endswith((*_AIRFLOW_SUFFIXES, "AirflowPlugin")) for base in bases)
            and not any(_names_in(statement) & _CLASS_HOOKS for statement in node.body)
        )

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
            return isinstance(node.ctx, ast.Load) and node.attr in self._modules[base.id]
        if isinstance(node.ctx, ast.Load):
            return True
        own = isinstance(base, ast.Name) and base.id in self._bound and base.id not in self._not_calls
        return isinstance(node.ctx, ast.Store) and own and node.attr in _DOC_ATTRIBUTES

    def _call(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Name):
            return True  # `_name` says whether the name may be used
        if isinstance(function, ast.Attribute):
            base = function.value
            return (isinstance(base, ast.Name) and base.id in self._modules) or function.attr in _METHODS
        return isinstance(function, ast.Call)  # `task(…)(…)`

    def _decorator(self, node: ast.expr) -> bool:
        return root_of(node) in self._imported


class _Classes:
    """What the classes of a file add: methods, and the attributes that these set on their own object.

    A method may set `self.name` where `self` is certain to be the object: its own first parameter, never bound again,
    no function nested in it, and the method not one that the file could call with anything else (`_METHODS`).
    """

    def __init__(self, nodes: Sequence[ast.AST]) -> None:
        self._constructors: set[int] = set()
        self._methods: set[int] = set()
        self._vouched: set[int] = set()
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                for statement in node.body:
                    if isinstance(statement, FUNCTION):
                        self._take(statement)

    def _take(self, method: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._methods.add(id(method))
        if method.name == "__init__":
            self._constructors.add(id(method))
        inside = [node for statement in method.body for node in ast.walk(statement)]
        for node in inside:
            if isinstance(node, ast.Call) and _is_super_init(node.func):
                self._vouched.update((id(node), *map(id, ast.walk(node.func))))
        parameters = [*method.args.posonlyargs, *method.args.args]
        if method.decorator_list or not parameters or method.name in _METHODS:
            return
        own = parameters[0].arg
        if any(isinstance(node, (*FUNCTION, ast.Lambda, ast.ClassDef)) for node in inside):
            return
        if any(own in _names_in(node) for node in method.body):
            return
        self._vouched.update(
            id(node)
            for node in inside
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == own
            and not node.attr.startswith("_")
        )

    def vouch_for(self, node: ast.AST) -> bool:
        """Whether the node is `super().__init__`, or `self.name` that is set."""
        return id(node) in self._vouched

    def is_constructor(self, function: ast.AST) -> bool:
        """Whether it is an `__init__` of a class."""
        return id(function) in self._constructors

    def is_method(self, function: ast.AST) -> bool:
        """Whether it stands directly in a class."""
        return id(function) in self._methods


def _is_super_init(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "__init__"
        and isinstance(function.value, ast.Call)
        and not (function.value.args or function.value.keywords)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id == "super"
    )


def _may_import(module: str, name: str) -> bool:
    if module in _MODULE_MEMBERS:
        return name in _MODULE_MEMBERS[module]
    if module == "airflow" or module.startswith("airflow."):
        return name in _AIRFLOW_NAMES or (name[:1].isupper() and name.endswith(_AIRFLOW_SUFFIXES))
    return False


def _names_in(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
