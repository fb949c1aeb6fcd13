"""Graph rewrites that leave the result of a traced graph as it is: fewer and larger operators for onnxruntime.

Works on onnx-ir models whose weights may be anywhere. New weights are computed when the graph is saved, one tensor at
a time, so that no second copy of a model is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.rotary_embedding import fuse_rotary_embedding

from bestow_edge.core.tensors import FOR_ENGINES, Target

FUSED = "ai.onnxruntime._fusion"  # domain of what onnxscript puts in the place of a pattern
ROTARY_OPSET = 23  # the first with RotaryEmbedding
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Constant:
    """A float32 constant of a graph, read when it is needed."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Weights]

    @property
    def size(self) -> int:
        """Its elements."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product with a constant matrix, and the addition of a constant vector that alone reads it."""

    node: ir.Node
    matrix: Constant
    add: ir.Node | None
    bias: Constant | None

    @property
    def input(self) -> ir.Value:
        """The factor beside the matrix; read anew, because the node before may have been replaced."""
        value = self.node.inputs[0]
        if value is None:
            raise ValueError(f"{self.node.name}: a product without an input")
        return value

    @property
    def output(self) -> ir.Value:
        """The result before the bias."""
        return self.node.outputs[0]


def simplify(model: ir.Model) -> None:
    """Compute constant nodes, and remove unused and repeated ones.

    torch's exporter can do it, with hundreds of rewrite rules tried on each node: a third of its time.
    """
    optimizer.fold_constants(model)
    for one in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),  # every layer has shapes of its own, and without it they stay apart
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        one(model)


def fuse(model: ir.Model, target: Target = "cpu") -> None:
    """Use one product for those of one input, and the fused operators that a target's runtime has.

    A root-mean-square norm is onnxruntime's own operator; of RotaryEmbedding, opset 23, its CPU provider surely has a
    kernel, and TensorRT reads it from 10.15 on, later than what a Jetson has.
    """
    if target not in FOR_ENGINES:
        fuse_rms_normalization(model)
    if target == "cpu":
        fuse_rotary(model)
    fold_factors(model)
    merge_products(model)
    common.RemoveUnusedNodesPass()(model)


