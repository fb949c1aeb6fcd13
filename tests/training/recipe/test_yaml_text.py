"""YAML of recipes: plain values, and bounds on size and depth."""

from pathlib import Path

import pytest

from bestow_edge.core.errors import ConfigError
from bestow_edge.training.recipe import yaml_text
from bestow_edge.training.recipe.yaml_text import DEEPEST, read_yaml

LAUGHS = b"a: &a [x]\n" + b"".join(  # each letter stands for 99 of the one before
    b"%c: &%c [%s]\n" % (letter + 1, letter + 1, b", ".join([b"*%c" % letter] * 99)) for letter in b"abcdef"
)


@pytest.mark.parametrize(
    "content",
    [
        *(b"a: 0x_", b"a: 0b_", b"a: [", b"\xff", b"a: &b [*b]", b"!!python/object:os.system {}"),
        *(b"a: " + b"[" * 3000, b"a: " + b"[" * DEEPEST + b"]" * DEEPEST, LAUGHS),
    ],
)
def test_what_is_no_plain_yaml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"r\.yaml: not valid YAML"):
        read_yaml(tmp_path / "r.yaml")


def test_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MOST_BYTES", 100)
    (tmp_path / "r.yaml").write_text("a: 1\n" + "#" * 100)
    with pytest.raises(ConfigError, match="more than 100 bytes"):
        read_yaml(tmp_path / "r.yaml")


def test_plain_values(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: 2001-99-99\nb: &b [1, 2.5, yes]\nc: *b\n")
    assert read_yaml(tmp_path / "r.yaml") == {"a": "2001-99-99", "b": [1, 2.5, True], "c": [1, 2.5, True]}
