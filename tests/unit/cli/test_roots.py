"""Which root files have, and which DagBundle and interpreter a command takes."""

from __future__ import annotations

import io
import os
import pathlib
import sys

import pytest
import yaml

from dagbundle import errors
from dagbundle.cli import inputs, roots


def bundle(name: str, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"source": {"image": {"reference": "r/i:1"}}, **spec},
    }


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / ".git").mkdir()
    for name in ("dags/sales/orders.py", "dags/sales/old/a.py", "dags/tools.py", "other/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_without_a_word_files_have_their_common_folder_as_root(repository: pathlib.Path) -> None:
    orders, tools = repository / "dags/sales/orders.py", repository / "dags/tools.py"
    assert roots.select([orders], None)[:3] == (repository / "dags/sales", ".", ("orders.py",))
    assert roots.select([orders, tools], None)[:3] == (repository / "dags", ".", ("sales/orders.py", "tools.py"))


def test_a_manifest_above_marks_the_root(repository: pathlib.Path) -> None:
    (repository / "dags/dagbundle.yaml").touch()
    found = roots.select([repository / "dags/sales/orders.py"], None)
    assert found == (repository / "dags", ".", ("sales/orders.py",), "it holds the manifest dagbundle.yaml")


@pytest.mark.parametrize(
    ("subdirs", "root", "why"),
    [
        ([], "dags", "it holds the DagBundle team.yaml"),
        (["sales"], "dags", "it holds the DagBundle team.yaml, and its subdirs"),
        (["nowhere"], "dags/sales", "the common folder, as no folder above has a manifest or a DagBundle"),
    ],
)
def test_a_dagbundle_above_marks_the_root_if_its_subdirs_are_there(
    repository: pathlib.Path, subdirs: list[str], root: str, why: str
) -> None:
    spec = {"subdirs": [{"path": path} for path in subdirs]} if subdirs else {}
    documents = [{"kind": "ServiceAccount"}, bundle("sales", **spec)]
    (repository / "dags/team.yaml").write_text(yaml.safe_dump_all(documents))
    (repository / "dags/broken.yaml").write_text("DagBundle: [")
    found = roots.select([repository / "dags/sales/orders.py"], None)
    assert (found.root, found.why) == (repository / root, why)


def test_what_lies_above_the_repository_marks_nothing(repository: pathlib.Path) -> None:
    (repository / "dags/.git").mkdir()
    (repository / "dagbundle.yaml").touch()
    assert roots.select([repository / "dags/sales/orders.py"], None).root == repository / "dags/sales"


def test_the_option_comes_first_and_holds_all_that_is_parsed(repository: pathlib.Path) -> None:
    (repository / "dags/sales/dagbundle.yaml").touch()
    orders = repository / "dags/sales/orders.py"
    assert roots.select([orders], repository / "dags").files == ("sales/orders.py",)
    assert roots.select([repository / "dags/sales"], repository / "dags") == (
        repository / "dags", "sales", (), "--root",
    )  # fmt: skip
    with pytest.raises(errors.UsageError, match="lies outside of --root"):
        roots.select([orders], repository / "other")
    with pytest.raises(errors.UsageError, match="is no folder"):
        roots.select([orders], orders)


def test_a_folder_is_a_root_and_several_are_their_files(repository: pathlib.Path) -> None:
    assert roots.select([repository / "dags"], None) == (
        repository / "dags", ".", (), "the folder that was given",
    )  # fmt: skip
    found = roots.select([repository / "dags/sales", repository / "other/b.py"], None)
    assert found[:3] == (repository, ".", ("dags/sales/old/a.py", "dags/sales/orders.py", "other/b.py"))


def test_a_resource_comes_from_a_file_beside_other_kinds(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "team.yaml"
    path.write_text(yaml.safe_dump_all([{"kind": "Role"}, bundle("sales"), None]))
    assert inputs.resource(path).metadata.name == "sales"


def test_a_resource_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(yaml.safe_dump(bundle("sales")).encode())))
    assert inputs.resource(pathlib.Path("-")).metadata.name == "sales"


def test_one_of_several_resources_is_chosen_by_its_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all([bundle("sales"), bundle("stock")]))
    (tmp_path / "b.yml").write_text(yaml.safe_dump(bundle("news")))
    (tmp_path / "notes.txt").write_text("[")
    assert inputs.resource(tmp_path, "team/news").metadata.name == "news"
    assert inputs.resource(tmp_path / "a.yaml", "team/stock").metadata.name == "stock"
    with pytest.raises(errors.ResourceError, match=r"3 DagBundles, .*team/news \(.*b.yml\), team/sales \(") as caught:
        inputs.resource(tmp_path)
    assert caught.value.hint == "choose one, as in --bundle team/news"
    with pytest.raises(errors.ResourceError, match="no DagBundle team/none, but team/news") as caught:
        inputs.resource(tmp_path, "team/none")
    with pytest.raises(errors.ResourceError) as caught:
        inputs.resource(tmp_path, "team/nws")
    assert caught.value.hint == "did you mean team/news?"
    (tmp_path / "c.yml").write_text(yaml.safe_dump(bundle("news")))
    with pytest.raises(
        errors.ResourceError, match=r"holds DagBundle team/news more than once: in .*b.yml, line 1 and in .*c.yml"
    ):
        inputs.resource(tmp_path, "team/news")


def test_a_folder_without_resources_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ResourceError, match=r"holds no .yaml, .yml or .json file"):
        inputs.resource(tmp_path)


def test_the_interpreter_is_the_option_else_the_variable_else_the_project_files(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGBUNDLE_PYTHON", raising=False)
    monkeypatch.chdir(repository / "dags")
    monkeypatch.setattr(inputs.os, "geteuid", lambda: 1000)
    assert inputs.interpreter(None) is None
    (repository / "pyproject.toml").write_text('[tool.dagbundle]\npython = ".venv/bin/python"\n')
    (repository / "dags/pyproject.toml").write_text("[tool.other]\n")
    assert inputs.interpreter(None) == str(repository / ".venv/bin/python")
    (repository / "pyproject.toml").write_text('[tool.dagbundle]\npython = "python3.12"\n')
    assert inputs.interpreter(None) == "python3.12"
    monkeypatch.setenv("DAGBUNDLE_PYTHON", "named")
    assert inputs.interpreter(None) == "named"
    assert inputs.interpreter("option") == "option"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs no interpreter of a checkout")
def test_as_root_a_checkout_chooses_no_interpreter(repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGBUNDLE_PYTHON", raising=False)
    monkeypatch.chdir(repository)
    (repository / "pyproject.toml").write_text('[tool.dagbundle]\npython = "./py"\n')
    with pytest.raises(errors.UsageError, match="a checkout chose and which would run as root") as caught:
        inputs.interpreter(None)
    assert "DAGBUNDLE_PYTHON" in caught.value.hint
    assert inputs.interpreter("option") == "option"


@pytest.mark.parametrize(
    "text", ["[tool.dagbundle", "[tool.dagbundle]\npython = 3\n", "[tool.dagbundle]\npyton = 'x'\n"]
)
def test_a_project_file_that_cannot_be_used_is_told(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv("DAGBUNDLE_PYTHON", raising=False)
    monkeypatch.chdir(repository)
    (repository / "pyproject.toml").write_text(text)
    with pytest.raises(errors.UsageError, match=r"pyproject.toml"):
        inputs.interpreter(None)
