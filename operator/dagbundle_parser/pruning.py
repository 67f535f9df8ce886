"""Takes out of a file's syntax tree what does not run, or does nothing, while the file is parsed; for plain.py.

Bodies of tasks (`@task`), of callables that are only handed to operators (`python_callable=f`), of an operator's
`execute`, of functions that only such bodies use, `if TYPE_CHECKING:`, `if __name__ == "__main__":`, annotations that
are not evaluated, and imports of what the process has already and the rest of the file does not use.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
_SDK = "airflow.sdk"
"""Airflow's public interface, a package whose members come in at first use."""
_TASK_DECORATORS = frozenset({"task", "setup", "teardown", "asset"})
_CALLED_BY_TASKS_ONLY = frozenset(
    {"python_callable", "on_failure_callback", "on_success_callback", "on_retry_callback", "on_execute_callback",
     "on_skipped_callback", "sla_miss_callback", "pre_execute", "post_execute"}
)  # fmt: skip
_RUN_BY_TASKS_ONLY = frozenset(
    {"execute", "execute_complete", "pre_execute", "post_execute", "on_kill", "poke", "choose_branch"}
)
"""Methods of an operator that only a worker calls."""


def strip(tree: ast.Module) -> list[ast.AST]:
    """Take out what does not run, whatever is loaded, and return the nodes that are left.

    Args:
        tree: a parsed file; it is changed.
    """
    tree.body = [statement for statement in tree.body if not _is_main_guard(statement)]
    _drop_what_is_for_type_checkers(tree)
    return _empty_bodies_that_do_not_run(tree)


def _walk(tree: ast.AST) -> list[ast.AST]:
    """As ast.walk, in half the time: without contexts and operators, which say nothing."""
    found = [tree]
    for node in found:  # it grows
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                found += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and value._fields:
                found.append(value)
    return found


def prune(nodes: Sequence[ast.AST], loaded: Mapping[str, object]) -> list[ast.AST]:
    """Take imports that bring nothing out of what `strip` left, and return the other nodes.

    Args:
        nodes: what `strip` left; imports in it are changed.
        loaded: modules that the process has imported already, by name, none of them from a bundle.
    """
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [alias for alias in node.names if not _brings_nothing(node, alias, used, loaded)]
    return [node for node in nodes if not isinstance(node, ast.alias)]


def _drop_what_is_for_type_checkers(tree: ast.Module) -> None:
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
    known = {alias.name for node in imports for alias in node.names if not alias.asname and node.module == "typing"}
    lazy = any(node.module == "__future__" and node.names[0].name == "annotations" for node in imports)
    if not lazy and "TYPE_CHECKING" not in known:
        return
    nodes = _walk(tree)
    if any(isinstance(node, ast.Name) and node.id == "TYPE_CHECKING" and _is_store(node) for node in nodes):
        known.clear()  # the file's own then, which may be true
    for node in nodes:
        if "TYPE_CHECKING" in known:
            for field in ("body", "orelse"):
                statements = getattr(node, field, None)
                if isinstance(statements, list):
                    kept = [item for item in statements if not _is_type_checking(item)]
                    setattr(node, field, kept or ([ast.Pass()] if field == "body" else []))
        if lazy and isinstance(node, ast.arg):
            node.annotation = None
        elif lazy and isinstance(node, FUNCTION):
            node.returns = None
        elif lazy and isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant("")


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _is_type_checking(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.If)
        and isinstance(statement.test, ast.Name)
        and statement.test.id == "TYPE_CHECKING"
        and not statement.orelse
    )


def _empty_bodies_that_do_not_run(tree: ast.Module) -> list[ast.AST]:
    """Replace the bodies of tasks, of callables that operators get, and of what only those use, by `pass`."""
    nodes = _walk(tree)
    airflows = _names_of_airflow(nodes)
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    methods = {id(statement) for node in classes for statement in node.body}  # called by attribute, or by Airflow
    functions = [node for node in nodes if isinstance(node, FUNCTION)]
    for operator in classes:
        if _is_operator(operator, airflows):
            _empty(filter(_is_for_workers, operator.body))
    tasks = {name for name, original in airflows.items() if original in _TASK_DECORATORS}
    _empty(function for function in functions if _is_task(function, tasks))
    may_be_idle = [
        item
        for item in functions
        if not (item.decorator_list or id(item) in methods or isinstance(item.body[0], ast.Pass))
    ]
    if not may_be_idle:
        return _walk(tree)
    _empty(_idle(tree, may_be_idle, _handed_to_operators(_walk(tree), airflows)))
    return _walk(tree)


