"""Which function bodies do not run while a file is parsed."""

from __future__ import annotations

import ast
import time

import pytest

from dagbundle_parser.pruning import strip

HEAD = "from airflow.sdk import task\nfrom airflow.operators import PythonOperator\n"


def left(source: str) -> set[str]:
    """The functions whose bodies are left."""
    tree = ast.parse(HEAD + source)
    strip(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {function.name for function in functions if not isinstance(function.body[0], ast.Pass)}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def a():\n    b()\ndef b():\n    c()\ndef c():\n    1\n", set()),
        ("def a():\n    b()\ndef b():\n    1\na()\n", {"a", "b"}),
        ("def a():\n    b()\ndef b():\n    a()\n", {"a", "b"}),
        ("def a():\n    a()\n", {"a"}),
        ("def b():\n    1\n@task\ndef a():\n    b()\n", set()),
        ("def a():\n    1\nPythonOperator(python_callable=a)\n", set()),
        ("def a():\n    1\nPythonOperator(python_callable=a, env=a)\n", {"a"}),
        ("def a(x=b()):\n    1\ndef b():\n    1\n", {"b"}),
        ("def a():\n    def b():\n        c()\n    b()\ndef c():\n    1\n", set()),
        ("def a():\n    def b():\n        c()\n    b()\ndef c():\n    1\na()\n", {"a", "b", "c"}),
        ("def a():\n    1\ndef a():\n    b()\ndef b():\n    1\n", set()),
        ("class A:\n    def a(self):\n        b()\ndef b():\n    1\n", {"a", "b"}),
    ],
)
def test_a_body_is_left_where_something_that_runs_uses_its_function(source: str, names: set[str]) -> None:
    assert left(source) == names


def test_a_long_chain_of_functions_takes_time_by_its_length() -> None:
    source = "\n".join(f"def f{number}():\n    f{number + 1}()" for number in range(4000))
    began = time.process_time()
    assert left(source) == set()
    assert time.process_time() - began < 5  # it took 50 s when each round freed one function
