"""The next steps of the parser's messages, as they are for `dagbundle parse`.

The parser's messages advise with fields of a DagBundle, in a pod and under `apply` alike. `parse` has no DagBundle:
where it has an option instead, that is the next step. tests/unit/house holds the table to the parser's messages.
"""

from __future__ import annotations

from dagbundle.rollout.model import Problem

OF_PARSE = {
    "raise spec.parser.fileTimeout": "raise --file-timeout",
    "raise spec.parser.fileMemory": (
        "raise spec.parser.fileMemory of its DagBundle for `dagbundle apply` (`dagbundle parse` allows 1Gi)"
    ),
    "set the subdir's runAsUser to a user that may read it": "run `dagbundle parse` as a user that may read it",
    "Set the subdir's runAsUser to a user that may use it": "Run `dagbundle parse` as a user that may use it",
    "Set the subdir's runAsUser, and all its files are parsed as that one": (
        "Run `dagbundle parse` as that user, and all files are parsed as that one"
    ),
    "ask for fewer processes": "lower --processes",
}
"""What the parser advises, and what `parse` advises instead."""


def for_parse(text: str) -> str:
    """Return a message of the parser's with the next steps of `dagbundle parse`."""
    for said, instead in OF_PARSE.items():
        text = text.replace(said, instead)
    return text


def problem_for_parse(problem: Problem) -> Problem:
    """Return a file's error likewise."""
    return Problem(problem.kind, for_parse(problem.message), problem.line)
