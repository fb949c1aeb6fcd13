"""int8 quantisation of small graphs made by hand: what changes, what stays, what is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from graph_files import quantize_file
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bestow_edge.core.bundle import Precision
from bestow_edge.core.errors import ExportError
from bestow_edge.core.tensors import GraphSpec, TensorSpec
from bestow_edge.export.rewriting.quantization import quantize_blocks
from bestow_edge.runtime.devices.onnx_cpu import OnnxGraph

Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)


def weights(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


def write(path: Path, nodes: Sequence[NodeProto], constants: dict[str, Floats], source: str, width: int) -> Path:
    """Write a graph with input `x` (rows, `width`) or `ids` (rows,) and output `y`."""
    kind, shape = (TensorProto.FLOAT, ["rows", width]) if source == "x" else (TensorProto.INT64, ["rows"])
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(source, kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(path: Path, **feeds: npt.NDArray[np.generic]) -> Floats:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # as in the product, see the last test
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    out: Floats = session.run(None, feeds)[0]
    return out


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def constant_types(path: Path) -> dict[str, int]:
    return {item.name: item.data_type for item in onnx.load(path).graph.initializer}


def attributes(path: Path, kind: str) -> dict[str, object]:
    """Return those of the only node of a kind."""
    (node,) = [node for node in onnx.load(path).graph.node if node.op_type == kind]
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gemm_becomes_an_int8_product(tmp_path: Path, transposed: int, with_bias: bool) -> None:
    matrix, bias = weights(64, 96), weights(96)
    constants = {"m": matrix.T.copy() if transposed else matrix} | ({"b": bias} if with_bias else {})
    gemm = helper.make_node("Gemm", ["x", *constants], ["y"], transB=transposed)
    full = write(tmp_path / "full.onnx", [gemm], constants, "x", 64)
    quantize_file(full, tmp_path / "int8.onnx")
    assert "Gemm" not in kinds(tmp_path / "int8.onnx")
    assert TensorProto.INT8 in constant_types(tmp_path / "int8.onnx").values()
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * full.stat().st_size
    x = weights(7, 64)
    want = x @ matrix + (bias if with_bias else 0)
    np.testing.assert_allclose(run(full, x=x), want, atol=1e-4)
    got = run(tmp_path / "int8.onnx", x=x)
    assert 0 < np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_gemm_with_other_factors_stays(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "m"], ["h"], alpha=0.5),
        helper.make_node("MatMul", ["h", "n"], ["y"]),
    ]
    full = write(tmp_path / "full.onnx", nodes, {"m": weights(64, 64), "n": weights(64, 64)}, "x", 64)
    quantize_file(full, tmp_path / "int8.onnx")
    assert "Gemm" in kinds(tmp_path / "int8.onnx")
    x = weights(3, 64)
    want = run(full, x=x)
    assert np.abs(run(tmp_path / "int8.onnx", x=x) - want).max() < 0.03 * np.abs(want).max()


def test_table_has_scales_for_each_row(tmp_path: Path) -> None:
    table = weights(100, 50)
    table[3] *= 1000  # one scale for the whole table would make all other rows coarse
    table[4] = 0
    full = write(tmp_path / "full.onnx", [helper.make_node("Gather", ["t", "ids"], ["y"])], {"t": table}, "ids", 0)
    quantize_file(full, tmp_path / "int8.onnx")
    assert "GatherBlockQuantized" in kinds(tmp_path / "int8.onnx")
    assert "t" not in constant_types(tmp_path / "int8.onnx")
    ids = np.arange(100)
    got = run(tmp_path / "int8.onnx", ids=ids)
    largest = np.abs(table).max(axis=1, keepdims=True)
    assert (np.abs(got - table) <= largest / 128 * 1.06).all()  # the largest one of the other sign is cut to 127 / 128
    assert np.median(np.abs(got - table)) < 0.3 / 128 * np.median(largest)
    assert (got[4] == 0).all()
    assert np.abs(got - table).max() > 0


@pytest.mark.parametrize("width", [64, 50])
def test_table_in_int4(tmp_path: Path, width: int) -> None:
    table = weights(100, width)
    table[4] = 0
    full = write(tmp_path / "full.onnx", [helper.make_node("Gather", ["t", "ids"], ["y"])], {"t": table}, "ids", 0)
    quantize_file(full, tmp_path / "int4.onnx", "int4")
    assert "GatherBlockQuantized" in kinds(tmp_path / "int4.onnx")
    got = run(tmp_path / "int4.onnx", ids=np.array([7, 4, 99]))
    want = table[[7, 4, 99]]
    error = float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))
    assert 1e-3 < error < 0.12
    assert (got[1] == 0).all()


def test_large_float32_constants_are_stored_in_int8(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["p"]),
        helper.make_node("Add", ["p", "places"], ["q"]),
        helper.make_node("Add", ["q", "huge"], ["y"]),
    ]
    huge = weights(64, 64)
    huge[0, 0] = 1e9  # beyond float16
    constants = {"m": weights(64, 64), "places": weights(64, 64), "huge": huge}
    full = write(tmp_path / "full.onnx", nodes, constants, "x", 64)
    quantize_file(full, tmp_path / "int8.onnx", largest_block=32)
    types = constant_types(tmp_path / "int8.onnx")
    assert types["places_int8_values"] == TensorProto.INT8
    assert "places" not in types
    assert types["huge"] == TensorProto.FLOAT
    x = weights(64, 64)
    got, want = run(tmp_path / "int8.onnx", x=x)[1:], (x @ constants["m"] + constants["places"] + huge)[1:]
    assert 0 < np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_table_that_is_also_multiplied_stays_for_the_product(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["h"]),
        helper.make_node("Transpose", ["t"], ["tt"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "tt"], ["y"]),
    ]
    table = weights(100, 50)
    full = write(tmp_path / "full.onnx", nodes, {"t": table}, "ids", 0)
    quantize_file(full, tmp_path / "int8.onnx")
    ids = np.array([0, 99, 5])
    want = table[ids] @ table.T
    assert np.abs(run(tmp_path / "int8.onnx", ids=ids) - want).max() < 0.03 * np.abs(want).max()


def test_small_constants_stay_float(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "small"], ["h"]), helper.make_node("MatMul", ["h", "large"], ["y"])]
    constants = {"small": weights(32, 64), "large": weights(64, 64)}
    full = write(tmp_path / "full.onnx", nodes, constants, "x", 32)
    quantize_file(full, tmp_path / "int8.onnx")
    types = constant_types(tmp_path / "int8.onnx")
    assert types["small"] == TensorProto.FLOAT
    assert "large" not in types
    assert kinds(tmp_path / "int8.onnx").count("MatMul") == 1


def test_nothing_to_quantise(tmp_path: Path) -> None:
    full = write(tmp_path / "full.onnx", [helper.make_node("MatMul", ["x", "m"], ["y"])], {"m": weights(8, 8)}, "x", 8)
    with pytest.raises(ExportError, match=r"graph: no matrix or table of 4096 or more weights; keep this graph"):
        quantize_file(full, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_weight_only_rows_do_not_depend_on_each_other(tmp_path: Path) -> None:
    """Several texts are decoded as one batch: each must come out as it does alone, to the last bit."""
    gemm = helper.make_node("Gemm", ["x", "m", "b"], ["y"])
    matrix, bias = weights(64, 96), weights(96)
    full = write(tmp_path / "full.onnx", [gemm], {"m": matrix, "b": bias}, "x", 64)
    quantize_file(full, tmp_path / "rows.onnx", largest_block=128)
    quantize_file(full, tmp_path / "dynamic.onnx")
    x = weights(3, 64) * np.array([[0.1], [1.0], [20.0]], dtype=np.float32)
    want, together = run(full, x=x), run(tmp_path / "rows.onnx", x=x)
    alone = np.concatenate([run(tmp_path / "rows.onnx", x=x[row : row + 1]) for row in range(3)])
    assert np.array_equal(together, alone)
    for row in range(3):  # the quiet row too
        assert np.abs(together[row] - want[row]).max() < 0.02 * np.abs(want[row]).max()
    assert not np.allclose(run(tmp_path / "dynamic.onnx", x=x)[:1], run(tmp_path / "dynamic.onnx", x=x[:1]), atol=1e-4)
    assert (tmp_path / "rows.onnx").stat().st_size < 0.45 * full.stat().st_size


@pytest.mark.parametrize("largest_block", [None, 128])
def test_products_of_products(tmp_path: Path, largest_block: int | None) -> None:
    """One right behind the other, as where widths differ: the second reads what the first has become."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("MatMul", ["q", "c"], ["y"]),
    ]
    constants = {"a": weights(64, 96), "b": weights(96), "c": weights(96, 64)}
    full = write(tmp_path / "full.onnx", nodes, constants, "x", 64)
    quantize_file(full, tmp_path / "int8.onnx", largest_block=largest_block)
    x = weights(3, 64)
    want = (x @ constants["a"] + constants["b"]) @ constants["c"]
    assert 0 < np.abs(run(tmp_path / "int8.onnx", x=x) - want).max() < 0.04 * np.abs(want).max()


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.02), ("int4", 0.2)])
@pytest.mark.parametrize("rows", [64, 80, 384])
def test_weights_in_blocks(tmp_path: Path, precision: Precision, limit: float, rows: int) -> None:
    matrix = weights(rows, 96)
    full = write(tmp_path / "full.onnx", [helper.make_node("MatMul", ["x", "m"], ["y"])], {"m": matrix}, "x", rows)
    quantize_file(full, tmp_path / "small.onnx", precision, largest_block=128)
    options = attributes(tmp_path / "small.onnx", "MatMulNBits")
    assert options["block_size"] == {64: 64, 80: 32, 384: 128}[rows]
    x = weights(3, rows)
    got, want = run(tmp_path / "small.onnx", x=x), x @ matrix
    error = float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))
    assert 1e-3 < error < limit


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_those_of_onnxruntime(bits: int) -> None:
    from onnxruntime.capi import _pybind_state as native

    matrix = weights(256, 24)
    matrix[128:, 5] = 0
    packed, scales = quantize_blocks(matrix, bits=bits, block=128)
    theirs, their_scales = np.zeros_like(packed), np.zeros(scales.size, dtype=np.float32)
    zero_points = np.zeros(24 * -(-2 * bits // 8), dtype=np.uint8)
    getattr(native, f"quantize_matmul_{bits}bits")(theirs, matrix, their_scales, zero_points, 128, 24, 256, True)
    used = np.ones((24, 2), dtype=bool)
    used[5, 1] = False  # a block of zeros: any scale will do
    np.testing.assert_allclose(scales[used], their_scales.reshape(24, 2)[used], rtol=1e-3)  # ours fit into float16
    assert np.array_equal(scales, scales.astype(np.float16))
    low, their_low = packed & 15, theirs & 15
    assert np.mean((packed >> 4 != theirs >> 4) | (low != their_low)) < 0.01  # ties round either way


def test_float16_keeps_inputs_and_outputs(tmp_path: Path) -> None:
    matrix = weights(64, 96)
    full = write(tmp_path / "full.onnx", [helper.make_node("MatMul", ["x", "m"], ["y"])], {"m": matrix}, "x", 64)
    quantize_file(full, tmp_path / "half.onnx", "fp16")
    assert TensorProto.FLOAT16 in constant_types(tmp_path / "half.onnx").values()
    x = weights(3, 64)
    got, want = run(tmp_path / "half.onnx", x=x), x @ matrix
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() < 3e-3 * np.abs(want).max()


@pytest.mark.parametrize("sign", [1, -1])
def test_large_int8_products_do_not_overflow(tmp_path: Path, sign: int) -> None:
    """Two products of 255 and 127 exceed 16 bits, in which x64 processors without VNNI add them unless told not to."""
    matrix = np.full((64, 64), sign, dtype=np.float32)
    full = write(tmp_path / "full.onnx", [helper.make_node("MatMul", ["x", "m"], ["y"])], {"m": matrix}, "x", 64)
    quantize_file(full, tmp_path / "int8.onnx")
    x, y = TensorSpec("x", "float32", ("n", 64)), TensorSpec("y", "float32", ("n", 64))
    runner = OnnxGraph(tmp_path / "int8.onnx", GraphSpec("int8", "encoder", (x,), (y,)), threads=1).runner()
    runner.bind({"x": np.ones((3, 64), dtype=np.float32)})
    np.testing.assert_allclose(runner.run()["y"], np.full((3, 64), 64 * sign), rtol=1e-6)


def test_small_blocks_keep_an_outlier_to_itself(tmp_path: Path) -> None:
    """As in a Whisper's encoder: a channel a hundred times as large makes the activations of its block coarse."""
    matrix = weights(256, 96)
    full = write(tmp_path / "full.onnx", [helper.make_node("MatMul", ["x", "m"], ["y"])], {"m": matrix}, "x", 256)
    x = weights(50, 256)
    x[:, 3] *= 100
    want, errors = x @ matrix, dict[int, float]()
    for block in (128, 16):
        quantize_file(full, tmp_path / f"{block}.onnx", largest_block=block)
        assert attributes(tmp_path / f"{block}.onnx", "MatMulNBits")["block_size"] == block
        errors[block] = float(np.sqrt(np.mean((run(tmp_path / f"{block}.onnx", x=x) - want) ** 2)))
    assert 0 < errors[16] < 0.6 * errors[128]