def fuse_rotary(model: ir.Model) -> None:
    """Use ONNX's RotaryEmbedding, opset 23, in place of the six operators that transformers makes of it."""
    if not fuse_rotary_embedding(model):
        return
    halves: dict[str, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type != "RotaryEmbedding" or node.domain != FUSED:
            continue
        states, *angles = (value for value in node.inputs if value is not None)
        inputs = [states]
        for angle in angles:  # cosine and sine, (batch, 1, tokens, head_dim), whose two halves are the same
            name = str(angle.name)
            if name not in halves:
                halves[name] = _half(model, angle, node)
            inputs.append(halves[name])
        new = ir.node("RotaryEmbedding", inputs, name=f"{node.outputs[0].name}_rotary")
        replace(model, [node], [new], node.outputs, new.outputs)
    model.opset_imports[""] = ROTARY_OPSET


def _half(model: ir.Model, angle: ir.Value, before: ir.Node) -> ir.Value:
    """Return (batch, tokens, head_dim / 2) of an angle's cosine or sine."""
    name = f"{angle.name}_half"
    width = int(str(angle.shape[-1])) if angle.shape is not None else 0
    sizes = lazy(model, f"{name}_sizes", np.int64, (2,), lambda: np.array([width // 2, width // 2]))
    axis = lazy(model, f"{name}_axis", np.int64, (1,), lambda: np.array([1]))
    squeezed = ir.node("Squeeze", [angle, axis], name=f"{name}_squeeze")
    split = ir.node("Split", [squeezed.outputs[0], sizes], {"axis": -1}, num_outputs=2, name=f"{name}_split")
    model.graph.insert_before(before, [squeezed, split])
    return split.outputs[0]


def constant(value: ir.Value | None, rank: int) -> Constant | None:
    """Return a value as a float32 constant, or None if it is not a constant of that rank."""
    tensor = None if value is None else value.const_value
    if value is None or tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != rank:
        return None
    return Constant(str(value.name), tuple(int(str(size)) for size in tensor.shape), tensor.numpy)


def products(model: ir.Model) -> Iterator[Product]:
    """Yield the matrix products with a constant matrix, as they come in the graph."""
    for node in list(model.graph):
        if node.op_type == "MatMul" and (matrix := constant(node.inputs[1], rank=2)) is not None:
            add, bias = _next_with_constant(node, "Add", rank=1) or (None, None)
            yield Product(node, matrix, add, bias)


def _next_with_constant(node: ir.Node, op_type: str, rank: int) -> tuple[ir.Node, Constant] | None:
    """Return the node of a type that alone reads the output of another, and the constant that it reads beside."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0][0].op_type != op_type:
        return None
    reader, place = uses[0]
    beside = constant(reader.inputs[1 - place], rank)
    return None if beside is None else (reader, beside)


def lazy(
    model: ir.Model, name: str, dtype: type[np.generic], shape: Sequence[int], make: Callable[[], npt.NDArray[Any]]
) -> ir.Value:
    """Add an initializer to a graph that is computed when it is read.

    Args:
        model: gets it.
        name: of the initializer.
        dtype: numpy type of its elements.
        shape: of it.
        make: returns it.
    """  # Any above: of `dtype`
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    tensor = ir.LazyTensor(lambda: ir.tensor(np.ascontiguousarray(make()), name=name), kind, ir.Shape(shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def fold_factors(model: ir.Model) -> None:
    """Put a constant number that a product is multiplied by into its matrix and bias."""
    for product in products(model):
        end = product.node if product.add is None else product.add
        if (found := _next_with_constant(end, "Mul", rank=0)) is not None:
            _fold(model, product, end, *found)


def _fold(model: ir.Model, product: Product, end: ir.Node, multiply: ir.Node, factor: Constant) -> None:
    name = f"{product.output.name}_times"
    matrix, bias = product.matrix, product.bias
    weight = lazy(model, f"{name}_weight", np.float32, matrix.shape, lambda: matrix.read() * factor.read())
    new = [ir.node("MatMul", [product.input, weight], name=name)]
    if bias is not None:
        scaled = lazy(model, f"{name}_bias", np.float32, bias.shape, lambda: bias.read() * factor.read())
        new.append(ir.node("Add", [new[0].outputs[0], scaled], name=f"{name}_add"))
    old = [product.node, multiply] if bias is None else [product.node, end, multiply]
    replace(model, old, new, multiply.outputs, new[-1].outputs)


def merge_products(model: ir.Model) -> None:
    """Make one product and a split of several products of one input, such as an attention's query, key and value."""
    groups: dict[ir.Value, list[Product]] = {}
    for product in products(model):
        groups.setdefault(product.input, []).append(product)
    for group in groups.values():
        if len(group) > 1:
            _merge(model, group)


def _merge(model: ir.Model, group: Sequence[Product]) -> None:
    name = f"{group[0].output.name}_merged"
    matrices = [product.matrix for product in group]
    biases = [product.bias for product in group if product.bias is not None]
    widths = [matrix.shape[1] for matrix in matrices]
    shape = (matrices[0].shape[0], sum(widths))
    weight = lazy(model, f"{name}_weight", np.float32, shape, lambda: np.concatenate([m.read() for m in matrices], 1))
    sizes = lazy(model, f"{name}_sizes", np.int64, (len(widths),), lambda: np.array(widths))
    new = [ir.node("MatMul", [group[0].input, weight], name=name)]
    old = [product.node for product in group]
    ends = old
    if len(biases) == len(group):
        bias = lazy(model, f"{name}_bias", np.float32, shape[1:], lambda: np.concatenate([b.read() for b in biases]))
        new.append(ir.node("Add", [new[0].outputs[0], bias], name=f"{name}_add"))
        ends = [product.add for product in group if product.add is not None]
        old = old + ends
    split = ir.node("Split", [new[-1].outputs[0], sizes], {"axis": -1}, num_outputs=len(ends), name=f"{name}_split")
    replace(model, old, [*new, split], [end.outputs[0] for end in ends], split.outputs)


def replace(
    model: ir.Model,
    old: Sequence[ir.Node],
    new: Sequence[ir.Node],
    old_values: Sequence[ir.Value],
    new_values: Sequence[ir.Value],
) -> None:
    """Put nodes in the place of others, their outputs under the old names.

    Args:
        model: the model.
        old: nodes to remove; the new ones go before the first.
        new: nodes to put in.
        old_values: outputs of old nodes that others read.
        new_values: what they read from then on.
    """
    for before, after in zip(old_values, new_values, strict=True):
        after.name, after.shape, after.type = before.name, before.shape, before.type
    model.graph.insert_before(old[0], new)
    ir.convenience.replace_all_uses_with(old_values, new_values, replace_graph_outputs=True)
    model.graph.remove(old, safe=True)
