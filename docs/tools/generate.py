"""Writes the pages of the site that come from the code, and copies of files that lie elsewhere; `make docs` runs it.

Nothing that it writes is committed. The pages beside them that are written by hand (cli.md, manifest.md, status.md,
metrics.md) say more, and tests hold those to the code.
"""

from __future__ import annotations

import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import links  # beside this file
import typer.main

from dagbundle import errors
from dagbundle.cli import endings, exits, program
from dagbundle.controller import failures, metrics
from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.seen import Seen
from dagbundle.resources import crd
from dagbundle.server import metrics as server_metrics
from dagbundle.server import problems

Lines = Iterator[str]


def _escaped(text: str) -> str:
    """Return a text for a line of Markdown: what looks like HTML, or like a substitution, is shown."""
    return " ".join(re.sub(r"(?<!`)<(?=\w)", r"\\<", text).split())


def _commands(command: Any, path: tuple[str, ...] = ("dagbundle",)) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


def _default(parameter: Any) -> str:
    plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
    return f" Default: `{parameter.default}`." if plain and parameter.default != "" else ""


def command_line() -> Lines:
    """Every command with its arguments and options, from the parser of the command line."""
    yield "# Commands and options"
    yield ""
    yield "This page is made from the code. [Command line](../cli.md) describes how commands end and answer."
    for name, command in _commands(typer.main.get_command(program.app)):
        yield f"\n## `{name}`\n"
        yield _escaped(command.help or "")
        yield ""
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = parameter.param_type_name == "option"
            names = (
                parameter.opts + parameter.secondary_opts if option else [parameter.metavar or parameter.name.upper()]
            )
            needed = " **Required.**" if parameter.required else ""
            variable = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
            text = _escaped(parameter.help or "")
            yield f"- {', '.join(f'`{item}`' for item in names)}: {text}{needed}{_default(parameter)}{variable}"


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child, name in schema.get("required", [])
        yield from _fields(child, f"{path}.{name}")
        yield from _fields(child.get("items", {}), f"{path}.{name}[]")


def _limits(field: dict[str, Any]) -> Lines:
    words = {
        "minimum": "at least", "maximum": "at most", "minLength": "shortest", "maxLength": "longest",
        "minItems": "fewest items", "maxItems": "most items", "maxProperties": "most keys", "pattern": "pattern",
    }  # fmt: skip
    yield from (f"{word} `{field[key]}`" for key, word in words.items() if key in field)
    if "enum" in field:
        yield "one of " + ", ".join(f"`{item}`" for item in field["enum"])


def resource() -> Lines:
    """Every field of the DagBundle, with the bounds that the API server holds."""
    version = crd.definition()["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    yield "# Fields of the DagBundle"
    yield ""
    yield "This page is made from the code. [The DagBundle resource](../manifest.md) explains how to use them."
    for part in ("spec", "status"):
        yield f"\n## `{part}`\n"
        for path, field, required in _fields(schema[part], part):
            kind = "integer or string" if field.get("x-kubernetes-int-or-string") else field.get("type", "any")
            notes = [kind, *(["required"] if required else []), *_limits(field)]
            default = f" Default: `{field['default']}`." if "default" in field else ""
            yield f"- `{path}` ({'; '.join(notes)}): {_escaped(field.get('description', ''))}{default}"


def _tree(base: type[errors.DagBundleError], depth: int = 0) -> Iterator[tuple[int, type[errors.DagBundleError]]]:
    yield depth, base
    for child in base.__subclasses__():
        if child.__module__ == base.__module__:
            yield from _tree(child, depth + 1)


def _reason(kind: type[Exception]) -> str:
    given = inspect.signature(kind).parameters.get("reason")
    fixed = getattr(kind, "reason", None) or failures.REASONS.get(kind)
    if given is not None and isinstance(given.default, str) and given.default:
        fixed = given.default
    return f" Condition: `{fixed}`." if isinstance(fixed, str) else ""


def errors_and_reasons() -> Lines:
    """The tree of errors with their exit codes and reasons, and the server's words."""
    yield "# Errors, exit codes and reasons"
    yield ""
    yield "This page is made from the code. [Status](../status.md) has every reason of a condition and the next step."
    yield "\n## Exit codes\n"
    source = inspect.getsource(exits.Exit)
    for code in exits.Exit:
        found = re.search(rf'\b{code.name} = {code.value}\n\s+"""(.*?)"""', source, re.DOTALL)
        yield f"- `{code.value}` `{code.name}`: {_escaped(found[1] if found else '')}"
    yield "\n## Errors\n"
    for depth, kind in _tree(errors.DagBundleError):
        text = (inspect.getdoc(kind) or "").partition("\n\n")[0]
        yield f"{'  ' * depth}- `{kind.__name__}` (`{_outcome(kind)}`): {_escaped(text)}{_reason(kind)}"
    yield "\n## Reasons of the server\n"
    for name, reason in sorted(problems.REASONS.items()):
        again = f" Try again after {reason.retry_after} s." if reason.retry_after else ""
        yield f"- `{name}` (HTTP {reason.status}): {_escaped(reason.title)}.{again}"


def _outcome(kind: type[errors.DagBundleError]) -> str:
    raised = errors.CallerError("UnknownRun", "") if kind is errors.CallerError else kind("")
    return endings.code_of(raised).name


def _families(families: Iterable[Any]) -> Lines:
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        shown = f"{{{','.join(labels)}}}" if labels else ""
        yield f"- `{name}{shown}` ({family.type}): {_escaped(family.documentation)}"


def all_metrics() -> Lines:
    """Every metric of controller and server, from their registries."""
    yield "# Metrics of controller and server"
    yield ""
    yield "This page is made from the code. [Metrics](../metrics.md) and [the server](../server.md) explain them."
    yield "\n## Controller\n"
    yield from _families([*metrics.REGISTRY.collect(), *metrics._Live(Seen(), Queue(), Activity()).collect()])  # noqa: SLF001
    yield "\n## Server\n"
    yield from _families(server_metrics.Metrics().registry.collect())


PAGES: dict[str, Callable[[], Lines]] = {
    "commands": command_line,
    "fields": resource,
    "errors": errors_and_reasons,
    "metrics": all_metrics,
}


def write(folder: pathlib.Path) -> None:
    """Write every page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()  # a page that is not made any more would be a page that nothing lists
    for name, lines in PAGES.items():
        (folder / f"{name}.md").write_text("\n".join(lines()) + "\n", "utf-8")
    for name, text in links.copies().items():
        (folder / f"{name}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
