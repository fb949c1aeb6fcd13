"""Arrays in `.npz` files that anybody may have written: no pickled objects, and bounds on what a file unfolds to."""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from bestow_edge.core.errors import ConfigError

Array = npt.NDArray[Any]  # Any: a file may hold numbers of several types
MOST_BYTES = 2_000_000_000
"""Of all arrays of a file; a member that unfolds to more is refused before it is read."""
MOST_MEMBERS = 20_000
DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError, RuntimeError, OSError, ArithmeticError,
    SyntaxError, TokenError, TypeError,
)  # fmt: skip
"""Errors of zipfile and numpy for a file that is damaged."""


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of an `.npz` file by name.

    Raises:
        ConfigError: if the file is missing, damaged, holds objects, or unfolds to more than `MOST_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(archive, MOST_BYTES)
            return {name.removesuffix(".npy"): read_array(archive, name) for name in archive.namelist()}
    except DAMAGE as error:
        raise ConfigError(f"{path}: not readable ({' '.join(str(error).split()):.200})") from error


def check_size(archive: zipfile.ZipFile, most: int) -> None:
    """Refuse an archive that unfolds to too much.

    Raises:
        ValueError: if it does.
    """
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"{len(members)} members, expected at most {MOST_MEMBERS}")
    if (size := sum(member.file_size for member in members)) > most:
        raise ValueError(f"it unfolds to {size} bytes, expected at most {most}")


def read_array(archive: zipfile.ZipFile, name: str) -> Array:
    """Read one `.npy` member.

    Raises:
        ValueError: if its header is wrong, or names more numbers than the member has; others of `DAMAGE` too.
    """
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"{name}: npy version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject or not dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"{name}: {dtype} of shape {shape}")
        content = file.read()
        if prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"{name}: {len(content)} bytes for {dtype} of shape {shape}")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if fortran else "C").copy()
