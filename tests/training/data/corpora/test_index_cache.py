"""The cache of indexes: made once, and made again where its file is damaged or its writer was killed."""

from pathlib import Path

import numpy as np
import pytest

from bestow_edge.training.data.corpora.filters import Report
from bestow_edge.training.data.corpora.index_cache import Index, cached


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 5000, None])
def test_a_damaged_index_is_made_again(tmp_path: Path, content: bytes | None) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("{}", encoding="utf-8")
    builds = []

    def build(report: Report) -> Index:
        builds.append(report.name)
        report.drop("too long", 2.0)
        return np.arange(7)

    def read() -> None:
        index, report = cached(tmp_path / "cache", ["a"], [manifest], Report("s"), build)
        assert index.tolist() == list(range(7))
        assert report.dropped_s == {"too long": 2.0}

    read()
    read()
    assert builds == ["s"]
    (path,) = (tmp_path / "cache").glob("*.npz")
    if content is None:
        np.savez(path, report=np.array("{}"))
    else:
        path.write_bytes(content)
    read()
    assert builds == ["s", "s"]
    read()
    assert builds == ["s", "s"]
