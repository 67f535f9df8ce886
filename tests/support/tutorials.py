"""Reads the commands of a tutorial as a reader would copy them, and what the tutorial shows of their answers."""

from __future__ import annotations

import dataclasses
import pathlib
import re

_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"  # exit code (\d+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Step:
    """One block of commands.

    Attributes:
        script: the commands.
        code: the exit code that the tutorial gives for its one command; 0 for any number of them.
        shown: the lines that the tutorial shows of the answer.
    """

    script: str
    code: int
    shown: tuple[str, ...]


def steps(page: pathlib.Path) -> list[Step]:
    """Return the steps of a page, in its order."""
    found: list[Step] = []
    for kind, text in _BLOCK.findall(page.read_text("utf-8")):
        if kind == "sh":
            code = _CODE.search(text)
            found.append(Step(text, int(code[1]) if code else 0, ()))
        else:
            found[-1] = dataclasses.replace(found[-1], shown=(*found[-1].shown, *text.splitlines()))
    return found


def script(taken: list[Step]) -> str:
    """Return one bash script of all steps, which prints a line of its own before each one's answer.

    It ends at the first command that does not end as the tutorial has it.
    """
    lines = ["set -eu"]
    for number, step in enumerate(taken):
        lines.append(f"echo '{mark(number)}'")
        if step.code:
            lines += ["code=0", f"{step.script.rstrip()} || code=$?".replace(f"  # exit code {step.code}", "")]
            lines.append(f'[ "$code" -eq {step.code} ] || {{ echo "ended with $code" >&2; exit 1; }}')
        else:
            lines.append(step.script)
    return "\n".join(lines)


def mark(number: int) -> str:
    """Return the line that separates the answers."""
    return f"--- step {number} ---"