@dataclasses.dataclass
class _Uses:
    """Which names are read, and where: each once, by the innermost function that may be idle.

    Attributes:
        count: how often each name is read, but for the bodies of idle functions.
        within: the names that a function's body reads, by the function's id.
        inner: the functions right in a function's body, likewise.
    """

    count: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    within: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    inner: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.Module, functions: Sequence[Function], handed: Container[int]) -> _Uses:
        """Read a file's tree; `handed` are the ids of names that are no uses."""
        ids = [id(function) for function in functions]
        found = cls(within={key: [] for key in ids}, inner={key: [] for key in ids})
        waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
        while waiting:
            node, owner = waiting.pop()
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in handed:
                found._read(node.id, owner)
            body = set[int]()
            if id(node) in found.within:
                body.update(map(id, getattr(node, "body", ())))
                found.inner.get(owner, []).append(id(node))
            waiting += [(child, id(node) if id(child) in body else owner) for child in ast.iter_child_nodes(node)]
        return found

    def _read(self, name: str, owner: int) -> None:
        self.count[name] += 1
        if owner:
            self.within[owner].append(name)

    def take_back(self, function: int) -> Iterator[str]:
        """Take back what a body reads, and the functions in it; yields the names that nothing reads any more."""
        for name in self.within.pop(function, ()):
            self.count[name] -= 1
            if not self.count[name]:
                yield name
        for one in self.inner[function]:
            yield from self.take_back(one)


def _idle(tree: ast.Module, functions: Sequence[Function], handed: Container[int]) -> list[Function]:
    """The functions that nothing uses but bodies of idle ones.

    Each use counts once and is taken back once, so a chain of functions costs its length and not the square of it.
    """
    uses = _Uses.of(tree, functions, handed)
    named: dict[str, list[Function]] = {}
    for function in functions:
        named.setdefault(function.name, []).append(function)
    found = [function for function in functions if not uses.count[function.name]]
    for function in found:  # it grows
        for name in uses.take_back(id(function)):
            found += named.get(name, ())
    return found


def _empty(functions: Iterable[ast.AST]) -> None:
    for function in functions:
        if isinstance(function, FUNCTION):
            function.body = [ast.Pass()]


def _names_of_airflow(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """What the file takes from Airflow's modules: original names by the file's own."""
    return {
        alias.asname or alias.name: alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "airflow"
        for alias in node.names
    }


def _is_for_workers(statement: ast.AST) -> bool:
    """Whether a statement of an operator's class is a method that only a worker calls."""
    return isinstance(statement, FUNCTION) and statement.name in _RUN_BY_TASKS_ONLY and not statement.decorator_list


def _is_task(function: ast.FunctionDef | ast.AsyncFunctionDef, tasks: Container[str]) -> bool:
    return bool(function.decorator_list) and all(root_of(item) in tasks for item in function.decorator_list)


def _handed_to_operators(nodes: Iterable[ast.AST], airflows: Container[str]) -> set[int]:
    """The values of arguments that only a task calls. The file's own functions may call what they get."""
    return {
        id(keyword.value)
        for node in nodes
        if isinstance(node, ast.Call) and root_of(node) in airflows
        for keyword in node.keywords
        if keyword.arg in _CALLED_BY_TASKS_ONLY
    }


def _is_operator(node: ast.ClassDef, airflows: Mapping[str, str]) -> bool:
    return any(
        isinstance(base, ast.Name) and airflows.get(base.id, "").endswith(("Operator", "Sensor")) for base in node.bases
    )


def _brings_nothing(
    node: ast.Import | ast.ImportFrom, alias: ast.alias, used: Container[str], loaded: Mapping[str, object]
) -> bool:
    """Whether this imports only what is there already, under a name that the rest of the file does not use."""
    if isinstance(node, ast.Import):
        return alias.name in loaded and (alias.asname or alias.name.partition(".")[0]) not in used
    return (
        not node.level
        and node.module is not None
        and node.module in loaded
        and alias.name != "*"
        and (alias.asname or alias.name) not in used
        and _is_there(loaded[node.module], node.module, alias.name)
    )


def _is_there(module: object, name: str, member: str) -> bool:
    """Whether `from name import member` loads no module: of a package, `member` may be one that is not loaded yet."""
    return name == _SDK or not hasattr(module, "__path__") or member in vars(module)


def root_of(decorator: ast.expr) -> str:
    """The name that a decorator begins with: `task` of `@task.branch(retries=1)`."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(target, ast.Attribute):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


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
