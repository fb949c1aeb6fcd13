"""Weight quantisation of a traced graph.

Matrix products with constant weights become int8 or int4 in one of two ways. Dynamic: activations are scaled when the
graph runs, one scale for the whole tensor, int8 weights per output channel. Blockwise: blocks of weights have a scale
each, and so has each block of a row of activations. No row depends on the rows beside it, which graphs need that decode
several texts as one batch, and an outlier makes one block coarse, not all positions. Embedding tables have blocks too,
in int8 those of the LLM's output, which is often the same matrix: `sharing` then stores it once. Everything else
computes in float32: convolutions, recurrent layers, norms, products of two activations such as attention, and constants
too small to matter. Scales of blocks are stored in float16, large constants that are left in int8 with a scale a row;
the runtime makes float32 of them when it loads the graph. Weights are read, quantised and written one tensor at a time.
No calibration data is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from bestow_edge.core.bundle import Precision
from bestow_edge.core.errors import ExportError
from bestow_edge.export.rewriting.float16 import LARGEST, to_half
from bestow_edge.export.rewriting.fusion import Constant, Product, Weights, constant, lazy, products, replace

MIN_WEIGHTS = 4096  # elements: a smaller constant saves under 12 kB and stays float32
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: products of int8 with int8; 0 (float32) took six times as long
MICROSOFT = "com.microsoft"  # domain of onnxruntime's own operators
BLOCK_SIZES = (128, 64, 32)  # weights with one scale; the largest that divides a matrix's rows is taken
INT4_TABLE_BLOCK = 32  # weights of a row with one scale
LARGEST_INT8 = 127  # symmetric: -128 is not used


def quantize(
    model: ir.Model, precision: Precision, *, largest_block: int | None, int8_tables: int | None = None
) -> ir.Model:
    """Return a float32 graph in another precision; the given one may be changed. Inputs and outputs stay as they are.

    Args:
        model: the graph.
        precision: of its weights; fp16 is that of its arithmetic too.
        largest_block: rows of weights, and as many activations, with one scale; None: in int8, one scale for all
            activations.
        int8_tables: most weights of a row with one scale, for tables in int8; None: tables in the graph's precision.

    Raises:
        ExportError: if the graph holds no weights to quantise.
    """
    if precision == "fp16":
        to_half(model)
    elif precision != "fp32":
        bits = int(precision.removeprefix("int"))
        tables = (8, int8_tables or BLOCK_SIZES[0]) if int8_tables or bits == 8 else (4, INT4_TABLE_BLOCK)
        _quantize_weights(model, bits, largest_block, tables)
    return model


def _quantize_weights(model: ir.Model, bits: int, largest_block: int | None, tables: tuple[int, int]) -> None:
    split_gemms(model)
    lookups = _quantize_tables(model, *tables)
    large = [product for product in products(model) if product.matrix.size >= MIN_WEIGHTS]
    for product in large:
        if bits == 8 and largest_block is None:
            _dynamic_product(model, product)
        else:
            _blockwise_product(model, product, bits, largest_block or BLOCK_SIZES[0])
    if not lookups and not large:
        name = model.graph.name
        raise ExportError(f"{name}: no matrix or table of {MIN_WEIGHTS} or more weights; keep this graph in float32")
    model.opset_imports[MICROSOFT] = 1
    common.RemoveUnusedNodesPass()(model)
    _store_bytes(model)


def _store_bytes(model: ir.Model) -> None:
    """Store the large float32 constants that are left, such as convolutions and tables of positions, in int8."""
    for value in list(model.graph.initializers.values()):
        known = None if value.shape is None else constant(value, rank=len(value.shape))
        if known is None or len(known.shape) < 2 or known.size < MIN_WEIGHTS or np.abs(known.read()).max() > LARGEST:
            continue
        value.replace_all_uses_with(_as_bytes(model, known))
        del model.graph.initializers[known.name]


def _as_bytes(model: ir.Model, known: Constant) -> ir.Value:
    """Add a constant in int8, with a scale for each index of its first axis, and return it in float32."""
    rows = (known.shape[0], *[1] * (len(known.shape) - 1))

    def make() -> tuple[npt.NDArray[np.int8], Weights]:
        values, scales = _int8(known.read(), axis=tuple(range(1, len(known.shape))))
        return values, scales.reshape(rows)

    values, scales = _pair(model, f"{known.name}_int8", np.int8, known.shape, rows, make)
    whole = ir.node("Cast", [values], {"to": ir.DataType.FLOAT}, name=f"{known.name}_unscaled")
    scaled = ir.node("Mul", [whole.outputs[0], scales], name=f"{known.name}_float")
    model.graph.insert_before(model.graph[0], [whole, scaled])  # float32 from the moment the runtime loads the graph
    return scaled.outputs[0]


def _as_half(model: ir.Model, name: str, shape: Sequence[int], make: Callable[[], Weights]) -> ir.Value:
    """Add a constant in float16 and return it in float32: the runtime computes that once, when it loads the graph."""
    half = lazy(model, f"{name}_half", np.float16, shape, lambda: make().astype(np.float16))
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{name}_float")
    model.graph.insert_before(model.graph[0], cast)
    return cast.outputs[0]


def split_gemms(model: ir.Model) -> None:
    """Make MatMul and Add of each Gemm with a constant matrix: there is no quantised Gemm."""
    for node in list(model.graph):
        options = {name: attribute.value for name, attribute in node.attributes.items()}
        plain = not options.get("transA", 0) and options.get("alpha", 1.0) == 1.0 and options.get("beta", 1.0) == 1.0
        weight = constant(node.inputs[1], rank=2) if node.op_type == "Gemm" and plain else None
        if weight is None:
            continue
        name, matrix = f"{node.outputs[0].name}_product", node.inputs[1]
        if options.get("transB", 0):
            matrix = lazy(model, f"{name}_matrix", np.float32, weight.shape[::-1], _transposed(weight))
        new = [ir.node("MatMul", [node.inputs[0], matrix], name=name)]
        if len(node.inputs) > 2:
            new.append(ir.node("Add", [new[0].outputs[0], node.inputs[2]], name=f"{name}_add"))
        replace(model, [node], new, node.outputs, new[-1].outputs)


def _transposed(weight: Constant) -> Callable[[], Weights]:
    return lambda: weight.read().T


def _dynamic_product(model: ir.Model, product: Product) -> None:
    """int8 weights with a scale per column; a bias that follows becomes part of the product."""
    matrix = product.matrix
    weights, scales = _pair(
        model, matrix.name, np.int8, matrix.shape, matrix.shape[1:], lambda: _int8(matrix.read(), axis=0)
    )
    inputs: list[ir.Value | None] = [product.input, weights, scales]
    old = [product.node]
    if product.add is not None:
        inputs += [None, next(value for value in product.add.inputs if value is not product.output)]
        old.append(product.add)
    new = ir.node("DynamicQuantizeMatMul", inputs, domain=MICROSOFT, name=f"{product.output.name}_int8")
    replace(model, old, [new], old[-1].outputs, new.outputs)


def _blockwise_product(model: ir.Model, product: Product, bits: int, largest: int) -> None:
    """int4 or int8 weights with a scale per column and block of rows."""
    matrix = product.matrix
    rows, columns = matrix.shape
    block = _block(rows, largest)
    blocks = -(-rows // block)
    weights, scales = _pair(
        model,
        matrix.name,
        np.uint8,
        (columns, blocks, block * bits // 8),
        (columns, blocks),
        lambda: quantize_blocks(matrix.read(), bits=bits, block=block),
    )
    new = ir.node(
        "MatMulNBits",
        [product.input, weights, scales],
        {"K": rows, "N": columns, "bits": bits, "block_size": block, "accuracy_level": INT8_ACTIVATIONS},
        domain=MICROSOFT,
        name=f"{product.output.name}_int{bits}",
    )
    replace(model, [product.node], [new], product.node.outputs, new.outputs)


def _block(rows: int, largest: int) -> int:
    """Return how many rows of a matrix share a scale."""
    fits = (size for size in BLOCK_SIZES if size <= largest and rows % size == 0)
    return next(fits, min(largest, BLOCK_SIZES[-1]))


def quantize_blocks(weights: Weights, *, bits: int, block: int) -> tuple[npt.NDArray[np.uint8], Weights]:
    """Quantise a matrix in blocks of rows, as MatMulNBits wants it.

    Args:
        weights: (rows, columns) float32.
        bits: 8 or 4.
        block: rows with one scale.

    Returns:
        (columns, blocks, block * bits / 8) packed values, the first of a byte in its low bits, and (columns, blocks)
        scales, which float16 can hold. A value v means (v - 2 ** (bits - 1)) * scale.
    """
    rows, columns = weights.shape
    blocks = -(-rows // block)
    padded = np.zeros((columns, blocks * block), dtype=np.float32)
    padded[:, :rows] = weights.T
    values = padded.reshape(columns, blocks, block)
    middle = 2 ** (bits - 1)
    low, high = values.min(axis=-1), values.max(axis=-1)  # (columns, blocks)
    extreme = np.where(-low > high, low, high)
    scale = (extreme / -middle).astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1  # of a block of zeros
    values *= (1 / scale)[..., None]
    np.rint(values, out=values)
    np.clip(values, -middle, middle - 1, out=values)
    whole = (values + middle).astype(np.uint8)
    return (whole if bits == 8 else whole[..., ::2] | (whole[..., 1::2] << 4)), scale


def _pair(
    model: ir.Model,
    name: str,
    dtype: type[np.generic],
    shape: Sequence[int],
    scales_shape: Sequence[int],
    make: Callable[[], tuple[npt.NDArray[Any], Weights]],
) -> tuple[ir.Value, ir.Value]:
    """Add initializers for quantised weights and their scales, made together when the first of them is saved."""
    made: list[Weights] = []

    def values() -> npt.NDArray[Any]:  # Any: of `dtype`
        quantized, scales = make()
        made[:] = [scales]
        return quantized

    def scales() -> Weights:
        return made[0] if made else make()[1]

    stored = lazy(model, f"{name}_values", dtype, shape, values)
    name = f"{name}_scales"
    if len(scales_shape) < 2:
        return stored, lazy(model, name, np.float32, scales_shape, scales)
    return stored, _as_half(model, name, scales_shape, scales)


def _int8(weights: Weights, axis: int | tuple[int, ...]) -> tuple[npt.NDArray[np.int8], Weights]:
    """Return int8 weights and float32 scales, one along an axis or axes; their product is nearly the weights."""
    largest = np.maximum(weights.max(axis=axis), -weights.min(axis=axis))
    scales = np.where(largest > 0, largest / LARGEST_INT8, 1).astype(np.float32)
    scaled = weights * np.expand_dims(1 / scales, axis)
    return np.rint(scaled, out=scaled).astype(np.int8), scales


def _quantize_tables(model: ir.Model, bits: int, largest: int) -> int:
    """Quantise tables that are only looked up by row; returns how many lookups changed.

    onnxruntime's own int8 Gather has one scale for the whole table, which one outlying row makes coarse for all.
    """
    made: dict[str, tuple[ir.Value, ir.Value]] = {}
    lookups = 0
    for node in list(model.graph):
        by_row = node.op_type == "Gather" and ("axis" not in node.attributes or node.attributes["axis"].value == 0)
        table = constant(node.inputs[0], rank=2) if by_row else None
        if table is None or table.size < MIN_WEIGHTS:
            continue
        block = _block(table.shape[1], largest)
        if table.name not in made:
            made[table.name] = _rows(model, table, bits, block)
        rows, scales = made[table.name]
        new = ir.node(
            "GatherBlockQuantized",
            [rows, node.inputs[1], scales],
            {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1},
            domain=MICROSOFT,
            name=f"{node.outputs[0].name}_int{bits}",
        )
        replace(model, [node], [new], node.outputs, new.outputs)
        lookups += 1
    return lookups


def _rows(model: ir.Model, table: Constant, bits: int, block: int) -> tuple[ir.Value, ir.Value]:
    """Add the rows of a table as bytes, those of a product with the transposed table, and scales (rows, blocks)."""
    rows, width = table.shape
    used = -(-width * bits // 8)

    def make() -> tuple[npt.NDArray[np.uint8], Weights]:
        packed, scales = quantize_blocks(table.read().T, bits=bits, block=block)
        return packed.reshape(rows, -1)[:, :used], scales

    return _pair(model, table.name, np.uint8, (rows, used), (rows, -(-width // block)), make)
