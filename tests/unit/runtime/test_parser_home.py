"""Where the parser is unpacked: what lies there is run, so nobody else may have written it."""

from __future__ import annotations

import os
import pathlib
import sys

import pytest

from dagbundle.runtime import parser_home

STRANGER = 60_031
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what another user owns")


@pytest.fixture
def shared(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder for temporary files, without a home: then what is unpacked goes there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(parser_home.tempfile, "tempdir", str(folder))
    return folder


def unpacked() -> pathlib.Path:
    return parser_home.unpacked(sys.executable)


def predictable(shared: pathlib.Path) -> pathlib.Path:
    return shared / f"dagbundle-{os.geteuid()}"


def test_what_is_unpacked_is_found_again(shared: pathlib.Path) -> None:
    first = unpacked()
    assert first.parent == predictable(shared)
    assert unpacked() == first
    assert (first / "__main__.py").is_file()


@pytest.mark.usefixtures("shared")
def test_what_is_unpacked_is_closed_to_others_whatever_the_umask_is() -> None:
    before = os.umask(0)
    try:
        first = unpacked()
    finally:
        os.umask(before)
    assert [path for path in first.parent.rglob("*") if path.stat().st_mode & 0o022] == []
    assert unpacked() == first


@as_root
@pytest.mark.usefixtures("shared")
def test_a_folder_that_another_user_made_is_not_used() -> None:
    planted = unpacked()
    for path in (planted.parent, *planted.parent.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    assert not unpacked().is_relative_to(planted.parent)


def test_a_folder_that_others_can_write_to_is_not_used(shared: pathlib.Path) -> None:
    predictable(shared).mkdir()
    predictable(shared).chmod(0o777)
    assert not unpacked().is_relative_to(predictable(shared))


def test_a_link_in_its_place_is_not_followed(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    predictable(shared).symlink_to(tmp_path / "elsewhere")
    found = unpacked()
    assert found.parent != predictable(shared)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", ["dagbundle_parser/pool.py", "dagbundle_parser", "planted.py"])
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_what_others_may_have_changed_inside_is_not_run(tmp_path: pathlib.Path, name: str, how: str) -> None:
    if how == "owner" and os.geteuid() != 0:
        pytest.skip("only root can make what another user owns")
    home = unpacked()
    path = home / name
    if name == "planted.py":
        path.touch(mode=0o644)
    if how == "owner":
        os.chown(path, STRANGER, STRANGER)
    elif how == "mode":
        path.chmod(0o777)
    else:
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    found = unpacked()
    assert found != home
    assert (found / "dagbundle_parser" / "pool.py").is_file()


@as_root
def test_a_home_of_another_user_is_not_where_roots_parser_lies(
    shared: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "alice" / ".cache"
    cache.mkdir(parents=True)
    for path in (cache, cache.parent):
        os.chown(path, STRANGER, STRANGER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert unpacked().parent == predictable(shared)
