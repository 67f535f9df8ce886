from __future__ import annotations

import json
from pathlib import Path

from dagbundle_parser.discovery import ListedFile
from dagbundle_parser.loaders.python import PythonDagLoader
from dagbundle_parser.loaders.yaml import YamlDagLoader
from dagbundle_parser.readers import BESIDE, READ_BY, Left, Readers
from dagbundle_parser.request import KnownFile

PYTHON, YAML = PythonDagLoader(), YamlDagLoader()


def readers(*paths: str, **closures: dict[str, str]) -> Readers:
    files = [ListedFile(path, PYTHON if path.endswith(".py") else YAML) for path in paths]
    known = {path.replace("__", "."): KnownFile("f", closure, 1.0) for path, closure in closures.items()}
    return Readers("/bundle", known, files)


def tell(found: Readers, reader: str, *paths: str) -> None:
    found.hear(reader, json.dumps(paths).encode())


def test_a_file_is_left_to_the_first_that_reads_it() -> None:
    found = readers("a.py", "b.py", "x/m.yml", "n.yml")
    tell(found, "b.py", "x/m.yml")
    assert found.of("x/m.yml") == Left(READ_BY, "b.py")
    tell(found, "a.py", "x/m.yml")
    assert found.of("x/m.yml") == Left(READ_BY, "a.py")


def test_what_lies_beside_or_below_a_reader_is_left_to_it_and_no_other() -> None:
    found = readers("in/a.py", "in/m.yml", "in/deep/n.yml", "o.yml", "inside/p.yml")
    tell(found, "in/a.py", "in/m.yml")
    assert found.of("in/deep/n.yml") == Left(BESIDE, "in/a.py")
    assert [found.of(path) for path in ("o.yml", "inside/p.yml")] == [None, None]


def test_what_is_remembered_counts_until_the_reader_tells_otherwise() -> None:
    found = readers("a.py", "b.py", "m.yml", a__py={"m.yml": "sha"})
    assert found.of("m.yml") == Left(READ_BY, "a.py")
    tell(found, "a.py")
    assert found.of("m.yml") is None


def test_a_file_stays_with_a_reader_that_died_and_not_with_one_that_is_gone() -> None:
    closures = {"m__yml": {"m.yml": "sha", READ_BY: "a.py"}, "a__py": {}}
    assert readers("a.py", "m.yml", **closures).of("m.yml") == Left(READ_BY, "a.py")
    assert readers("m.yml", **closures).of("m.yml") is None


def test_what_a_hostile_file_tells_gives_it_nothing_but_listed_yaml() -> None:
    found = readers("a.py", "b.py", "m.yml")
    for body in (b"[", b"{}", b'[1, "b.py", "../x.yml", null]', b'[["m.yml"]]', b"[" * 100_000):
        found.hear("a.py", body)
    found.hear("m.yml", b'["m.yml"]')
    assert found.of("m.yml") is None
    assert found.of("b.py") is None


def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text("a: 1")
    (tmp_path / "l.yml").symlink_to("m.yml")
    found = Readers(str(tmp_path), {}, [ListedFile("m.yml", YAML)])
    assert found.watched == {str((tmp_path / "l.yml").resolve()): "m.yml"}
