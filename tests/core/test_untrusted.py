"""Files that anybody may have written: bounds on JSON, archives and transformers configs."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bestow_edge.core import archives
from bestow_edge.core.archives import read_arrays
from bestow_edge.core.checkpoint import weight_shapes
from bestow_edge.core.errors import CheckpointError, ConfigError
from bestow_edge.core.json_text import DEEPEST, parse_json
from bestow_edge.core.networks import check_network

NETWORK: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
        b"9" * 5000,
        b"1" * 21,
        b"\xff",
        b"",
        b"NaN",
        rb'"\ud800"',
        '"\ud800"',
    ],
)
def test_json_has_bounds(content: bytes | str) -> None:
    with pytest.raises(ConfigError, match="x: not valid JSON"):
        parse_json(content, "x")


def test_json_within_the_bounds() -> None:
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert json.dumps(parse_json(deep, "x")) == deep
    assert parse_json(b'{"a": 9223372036854775807, "b": Infinity}', "x")["a"] == 2**63 - 1
    assert parse_json(rb'"\ud83d\ude42"', "x") == "🙂"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_hidden_layers", 2**31, "expected at most 1000"),
        ("num_hidden_layers", None, "expected a whole number"),
        ("num_hidden_layers", [], "expected a whole number"),
        ("num_hidden_layers", True, "expected a whole number"),
        ("hidden_size", {}, "expected a whole number"),
        ("hidden_size", 64.0, "expected a whole number"),
        ("hidden_size", float("nan"), "expected a number of at most 64 bits"),
        ("hidden_size", 2**40, "expected at most 1048576"),
        ("hidden_size", 66, "hidden_size 66 is not a multiple of num_attention_heads 4"),
        ("num_attention_heads", 0, "expected at least 1"),
        ("num_attention_heads", -4, "expected at least 1"),
        ("num_key_value_heads", 3, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("conv_kernel_size", "x", "expected a whole number"),
        ("vocab_size", 2**30, "expected at most 16777216"),
        ("model_type", 3, "model_type is 3; expected a name"),
        ("nested", [[[[{"num_layers": 10**6}]]]], "expected at most 1000"),
    ],
)
def test_networks_have_ranges(name: str, value: object, message: str) -> None:
    check_network(NETWORK, "llm")
    with pytest.raises(ConfigError, match=f"llm: .*{message}"):
        check_network(NETWORK | {name: value}, "llm")


def npz(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    return path


def npy(header: str, content: bytes) -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


def test_arrays_survive(tmp_path: Path) -> None:
    arrays = {
        "x/in": np.arange(6.0).reshape(2, 3),
        "y": np.array(5),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert set(found) == set(arrays)
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items()
    )


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (35000000000000,), }", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", b"1234"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"12345678"),
        npy("{'descr': '<f4', 'shape': (1,), }", b"1234"),
        npy("[" * 100, b"1234"),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_headers_are_not_believed(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"a\.npz: not readable"):
        read_arrays(npz(tmp_path / "a.npz", content))


def test_an_archive_may_not_unfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(100_000))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    with pytest.raises(ConfigError, match="it unfolds to 800128 bytes, expected at most 10000"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", ["x", ["2"], [-1], [1.5], [2**70], None])
def test_shapes_of_a_checkpoint_are_numbers(tmp_path: Path, shape: object) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        weight_shapes(path)
