"""Files and directories that are written atomically: complete or not at all. Standard library only."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bestow_edge.core.errors import ConfigError


@contextmanager
def atomic_directory(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes `target` if the block ends without an error.

    Args:
        target: the directory to make.
        replace: whether an existing directory may be replaced.

    Raises:
        ConfigError: if `target` is not a directory, or exists and may not be replaced.
    """
    target = target.resolve()
    check_free(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield partial
        _take_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path, *, replace: bool) -> None:
    """Check that a directory can be made at a path. Call it before long work too.

    Raises:
        ConfigError: if `target` is not a directory, or exists and may not be replaced.
    """
    if target.exists() and (not replace or not target.is_dir()):
        raise ConfigError(f"{target.resolve()} exists; choose another path or allow it to be replaced (--force)")


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file atomically, text as UTF-8."""
    encoded = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
        partial = Path(file.name)
        try:
            file.write(encoded)
            file.close()
            partial.chmod(0o644)  # temporary files are private
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _take_place(partial: Path, target: Path) -> None:
    partial.chmod(0o755)  # mkdtemp makes it private
    if not target.exists():
        partial.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    partial.rename(target)
    shutil.rmtree(old)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
