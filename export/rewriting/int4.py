"""int4 weights for engines: ONNX's DequantizeLinear before each matrix product with constant weights, opset 21.

Symmetric, because TensorRT takes no zero points: a weight is a whole number from -8 to 7 times the scale of its block.
The engine computes in float16 and unpacks the weights as it reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from bestow_edge.core.errors import ExportError
from bestow_edge.core.tensors import Target
from bestow_edge.export.rewriting.fusion import Constant, Weights, lazy, products
from bestow_edge.export.rewriting.quantization import MIN_WEIGHTS, split_gemms

BLOCKS: Mapping[Target, int] = {"rtx": 32, "tensorrt": 64}
"""Rows of weights with one scale. TensorRT 10 and 11 take 64 and 128; the smaller block is the more exact one."""
OPSET = 21  # the first whose DequantizeLinear has blocks and int4


def store_int4(model: ir.Model, target: Target) -> None:
    """Store the matrices of a float32 graph in int4, in place; those whose rows make no whole blocks stay as they are.

    Raises:
        ExportError: if the graph holds no matrix to store so.
    """
    block = BLOCKS[target]
    split_gemms(model)
    large = [item for item in products(model) if item.matrix.size >= MIN_WEIGHTS and item.matrix.shape[0] % block == 0]
    if not large:
        name = model.graph.name
        raise ExportError(f"{name}: no matrix of {MIN_WEIGHTS} weights in blocks of {block} rows; export it in fp16")
    made: dict[str, ir.Value] = {}
    for product in large:
        matrix = product.matrix
        if matrix.name not in made:
            made[matrix.name] = _dequantized(model, matrix, block, before=product.node)
        product.node.replace_input_with(1, made[matrix.name])
    model.opset_imports[""] = OPSET
    common.RemoveUnusedNodesPass()(model)


def _dequantized(model: ir.Model, matrix: Constant, block: int, before: ir.Node) -> ir.Value:
    """Add int4 weights (rows, columns) and scales (rows / block, columns), and return their product."""
    rows, columns = matrix.shape
    made: list[Weights] = []  # scales, kept from when the weights are saved until they are

    def values() -> npt.NDArray[Any]:  # Any: ml_dtypes.int4, which numpy's types do not know
        whole, scales = int4_blocks(matrix.read(), block)
        made[:] = [scales]
        return whole

    def scales() -> Weights:
        return made[0] if made else int4_blocks(matrix.read(), block)[1]

    stored = lazy(model, f"{matrix.name}_int4", ml_dtypes.int4, (rows, columns), values)
    scale = lazy(model, f"{matrix.name}_scales", np.float32, (rows // block, columns), scales)
    node = ir.node("DequantizeLinear", [stored, scale], {"axis": 0, "block_size": block}, name=f"{matrix.name}_weights")
    model.graph.insert_before(before, [node])
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(matrix.shape), ir.TensorType(ir.DataType.FLOAT)
    return node.outputs[0]


def int4_blocks(weights: Weights, block: int) -> tuple[npt.NDArray[Any], Weights]:
    """Return weights (rows, columns) as int4 and the positive scales (rows / block, columns), which float16 can hold.

    Any above: numpy's types do not know int4.
    """
    rows, columns = weights.shape
    values = weights.reshape(rows // block, block, columns)
    scale = np.maximum(values.max(axis=1) / 7, values.min(axis=1) / -8).astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1  # of a block of zeros
    whole = np.clip(np.rint(values / scale[:, None]), -8, 7)
    return whole.reshape(rows, columns).astype(ml_dtypes.int4), scale
