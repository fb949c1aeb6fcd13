"""Rewrites of small graphs made by hand: fewer operators, the same results."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bestow_edge.export.rewriting.fusion import fold_factors
from bestow_edge.export.tracing import save_graph

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("factor", [np.float32(0.5), np.array([0.5, 2.0, 3.0], np.float32)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_factor_becomes_part_of_the_matrix(tmp_path: Path, factor: np.ndarray, with_bias: bool, first: bool) -> None:
    constants = {"m": RNG.standard_normal((4, 3)).astype(np.float32), "f": factor}
    nodes = [helper.make_node("MatMul", ["x", "m"], ["p"], name="product")]
    if with_bias:
        constants["b"] = RNG.standard_normal(3).astype(np.float32)
        nodes.append(helper.make_node("Add", ["p", "b"], ["q"]))
    scaled = nodes[-1].output[0]
    nodes.append(helper.make_node("Mul", ["f", scaled] if first else [scaled, "f"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "a.onnx")
    model = ir.load(tmp_path / "a.onnx")
    fold_factors(model)
    left = [node.op_type for node in model.graph]
    assert ("Mul" in left) == (factor.ndim > 0)  # a factor for each column stays
    save_graph(model, tmp_path / "b.onnx")
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    before, after = (
        ort.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for name in ("a.onnx", "b.onnx")
    )
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
