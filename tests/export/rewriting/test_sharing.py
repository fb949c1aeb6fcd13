"""Constants that a bundle has more than once: stored once, the same results, files that the manifest names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bestow_edge.export.rewriting.sharing import LEAST_BYTES, SHARED_FILE, share_constants

Floats = npt.NDArray[np.float32]


def add(path: Path, constants: dict[str, Floats]) -> None:
    """Write a graph that adds the sums of constants to its input."""
    nodes, last = [], "x"
    for name in constants:
        nodes.append(helper.make_node("ReduceSum", [name], [f"{name}_sum"], keepdims=0))
        nodes.append(helper.make_node("Add", [last, f"{name}_sum"], [f"{name}_out"]))
        last = f"{name}_out"
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def run(path: Path) -> Floats:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out: Floats = session.run(None, {"x": np.ones(3, dtype=np.float32)})[0]
    return out


def test_same_bytes_are_stored_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((LEAST_BYTES // 128, 32)).astype(np.float32)
    small = rng.standard_normal(8).astype(np.float32)
    paths = [tmp_path / f"{name}.onnx" for name in ("one", "two", "three")]
    add(paths[0], {"a": table, "s": small})
    add(paths[1], {"b": table.reshape(-1, 64), "s": small, "own": table + 1})  # another shape
    add(paths[2], {"c": table * 2})
    before, sizes = [run(path) for path in paths], [path.stat().st_size for path in paths]
    share_constants(paths)
    for path, want in zip(paths, before, strict=True):
        np.testing.assert_array_equal(run(path), want)
    assert (tmp_path / SHARED_FILE).stat().st_size == table.nbytes
    shared = [size - path.stat().st_size for path, size in zip(paths, sizes, strict=True)]
    assert min(shared[:2]) > table.nbytes - 1000
    assert abs(shared[2]) < 1000


def test_nothing_is_written_where_nothing_is_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        add(path, {"a": rng.standard_normal((LEAST_BYTES // 128, 64)).astype(np.float32)})
    before = [path.read_bytes() for path in paths]
    share_constants(paths)
    assert [path.read_bytes() for path in paths] == before
    assert not (tmp_path / SHARED_FILE).exists()


def test_the_embedded_bundle_names_its_shared_file() -> None:
    from bestow_edge.core.embedded import embedded_bundle

    directory = embedded_bundle("people")
    manifest = json.loads((directory / "bundle.json").read_text(encoding="utf-8"))
    assert SHARED_FILE in [entry["path"] for entry in manifest["files"]]
