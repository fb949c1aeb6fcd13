"""Directories and files that appear complete or not at all."""

import hashlib
from pathlib import Path

import pytest

from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import atomic_directory, sha256, write_atomically


def write_part(target: Path, *, replace: bool, fail: bool = False) -> None:
    with atomic_directory(target, replace=replace) as partial:
        (partial / "new.txt").write_text("new")
        if fail:
            raise RuntimeError("disk on fire")


def test_it_appears_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with atomic_directory(target, replace=False) as partial:
        (partial / "file").write_text("x")
        assert not target.exists()
        assert partial.parent == target.parent
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_is_left_after_an_error(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "bundle"
    if exists:
        target.mkdir()
        (target / "old.txt").write_text("old")
    with pytest.raises(RuntimeError, match="disk on fire"):
        write_part(target, replace=True, fail=True)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == (["bundle", "bundle/old.txt"] if exists else [])


def test_it_replaces_when_allowed(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old.txt").write_text("old")
    write_part(target, replace=True)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["bundle", "bundle/new.txt"]


def test_it_refuses_what_exists(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    with pytest.raises(ConfigError, match=r"bundle exists; choose another path or allow it to be replaced \(--force\)"):
        write_part(target, replace=False)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="file exists"):
        write_part(file, replace=True)
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file"]


def test_hash(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "ä")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path, "x")
    assert list(tmp_path.iterdir()) == [path]
