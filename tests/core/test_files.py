"""Directories and files that appear complete or not at all."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bestow_edge.core.bundle import read_manifest
from bestow_edge.core.errors import BundleMissingError, ConfigError
from bestow_edge.core.files import (
    atomic_directory,
    check_free,
    leftovers,
    only_writer,
    sha256,
    share,
    tidy,
    write_atomically,
)


def write_part(target: Path, *, replace: bool, fail: bool = False) -> None:
    with atomic_directory(target, replace=replace) as made:
        (made / "new.txt").write_text("new")
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


def kill_within(tmp_path: Path, body: str) -> None:
    """Run code that is killed at `die()`, as by kill -9."""
    code = f"""
import os, signal
from pathlib import Path
from bestow_edge.core import files
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
target = Path({str(tmp_path / "b")!r})
{body}
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode != 0


BETWEEN = """
rename = Path.rename
def stop(path, to):
    if to == target: die()
    return rename(path, to)
Path.rename = stop
with files.atomic_directory(target, replace=True) as partial: (partial / "new").write_text("new")
"""


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


@pytest.mark.parametrize("reads", [False, True])
def test_a_kill_between_the_two_renames_is_healed(
    tmp_path: Path, reads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("the only copy")
    kill_within(tmp_path, BETWEEN)
    assert not (tmp_path / "b").exists()
    if reads:
        with pytest.raises(BundleMissingError, match="not a bundle"):
            read_manifest(tmp_path / "b")
    else:
        with pytest.raises(ConfigError, match="b exists"), atomic_directory(tmp_path / "b", replace=False):
            pass
    assert names(tmp_path) == ["b", "b/old"]
    assert "a command was killed while it replaced this; the old content is back" in caplog.text


def test_what_a_killed_command_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    kill_within(tmp_path, "with files.atomic_directory(target, replace=True): die()")
    kill_within(tmp_path, "Path.replace = die; files.write_atomically(target, 'x')")
    (tmp_path / ".b.mine").write_text("no leftover")
    assert len(leftovers(tmp_path)) == 2
    write_part(tmp_path / "b", replace=False)
    assert names(tmp_path) == [".b.mine", "b", "b/new.txt"]


WAITS = """
import sys
from pathlib import Path
from bestow_edge.core import files
with files.{name}(Path(sys.argv[1]){options}):
    print("in", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writing(name: str, target: Path) -> Iterator[None]:
    """Write into a directory in another process, which is killed at the end."""
    code = WAITS.format(name=name, options=", replace=True" if name == "atomic_directory" else "")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(target)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.read(2) == b"in"
        yield
        process.kill()


def test_of_two_writers_of_a_directory_one_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with writing("atomic_directory", target):
        for call in (partial(write_part, target, replace=True), partial(check_free, target, replace=True)):
            with pytest.raises(ConfigError, match=r"b: process \d+ makes it; wait for its end"):
                call()
        write_part(tmp_path / "other", replace=False)
    write_part(target, replace=False)  # the other one was killed
    assert names(tmp_path) == ["b", "b/new.txt", "other", "other/new.txt"]


def test_of_two_writers_into_a_directory_one_is_refused(tmp_path: Path) -> None:
    with writing("only_writer", tmp_path / "run"):
        refused = pytest.raises(ConfigError, match="run: another command writes into it; wait for its end")
        with refused, only_writer(tmp_path / "run"):
            pass
    with only_writer(tmp_path / "run"):  # the other one was killed
        pass


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "x")
        write_part(tmp_path / "b", replace=False)
        (tmp_path / "private").touch(0o600)
        share(tmp_path / "private")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"file": 0o640, "b": 0o750, "new.txt": 0o640, "private": 0o640}


def test_what_a_running_command_writes_is_no_leftover(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "b", replace=True):
        assert leftovers(tmp_path) == []
        assert tidy(tmp_path / "b") == []
    assert names(tmp_path) == ["b"]


def test_the_old_directory_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "b"
    target.mkdir()
    (target / "old").write_text("old")
    rename, fails = Path.rename, [True]

    def refuse(path: Path, to: Path) -> Path:
        if to == target and fails:
            fails.clear() if once else None
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    once = True
    with pytest.raises(OSError, match="Input/output error"):
        write_part(target, replace=True)
    assert names(tmp_path) == ["b", "b/old"]
    once, fails = False, [True]
    with pytest.raises(OSError, match=r"its old content is in .*\.b\.edge-old.*, rename it back"):
        write_part(target, replace=True)
    assert [path for path in names(tmp_path) if path.endswith("/old")]
