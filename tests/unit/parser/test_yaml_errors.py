"""Which line an error of a YAML file is about."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dagbundle_parser.loaders import yaml as yaml_loader
from dagbundle_parser.loaders.base import SourceFile


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('d:\n  schedule: "@daily\n  tasks: []\n', 2),
        ("d:\n  schedule: '@daily\n---\n  tasks: []\n", 2),
        ("d:\n  tasks: [\n    a,\n    b\n\n\n", 2),
        ("d:\n  tasks: {\n    a: b\n", 2),
        ("d:\n  tasks: [\n    a,\n    b}\n  c: 1\n", 4),
        ("d:\n  a: b: c\n", 2),
        ("d:\n\ta: b\n", 2),
    ],
)
def test_an_error_of_yaml_names_a_line_of_the_file_and_of_what_is_never_closed_where_it_was_opened(
    tmp_path: Path, loader: type[yaml.SafeLoader], text: str, line: int
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError) as caught:
        list(yaml.load_all(text, Loader=loader))
    problem = yaml_loader._problem(caught.value, SourceFile("a.yaml", str(tmp_path), "bundle"))
    assert (problem.kind, problem.line) == ("YamlError", line)
    assert "<unicode string>" not in problem.message
