"""Gives a float32 graph the types of a float16 one, operator by operator; for targets that compute in float16.

Every tensor's type is in the graph, with a Cast wherever it changes, so that a strongly typed TensorRT network and
onnxruntime compute the same. Products, convolutions and all that only moves or adds values are float16. Softmax, sums,
powers, the angles of rotary embeddings and the choice of a token are float32: float16 has 11 bits, too few for
positions and for sums over a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from bestow_edge.core.tensors import GraphSpec
from bestow_edge.export.rewriting.fusion import lazy

FULL = {
    "ArgMax", "Cos", "Exp", "Log", "LogSoftmax", "Pow", "Range", "Reciprocal", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceSum", "Sin", "Softmax", "Sqrt",
}  # fmt: skip
HALF = {
    "Conv", "DequantizeLinear", "Gemm", "LSTM", "LayerNormalization", "MatMul", "MatMulNBits",
    "SimplifiedLayerNormalization",
}  # fmt: skip
NOT_FLOAT = {"And", "ArgMax", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Shape"}
ANGLES = {"Cos", "Sin"}
LARGEST = 6e4  # of a constant; below float16's 65504, so that a score added to a mask's lowest value stays finite
TYPES = {"float16": ir.DataType.FLOAT16, "float32": ir.DataType.FLOAT}


def to_half(model: ir.Model, spec: GraphSpec | None = None) -> None:
    """Retype a graph in place.

    Args:
        model: a float32 graph.
        spec: the contract it is to fulfil: which inputs and outputs are float16 and which float32; None leaves them.
    """
    tensors = () if spec is None else (*spec.fed, *spec.returned)
    Retyping(model, {tensor.name: tensor.dtype for tensor in tensors}).run()
    common.RemoveUnusedNodesPass()(model)


class Retyping:
    """One graph on its way from float32 to float16."""

    def __init__(self, model: ir.Model, dtypes: Mapping[str, str]) -> None:
        """Prepare.

        Args:
            model: a float32 graph.
            dtypes: of inputs and outputs, by name; those that are not named stay as they are.
        """
        self._model = model
        self._as: dict[ir.DataType, dict[ir.Value, ir.Value]] = {kind: {} for kind in TYPES.values()}
        self._full: set[ir.Value] = set()  # values whose float32 form is what others are to read
        self._exact = _before_angles(model)
        for value in model.graph.inputs:
            if (kind := _wanted(value, dtypes)) is not None:
                self._set(value, kind)
        self._outputs = {value: kind for value in model.graph.outputs if (kind := _wanted(value, dtypes)) is not None}

    def run(self) -> None:
        """Give every node its types."""
        for node in list(self._model.graph):
            self._retype(node)
        for index, value in enumerate(list(self._model.graph.outputs)):
            kind = self._outputs.get(value)
            if kind is not None and value not in self._as[kind]:
                self._cast_output(index, value, kind)
            elif kind is not None and self._as[kind][value] is not value:
                self._name_output(index, value, self._as[kind][value])

    def _retype(self, node: ir.Node) -> None:
        floats = {index: value for index, value in enumerate(node.inputs) if value and self._is_float(value)}
        makes_float = node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT
        if not floats and not makes_float:
            return
        kind = self._kind(node, floats.values())
        for index, value in floats.items():
            node.replace_input_with(index, self._in(value, kind, node))
        if makes_float:
            node.attributes["to"] = ir.AttrInt64("to", kind)
        elif node.op_type in NOT_FLOAT or node.op_type == "Cast":
            return
        for value in node.outputs:
            self._set(value, kind)
            if kind == ir.DataType.FLOAT and node.op_type != "Softmax":  # the weights of an attention go into a product
                self._full.add(value)
            if self._outputs.get(value) == ir.DataType.FLOAT:
                self._full.add(value)  # there is a float32 form anyway

    def _kind(self, node: ir.Node, inputs: Iterable[ir.Value]) -> ir.DataType:
        """Return the type a node computes in."""
        if node in self._exact or node.op_type in FULL:
            return ir.DataType.FLOAT
        if node.op_type not in HALF and any(value in self._full for value in inputs):
            return ir.DataType.FLOAT
        return ir.DataType.FLOAT16

    def _is_float(self, value: ir.Value) -> bool:
        if value.is_initializer():
            return value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
        return any(value in known for known in self._as.values())

    def _set(self, value: ir.Value, kind: ir.DataType) -> None:
        value.type = ir.TensorType(kind)
        self._as[kind][value] = value

    def _in(self, value: ir.Value, kind: ir.DataType, before: ir.Node) -> ir.Value:
        """Return a value in a type, cast before a node if it is not there yet."""
        known = self._as[kind]
        if value not in known:
            if value.is_initializer():
                known[value] = value if kind == ir.DataType.FLOAT else self._halved(value)
            else:
                known[value] = self._cast(value, kind, before)
        return known[value]

    def _cast(self, value: ir.Value, kind: ir.DataType, before: ir.Node) -> ir.Value:
        node = ir.node("Cast", [value], {"to": kind}, name=f"{value.name}_as_{kind.name.lower()}")
        cast = node.outputs[0]
        cast.name, cast.shape, cast.type = node.name, value.shape, ir.TensorType(kind)
        self._model.graph.insert_before(before, [node])
        return cast

    def _halved(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        if tensor is None:
            raise ValueError(f"{value.name}: an initializer without a value")
        shape = [int(str(size)) for size in tensor.shape]
        return lazy(self._model, f"{value.name}_half", np.float16, shape, _half_of(tensor))

    def _cast_output(self, index: int, value: ir.Value, kind: ir.DataType) -> None:
        node = ir.node("Cast", [value], {"to": kind}, name=f"{value.name}_cast")
        self._model.graph.append(node)
        node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(kind)
        self._name_output(index, value, node.outputs[0])

    def _name_output(self, index: int, value: ir.Value, new: ir.Value) -> None:
        """Make another value the graph's output, under the old name."""
        name = str(value.name)
        value.name = f"{name}_inside"
        new.name, new.shape = name, value.shape
        self._model.graph.outputs[index] = new


def _wanted(value: ir.Value, dtypes: Mapping[str, str]) -> ir.DataType | None:
    """Return the type of an input or output, None where it holds no floats."""
    if value.dtype != ir.DataType.FLOAT:
        return None
    return TYPES[dtypes.get(str(value.name), "float32")]


def _half_of(tensor: ir.TensorProtocol) -> Callable[[], npt.NDArray[np.float16]]:
    return lambda: np.clip(tensor.numpy(), -LARGEST, LARGEST).astype(np.float16)


def _before_angles(model: ir.Model) -> set[ir.Node]:
    """Return the nodes that only prepare angles: their positions and frequencies need all bits."""
    found: set[ir.Node] = set()
    waiting = [node for node in model.graph if node.op_type in ANGLES]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node.op_type != "Cast":
                waiting += [producer for value in node.inputs if value and (producer := value.producer()) is not None]
    return found
