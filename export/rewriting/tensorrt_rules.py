"""Checks that TensorRT 10 and TensorRT for RTX read a graph: standard operators, opset 20 (int4: 21), types they have.

The lists are those of the ONNX parser's documentation of TensorRT 9.2 and 10.0 (onnx-tensorrt, docs/operators.md);
RotaryEmbedding and RMSNormalization came with 10.15, later than any Jetson has. int4 weights go through
DequantizeLinear, whose int4 came with opset 21.
"""

from __future__ import annotations

import onnx_ir as ir

from bestow_edge.core.errors import ExportError

MOST_OPSET = 21
READ = {
    "Add", "And", "ArgMax", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv", "Cos",
    "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Expand", "Gather", "GatherElements", "GatherND", "Gelu",
    "Gemm", "Greater", "GreaterOrEqual", "Identity", "LSTM", "LayerNormalization", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Range", "Reciprocal",
    "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid",
    "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
CONSTANT_INPUTS = {"Slice": (3,), "Squeeze": (1,), "Unsqueeze": (1,)}  # axes must be initializers
TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.INT4}


def check_ready(model: ir.Model) -> None:
    """Refuse a graph that some TensorRT cannot read.

    Raises:
        ExportError: if there is such an operator, type or opset; the message names the first.
    """
    name = model.graph.name
    used = {node.domain for node in model.graph if node.domain}
    if used or model.opset_imports[""] > MOST_OPSET:
        got = ", ".join(sorted(used or {f"opset {model.opset_imports['']}"}))
        raise ExportError(f"{name}: {got}; TensorRT reads standard operators up to opset {MOST_OPSET}")
    for domain in set(model.opset_imports) - {""}:
        del model.opset_imports[domain]
    for node in model.graph:
        if node.op_type not in READ:
            problem = f"operator {node.op_type}, which not every TensorRT 10 reads"
            raise ExportError(f"{name}: {problem}; use --target cuda")
        for index in CONSTANT_INPUTS.get(node.op_type, ()):
            if index < len(node.inputs) and (axes := node.inputs[index]) is not None and not axes.is_initializer():
                raise ExportError(f"{name}: {node.op_type} with computed axes; TensorRT 10 wants constant ones")
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        if value.dtype not in TYPES:
            raise ExportError(
                f"{name}: {value.name} is {value.dtype}; TensorRT takes float32, float16, int64, bool and int4"
            )
