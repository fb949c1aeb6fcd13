"""Text files of millions of lines, from which single lines are read by the position of their first byte.

Gzipped files cannot be read from the middle. They are decompressed into a temporary file, which is deleted when the
process ends.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

from bestow_edge.core.errors import ManifestError
from bestow_edge.core.files import temporary_file
from bestow_edge.core.utterances import decode_line, open_plain, raw_lines

BLOCK_BYTES = 4096


class LineFile:
    """A file of lines."""

    def __init__(self, path: Path, expected: str) -> None:
        """Decompress the file if it is gzipped. `expected` describes the right kind of file, for messages.

        Raises:
            ManifestError: if it is missing, or ends in `.gz` and is not gzip.
        """
        self.path, self.expected = path, expected
        self._plain = path
        self._descriptor: int | None = None
        if path.suffix == ".gz":
            for _ in raw_lines(path, expected):  # raises the errors of a bad file before it is copied
                break
            self._plain = _decompressed(path)
            weakref.finalize(self, _remove, self._plain, os.getpid())

    def __getstate__(self) -> dict[str, object]:
        """Leave out the open file: another process opens its own."""
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]  # not None, see above

    def lines(self) -> Iterator[tuple[int, int, str]]:
        """Yield number (from 1), first byte and text of each line that is not blank.

        Raises:
            ManifestError: if the file is missing or a line is not UTF-8.
        """
        for number, offset, line in raw_lines(self._plain, self.expected):
            yield number, offset, decode_line(line, self.where(number))

    def read(self, offset: int, number: int) -> str:
        """Return the line that begins at byte `offset`. Its number is for messages.

        Raises:
            ManifestError: if the file is gone or has changed.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._plain, os.O_RDONLY)
            line = b""
            while (end := line.find(b"\n")) < 0 and (block := os.pread(self._descriptor, BLOCK_BYTES, offset)):
                line, offset = line + block, offset + len(block)
        except OSError as error:
            raise ManifestError(f"{self.where(number)}: cannot be read any more ({error.strerror})") from error
        if not line:
            raise ManifestError(f"{self.where(number)}: the line is gone; the file changed while it was in use")
        return decode_line(line[:end] if end >= 0 else line, self.where(number))

    def where(self, number: int) -> str:
        """Return file and line for messages."""
        return f"{self.path}:{number}"


def _decompressed(path: Path) -> Path:
    target = temporary_file(path.stem)
    try:
        with open_plain(path) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    except BaseException:
        target.unlink()
        raise
    return target


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # processes forked for data loading have a copy of the object, but do not own the file
        path.unlink(missing_ok=True)
