"""Weight quantisation of an exported graph to int8; between the float32 graph and the bundle.

Matrix products with constant weights become int8 in one of two ways. Dynamic: activations are scaled when the graph
runs, one scale for the whole tensor, weights per output channel; the fastest for many rows, as in the encoder.
Weight-only: blocks of 32 weights have a scale each, and so has each row of activations, so that a row's result does not
depend on the rows beside it; for graphs that decode several texts as one batch. Embedding tables: one scale per row.
Everything else stays float32: convolutions, recurrent layers, norms, products of two activations such as attention, and
constants too small to matter. Deliberately does not know which graph it is given; needs no calibration data.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from bestow_edge.errors import ExportError
from bestow_edge.export.graph import EXTERNAL_DATA_BYTES

MIN_WEIGHTS = 4096  # elements: a smaller constant saves under 12 kB and stays float32
BLOCK_WEIGHTS = 32  # weights with one scale
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: products of int8 with int8; 0 (float32) took six times as long
_LARGEST_INT8 = 127  # symmetric: -128 is not used


def quantize_int8(source: Path, target: Path, *, weight_only: bool = False) -> None:
    """Write `source` with int8 weights. Inputs and outputs keep names, dtypes and axes.

    Args:
        source: float32 `.onnx` file, its external data beside it if it has any.
        target: file to write. With more than 1.5 GB of weights they go to `<target>.data`.
        weight_only: quantise so that rows of a batch stay independent.

    Raises:
        ExportError: the graph holds no weights to quantise.
    """
    model = onnx.load(source)
    tables = _quantize_tables(model)
    _split_gemms(model)
    _drop_unread(model)
    small = _small_products(model)
    products = sum(node.op_type == "MatMul" for node in model.graph.node) - len(small)
    if products + tables == 0:
        raise ExportError(f"{source}: no matrix or table of {MIN_WEIGHTS} or more weights; keep this graph in float32")
    weights = sum(_elements(tensor) for tensor in model.graph.initializer)
    external = weights > EXTERNAL_DATA_BYTES  # one byte each
    if weight_only:
        _weight_only(model, small, target, external=external)
        return
    add_pre_process_metadata(model)  # keeps onnxruntime from advising its own pre-processing, which adds nothing here
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=small,
        use_external_data_format=external,
    )


def _weight_only(model: ModelProto, excluded: list[str], target: Path, *, external: bool) -> None:
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)  # it names each node
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=8,
        block_size=BLOCK_WEIGHTS,
        is_symmetric=True,
        accuracy_level=INT8_ACTIVATIONS,
        nodes_to_exclude=excluded,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), external)


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    """Float32 initializers by name."""
    return {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims))


def _small_products(model: ModelProto) -> list[str]:
    """Names of the MatMuls whose right side is not a constant or is a small one; names those that had none."""
    constants = _constants(model)
    names = []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "MatMul":
            continue
        node.name = node.name or f"matmul_{index}"
        if node.input[1] not in constants or _elements(constants[node.input[1]]) < MIN_WEIGHTS:
            names.append(node.name)
    return names


def _quantize_tables(model: ModelProto) -> int:
    """Store tables that are only looked up by row as int8 with a scale per row; returns how many lookups changed.

    onnxruntime's own int8 Gather has one scale for the whole table, which one outlying row makes coarse for all.
    """
    constants, lookups = _constants(model), 0
    for index, node in reversed(list(enumerate(model.graph.node))):
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or _elements(table) < MIN_WEIGHTS or _axis(node) != 0:
            continue
        rows, ids, output = f"{table.name}_int8", node.input[1], node.output[0]
        if all(item.name != rows for item in model.graph.initializer):
            model.graph.initializer.extend(_int8_rows(table))
        nodes = [
            helper.make_node("Gather", [rows, ids], [f"{output}_row_int8"], name=f"{output}_rows", axis=0),
            helper.make_node(
                "Gather", [f"{rows}_row_scale", ids], [f"{output}_row_scale"], name=f"{output}_scales", axis=0
            ),
            helper.make_node(
                "Cast", [f"{output}_row_int8"], [f"{output}_row_float"], name=f"{output}_cast", to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", [f"{output}_row_float", f"{output}_row_scale"], [output], name=f"{output}_mul"),
        ]
        _replace(model, index, nodes)
        lookups += 1
    return lookups


def _int8_rows(table: TensorProto) -> tuple[TensorProto, TensorProto]:
    """Return int8 rows (rows, width) and float32 scales (rows, 1) whose product is the table, nearly."""
    weights = numpy_helper.to_array(table)  # (rows, width)
    largest = np.abs(weights).max(axis=1, keepdims=True)  # (rows, 1)
    scale = np.where(largest > 0, largest / _LARGEST_INT8, 1).astype(np.float32)
    rows = np.rint(weights / scale).astype(np.int8)
    name = f"{table.name}_int8"
    return numpy_helper.from_array(rows, name), numpy_helper.from_array(scale, f"{name}_row_scale")


def _axis(gather: NodeProto) -> int:
    return next((int(item.i) for item in gather.attribute if item.name == "axis"), 0)


def _split_gemms(model: ModelProto) -> None:
    """Make MatMul and Add of each Gemm with a constant matrix: onnxruntime has no dynamic int8 Gemm."""
    constants = _constants(model)
    for index, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type != "Gemm" or node.input[1] not in constants:
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            continue
        matrix, output = node.input[1], node.output[0]
        if attributes.get("transB", 0):
            transposed = numpy_helper.to_array(constants[matrix]).T.copy()
            matrix = f"{output}_matrix"
            model.graph.initializer.append(numpy_helper.from_array(transposed, matrix))
        bias = list(node.input[2:3])
        product = f"{output}_product" if bias else output
        nodes = [helper.make_node("MatMul", [node.input[0], matrix], [product], name=f"{output}_matmul")]
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], [output], name=f"{output}_add"))
        _replace(model, index, nodes)


def _replace(model: ModelProto, index: int, nodes: list[NodeProto]) -> None:
    """Put `nodes` in the place of the node at `index`."""
    del model.graph.node[index]
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)


def _drop_unread(model: ModelProto) -> None:
    """Remove the constants whose replacement is now read."""
    read = {name for node in model.graph.node for name in node.input} | {item.name for item in model.graph.output}
    for index, tensor in reversed(list(enumerate(model.graph.initializer))):
        if tensor.name not in read:
            del model.graph.initializer[index]
