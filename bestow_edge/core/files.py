"""Files and directories that are written atomically: complete or not at all. Standard library only.

What a command that was killed leaves behind has a name that tells what it is of and which process made it. The next
command for the same path puts the old directory back where no new one took its place, and removes the rest.
"""

import hashlib
import logging
import os
import platform
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bestow_edge.core.errors import ConfigError

logger = logging.getLogger(__name__)
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.edge-(?P<kind>new|old)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}")
WRITER = ".writer"
"""File of a directory that a command locks while it writes there."""
_OLD_S = 7 * 24 * 3600  # what another machine left is removed after a week: whether its process lives is not known


@contextmanager
def atomic_directory(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes `target` if the block ends without an error.

    Args:
        target: the directory to make.
        replace: whether an existing directory may be replaced.

    Raises:
        ConfigError: if `target` is not a directory, or exists and may not be replaced, or another process makes it.
        OSError: if it cannot take its place; the old directory is back then, or the message says where it is.
    """
    target = target.resolve()
    check_free(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(target)
    partial.mkdir()
    try:
        _check_alone(target)  # now that others see this one
        yield partial
        _take_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Refuse to write into a directory in which another process writes. The directory is made if it is missing.

    Raises:
        ConfigError: if another process writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / WRITER).open("ab") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            hint = "wait for its end or choose another directory"
            raise ConfigError(f"{directory}: another command writes into it; {hint}") from error
        yield


def _lock(descriptor: int) -> None:
    """Lock a file until it is closed or this process ends, however it ends; processes that it forks don't hold it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_free(target: Path, *, replace: bool) -> None:
    """Check that a directory can be made at a path, and tidy up after commands that were killed. Call it early too.

    Raises:
        ConfigError: if `target` is not a directory, or exists and may not be replaced, or another process makes it.
    """
    tidy(target)
    _check_alone(target.resolve())
    if target.exists() and (not replace or not target.is_dir()):
        raise ConfigError(f"{target.resolve()} exists; choose another path or allow it to be replaced (--force)")


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file atomically, text as UTF-8."""
    encoded = content.encode() if isinstance(content, str) else content
    partial = temporary_path(path)
    try:
        partial.write_bytes(encoded)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def share(path: Path) -> None:
    """Give a file that a library made private the rights of other new files, which the umask decides."""
    fresh = temporary_path(path)
    fresh.touch()
    path.chmod(fresh.stat().st_mode & 0o777)
    fresh.unlink()


def temporary_path(target: Path) -> Path:
    """Return a fresh name beside a path, by which `leftovers` finds what a killed process left there."""
    return _beside(target, "new")


def temporary_file(name: str) -> Path:
    """Make an empty file among the temporary files, which nobody else may read; the caller removes it."""
    path = temporary_path(Path(tempfile.gettempdir()) / name)
    path.touch(0o600, exist_ok=False)
    return path


@contextmanager
def temporary_directory(name: str) -> Iterator[Path]:
    """Yield a directory among the temporary files, which nobody else may read."""
    path = temporary_path(Path(tempfile.gettempdir()) / name)
    path.mkdir(0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def temporary_leftovers() -> list[Path]:
    """Return what killed commands of this user left in the directory for temporary files, which all users share."""
    user = os.geteuid() if hasattr(os, "geteuid") else None
    found = [path for path in leftovers(Path(tempfile.gettempdir())) if ".edge-new." in path.name]
    return [path for path in found if user is None or path.lstat().st_uid == user]


def tidy(target: Path) -> list[Path]:
    """Remove what killed commands left of a path, and put its old content back if nothing else is there.

    Returns:
        Paths of what was removed or put back.
    """
    target = target.resolve()
    done = [path for path in leftovers(target.parent) if _target(path) == target]
    for path in sorted(done, key=_changed_s, reverse=True):  # the newest old content goes back
        settle(path)
    return done


def leftovers(directory: Path) -> list[Path]:
    """Return what killed commands left in a directory; what a running process writes is none."""
    try:
        found = [path for path in directory.iterdir() if _LEFTOVER.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(path for path in found if not _in_use(path))


def settle(leftover: Path) -> str:
    """Put old content back where no new one took its place, or remove a leftover; return what was done, in words."""
    target = _target(leftover)
    if ".edge-old." in leftover.name and not target.exists():
        leftover.rename(target)
        logger.warning("%s: a command was killed while it replaced this; the old content is back", target)
        return f"put back as {target.name}"
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover)
    else:
        leftover.unlink(missing_ok=True)
    logger.info("%s: removed, a killed command left it", leftover)
    return "removed"


def _check_alone(target: Path) -> None:
    """Refuse a target that another running command of this machine makes."""
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or match["kind"] != "new" or match["host"] != _HOST or _target(path) != target:
            continue
        if (pid := int(match["pid"])) != os.getpid() and _runs(pid):
            hint = f"wait for its end, or remove {path.name} there if it is another program"
            raise ConfigError(f"{target}: process {pid} makes it; {hint}")


def _take_place(partial: Path, target: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    old = _beside(target, "old")
    target.rename(old)
    try:
        partial.rename(target)
    except BaseException as error:
        try:
            old.rename(target)
        except OSError as second:
            where = f"{target}: not replaced ({error}); its old content is in {old}, rename it back"
            raise OSError(second.errno, where) from error
        raise
    shutil.rmtree(old)


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.edge-{kind}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"


def _target(leftover: Path) -> Path:
    match = _LEFTOVER.fullmatch(leftover.name)
    return leftover.parent / (match["name"] if match else leftover.name)


def _in_use(path: Path) -> bool:
    match = _LEFTOVER.fullmatch(path.name)
    if match is None:
        return True
    if match["host"] != _HOST:
        return time.time() - _changed_s(path) < _OLD_S
    return _runs(int(match["pid"]))


def _runs(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _changed_s(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
