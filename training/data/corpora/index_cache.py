"""Indexes kept on disk, so that millions of lines are read once and not at every start of every process.

An index is found by what it was made from: files with size and time of change, filters, the tokenizer. Of several
processes that want one that is not there yet, one makes it and the others wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from bestow_edge.training.data.corpora.filters import Report

FORMAT = "1"  # changes with what an index holds
Columns = Mapping[str, npt.NDArray[Any]]  # Any: each column has its own dtype


class IndexCache:
    """A directory of indexes, or none."""

    def __init__(self, directory: Path | None) -> None:
        """Remember the directory, which is made when it is needed; None keeps nothing."""
        self.directory = directory

    def get(
        self, key: Sequence[object], files: Sequence[Path], report: Report, build: Callable[[Report], Columns]
    ) -> tuple[Columns, Report]:
        """Return an index and its report, from the directory or made now.

        Args:
            key: what it depends on beside the files; its `repr` is compared.
            files: the files it is made from.
            report: what was read and dropped before; it is changed.
            build: makes the columns and completes the report.
        """
        if self.directory is None or not all(path.is_file() for path in files):  # `build` says what is missing
            return build(report), report
        states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        name = sha256(repr((FORMAT, [repr(part) for part in key], states)).encode()).hexdigest()[:32]
        path = self.directory / f"{name}.npz"
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                columns = build(report)
                partial = path.with_suffix(".partial.npz")
                np.savez(partial, report=np.array(json.dumps(report.to_state())), **columns)  # type: ignore[arg-type]
                partial.replace(path)
            with np.load(path) as stored:
                columns = {column: stored[column] for column in stored.files if column != "report"}
                return columns, Report.from_state(json.loads(str(stored["report"])))
