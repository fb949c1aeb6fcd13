"""A cache of indexes on disk, so that millions of lines are read once and not at every start of every process.

The key of an index is a hash of its inputs: files with size and modification time, filters, tokenizer. If several
processes need a missing index, one makes it and the others wait.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from bestow_edge.core.archives import read_arrays
from bestow_edge.core.decoding import decode
from bestow_edge.core.errors import ConfigError
from bestow_edge.core.files import write_atomically
from bestow_edge.core.json_text import parse_object
from bestow_edge.training.data.corpora.filters import Report

FORMAT = "2"  # to be changed with the content of indexes
logger = logging.getLogger(__name__)
Index = npt.NDArray[Any]  # Any: rows with fields, or a mask


def cached(
    directory: Path | None,
    key: Sequence[object],
    files: Sequence[Path],
    report: Report,
    build: Callable[[Report], Index],
) -> tuple[Index, Report]:
    """Return an index and its report. They are read from a directory, or built and stored.

    Args:
        directory: of the cache; it is made when it is needed. None = no cache.
        key: inputs of the index beside the files; their `repr` is compared.
        files: the files that are indexed.
        report: of the lines read and dropped so far; it is changed.
        build: returns the index and completes the report.
    """
    if directory is None or not all(path.is_file() for path in files):  # `build` reports missing files
        return build(report), report
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    name = sha256(repr((FORMAT, [repr(part) for part in key], states)).encode()).hexdigest()[:32]
    path = directory / f"{name}.npz"
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            try:
                return _read(path)
            except (ConfigError, KeyError) as error:
                logger.warning("%s: a damaged index (%s); it is made again", path, error)
        index = build(report)
        buffer = io.BytesIO()
        np.savez(buffer, index=index, report=np.array(json.dumps(asdict(report))))
        write_atomically(path, buffer.getvalue())
        return index, report


def _read(path: Path) -> tuple[Index, Report]:
    stored = read_arrays(path)
    return stored["index"], decode(Report, parse_object(str(stored["report"]), str(path)), "report")
