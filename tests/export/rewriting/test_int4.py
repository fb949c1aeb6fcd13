"""int4 weights for engines: rounding, blocks, the graph in ONNX and in onnxruntime, and what has no such weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bestow_edge.core.errors import ExportError
from bestow_edge.export.rewriting.float16 import to_half
from bestow_edge.export.rewriting.int4 import BLOCKS, int4_blocks, store_int4
from bestow_edge.export.rewriting.tensorrt_rules import check_ready


def product(weights: np.ndarray, path: Path) -> ir.Model:
    """Return a graph with one matrix product."""
    rows, columns = weights.shape
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "small", inputs, outputs, [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return ir.load(path)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def restored(weights: np.ndarray, block: int) -> np.ndarray:
    whole, scales = int4_blocks(weights, block)
    return whole.astype(np.float32) * np.repeat(scales, block, axis=0)


def test_a_weight_is_at_most_half_a_step_away_and_scales_are_positive() -> None:
    weights = random(96, 10)
    weights[:32, 0] = 0
    whole, scales = int4_blocks(weights, 32)
    assert scales.shape == (3, 10)
    assert (scales > 0).all()
    assert whole.astype(np.int8).min() == -8
    assert whole.astype(np.int8).max() == 7
    steps = np.repeat(scales, 32, axis=0)
    assert (np.abs(restored(weights, 32) - weights) <= steps * 0.51).all()


@pytest.mark.parametrize("target", BLOCKS)
def test_onnx_checks_it_and_onnxruntime_multiplies_with_it(tmp_path: Path, target: Any) -> None:
    weights, x = random(128, 48), random(3, 128)
    graph = product(weights, tmp_path / "full.onnx")
    store_int4(graph, target)
    to_half(graph)
    check_ready(graph)
    path = tmp_path / "int4.onnx"
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    (node,) = (node for node in onnx.load(path).graph.node if node.op_type == "DequantizeLinear")
    assert {item.name: item.i for item in node.attribute} == {"axis": 0, "block_size": BLOCKS[target]}
    stored = {item.name: item for item in onnx.load(path).graph.initializer}
    assert stored[node.input[0]].data_type == TensorProto.INT4
    assert len(stored[node.input[0]].raw_data) == 128 * 48 // 2
    assert stored[node.input[1]].data_type == TensorProto.FLOAT16
    (got,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = x @ restored(weights, BLOCKS[target])
    assert np.abs(got - expected).max() / np.abs(expected).max() < 0.02  # onnxruntime rounds activations to int8


def test_a_matrix_without_whole_blocks_stays(tmp_path: Path) -> None:
    graph = product(random(100, 64), tmp_path / "full.onnx")
    with pytest.raises(ExportError, match=r"small: no matrix of 4096 weights in blocks of 32 rows; export it in fp16"):
        store_int4(graph, "rtx")
