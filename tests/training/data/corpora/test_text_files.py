"""Files of lines read at any line, plain and gzipped, in other processes too."""

import gzip
import pickle
from pathlib import Path

import pytest

from bestow_edge.core.errors import ManifestError
from bestow_edge.training.data.corpora.text_files import LineFile

TEXTS = ["first", "", "zweite, ü" * 1000, "  ", "last"]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_is_found_again(tmp_path: Path, suffix: str, end: str) -> None:
    path = tmp_path / f"a{suffix}"
    content = b"\xef\xbb\xbf" + end.join(TEXTS).encode()
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    file = LineFile(path, "lines")
    lines = list(file.lines())
    assert [(number, text) for number, _, text in lines] == [(1, "first"), (3, TEXTS[2]), (5, "last")]
    for reader in (file, pickle.loads(pickle.dumps(file))):  # noqa: S301 - as data loaders hand it over
        assert [reader.read(offset, number) for number, offset, _ in reversed(lines)] == ["last", TEXTS[2], "first"]


def test_the_decompressed_copy_goes_with_the_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"one\n"))
    file = LineFile(path, "lines")
    plain = file._plain
    assert plain != path
    assert plain.is_file()
    del file
    assert not plain.exists()


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(ManifestError, match=r"a\.txt: no such manifest; expected a list"):
        list(LineFile(path, "a list").lines())
    path.write_bytes(b"one\ntw\xff\n")
    file = LineFile(path, "a list")
    with pytest.raises(ManifestError, match=r"a\.txt:2: byte 0xff at position 3 is not UTF-8"):
        list(file.lines())
    with pytest.raises(ManifestError, match=r"a\.txt:9: the line is gone; the file changed"):
        file.read(999, 9)
    with pytest.raises(ManifestError, match=r"b\.txt:1: cannot be read any more \(No such file"):
        LineFile(tmp_path / "b.txt", "a list").read(0, 1)
